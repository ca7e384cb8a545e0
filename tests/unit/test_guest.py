"""Who imports us and calls us has his process back as it was."""

import json
import os
import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from rayinfluence.config import RunConfig
from rayinfluence.guest import as_found, same_draws
from rayinfluence.testing import tiny_run

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
config = rayinfluence.RunConfig.load(sys.argv[1])
try:
    rayinfluence.run(config)
except rayinfluence.RayInfluenceError as error:
    print(error)
    say("refusal")
else:
    say("run")
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


def steps(config: RunConfig, folder: Path, imports: str) -> dict[str, dict[str, str]]:
    (folder / "run.yaml").write_text(config.model_dump_json())
    here = str(Path(__file__).parents[1])
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([here, *sys.path])}
    environment.pop("TORCHINDUCTOR_CACHE_DIR", None)
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            PROGRAM.format(imports=imports, imported=not imports),
            str(folder / "run.yaml"),
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
    assert steps(tiny_run(tmp_path, 20), tmp_path, imports) == {
        "import": {},
        "run": {},
        "load_results": {},
        "report": {},
        "pages": {},
    }


def test_a_run_that_is_refused_changes_nothing_either(tmp_path: Path) -> None:
    config = tiny_run(tmp_path, 20, corpus={"context": 17})
    assert steps(config, tmp_path, WARM) == {"import": {}, "refusal": {}}


def test_draws_and_variables_of_the_environment_come_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KEPT", "as it was")
    monkeypatch.setenv("TAKEN", "as it was")
    before = dict(os.environ)

    def draws() -> list[float]:
        shared = np.random.mtrand._rand
        return [random.random(), float(shared.random_sample()), float(torch.rand(()))]

    def change() -> None:
        os.environ |= {"KEPT": "changed", "NEW": "x"}
        del os.environ["TAKEN"]
        raise ValueError(draws())

    with same_draws():
        expected = draws()
    with pytest.raises(ValueError, match=str(expected[0])), as_found():
        change()
    assert dict(os.environ) == before
    assert draws() == expected


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
