"""Who imports us and calls us has his process back as it was."""

import json
import os
import random
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch

import rayinfluence
from rayinfluence.config import RunConfig
from rayinfluence.guest import as_found, same_draws, stepwise
from rayinfluence.testing import tiny_run

pytestmark = pytest.mark.runs

#: Says after each step what it has changed.
PROGRAM = """
import json, sys
{imports}
from process_state import changed, state

before = state()
def say(step):
    print("STEP", json.dumps([step, changed(before, state(), imported={imported})]))

import rayinfluence
say("import")
config, refused = map(rayinfluence.RunConfig.load, sys.argv[1:])
rayinfluence.run(config)
say("run")
try:
    rayinfluence.run(refused)
except rayinfluence.RayInfluenceError:
    say("refusal")
results = rayinfluence.load_results(config.run)
results.proponents("q0")
say("load_results")
from rich.console import Console
from rayinfluence.report import render, render_page
say("report")
before = state()  # rich is the caller's, and draws a number for each style that has a link
render_page({{"ekfac": results}})
render(results, Console())
say("pages")
"""
WARM = """
import numpy, pyarrow, torch, transformers
from transformers import GPT2LMHeadModel
import random
random.seed(1), numpy.random.seed(2), torch.manual_seed(3)
torch.set_num_threads(2)
"""


def steps(configs: list[RunConfig], folder: Path, imports: str) -> dict[str, dict[str, str]]:
    paths = [folder / f"{number}.yaml" for number in range(len(configs))]
    for path, config in zip(paths, configs, strict=True):
        path.write_text(config.model_dump_json())
    here = str(Path(__file__).parents[1])
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([here, *sys.path])}
    environment.pop("TORCHINDUCTOR_CACHE_DIR", None)
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            PROGRAM.format(imports=imports, imported=not imports),
            *map(str, paths),
        ],
        env=environment,
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert done.returncode == 0, done.stderr
    said = [line.removeprefix("STEP ") for line in done.stdout.splitlines() if "STEP " in line]
    return dict(map(json.loads, said))


@pytest.mark.parametrize("imports", ["", WARM], ids=["nothing imported", "all imported"])
def test_nothing_of_the_process_is_changed(tmp_path: Path, imports: str) -> None:
    """Neither by a run, nor by one that is refused."""
    config = tiny_run(tmp_path, 20)
    refused = tiny_run(tmp_path, 20, run=str(tmp_path / "refused"), corpus={"context": 17})
    assert steps([config, refused], tmp_path, imports) == {
        "import": {},
        "run": {},
        "refusal": {},
        "load_results": {},
        "report": {},
        "pages": {},
    }


def drawn() -> list[float]:
    shared = np.random.mtrand._rand
    return [random.random(), float(shared.random_sample()), float(torch.rand(()))]


def test_draws_come_back_whatever_happens() -> None:
    with same_draws():
        expected = drawn()
    with pytest.raises(ValueError, match=str(expected[0])), same_draws():
        raise ValueError(drawn())
    assert drawn() == expected


def test_what_imports_leave_is_taken_back_and_what_another_thread_does_is_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("RAY_CLIENT_MODE", "as it was")
    monkeypatch.delenv("TORCHINDUCTOR_CACHE_DIR", raising=False)
    before = dict(os.environ)
    with as_found():
        os.environ |= {"RAY_CLIENT_MODE": "0", "TORCHINDUCTOR_CACHE_DIR": "x"}
        monkeypatch.setenv("MINE", "x")
        first = drawn()
    assert dict(os.environ) == before | {"MINE": "x"}
    assert not set(first) & set(drawn())


def test_a_library_that_another_thread_is_importing_does_not_matter(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in ("torch", "numpy"):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    with same_draws(), as_found():
        first = random.random()
    assert random.random() == first


@contextmanager
def working(done: list[int]) -> Iterator[None]:
    """Another thread of the caller's, that sets variables and draws numbers."""
    ends, values = threading.Event(), []

    def work() -> None:
        while not ends.is_set():
            os.environ[f"MINE_{len(values)}"] = "1"
            values.append(float(torch.rand(1, dtype=torch.float64)))
            ends.wait(0.002)

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield
    finally:
        ends.set()
        thread.join()
        kept = [os.environ.pop(f"MINE_{i}", None) for i in range(len(values))]
        done += [len(values), kept.count(None), len(values) - len(set(values))]


def test_another_thread_of_the_caller_s_keeps_its_variables_and_its_draws(
    tmp_path: Path, execute: Callable[..., Any]
) -> None:
    found: list[int] = []
    config = tiny_run(tmp_path, 20)
    with working(found):
        execute(config)
    count, lost, repeated = found
    assert count > 20
    assert (lost, repeated) == (0, 0)


AROUND: dict[str, Callable[[], Any]] = {
    "autocast to bfloat16": lambda: torch.autocast("cpu", dtype=torch.bfloat16),
    "autocast to float16": lambda: torch.autocast("cpu", dtype=torch.float16),
    "inference mode": torch.inference_mode,
    "no gradients": torch.no_grad,
}


def modes() -> list[bool]:
    return [
        torch.is_inference_mode_enabled(),
        torch.is_autocast_enabled("cpu"),
        torch.is_grad_enabled(),
    ]


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    return written(tmp_path_factory.mktemp("plain"))


def written(folder: Path) -> dict[str, bytes]:
    """Everything that a run writes as arrays."""
    monkey = pytest.MonkeyPatch()
    with monkey.context() as patched:
        folder.mkdir(exist_ok=True)
        patched.chdir(folder)  # relative, as documents' addresses are in the results
        before = modes()
        rayinfluence.run(tiny_run(Path(), 20))
        assert modes() == before
        arrays = [p for p in Path("run").rglob("*") if p.suffix in (".parquet", ".safetensors")]
        return {str(path): path.read_bytes() for path in arrays}


@pytest.mark.parametrize("around", AROUND)
def test_whatever_the_caller_is_in_the_middle_of_the_bytes_are_the_same(
    tmp_path: Path, plain: dict[str, bytes], around: str
) -> None:
    with AROUND[around]():
        assert written(tmp_path) == plain


def test_between_two_items_of_the_inline_runner_modes_are_the_caller_s() -> None:
    with torch.inference_mode():
        steps = stepwise(lambda: (modes() for _ in range(2)))
        seen = [(inside, modes()) for inside in steps]
    assert seen == [([False, False, True], [True, False, False])] * 2


#: Has a token, and no dashboard to give it to; prints what is left of it.
SUBMITS = """
import sys
from process_state import changed, state
from rayinfluence.submit import submit
from rayinfluence.errors import ConfigError
before = state()
try:
    submit(sys.argv[1], "http://127.0.0.1:9", follow=False)
except ConfigError as error:
    print(str(error)[:28])
from ray._private.authentication.authentication_utils import is_token_auth_enabled
print(is_token_auth_enabled())
print([key for key in changed(before, state(), imported=True) if key.startswith("environ")])
"""


def test_a_client_reads_its_token_and_leaves_no_variable(tmp_path: Path) -> None:
    (tmp_path / "run.yaml").write_text("{run: s3://b/r, model: /m}")
    (tmp_path / "token").write_text("ab" * 32)
    here = str(Path(__file__).parents[1])
    environment = {k: v for k, v in os.environ.items() if not k.startswith("RAY_")}
    environment |= {
        "PYTHONPATH": os.pathsep.join([here, *sys.path]),
        "RAY_AUTH_TOKEN_PATH": str(tmp_path / "token"),
    }
    command = [sys.executable, "-c", SUBMITS, str(tmp_path / "run.yaml")]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=100)
    assert done.stdout.splitlines() == ["there is no Ray dashboard at", "True", "[]"], done.stderr


def test_levels_that_the_caller_gave_loggers_outlive_the_import_of_their_libraries() -> None:
    program = (
        "import logging\n"
        "names = ['ray', 'transformers', 'torch', 'mine']\n"
        "for name in names: logging.getLogger(name).setLevel(logging.DEBUG)\n"
        "from rayinfluence.guest import as_found\n"
        "with as_found():\n"
        "    import torch, transformers\n"
        "    import rayinfluence.dataflow.runners.ray.runner\n"
        "print([logging.getLogger(name).level for name in names])\n"
    )
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert run.stdout.strip() == "[10, 10, 10, 10]", run.stderr
