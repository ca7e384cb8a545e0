"""What a person mistypes in a path, an address or a YAML file is a sentence, and no folder."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest
from loopback_hub import Hub
from pydantic import ValidationError
from rich.console import Console

import rayinfluence
from rayinfluence.addresses import HubAddress, hub_address
from rayinfluence.config import RunConfig
from rayinfluence.config_corpus import CorpusConfig
from rayinfluence.dataflow.begin.early import Inputs
from rayinfluence.dataflow.places import run_config, run_place
from rayinfluence.dataflow.run import Run
from rayinfluence.dataflow.stages.progress import ProgressLog
from rayinfluence.errors import ConfigError, ModelError, StorageError
from rayinfluence.storage.store import Store
from rayinfluence.testing import tiny_run

MINIMAL: dict[str, Any] = {"run": "runs/a", "model": "models/a"}
PLACES = ("run", "model", "queries", "tokenizer", "corpus.path", "corpus.documents")
WRONG = [
    ("s3:/b/x", "did you mean s3://b/x?"),
    ("s3:b/x", "did you mean s3://b/x?"),
    ("s3:///b/x", "did you mean s3://b/x?"),
    ("S3://b/x", "did you mean s3://b/x?"),
    ("gs:/b/x", "did you mean gs://b/x?"),
    ("file:/x/y", "did you mean /x/y?"),
    ("https://huggingface.co/d/a/b.jsonl", "is on the web, and files are read from disks"),
    ("hdfs://namenode/x", "is on hdfs://, and files are read from disks and object storage"),
    ("hdfs:/x", "copy it to a disk (`hdfs dfs -get`) or to object storage (`hadoop distcp`)"),
    ("ftp://host/x", "is on ftp://, and files are read from disks and object storage"),
    ("SFTP://host/x", "is on sftp://, and"),
    ("dbfs:/x/y", "'dbfs:/x/y' is no path of this machine: did you mean /dbfs/x/y?"),
    ("dbfs:///x", "did you mean /dbfs/x?"),
    ("dbfs:/Volumes/a/b", "did you mean /Volumes/a/b?"),
    ("s3://", "names nothing; write where it is, such as s3://bucket/folder."),
    ("file://", "names nothing; write where it is, such as /folder."),
    ("~nobodyx/r", "in the home of a user whom this machine does not know (~nobodyx)"),
    ("file://~nobodyx/r", "in the home of a user whom this machine does not know (~nobodyx)"),
    ("runs/a\0b", "holds a NUL character"),
    ("s3://b/a\0b", "holds a NUL character"),
]
RIGHT = ["s3://b/x", "gs://b", "file:///x/y", "/x", "x", "~/x", "x/~nobodyx", "a:b", "memory://x"]


def with_address(place: str, address: str) -> dict[str, Any]:
    section, _, key = place.rpartition(".")
    value = [address] if key == "documents" else address
    return {**MINIMAL, section: {key: value}} if section else {**MINIMAL, key: value}


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize(("address", "said"), WRONG)
def test_a_mistyped_address_is_refused_wherever_it_stands(
    place: str, address: str, said: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        RunConfig.parse(with_address(place, address))
    assert said in str(caught.value)
    assert place in str(caught.value)


ON_A_HUB = ["hf://datasets/allenai/c4/x.jsonl", "hf://org/name", "hf://org/name@main"]


@pytest.mark.parametrize(
    "place", [p for p in PLACES if p not in ("model", "tokenizer", "corpus.documents")]
)
@pytest.mark.parametrize("address", ON_A_HUB)
def test_only_models_tokenizers_and_documents_are_read_from_a_hub(place: str, address: str) -> None:
    with pytest.raises(ConfigError, match=r"is on the web, and files are read from disks and obj"):
        RunConfig.parse(with_address(place, address))


@pytest.mark.parametrize("place", ["model", "tokenizer"])
@pytest.mark.parametrize(
    ("address", "meant"),
    [
        ("hf://org/name", HubAddress("org/name", "main")),
        ("hf://gpt2", HubAddress("gpt2", "main")),
        ("hf://org/na.me-7_B@v1.0", HubAddress("org/na.me-7_B", "v1.0")),
        ("hf://org/name@refs/pr/3", HubAddress("org/name", "refs/pr/3")),
    ],
)
def test_models_and_tokenizers_may_be_on_a_hub(place: str, address: str, meant: HubAddress) -> None:
    config = RunConfig.parse(with_address(place, address))
    assert getattr(config, place) == address
    assert hub_address(address) == meant


@pytest.mark.parametrize("place", ["model", "tokenizer"])
@pytest.mark.parametrize(
    ("address", "said"),
    [
        ("hf:org/name", "did you mean hf://org/name?"),
        ("hf:/org/name", "did you mean hf://org/name?"),
        ("HF://org/name", "did you mean hf://org/name?"),
        ("hf://", "names no model on a hub: write hf://org/name, or hf://org/name@revision"),
        ("hf://org/name/folder", "names no model on a hub: write hf://org/name, or"),
        ("hf://datasets/org/name", "names no model on a hub: write hf://org/name, or"),
        ("hf://org/name@", "names no model on a hub"),
        ("hf://org/name@a b", "names no model on a hub"),
        ("https://huggingface.co/org/name", "is a page: did you mean hf://org/name?"),
        ("https://hf.co/org/name/tree/v1", "is a page: did you mean hf://org/name@v1?"),
        ("https://huggingface.co/org/name/blob/main/a.json", "is on the web, and files are read"),
    ],
)
def test_what_names_no_model_on_a_hub_is_told_with_what_may_be_meant(
    place: str, address: str, said: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        RunConfig.parse(with_address(place, address))
    assert said in str(caught.value)


def test_a_token_in_an_address_of_a_hub_is_refused_and_shown_nowhere() -> None:
    for address in (
        "hf://user:hf_secret@org/name",
        "hf://hf_secret@org/name",
        "hf://hf_secret@org/name@main",
        "https://hf_secret@huggingface.co/org/name",
    ):
        with pytest.raises(ConfigError, match="there is a password or a token in this") as caught:
            RunConfig.parse({**MINIMAL, "model": address})
        assert "hf_secret" not in str(caught.value)


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("address", RIGHT)
def test_other_addresses_are_taken_as_they_are(place: str, address: str) -> None:
    RunConfig.parse(with_address(place, address))


@pytest.mark.parametrize("place", PLACES)
def test_a_home_is_written_out_wherever_it_stands(
    place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", "/home/somebody")
    for address, meant in (
        ("~/x/*.jsonl", "/home/somebody/x/*.jsonl"),
        ("~", "/home/somebody"),
        ("file://~/x", "/home/somebody/x"),
        ("file:///x/~", "/x/~"),
        ("x/~/y", "x/~/y"),
        ("s3://b/~/x", "s3://b/~/x"),
    ):
        values: Any = RunConfig.parse(with_address(place, address)).model_dump()
        for key in place.split("."):
            values = values[key]
        assert values == ([meant] if place == "corpus.documents" else meant)


def test_a_run_in_a_home_is_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever reads it: pathlib knows no home."""
    monkeypatch.setenv("HOME", str(tmp_path))
    config = tiny_run(tmp_path, 8, scan={"methods": ["gradient_product"]}).model_dump()
    at_home = json.loads(json.dumps(config).replace(str(tmp_path), "~"))
    (tmp_path / "run.yaml").write_text(json.dumps(at_home))
    for place in ("~/run.yaml", "~/run"):
        with Run(run_config(place), ProgressLog(Console(file=io.StringIO()))) as run:
            assert run.all()["gradient_product"].proponents("q0")
        assert run_place(place).store.url == str(tmp_path / "run")
    assert rayinfluence.load_results("~/run").proponents("q0")
    assert RunConfig.load("~/run.yaml").model == str(tmp_path / "model")


@pytest.mark.parametrize("name", ["gpt2", "org/model-7b"])
def test_a_name_that_a_hub_may_have_is_told_with_its_address_and_not_asked_for(
    tmp_path: Path, name: str, hub: Hub
) -> None:
    config = RunConfig.parse({"run": str(tmp_path / "run"), "model": name})
    said = rf"no folder {name} \(hf://{name} would fetch it from a hub\);"
    with pytest.raises(ModelError, match=said):
        Inputs.of(config)
    assert hub.requests == []


@pytest.mark.parametrize(("address", "said"), WRONG)
def test_a_mistyped_address_on_the_command_line_is_refused(address: str, said: str) -> None:
    for find in (run_config, run_place):
        with pytest.raises(ConfigError) as caught:
            find(address)
        assert said in str(caught.value)
    with pytest.raises(StorageError) as refused:
        rayinfluence.load_results(address)
    assert said in str(refused.value)


@pytest.mark.parametrize("key", ["model", "tokenizer"])
def test_a_model_in_object_storage_is_refused_before_torch_is_there(
    tmp_path: Path, key: str
) -> None:
    (tmp_path / "model").mkdir()
    values = {"run": str(tmp_path / "run"), "model": str(tmp_path / "model"), key: "s3://b/m"}
    with pytest.raises(ModelError, match=rf"{key}: s3://b/m is an address.* from local folders"):
        Inputs.of(RunConfig.parse(values))


@pytest.mark.parametrize("key", ["damping", "damping_scale"])
def test_a_damping_under_which_all_scores_vanish_is_refused(key: str) -> None:
    with pytest.raises(ConfigError, match=rf"scan\.{key}: must be less than 1e\+15"):
        RunConfig.parse({**MINIMAL, "scan": {key: 1e300}})


@pytest.mark.parametrize("url", ["~nobodyx/r", "a\0b"])
def test_a_store_of_no_path_is_a_sentence(url: str) -> None:
    with pytest.raises(StorageError, match=r"home of a user|NUL character"):
        Store(url)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("run: a\nmodel: b\nrun: c\n", "the key 'run' stands in line 1 and again in line 3"),
        ("run: a\nscan: {top: 3, top: 4}\n", "the key 'top' stands twice in line 2"),
        (
            "run: a\nmodel: b\nscan:\n  top: 3\nscan:\n  rank: 4\n",
            "the key 'scan' stands in line 3 and again in line 5",
        ),
        (
            "run: a\nmodel: b\nscan:\n  top: 3\n  'top': 4\n",
            "the key 'top' stands in line 4 and again in line 5",
        ),
    ],
)
def test_a_key_that_stands_twice_is_refused_with_both_lines(
    tmp_path: Path, text: str, said: str
) -> None:
    path = tmp_path / "run.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError) as caught:
        RunConfig.load(path)
    assert str(caught.value).startswith(f"{path}: {said}")


def test_what_a_merge_brings_may_be_overridden(tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    path.write_text(
        "run: a\nmodel: b\nfit: &all\n  lanes: 3\n  blocks: 2\nscan: {}\nrunner: {name: inline}\n"
    )
    assert RunConfig.load(path).fit.lanes == 3
    path.write_text("<<: &base {run: a, model: b}\nrun: c\n")
    assert RunConfig.load(path).run == f"{tmp_path}/c"


@pytest.mark.parametrize(
    ("address", "said"),
    [
        ("s3://KEY:hunter2@b/x", "there is a password or a token in this address"),
        ("s3:/KEY:hunter2@b/x", "did you mean s3://***@b/x?"),
        ("s3://KEY:hunter2@b/\0", "holds a NUL character"),
    ],
)
def test_a_password_is_in_no_error_of_the_constructor(address: str, said: str) -> None:
    with pytest.raises(ValidationError) as caught:
        RunConfig(run=address, model="m")
    assert said in str(caught.value)
    assert "hunter2" not in str(caught.value) + repr(caught.value)


def test_paths_of_python_are_text() -> None:
    corpus = CorpusConfig(documents=[Path("a.jsonl")], path=Path("c"))
    config = RunConfig(run=Path("/x"), model=Path("m"), corpus=corpus)
    assert (config.run, config.model) == ("/x", "m")
    assert (config.corpus.documents, config.corpus.path) == (["a.jsonl"], "c")
