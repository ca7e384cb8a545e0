"""Survivors as CSV: every row, and nothing that a spreadsheet computes."""

import csv
import io
from pathlib import Path

import pytest
from made_up_results import make_results, query, row

from rayinfluence.config import RunConfig
from rayinfluence.report import survivors_csv
from rayinfluence.storage.results import Results
from rayinfluence.storage.store import Store

FORMULAS = ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1", "\n=1", "\uff1d1", '=HYPERLINK("x")']


def read(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text, newline="")))


def test_all_survivors_are_there(finished: tuple[Path, RunConfig]) -> None:
    results = Results.load(Store(str(finished[0] / "run")))
    rows = read(survivors_csv({"ekfac": results}, list(results.queries)))
    expected = [
        hit
        for query_id in results.queries
        for hit in (*results.proponents(query_id), *results.opponents(query_id))
    ]
    assert len(rows) == len(expected) > 20
    for found, hit in zip(rows, expected, strict=True):
        assert (found["query_id"], found["direction"]) == (hit.query_id, hit.direction)
        assert float(found["score"]) == hit.score  # negative ones are numbers, and no formulas
        assert (found["text"], found["document_id"]) == (hit.text, hit.document_id)
        assert found["metadata.source"] == hit.metadata["source"]
        assert int(found["metadata.year"]) == hit.metadata["year"]
        assert found["prompt"] == results.queries[hit.query_id]["prompt"]
    few = read(survivors_csv({"ekfac": results}, ["q1"], 2))
    assert [(one["query_id"], one["rank"]) for one in few] == [("q1", "1"), ("q1", "2")] * 2


@pytest.mark.parametrize("text", [*FORMULAS, "\x1b[2J", "a\u202eb", 'a"b;c,d\ne', "\x00"])
def test_nothing_is_computed_and_nothing_acts(text: str) -> None:
    hit = row(text, text=text, document_id=text, metadata={text: text, "source": text})
    results = make_results([hit], [query(text, prompt=text, completion=text)])
    written = survivors_csv({"ekfac": results}, [text])
    assert not {"\x1b", "\x00", "\u202e"} & set(written)
    [found] = read(written)
    cells = [*found, found["text"], found["document_id"], found["prompt"], found["query_id"]]
    assert not [cell for cell in cells if cell.startswith(("=", "+", "-", "@", "\t", "\r", "\n"))]
    assert not [cell for cell in cells if cell.startswith("\uff1d")]
    # It is quoted, so that no other separator cuts it.
    assert f'"{found["text"].replace(chr(34), chr(34) * 2)}"' in written
