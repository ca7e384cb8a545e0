"""Results without some of their sequences: what is left, what it adds up to, what is said."""

import re
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from made_up_results import both_sides, group, make_results, page_of, query, row, terminal_of

from rayinfluence.corpus.predicate import Predicate
from rayinfluence.errors import ConfigError
from rayinfluence.report.without import without
from rayinfluence.storage.results import Results

STATISTICS = {
    "query_id": "q",
    "n_sequences": 90,
    "n_positive": 60,
    "n_negative": 30,
    "positive_sum": 9.0,
    "negative_sum": -4.0,
}


def hits(sources: str, direction: str = "proponent", **changes: Any) -> list[dict[str, Any]]:
    """A hit of each source, whose ranks in the scan run the other way."""
    return [
        row(
            "q",
            rank,
            direction,
            metadata={"source": source, "year": 1990 + rank},
            document_id=f"{source}{rank}",
            sequence_id=rank + 1000 * (direction == "opponent"),
            scan_rank=len(sources) + 1 - rank,
            **changes,
        )
        for rank, source in enumerate(sources, start=1)
    ]


def left(results: Results, text: str) -> Results:
    return without(results, Predicate(text, "--exclude"), text)


def test_ranks_are_among_the_others() -> None:
    results = left(make_results([*hits("xyxyx"), *hits("yx", "opponent")]), "source = 'x'")
    found = results.proponents("q")
    assert [(s.rank, s.scan_rank, s.document_id) for s in found] == [(1, 2, "y2"), (2, 1, "y4")]
    assert [s.document_id for s in results.opponents("q")] == ["y1"]
    assert results.count("q", "proponent") == 2
    assert results.ids("q", "proponent") == [2, 4]
    told = results.manifest["without"]["queries"]["q"]
    assert told["proponents"] == {"left": 2, "of": 5}
    assert told["opponents"] == {"left": 1, "of": 2}


def test_the_results_that_it_was_made_of_stay_as_they_are() -> None:
    before = make_results(hits("xyx"), statistics=[STATISTICS], groups=[group("x"), group("y")])
    whole = before.table
    after = left(before, "source = 'x'")
    assert len(after.table) == 1
    assert before.table.equals(whole)
    assert len(before.survivors) == 3
    assert "without" not in before.manifest
    assert len(before.groups) == 2


def test_sums_are_those_of_groups_where_the_condition_is_of_their_key_alone() -> None:
    groups = [
        group("x", n_sequences=30, positive_sum=5.0, negative_sum=-1.0),
        group("y", n_sequences=50, positive_sum=3.0, negative_sum=-2.0),
        group("", value_type="missing", n_sequences=10, positive_sum=1.0, negative_sum=-1.0),
    ]
    before = make_results(hits("xyx"), groups=groups, statistics=[STATISTICS])
    told = left(before, "source = 'x'").manifest["without"]["queries"]["q"]
    assert told["sums"] == {
        "n_sequences": 60,
        "positive_sum": 4.0,
        "negative_sum": -3.0,
        "all_n_sequences": 90,
        "all_positive_sum": 9.0,
        "all_negative_sum": -4.0,
    }
    assert "60 sequences (67%): +4.00 and -3.00, of +9.00 and -4.00 with them" in told["sentence"]
    # What has no source is not excluded by what its source is, but by there being none.
    assert (
        left(before, "source is null").manifest["without"]["queries"]["q"]["sums"]["n_sequences"]
        == 80
    )


def test_groups_of_numbers_are_compared_as_numbers() -> None:
    groups = [
        group(year, column="year", value_type="number", n_sequences=n)
        for year, n in (("1991", 4), ("1993", 5), ("2010", 6))
    ]
    before = make_results(hits("xyx"), groups=groups)
    found = left(before, "year >= 1993").manifest["without"]["queries"]["q"]
    assert found["sums"]["n_sequences"] == 4
    assert found["proponents"] == {"left": 2, "of": 3}


@pytest.mark.parametrize(
    ("condition", "groups"),
    [
        ("source = 'x' and year > 1990", [group("x"), group("y")]),
        ("year > 1991", [group("x"), group("y")]),
        ("source = 'x'", [group("x"), group("", value_type="other")]),
        ("source = 'x'", []),
    ],
)
def test_sums_that_groups_do_not_tell_are_not_known(condition: str, groups: list[Any]) -> None:
    told = left(make_results(hits("xyx"), groups=groups), condition).manifest["without"]
    assert told["queries"]["q"]["sums"] is None
    assert "is not known: for that, `scan.group_by` has to" in told["queries"]["q"]["sentence"]


def test_what_cannot_be_told_of_a_hit_is_counted_and_stays() -> None:
    rows = hits("xyx")
    rows[1]["metadata"] = {"year": 1990}
    results = left(make_results(rows), "source = 'x'")
    assert [s.sequence_id for s in results.proponents("q")] == [2]
    assert (
        "Of 1 hits it cannot be told, and they stay."
        in (results.manifest["without"]["queries"]["q"]["sentence"])
    )


def test_values_of_another_kind_are_named() -> None:
    told = left(make_results(hits("xyx")), "year = '1991'").manifest["without"]
    assert told["queries"]["q"]["proponents"] == {"left": 3, "of": 3}
    assert told["of_other_kinds"] == [
        {"key": "year", "wanted": "text", "hits": 3, "such_as": "1991"}
    ]
    assert "year is compared with a text, and is something else in 3 hits" in told["sentence"]


def test_near_copies_of_what_is_not_shown_are_counted() -> None:
    rows = hits("xyy")
    rows[1]["near_duplicate_of"] = 1
    told = left(make_results(rows), "source = 'x'").manifest["without"]
    assert told["near_copies"] == 1
    assert "Near copies of hits that are not shown are 1 of those that are." in told["sentence"]


def test_a_key_that_no_hit_has_is_refused() -> None:
    with pytest.raises(ConfigError, match="no hit has 'sorce' in its metadata; they have source"):
        left(make_results(hits("xy")), "sorce = 'x'")


def test_dotted_keys_are_those_within() -> None:
    rows = hits("xy")
    rows[0]["metadata"] = {"of": {"lang": "en"}}
    rows[1]["metadata"] = {"of": {"lang": "de"}}
    assert left(make_results(rows), "of.lang = 'en'").ids("q", "proponent") == [2]


def test_page_and_terminal_say_first_that_it_is_no_removal() -> None:
    rows = [*hits("xyx"), *hits("xx", "opponent")]
    before = make_results(rows, [query()], [group("x"), group("y")], statistics=[STATISTICS])
    after = left(before, "source = 'x'")
    page = page_of(after).text
    assert re.search("Without source = 'x': .* This is not removal: nothing was trained", page)
    assert page.index("This is not removal") < page.index("Proponents")
    assert "1 of 3 proponents and 0 of 2 opponents are left" in page
    assert "y2" in page
    assert "x1" not in page
    assert "x3" not in page
    # What is of all sequences is not shown as if it were of these.
    assert "All 90 sequences" not in page
    assert "All 90 sequences" in page_of(before).text
    assert "1 of 3 proponents and 0 of 2 opponents are left" in terminal_of(after)
    assert "Opponents: none" in terminal_of(after)


def test_nothing_may_be_left() -> None:
    after = left(make_results(both_sides()), "source = 'books'")
    assert after.survivors.num_rows == 0
    assert after.proponents("q") == []
    assert isinstance(after.table, pa.Table)
    assert "at least 0 proponents and 0 opponents are left" in page_of(after).text


def test_all_scores_tell_sums_that_groups_do_not(monkeypatch: pytest.MonkeyPatch) -> None:
    scores = pa.table({"sequence_id": [1, 2, 3, 9], "score": pa.array([2, 1, -1, -4], "float32")})
    before = make_results(hits("xyx"), statistics=[STATISTICS])
    monkeypatch.setattr(before, "scores", lambda _: scores)
    text = "source = 'x'"
    after = without(before, Predicate(text, "--exclude"), text, np.array([1, 3, 7]))
    assert after.manifest["without"]["queries"]["q"]["sums"] == {
        "n_sequences": 2,
        "positive_sum": 1.0,
        "negative_sum": -4.0,
        "all_n_sequences": 4,
        "all_positive_sum": 3.0,
        "all_negative_sum": -5.0,
    }
