"""Documents and questions of six kinds."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from rayinfluence.demo.classes import CLASSES, OFTEN, write_classes
from rayinfluence.demo.prose import Passage
from rayinfluence.errors import CorpusError

PROSE = [
    Passage(
        f"module_{n}:f",
        " ".join(f"Function x{n}y{k} returns the item of a list." for k in range(9)),
    )
    for n in range(120)
]


def rows_of(folder: Path, name: str) -> list[dict]:
    return [json.loads(line) for line in (folder / name).read_text("utf-8").splitlines()]


def test_answers_are_in_the_corpus_and_right(tmp_path: Path) -> None:
    write_classes(tmp_path, PROSE, prose=20, subjects=3, asked=6, seed=0)
    documents, queries = (rows_of(tmp_path, f"{n}.jsonl") for n in ("documents", "queries"))
    by_class: dict[str, list[str]] = {name: [] for name in CLASSES}
    for one in documents:
        by_class[one["class"]].append(one["text"])
    assert {name for name, texts in by_class.items() if texts} == set(CLASSES)
    for name in CLASSES:
        asked = [one for one in queries if one["metadata"]["class"] == name]
        assert len(asked) == 6
        for one in asked:
            whole = one["prompt"] + one["completion"]
            n_there = sum(whole in text for text in by_class[name])
            assert n_there == (OFTEN if name == "verbatim passages" else 1) or name == "facts"
            assert n_there
    assert len({one["query_id"] for one in queries}) == len(queries)
    for one in queries:
        words = one["prompt"].split()
        if one["metadata"]["class"] == "arithmetic":
            assert int(one["completion"]) == (int(words[0]) + int(words[2])) % 7
        if one["metadata"]["class"] == "copying":
            assert one["completion"].split() == words[:-1]
    # The cipher has one word for each, everywhere.
    pairs: dict[str, set[str]] = {}
    for text in by_class["cipher"]:
        known, others = text.split(" means ")
        for word, other in zip(known.split(), others.split(), strict=True):
            pairs.setdefault(word, set()).add(other)
    assert {len(found) for found in pairs.values()} == {1}
    assert len(set.union(*pairs.values())) == len(pairs)


def test_too_little_prose_is_told(tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match="windows of prose are wanted"):
        write_classes(tmp_path, PROSE[:5], prose=20, subjects=3, asked=6, seed=0)
