"""Runs of a model on a hub: what is fetched, what is refused first, and which commit a run has."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from folder_code import bring_code
from loopback_hub import Hub, environment
from safetensors.numpy import save

from rayinfluence.config import RunConfig
from rayinfluence.dataflow.begin.early import Inputs
from rayinfluence.errors import ModelError, RayInfluenceError, StorageError
from rayinfluence.report import render_page
from rayinfluence.testing import tiny_run
from rayinfluence.testing.models import tiny_gpt2

pytestmark = pytest.mark.runs

Change = Callable[..., RunConfig]
Execute = Callable[..., Any]
NAME, HERE = "org/mine", "hf://org/mine"
#: Beside a model, and never fetched.
BESIDE = {
    "pytorch_model.bin": b"a pickle",
    "original.pth": b"a pickle",
    "modeling_mine.py": b"raise SystemExit('run')",
    "model.onnx": b"?",
    "README.md": b"# Mine",
    "consolidated.safetensors": b"?",
    "onnx/model.safetensors": b"?",
}


@pytest.fixture
def config(tmp_path: Path) -> RunConfig:
    """A run of a model in a folder."""
    return tiny_run(tmp_path, 20, scan={"methods": ["gradient_product"]})


def files_of(config: RunConfig) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in Path(config.model).iterdir()}


def said_by(config: RunConfig, new_run: bool = False) -> tuple[Inputs, list[str]]:
    said: list[str] = []
    return Inputs.of(config, said.append, new_run), said


def refused(config: RunConfig, kind: type[RayInfluenceError] = ModelError) -> str:
    with pytest.raises(kind) as caught:
        said_by(config)
    assert type(caught.value) is kind
    return str(caught.value)


def test_a_model_on_a_hub_gives_the_results_of_its_folder_and_its_commit(
    hub: Hub, config: RunConfig, change: Change, execute: Execute, said: Any, tmp_path: Path
) -> None:
    expected = execute(config)["gradient_product"]
    assert hub.requests == []
    commit = hub.push(NAME, {**files_of(config), **BESIDE})
    there = change(config, model=HERE, run=str(tmp_path / "of the hub"))
    results = execute(there)["gradient_product"]
    assert results.table.equals(expected.table)
    assert results.manifest["model"]["path"] == HERE
    assert results.manifest["model"]["commit"] == commit
    assert results.manifest["tokenizer"]["commit"] == commit
    assert results.manifest["model"]["digest"] == expected.manifest["model"]["digest"]
    assert expected.manifest["model"]["commit"] is None
    assert commit in render_page({"gradient_product": results})
    assert json.loads((tmp_path / "of the hub" / "hub.json").read_text()) == {
        f"{HERE}@main": commit
    }
    assert f"hub          {HERE}@main is commit {commit} at {hub.url}" in said.getvalue()
    assert not {*hub.fetched()} & {*BESIDE}
    assert hub.fetched()[-1] == "model.safetensors"
    before = len(hub.fetched())
    assert execute(there)["gradient_product"].table.equals(expected.table)
    assert len(hub.fetched()) == before


def test_code_is_fetched_where_it_may_run(
    hub: Hub, config: RunConfig, change: Change, execute: Execute
) -> None:
    bring_code(Path(config.model))
    hub.push(NAME, files_of(config))
    there = change(config, model=HERE)
    assert "set `trust_remote_code: true` to let it run" in refused(there)
    assert [n for n in hub.fetched() if n.endswith((".py", ".safetensors"))] == []
    results = execute(change(there, trust_remote_code=True))["gradient_product"]
    assert results.manifest["model"]["architecture"] == "OwnModel"
    assert [n for n in hub.fetched() if n.endswith(".py")] == [
        "configuration_own.py",
        "modeling_own.py",
        "tokenization_own.py",
    ]


@pytest.fixture
def moved(hub: Hub, config: RunConfig, change: Change, execute: Execute) -> tuple[str, str]:
    """The commit that a run has begun with, and that which its branch is since."""
    first = hub.push(NAME, files_of(config))
    execute(change(config, model=HERE))
    tiny_gpt2(seed=1).save_pretrained(config.model)
    return first, hub.push(NAME, files_of(config))


def test_a_run_keeps_its_commit_when_the_branch_moves_and_says_so(
    hub: Hub, config: RunConfig, change: Change, execute: Execute, moved: tuple[str, str]
) -> None:
    first, second = moved
    there = change(config, model=f"{HERE}@main")
    inputs, said = said_by(there)
    assert inputs.folders.model.commit == first
    assert said == [
        f"hub          {HERE}@main is commit {first} at {hub.url}",
        f"warning: {HERE}@main is {second[:12]} by now, and this run directory goes on with "
        f"{first[:12]}, which it began with; --new-run takes the other",
    ]
    assert execute(there)["gradient_product"].manifest["model"]["commit"] == first


def test_a_new_run_takes_the_commit_that_a_branch_is_now_and_keeps_to_it(
    hub: Hub, config: RunConfig, change: Change, execute: Execute, moved: tuple[str, str]
) -> None:
    first, second = moved
    there = change(config, model=HERE)
    manifest = execute(there, new_run=True)["gradient_product"].manifest
    assert manifest["model"]["commit"] == second
    inputs, said = said_by(there)
    assert (inputs.folders.model.commit, len(said)) == (second, 1)
    pinned = change(config, model=f"{HERE}@{first}")
    assert execute(pinned)["gradient_product"].manifest["model"]["commit"] == first


def test_a_branch_that_is_gone_does_not_matter_to_who_has_its_commit(
    hub: Hub, config: RunConfig, change: Change, moved: tuple[str, str]
) -> None:
    there = change(config, model=HERE)
    del hub.repositories[NAME].branches["main"]
    inputs, said = said_by(there)
    assert inputs.folders.model.commit == moved[0]
    assert f"{HERE}@main is no more by now" in said[1]
    hub.repositories[NAME].commits.clear()
    inputs, said = said_by(there)
    assert inputs.folders.model.commit == moved[0]
    assert "no hub gave it" in said[0]
    shutil.rmtree(Path(inputs.folders.model.path).parents[1])
    assert f"org/mine has no revision {moved[0]}." in refused(there)


def test_a_model_that_the_checks_refuse_leaves_no_commit_to_go_on_with(
    hub: Hub, config: RunConfig, change: Change, execute: Execute, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.push(NAME, files_of(config))
    there = change(config, model=HERE)

    def refuse(*_: Any) -> None:
        raise ModelError("not causal.")

    with monkeypatch.context() as patched:
        patched.setattr("rayinfluence.dataflow.begin.preflight.passed", refuse)
        with pytest.raises(ModelError, match="not causal"):
            execute(there)
    tiny_gpt2(seed=1).save_pretrained(config.model)
    mended = hub.push(NAME, files_of(config))
    assert execute(there)["gradient_product"].manifest["model"]["commit"] == mended


def test_a_tokenizer_comes_without_the_weights_beside_it(
    hub: Hub, config: RunConfig, change: Change
) -> None:
    commit = hub.push(NAME, {**files_of(config), **BESIDE})
    inputs, _ = said_by(change(config, tokenizer=f"{HERE}@main"))
    assert (inputs.folders.model.path, inputs.folders.model.commit) == (config.model, None)
    assert inputs.folders.tokenizer.commit == commit
    assert (Path(inputs.folders.tokenizer.path) / "tokenizer.json").is_file()
    assert not any(name.endswith(".safetensors") for name in hub.fetched())


def test_a_model_in_pieces_comes_with_those_that_its_index_names(
    hub: Hub, config: RunConfig, change: Change, tmp_path: Path
) -> None:
    shutil.rmtree(config.model)
    tiny_run(tmp_path)
    (Path(config.model) / "model.safetensors").unlink()
    tiny_gpt2().save_pretrained(config.model, max_shard_size="6KB")
    files = files_of(config)
    hub.push(NAME, {**files, **BESIDE})
    said_by(change(config, model=HERE))
    weights = [name for name in hub.fetched() if name.endswith(".safetensors")]
    assert weights == sorted(name for name in files if name.endswith(".safetensors"))
    assert len(weights) > 1
    hub.push(NAME, {name: body for name, body in files.items() if name != weights[0]})
    said = refused(change(config, model=HERE, run=str(tmp_path / "another")))
    assert f"1 of them is not there, such as {weights[0]}" in said


def without(*suffixes: str) -> Callable[[dict[str, bytes]], dict[str, bytes]]:
    return lambda files: {n: body for n, body in files.items() if not n.endswith(suffixes)}


def with_config(**values: Any) -> Callable[[dict[str, bytes]], dict[str, bytes]]:
    def changed(files: dict[str, bytes]) -> dict[str, bytes]:
        config = json.loads(files["config.json"]) | values
        return {**files, "config.json": json.dumps(config).encode()}

    return changed


BEFORE_THE_WEIGHTS = {
    "pickles alone": (
        lambda files: {**without(".safetensors")(files), "pytorch_model.bin": b"a pickle"},
        "pytorch_model.bin is a pickle, which is not opened as it may run code. If you trust its "
        'author, convert it and name the new folder: `python -c "import transformers as t; '
        "[k.from_pretrained('org/mine', revision='",
    ),
    "an adapter": (
        lambda files: {
            "adapter_config.json": b'{"peft_type": "IA3"}',
            "adapter_model.safetensors": save({}),
        },
        "holds an adapter (IA3, adapter_config.json) that is no LoRA adapter of PEFT",
    ),
    "no weights": (without(".safetensors"), f"{HERE}@main cannot be loaded: there is no model.saf"),
    "weights of another library": (
        lambda files: {**without(".safetensors")(files), "consolidated.safetensors": b"?"},
        "consolidated.safetensors is not what is read",
    ),
    "nothing that is known": (
        lambda files: {"README.md": b"# Mine", "data.csv": b"a,b"},
        f"{HERE}@main holds no config.json, so it is no model of transformers",
    ),
    "a pickle of an adapter": (
        lambda files: {
            "adapter_config.json": b'{"peft_type": "LORA"}',
            "adapter_model.bin": b"",
        },
        "and its adapter_model.bin is a pickle, which is not read. Convert it: `python -c ",
    ),
    "no configuration": (
        lambda files: {n: body for n, body in files.items() if n != "config.json"},
        f"{HERE}@main holds no config.json, so it is no model of transformers; it holds ",
    ),
    "a kind that is not known": (
        with_config(model_type="of tomorrow"),
        "knows no model of the type 'of tomorrow', which its config.json names; install a newer",
    ),
    "code of another repository": (
        with_config(auto_map={"AutoModelForCausalLM": "org/theirs--modeling.Model"}),
        "names code of another repository (org/theirs--modeling.Model), which is not fetched",
    ),
}


@pytest.mark.parametrize("case", BEFORE_THE_WEIGHTS)
def test_what_need_not_be_fetched_is_refused_first(
    hub: Hub, config: RunConfig, change: Change, case: str
) -> None:
    made, said = BEFORE_THE_WEIGHTS[case]
    hub.push(NAME, made(files_of(config)))
    there = change(config, model=HERE, trust_remote_code=case.startswith("code"))
    sentence = refused(there)
    assert sentence.startswith("model: ")
    assert said in sentence
    assert not any(name.endswith((".safetensors", ".bin")) for name in hub.fetched())
    assert not Path(config.run).exists()


def test_errors_of_a_hub_begin_with_the_key_that_they_are_about(
    hub: Hub, config: RunConfig, change: Change
) -> None:
    for key in ("model", "tokenizer"):
        said = refused(change(config, **{key: "hf://org/none@v1"}))
        assert said.startswith(f"{key}: hf://org/none@v1: the hub at {hub.url} has no model")


def test_half_a_download_is_told_where_no_hub_may_be_asked(
    hub: Hub, config: RunConfig, change: Change, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.push(NAME, files_of(config))
    there = change(config, model=HERE)
    inputs, _ = said_by(there)
    (Path(inputs.folders.model.path) / "model.safetensors").unlink()
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    said = refused(there, StorageError)
    commit = inputs.folders.model.commit
    assert f"holds a part of commit {commit}, without its weights" in said
    assert "Unset HF_HUB_OFFLINE if it is set, or fetch the model where" in said
    assert f"`hf download {NAME} --revision {commit}`" in said
    assert "no hub is asked" in refused(change(config, model="hf://org/none"), StorageError)


def test_a_cache_without_a_tokenizer_is_told_where_no_hub_may_be_asked(
    hub: Hub, config: RunConfig, change: Change, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.push(NAME, files_of(config))
    there = change(config, model=HERE)
    inputs, _ = said_by(there)
    folder = Path(inputs.folders.model.path)
    (folder / "tokenizer.json").unlink()
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    said = refused(there, StorageError)
    assert f"holds a part of commit {inputs.folders.model.commit}, without its tokenizer" in said
    assert f"`hf download {NAME} --revision {inputs.folders.model.commit}`" in said
    other, _ = said_by(change(there, tokenizer=config.model))
    assert other.folders.model.path == str(folder)


#: Fetches a model, and says what it has changed of its process.
PROGRAM = """
import json, sys
from process_state import changed, state
from rayinfluence.config import RunConfig
from rayinfluence.dataflow.begin.early import Inputs
before = state()
inputs = Inputs.of(RunConfig.load(sys.argv[1]), print)
print(json.dumps(changed(before, state(), imported=True)))
print(inputs.folders.model.path, inputs.folders.model.commit)
"""


def test_the_environment_says_where_hub_and_cache_are_and_whether_it_is_asked(
    hub: Hub, config: RunConfig, change: Change, tmp_path: Path
) -> None:
    commit = hub.push(NAME, files_of(config))
    hub.repositories[NAME].token = "hf_mine"
    (tmp_path / "run.yaml").write_text(change(config, model=HERE).model_dump_json())
    home = tmp_path / "a home"

    def fetch(**variables: str) -> list[str]:
        path = os.pathsep.join([str(Path(__file__).parents[3]), *sys.path])
        here = {**os.environ, "PYTHONPATH": path, **environment(hub, home), **variables}
        command = [sys.executable, "-c", PROGRAM, str(tmp_path / "run.yaml")]
        done = subprocess.run(command, env=here, capture_output=True, text=True, timeout=100)
        return done.stdout.splitlines() if done.returncode == 0 else done.stderr.splitlines()

    assert "let in, and not without a token" in fetch()[-1]
    first = fetch(HF_TOKEN="hf_mine")
    place = home / "hub" / "models--org--mine" / "snapshots" / commit
    assert first[-1] == f"{place} {commit}"
    assert first[-2] == "{}"
    hub.requests.clear()
    second = fetch(HF_HUB_OFFLINE="1")
    assert second[0] == (
        f"hub          {HERE}@main is commit {commit} in {home / 'hub'}; no hub gave it"
    )
    assert second[-1] == first[-1]
    assert hub.requests == []
