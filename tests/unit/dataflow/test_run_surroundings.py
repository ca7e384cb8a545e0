"""What stands around a hit in its document, in a run's tables."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rayinfluence.storage.results import Results
from rayinfluence.testing import tiny_run

pytestmark = pytest.mark.runs

Execute = Callable[..., dict[str, Results]]
WORDS = [f"w{i % 40}" for i in range(50)]


def results_of(folder: Path, execute: Execute, **overrides: Any) -> Results:
    folder.mkdir(exist_ok=True)
    config = tiny_run(folder, **overrides)
    rows = [{"id": "long", "text": " ".join(WORDS)}, {"id": "short", "text": "w44 w45 w46"}]
    (folder / "documents.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n")
    return execute(config)["ekfac"]


@pytest.mark.parametrize("overlap", [0, 3])
@pytest.mark.parametrize("split_tokens", [8, 1000])
def test_text_around_a_hit_is_that_of_its_document(
    tmp_path: Path, execute: Execute, overlap: int, split_tokens: int
) -> None:
    corpus = {"context": 8, "overlap": overlap, "row_group_tokens": 8}
    results = results_of(
        tmp_path, execute, corpus=corpus, scan={"top": 20, "split_tokens": split_tokens}
    )
    rows = {row["sequence_id"]: row for row in results.sequences.to_pylist()}
    long = [row for row in rows.values() if row["document_id"] == "long"]
    assert len(long) >= 6
    for row in long:
        start, n = row["token_start"], row["n_tokens"]
        assert row["text"] == " ".join(WORDS[start : start + n])
        before, after = row["text_before"] or "", row["text_after"] or ""
        whole = before + row["text"] + after
        first = max(0, start - (8 - overlap))
        assert whole == " ".join(WORDS[first:])[: len(whole)]
        assert bool(before) == (start > 0)
        assert bool(after) == (start + n < len(WORDS))
    short = [row for row in rows.values() if row["document_id"] == "short"]
    assert all(row["text_before"] is row["text_after"] is None for row in short)


def test_no_more_is_kept_than_is_asked_for(tmp_path: Path, execute: Execute) -> None:
    corpus = {"context": 8}
    results = results_of(tmp_path / "a", execute, corpus=corpus, scan={"surroundings": 5})
    texts = [text for name in ("text_before", "text_after") for text in results.sequences[name]]
    lengths = [len(text.as_py()) for text in texts if text.is_valid]
    assert lengths
    assert max(lengths) == 5
    nothing = results_of(tmp_path / "b", execute, corpus=corpus, scan={"surroundings": 0})
    for name in ("text_before", "text_after"):
        assert nothing.sequences[name].null_count == len(nothing.sequences)
    hit = results.proponents("q0")[0]
    assert hit.text_before is not None or hit.text_after is not None or hit.document_id == "short"
