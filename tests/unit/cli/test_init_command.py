"""`rayinfluence init` writes a configuration that runs, of what it has looked at."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rayinfluence.config import RunConfig

Say = Callable[..., tuple[int, str, str]]


@pytest.fixture
def folder(
    finished: tuple[Path, RunConfig], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Path:
    """The working directory, with a model and documents."""
    shutil.copytree(finished[0] / "model", tmp_path / "models/tiny")
    shutil.copy(finished[0] / "documents.jsonl", tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def rows(folder: Path, *some: dict[str, Any]) -> None:
    lines = [json.dumps(row) for row in some]
    (folder / "documents.jsonl").write_text("\n".join(lines) + "\n")


def test_what_it_writes_runs_as_it_is(folder: Path, say: Say) -> None:
    code, printed, errors = say("init")
    assert code == 0, errors
    assert "run `rayinfluence run run.yaml`" in printed.replace("then `", "run `")
    text = (folder / "run.yaml").read_text()
    config = RunConfig.load("run.yaml")
    assert (config.model, config.corpus.documents) == ("models/tiny", ["documents.jsonl"])
    assert config.corpus.context == 16
    assert "# corpus.documents: columns: id, text, source, year" in text
    assert "# scan.group_by: what repeats: source, year" in text
    assert config.scan.group_by == ["source"]
    code, printed, errors = say("run", "run.yaml", "--json")
    assert code == 0, errors
    found = json.loads(printed)
    assert (found["format"], found["complete"]) == (1, True)
    assert [one["query_id"] for one in found["queries"]] == ["example"]
    assert Path("runs/tiny/report.html").exists()


def test_a_file_elsewhere_has_paths_from_there(folder: Path, say: Say) -> None:
    (folder / "conf").mkdir()
    assert say("init", "--output", "conf/run.yaml")[0] == 0
    text = (folder / "conf/run.yaml").read_text()
    for line in ("run: runs/tiny", "model: ../models/tiny", "queries: queries.jsonl"):
        assert f"\n{line}\n" in text
    config = RunConfig.load("conf/run.yaml")
    assert config.corpus.documents == ["conf/../documents.jsonl"]
    assert all(Path(path).exists() for path in (config.model, str(config.queries)))
    assert say("tokenize", "conf/run.yaml")[0] == 0
    assert (folder / "conf/runs/tiny").is_dir()


def test_nothing_is_written_over(folder: Path, say: Say) -> None:
    (folder / "queries.jsonl").write_text("mine")
    code, _, errors = say("init")
    assert code == 2
    assert "queries.jsonl is there, and is not written over" in errors
    assert not (folder / "run.yaml").exists()
    (folder / "run.yaml").write_text("mine")
    assert say("init", "--queries", "queries.jsonl")[0] == 2
    assert (folder / "run.yaml").read_text() == (folder / "queries.jsonl").read_text() == "mine"


@pytest.mark.parametrize(
    ("some", "expected"),
    [
        ([{"content": "w1 w2 w3 w4", "title": "w"}] * 4, {"text_column": "content"}),
        ([{"title": "w1", "story": "w1 w2 w3 w4 w5"}] * 4, {"text_column": "story"}),
        (
            [{"prompt": "w1 w2", "completion": " w3 w4 w5 w6"}] * 4,
            {"text_column": "completion", "prompt_column": "prompt"},
        ),
        ([{"doc_id": f"{n}", "text": "w1 w2 w3 w4"} for n in range(4)], {"id_column": "doc_id"}),
        ([{"input_ids": [1, 2, 3]}] * 4, {"tokens": {}}),
    ],
)
def test_columns_are_told_by_what_is_in_them(
    folder: Path, say: Say, some: list[dict[str, Any]], expected: dict[str, Any]
) -> None:
    pq.write_table(pa.Table.from_pylist(some), folder / "some.parquet")
    code, _, errors = say("init", "--documents", "some.parquet")
    assert code == 0, errors
    corpus = RunConfig.load("run.yaml").corpus.model_dump()
    for key, value in expected.items():
        assert (corpus[key] is not None) if value == {} else corpus[key] == value
    assert say("tokenize", "run.yaml")[0] == 0


def test_what_others_wrote_is_a_comment_and_no_key(folder: Path, say: Say) -> None:
    evil = "x\nrun: elsewhere\u2028y: \x1b[2J\x85z: 1"
    rows(folder, *({"text": f"w{n} w1 w2 w3 w4", evil: n % 2, "source": n % 3} for n in range(9)))
    assert say("init")[0] == 0
    text = (folder / "run.yaml").read_text(encoding="utf-8")
    assert not {"\x1b", "\u2028", "\x85"} & set(text)
    assert RunConfig.load("run.yaml").run == "runs/tiny"


@pytest.mark.parametrize(
    ("arguments", "spoil", "code", "phrase"),
    [
        ([], lambda f: shutil.rmtree(f / "models"), 2, "name the model by --model; none is in"),
        ([], lambda f: shutil.copytree(f / "models", f / "more"), 2, "there are"),
        ([], lambda f: (f / "documents.jsonl").unlink(), 2, "name the documents by --documents"),
        (["--model", "no"], None, 4, "there is no folder no"),
        (["--documents", "no.jsonl"], None, 4, "no.jsonl names no file"),
        (["--queries", "no.jsonl"], None, 2, "queries: there is no file no.jsonl"),
        ([], lambda f: rows(f, {"n": 1}), 2, "no column of the documents holds text"),
        ([], lambda f: (f / "documents.jsonl").write_text("no\n"), 4, "documents.jsonl"),
    ],
)
def test_what_cannot_be_told_is_a_sentence_and_writes_nothing(
    folder: Path,
    say: Say,
    arguments: list[str],
    spoil: Callable[[Path], Any] | None,
    code: int,
    phrase: str,
) -> None:
    if spoil is not None:
        spoil(folder)
    found, _, errors = say("init", *arguments)
    assert (found, errors.count("error: ")) == (code, 1), errors
    assert phrase in errors
    assert not (folder / "run.yaml").exists()
    assert not (folder / "queries.jsonl").exists()


def test_of_a_model_that_continues_no_text_sequences_are_asked_themselves(
    folder: Path, say: Say
) -> None:
    path = folder / "models/tiny/config.json"
    described = json.loads(path.read_text())
    path.write_text(json.dumps({**described, "architectures": ["BertForMaskedLM"]}))
    code, _, errors = say("init")
    assert code == 0, errors
    assert RunConfig.load("run.yaml").scan.methods == ["self_influence"]
    assert not (folder / "queries.jsonl").exists()
