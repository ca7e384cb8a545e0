"""No run reads as documents what it has written, and none writes over what it was given."""

import io
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from rich.console import Console

from rayinfluence.config import RunConfig
from rayinfluence.dataflow.begin.early import Inputs
from rayinfluence.dataflow.run import Run
from rayinfluence.dataflow.stage_names import STAGES
from rayinfluence.dataflow.stages.progress import ProgressLog
from rayinfluence.dataflow.status import clean
from rayinfluence.errors import ConfigError
from rayinfluence.storage.store import Store
from rayinfluence.testing import tiny_run

Change = Callable[..., RunConfig]
SOME = "ab" * 16


def documents(path: Path) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".parquet":
        pq.write_table(pa.table({"text": ["w1 w2 w3"]}), path)
    else:
        path.write_text('{"text": "w1 w2 w3"}\n')
    return str(path)


def test_a_folder_that_holds_the_run_is_refused_before_the_first_shard_is_written(
    tmp_path: Path, change: Change
) -> None:
    config = change(tiny_run(tmp_path), corpus={"documents": [str(tmp_path)]})
    with (
        Run(config, ProgressLog(Console(file=io.StringIO()))) as run,
        pytest.raises(ConfigError, match=r"takes in the shards in .*/run/corpus, which the run"),
    ):
        run.tokenize()
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("run", "corpus", "pattern", "taken"),
    [
        ("data/run", None, "data", "shards"),
        ("data/deep/run", None, "data", "shards"),
        ("data", None, "data", "shards"),
        ("data", None, "data/corpus", "shards"),
        ("data", None, "data/../data/corpus/shards", "shards"),
        ("data/run", None, "data/**", "shards"),
        ("data/run", None, "data/**/*.parquet", "shards"),
        ("data/run", None, "data/run/*/*/*.parquet", "shards"),
        ("data/run", None, "link/**/*.p*", "shards"),
        ("link/run", None, "data", "shards"),
        ("data/run", "elsewhere", "data", "all scores"),
        ("data/run", "elsewhere", "data/run/*/*/*.parquet", "results"),
        ("data/run", "elsewhere", "data/run/results", "results"),
        ("run", "data/shared", "data", "shards"),
        ("run", "data", "data/shards", "shards"),
    ],
)
def test_documents_that_take_in_what_the_run_will_write_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: Change, run: str, corpus: str | None,
    pattern: str, taken: str,
) -> None:  # fmt: skip
    config = tiny_run(tmp_path)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "link").symlink_to("data")
    # So that the pattern names something.
    for folder in ("data/a.parquet", "data/sub/a.parquet", f"{pattern}/a.parquet"):
        if "*" not in folder:
            documents(tmp_path / folder)
    documents(tmp_path / run / "own/own/a.parquet")
    documents(tmp_path / run / "own/a.parquet")
    changed = change(config, run=run, corpus={"documents": [pattern], "path": corpus})
    with pytest.raises(ConfigError, match=rf"corpus\.documents: .* takes in (the )?{taken} in"):
        Inputs.of(changed)


@pytest.mark.parametrize(
    ("run", "pattern", "file"),
    [
        ("run", "docs", "docs/a.jsonl"),
        ("run", "run/docs", "run/docs/a.parquet"),
        ("run", "run/*.jsonl", "run/a.jsonl"),
        ("run", "run/models/mine/*", "run/models/mine/a.jsonl"),
        ("run", f"run/models/{SOME}/*", f"run/models/{SOME}/a.jsonl"),  # a run has files there
        ("run", "run/corpus/raw", "run/corpus/raw/a.jsonl"),
        ("data/run", "data/*.parquet", "data/a.parquet"),
        ("data/run", "data/**/*.jsonl", "data/sub/a.jsonl"),
        ("data/.run", "data", "data/a.jsonl"),
        ("data/.run", "data/**/*.parquet", "data/sub/a.parquet"),
        ("data-run", "data", "data/a.jsonl"),
    ],
)
def test_documents_beside_what_the_run_writes_are_read_again_and_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: Change, run: str, pattern: str,
    file: str,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    documents(tmp_path / file)
    config = change(tiny_run(tmp_path), run=run, corpus={"documents": [pattern]})
    for _ in range(2):
        with Run(config, ProgressLog(Console(file=io.StringIO()))) as opened:
            assert len(opened.tokenize().manifest.files) == 1
    assert clean(Store(str(tmp_path / run)), list(STAGES)) > 0
    assert (tmp_path / file).exists()


@pytest.mark.parametrize(
    "file",
    ["run/corpus/shards/mine.jsonl", f"run/scan/{SOME}/x.jsonl", "run/results/mine.parquet",
     f"run/factors/{SOME}/a.jsonl", "run/plan/mine.jsonl"],
)  # fmt: skip
def test_documents_that_are_deleted_with_the_run_s_own_are_refused(
    tmp_path: Path, change: Change, file: str
) -> None:
    config = change(tiny_run(tmp_path), corpus={"documents": [documents(tmp_path / file)]})
    with pytest.raises(
        ConfigError, match=r"corpus\.documents: .*(among what the run writes into|takes in)"
    ):
        Inputs.of(config)


def test_a_link_among_the_documents_that_leads_to_shards_is_refused(
    done: tuple[Path, RunConfig], change: Change
) -> None:
    folder, config = done
    [shard] = (folder / "run" / "corpus" / "shards").iterdir()
    for name, target in (("file.parquet", shard), ("folder", shard.parent)):
        link = folder / "data" / name
        link.parent.mkdir(exist_ok=True)
        link.symlink_to(target)
        changed = change(config, corpus={"documents": [str(link.parent)]})
        with pytest.raises(ConfigError, match=r"is among what the run writes into .*leads there"):
            Inputs.of(changed)
        link.unlink()


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"run": "model"}, "model: the run writes JSON files of its own into model"),
        ({"run": "link"}, "model: the run writes JSON files of its own into model"),
        ({"run": "model", "model": "other", "tokenizer": "model/."}, "tokenizer: the run writes"),
        ({"run": "other"}, "run: there is a config.json in .*other that is not of a run"),
        ({"model": "run/results"}, "model: the run writes JSON files"),
        ({"model": f"run/queries/{SOME}"}, "model: run/queries/.* is among what the run writes"),
        ({"model": "run/corpus/shards/mine"}, "model: run/corpus/shards/mine is among"),
        ({"queries": "run/results/queries.json"}, "queries: run/results/queries.json is among"),
        ({"queries": "run/config.json"}, "queries: run/config.json is among"),
        ({"queries": "run/plan/queries.jsonl"}, "queries: run/plan/queries.jsonl is among"),
        ({"corpus": {"path": "run/results"}}, "corpus.path: run/results is among what the run"),
        ({"corpus": {"path": "run/scan/mine"}}, "corpus.path: run/scan/mine is among"),
        ({"corpus": {"path": "run/corpus/shards"}}, "corpus.path: run/corpus/shards is among"),
        ({"run": "queries.jsonl"}, "run: queries.jsonl is a file; name a folder"),
        ({"corpus": {"path": "queries.jsonl"}}, "corpus.path: queries.jsonl is a file"),
    ],
)
def test_a_run_does_not_write_over_its_inputs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: Change, values: dict[str, Any],
    said: str,
) -> None:  # fmt: skip
    config = change(
        tiny_run(tmp_path),
        **{"run": "run", "model": "model", "queries": "queries.jsonl"} | values,
    )
    monkeypatch.chdir(tmp_path)
    shutil.copytree("model", "other")
    Path("link").symlink_to("model")
    before = {path: path.read_bytes() for path in tmp_path.rglob("*.*") if path.is_file()}
    with pytest.raises(ConfigError, match=f"^{said}"):
        Inputs.of(config)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*.*") if path.is_file()} == before


@pytest.mark.parametrize(
    "values",
    [
        {"run": "."},
        {"run": "model/run"},
        {"model": "run/models/mine", "queries": "run/queries/mine.jsonl"},
        {"queries": "run/queries.jsonl"},
        {"queries": "run/results/mine.jsonl"},
        {"corpus": {"path": "run"}},
        {"corpus": {"path": "run/corpus"}},
        {"corpus": {"path": "shared"}},
    ],
)
def test_what_does_no_harm_is_allowed_before_a_run_and_after(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: Change, values: dict[str, Any]
) -> None:
    config = change(
        tiny_run(tmp_path),
        **{"run": "run", "model": "model", "queries": "queries.jsonl"} | values,
    )
    monkeypatch.chdir(tmp_path)
    if config.queries != "queries.jsonl":
        Path(str(config.queries)).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy("queries.jsonl", str(config.queries))
    if config.model != "model":
        shutil.copytree("model", config.model)
    for _ in range(2):
        Inputs.of(config)
        with Run(config, ProgressLog(Console(file=io.StringIO()))) as run:
            run.tokenize()
    clean(Store(config.run), list(STAGES))
    assert (tmp_path / config.model / "config.json").read_text().startswith('{\n  "activ')
    assert len((tmp_path / str(config.queries)).read_text().splitlines()) == 3


def test_in_object_storage_the_same_is_refused(
    tmp_path: Path, change: Change, s3: dict[str, Any]
) -> None:
    store = Store("s3://bucket", s3)
    store.write("data/a.jsonl", b'{"text": "w1 w2"}\n')
    config = change(tiny_run(tmp_path), run="s3://bucket/data/run", storage=s3)

    def inputs(pattern: str, run: str = "s3://bucket/data/run") -> Inputs:
        return Inputs.of(change(config, run=run, corpus={"documents": [pattern]}))

    for pattern in ("s3://bucket/data", "s3://bucket/data/", "s3://bucket/**", "s3://bucket/d*/**"):
        with pytest.raises(
            ConfigError, match=r"takes in the shards in s3://bucket/data/run/corpus"
        ):
            inputs(pattern)
    assert inputs("s3://bucket/data/*.jsonl").documents.files
    assert inputs("s3://bucket/data", "s3://bucket/data-run").documents.files
    store.write("model/config.json", json.dumps({"model_type": "gpt2"}).encode())
    with pytest.raises(
        ConfigError, match=r"config\.json in s3://bucket/model that is not of a run"
    ):
        inputs("s3://bucket/data/*.jsonl", "s3://bucket/model")


def test_a_garbled_configuration_of_a_run_is_written_anew(done: tuple[Path, RunConfig]) -> None:
    folder, config = done
    (folder / "run" / "config.json").write_text("{")
    with Run(config, ProgressLog(Console(file=io.StringIO()))) as run:
        run.tokenize()
    assert json.loads((folder / "run" / "config.json").read_text())["run"] == config.run
