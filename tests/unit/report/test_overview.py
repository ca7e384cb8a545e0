"""All queries at a glance: what is counted is what a loop over the survivors counts."""

from dataclasses import replace
from pathlib import Path

import pytest
from made_up_results import HOSTILE, hostile_results

from rayinfluence.config import RunConfig
from rayinfluence.display.plain import plain_lines
from rayinfluence.report import Overview, overview_parts
from rayinfluence.report.overview import FIRST
from rayinfluence.storage.results import Results
from rayinfluence.storage.store import Store


@pytest.fixture(scope="module")
def results(finished: tuple[Path, RunConfig]) -> Results:
    return Results.load(Store(str(finished[0] / "run")))


def test_queries_have_their_first_proponent_and_its_share(results: Results) -> None:
    overview = Overview.of(results)
    sums = {row["query_id"]: row for row in results.statistics.to_pylist()}
    assert [one.query_id for one in overview.queries] == list(results.queries)
    for one in overview.queries:
        first = results.proponents(one.query_id)[0]
        assert one.score == first.score
        assert (one.source, one.document_id) == (first.source, first.document_id)
        assert one.document_file == first.document_file
        assert one.top_1_share == first.scan_score / sums[one.query_id]["positive_sum"]
        assert 0 < one.top_1_share < 1
        assert one.warning == results.queries[one.query_id]["warning"]
    assert overview.n_warned == sum(bool(q["warning"]) for q in results.queries.values())


def test_documents_are_counted_once_a_query(results: Results) -> None:
    overview = Overview.of(results)
    having: dict[str, set[str]] = {}
    for query_id in results.queries:
        for hit in results.proponents(query_id, FIRST):
            having.setdefault(hit.document_id, set()).add(query_id)
    assert overview.n_documents == len(having)
    assert {one.document_id: one.n_queries for one in overview.documents} == {
        name: len(queries) for name, queries in having.items()
    }
    counts = [one.n_queries for one in overview.documents]
    assert counts == sorted(counts, reverse=True)
    assert sum(one.n_first for one in overview.documents) == len(results.queries)


def test_groups_are_shares_of_all_tops_together(results: Results) -> None:
    [(column, groups)] = Overview.of(results).groups.items()
    rows = results.groups.to_pylist()
    n_queries = len(results.queries)
    tops = sum({row["query_id"]: row["top"] for row in rows}.values())
    assert column == "source"
    assert len(groups) == 3
    for one in groups:
        ours = [row for row in rows if row["value"] == one.value]
        assert one.share_of_top == sum(row["in_top"] for row in ours) / tops
        share = sum(row["share_of_corpus"] for row in ours) / n_queries
        assert one.share_of_corpus == pytest.approx(share, rel=1e-12)
        assert one.lift == pytest.approx(one.share_of_top / share, rel=1e-12)
    assert sum(one.share_of_top for one in groups) == pytest.approx(1)
    assert sum(one.n_leading for one in groups) == n_queries


def test_a_hundred_queries_are_a_hundred_lines(results: Results) -> None:
    lines = list(plain_lines(overview_parts(Overview.of(results), results.meaning)))
    assert [line.split()[0] for line in lines[2:5]] == list(results.queries)
    assert lines[0] == "3 queries by ekfac"


def test_shares_are_shown_where_it_is_known_what_all_scores_add_up_to(results: Results) -> None:
    overview = Overview.of(results)
    text = "\n".join(plain_lines(overview_parts(overview, results.meaning)))
    assert "top 1 and top 1 %" in text
    queries = [replace(one, top_1_share=None, top_1_percent_share=None) for one in overview.queries]
    without = replace(overview, queries=queries)
    assert "top 1" not in "\n".join(plain_lines(overview_parts(without, results.meaning)))


def test_what_others_wrote_is_shown_and_does_nothing() -> None:
    results = hostile_results()
    text = "\n".join(plain_lines(overview_parts(Overview.of(results), results.meaning)))
    assert "\x1b" in HOSTILE
    assert not {"\x1b", "\x00", "\u202e"} & set(text)
