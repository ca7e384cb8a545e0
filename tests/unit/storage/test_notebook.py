"""Results in notebooks: short, escaped, and as data frames."""

import sys
from pathlib import Path

import pyarrow as pa
import pytest

import rayinfluence
from rayinfluence.config import RunConfig
from rayinfluence.errors import StorageError
from rayinfluence.storage.results import Results
from rayinfluence.storage.results.notebook import frame_of
from rayinfluence.storage.store import Store

EVIL = "<script>alert(1)</script>\x1b[2J\u202e&"


@pytest.fixture
def results(finished: tuple[Path, RunConfig]) -> Results:
    return Results.load(Store(str(finished[0] / "run")))


def test_results_are_a_line_and_a_small_table(results: Results) -> None:
    assert repr(results).startswith(f"<Results {results.manifest['fingerprint'][:12]} by ekfac: 3")
    html = results._repr_html_()
    assert html.count("<tr>") == 1 + len(results.queries)
    assert all(f"<bdi>{query_id}</bdi>" in html for query_id in results.queries)
    assert results.proponents("q0")[0].document_id in html


def test_what_others_wrote_is_text(results: Results) -> None:
    results.queries["q0"]["prompt"] = EVIL
    results.queries["q1"]["completion"] = EVIL * 1000
    html = results._repr_html_()
    assert "&lt;script&gt;alert(1)&lt;/script&gt;\u241b[2J[U+202E]&amp;" in html
    assert not {"\x1b", "\u202e"} & set(html)
    assert "<script" not in html
    assert len(html) < 5000


def test_a_survivor_is_a_line(results: Results) -> None:
    hit = results.proponents("q0")[0]
    assert repr(hit).startswith(f"<Survivor 1 of 'q0': {hit.score:+.4g} by {hit.source} ·")
    assert len(repr(hit)) < 200
    evil = type(hit)(**{**vars(hit), "query_id": EVIL, "text": EVIL * 100, "document_id": EVIL})
    assert not {"\x1b", "\u202e"} & set(repr(evil))


def test_the_first_proponents_are_those_of_each_query(results: Results) -> None:
    found = results.leading(2)
    expected = [hit for query_id in results.queries for hit in results.proponents(query_id, 2)]
    assert [(row["query_id"], row["sequence_id"], row["source"]) for row in found] == [
        (hit.query_id, hit.sequence_id, hit.source) for hit in expected
    ]
    assert [row["document_row"] for row in found] == [hit.document_row for hit in expected]


def test_a_data_frame_is_the_table_and_integers_stay_integers(results: Results) -> None:
    pytest.importorskip("pandas")
    frame = results.to_pandas()
    assert list(frame.columns) == results.table.column_names
    assert frame["score"].tolist() == results.table["score"].to_pylist()
    layers = [dict(pairs) for pairs in results.table["layer_scores"].to_pylist()]
    assert frame["layer_scores"].tolist() == layers
    gaps = frame_of(pa.table({"n": pa.array([2**62 + 1, None]), "b": [True, None]}))
    assert gaps["n"][0] == 2**62 + 1
    assert str(gaps["n"].dtype) == "Int64"
    assert str(gaps["b"].dtype) == "boolean"


def test_without_pandas_it_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(StorageError, match="pip install pandas"):
        frame_of(pa.table({"n": [1]}))


def test_the_package_lists_what_is_public() -> None:
    assert dir(rayinfluence) == sorted([*rayinfluence.__all__, "__version__"])
