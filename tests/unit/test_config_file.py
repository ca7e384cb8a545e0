"""A configuration's file: its paths are relative to its folder, from wherever it is named."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, get_args, get_type_hints

import pytest
import yaml
from pydantic import AfterValidator, BaseModel

from rayinfluence.config import RunConfig
from rayinfluence.config_file import PATHS, beside, from_beside, is_same_place

Say = Callable[..., tuple[int, str, str]]
VALUES: dict[str, Any] = {
    "run": "runs/a",
    "model": "models/a",
    "base_model": "/models/base",
    "tokenizer": "org/name",
    "queries": "~/queries.jsonl",
    "corpus": {
        "path": "s3://bucket/corpus",
        "documents": ["data/", "{a,b}/*.jsonl", "{/a,/b}/*.jsonl", "../c:d.txt"],
        "select": {"ids": "ids.txt"},
        "exclude": "year = 1",
        "text_column": "data/text",
    },
    "scan": {"candidates": {"run": "runs/b"}},
}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "conf[1]" / "models/a").mkdir(parents=True)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_paths_are_from_the_file_s_folder_and_all_else_stays(folder: Path) -> None:
    moved = beside(VALUES, "conf[1]/run.yaml")
    assert moved == {
        "run": "conf[1]/runs/a",
        "model": "conf[1]/models/a",
        "base_model": "/models/base",
        "tokenizer": "org/name",  # no folder there, and maybe a hub's, which is told then
        "queries": "~/queries.jsonl",
        "corpus": {
            "path": "s3://bucket/corpus",
            "documents": [
                "conf[[]1]/data/",
                "conf[[]1]/{a,b}/*.jsonl",
                "{/a,/b}/*.jsonl",
                "conf[[]1]/../c:d.txt",
            ],
            "select": {"ids": "conf[1]/ids.txt"},
            "exclude": "year = 1",
            "text_column": "data/text",
        },
        "scan": {"candidates": {"run": "conf[1]/runs/b"}},
    }
    for here in ("run.yaml", folder / "run.yaml", folder / "elsewhere/../run.yaml"):
        assert beside(VALUES, here) == VALUES
    whole = beside(VALUES, folder / "elsewhere" / "run.yaml")
    assert whole["run"] == f"{folder}/elsewhere/runs/a"


def test_what_is_no_configuration_is_left_to_who_refuses_it(folder: Path) -> None:
    wrong = {"run": 3, "corpus": ["a"], "scan": None, "model": " ", "queries": None}
    assert beside(wrong, "elsewhere/run.yaml") == wrong


def test_the_other_way_round_paths_mean_the_same(folder: Path) -> None:
    values = {"model": "conf[1]/models/a", "queries": "q.jsonl", "corpus": {"documents": ["d/"]}}
    there = from_beside(values, "elsewhere/run.yaml")
    assert there["corpus"] == {"documents": ["../d/"]}
    for key in ("model", "queries"):
        back = beside(there, "elsewhere/run.yaml")[key]
        assert Path(back).resolve() == Path(values[key]).resolve()
    assert from_beside(values, "run.yaml") == values


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("../a/q.jsonl", "/x/a/q.jsonl", True),
        ("q.jsonl", "conf/q.jsonl", True),
        ("q.jsonl", "conf/other-q.jsonl", False),
        ("a/q.jsonl", "b/q.jsonl", False),
    ],
)
def test_paths_from_different_folders_are_told_by_their_tails(
    one: str, other: str, same: bool
) -> None:
    assert is_same_place(one, other) is is_same_place(other, one) is same


def places(model: type[BaseModel], before: str = "") -> Iterator[str]:
    """Dotted keys of a configuration whose values are checked as addresses."""
    for key, hint in get_type_hints(model, include_extras=True).items():
        for part in parts(hint):
            if isinstance(part, AfterValidator) and part.func.__name__.endswith("_address"):
                yield f"{before}{key}"
            elif isinstance(part, type) and issubclass(part, BaseModel):
                yield from places(part, f"{before}{key}.")


def parts(hint: Any) -> Iterator[Any]:
    yield hint
    for inner in (*get_args(hint), *getattr(hint, "__metadata__", ())):
        yield from parts(inner)


def test_every_path_of_a_configuration_is_among_them() -> None:
    found = {one for one in places(RunConfig) if not one.startswith("storage.")}
    for key in found:
        values: Any = ["a/b/here"] if key == "corpus.documents" else "a/b/here"
        for name in reversed(key.split(".")):
            values = {name: values}
        assert '"/no/a/b/here"' in json.dumps(beside(values, "/no/run.yaml")), key
    assert found == set(PATHS)


def test_a_file_means_the_same_from_everywhere(
    finished: tuple[Path, RunConfig], tmp_path: Path, say: Say, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("model", "documents.jsonl", "queries.jsonl", "run"):
        copy = shutil.copytree if (finished[0] / name).is_dir() else shutil.copy
        copy(finished[0] / name, tmp_path / name)
    values = json.loads(finished[1].model_dump_json())
    values |= {"run": "run", "model": "model", "queries": "queries.jsonl"}
    values["corpus"]["documents"] = ["documents.jsonl"]
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(values))
    (tmp_path / "elsewhere").mkdir()
    for folder, file in (("elsewhere", "../run.yaml"), (".", "run.yaml")):
        monkeypatch.chdir(tmp_path / folder)
        code, printed, errors = say("run", file)
        assert code == 0, errors
        assert "results      reused" in errors
        code, printed, _ = say("status", file, "--json")
        assert json.loads(printed)["current"] is True
        assert json.loads(printed)["done"] is True
    assert not list((tmp_path / "elsewhere").iterdir())
