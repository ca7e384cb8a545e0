"""Pictures as values: their numbers are those of all scores, of the hits, of the groups."""

import io
import json
import math
from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pytest
from made_up_results import both_sides, group, make_results, row
from rich.console import Console

from rayinfluence.influence.tails import Tails
from rayinfluence.report import render
from rayinfluence.report.facts import agreement as said_of_agreement
from rayinfluence.report.pictures import PICTURES, Figure, Seen, pictures_of
from rayinfluence.report.pictures.figure import linear, logarithmic, mirrored, short
from rayinfluence.storage.results import STATISTICS_SCHEMA, TAIL_SCHEMA, Results

SCORES = np.random.default_rng(0).standard_t(3, 4000)


def with_scores(scores: np.ndarray, n: int = 4, **changes: object) -> Results:
    """Results whose tails are those of scores, and whose hits are the largest of them."""
    tails = Tails.of(scores[:, None])
    tables = []
    for sign in (1, -1):
        tail = tails.of_query(0, sign)
        size = len(tail.bins)
        columns = [["q"] * size, [sign] * size, tail.lower, tail.upper, tail.counts, tail.sums]
        tables.append(pa.table(columns, schema=TAIL_SCHEMA))
    ordered = np.sort(scores)
    hits = [
        row(rank=rank, scan_rank=rank, direction=side, score=1.01 * score, scan_score=score)
        for side, found in (("proponent", ordered[::-1]), ("opponent", ordered))
        for rank, score in enumerate(found[:n].tolist(), start=1)
    ]
    results = make_results(hits, **changes)
    results.tails = pa.concat_tables(tables)
    known = {"query_id": "q", "n_sequences": len(scores)}
    results.statistics = pa.Table.from_pylist([known], STATISTICS_SCHEMA)
    return results


def picture(kind: str, results: Results, *others: Results, n: int = 20) -> Figure:
    by_method = {one.method: one for one in (results, *others)}
    return pictures_of(kind, Seen.of(results, "q", n), by_method)[0]


def column(figure: Figure, head: str) -> list[object]:
    return [cells[figure.heads.index(head)] for cells in figure.rows]


# All scores.


def test_a_histogram_has_each_score_once() -> None:
    figure = picture("tail", with_scores(SCORES))
    for direction, sign in (("proponent", 1), ("opponent", -1)):
        rows = [cells for cells in figure.rows if cells[0] == direction]
        sizes = sign * SCORES[sign * SCORES > 0]
        assert sum(cells[3] for cells in rows) == len(sizes)
        for _, low, high, n, mass in rows:
            inside = sizes[(sizes >= low) & (sizes < high)]
            assert len(inside) == n
            assert math.isclose(inside.sum(), mass, rel_tol=1e-9)
    assert figure.title == "The 4 proponents shown are the largest of 4,000 scores"
    drawn = [m.y[1] for s in figure.series if s.shape == "bars" for m in s.marks]
    assert sum(map(abs, drawn)) == len(SCORES)


def test_what_a_histogram_leaves_out_is_counted() -> None:
    scores = np.concatenate([SCORES, [1e-9, -1e-9, 0.0, 0.0, 0.0]])
    figure = picture("tail", with_scores(scores))
    assert sum(column(figure, "sequences")) == len(SCORES)
    assert "2 smaller than a millionth of the largest are not drawn." in figure.notes
    assert "3 are zero, and on no such axis." in figure.notes


def test_the_line_is_the_law_that_the_table_has() -> None:
    results = with_scores(SCORES)
    law = {"tail_exponent": 3.5, "tail_exponent_error": 0.2, "tail_start": 4.0, "tail_count": 40}
    known = {"query_id": "q", "n_sequences": 4000, **law}
    results.statistics = pa.Table.from_pylist([known], STATISTICS_SCHEMA)
    figure = picture("tail", results)
    [line] = [one for one in figure.series if one.shape == "line"]
    [bar] = {round(math.log2(high / low), 9) for _, low, high, *_ in figure.rows}
    slopes = set()
    for left, right in zip(line.marks, line.marks[1:], strict=False):
        rise = math.log(right.y[0] / left.y[0]) / math.log(right.x[0] / left.x[0])
        slopes.add(round(rise, 9))
    assert slopes == {-2.5}
    # The first of them is of a bar that begins where the law does.
    assert math.isclose(line.marks[0].x[0], 4.0 * 2 ** (bar / 2), rel_tol=1e-9)
    assert math.isclose(line.marks[0].y[0], 40 * (1 - 2 ** (bar * -2.5)), rel_tol=1e-9)
    assert any("falls as score^-3.50 ± 0.20" in note for note in figure.notes)


def test_a_concentration_curve_is_that_of_the_scores() -> None:
    figure = picture("concentration", with_scores(SCORES))
    positive = np.sort(SCORES[SCORES > 0])[::-1]
    for k, share, error in zip(
        column(figure, "largest"), column(figure, "share"), column(figure, "error"), strict=True
    ):
        exact = positive[:k].sum() / positive.sum()
        assert abs(share - exact) <= error + 1e-12
    assert "as they would with random signs" in figure.title
    lopsided = np.concatenate([SCORES, [200.0] * 30])
    assert (
        "more than random signs would give them"
        in picture("concentration", with_scores(lopsided, 30), n=30).title
    )


# The hits.


def test_layers_add_up_by_block_and_direction() -> None:
    hits = [
        *(
            row(rank=r, layer_scores=[("h.0.a", 3.0), ("h.0.b", -1.0), ("h.1", 2.0)])
            for r in (1, 2)
        ),
        row(rank=1, direction="opponent", layer_scores=[("h.1", -5.0), ("head", 1.0)]),
    ]
    figure = picture("layers", make_results(hits))
    assert figure.rows == (
        ("proponent", "block 0", 8.0, 4.0),
        ("proponent", "block 1", 4.0, 4.0),
        ("opponent", "block 1", 5.0, -5.0),
        ("opponent", "other modules", 1.0, 1.0),
    )
    assert figure.title.startswith(
        "Of 2 blocks, block 0 carries most of the 2 proponents shown: 67%"
    )


def test_tokens_are_summed_where_they_are_predicted() -> None:
    figure = picture("tokens", make_results([row(rank=1), row(rank=2)]))
    # Of "One two three four" the entries [100, -50, 70, 0] are about what follows.
    assert {cells[0]: cells[1:] for cells in figure.rows} == {
        " two": (2, 200.0, 0.0, 200.0),
        " three": (2, 0.0, -100.0, -100.0),
        " four": (2, 140.0, 0.0, 140.0),
    }
    assert figure.title == "“two” carries most of the 2 proponents shown: +200 in 2 places"


def test_rescoring_says_by_how_much_each_score_moved() -> None:
    figure = picture("rescoring", with_scores(SCORES))
    changes = [mark.y[0] for series in figure.series for mark in series.marks]
    np.testing.assert_allclose(changes, [1.0] * 8, rtol=1e-9)


# Groups and methods.


def test_groups_are_signed_bars_and_those_beyond_are_one() -> None:
    groups = [
        group(f"g{n}", positive_sum=100.0 - n, negative_sum=-2.0 * n, n_sequences=10)
        for n in range(20)
    ]
    figure = picture("groups", make_results(both_sides(), groups=groups))
    raises, lowers, _ = figure.series
    assert sum(mark.x[1] for mark in raises.marks) == sum(100.0 - n for n in range(20))
    assert sum(mark.x[0] for mark in lowers.marks) == sum(-2.0 * n for n in range(20))
    assert next(text for _, text in figure.y.ticks) == "8 others"
    assert len(figure.rows) == 20
    # g0 is uppermost, and chosen by what metadata hold.
    top = max(raises.marks, key=lambda mark: mark.y[0])
    assert top.value == ("source", "g0")
    assert top.says.split("; ") == [
        "g0: +100 and 0, net +100",
        "10 sequences, 5% of the corpus",
        "mean +0.250 ± 0.125",
        "lift 16.00",
    ]


def test_a_group_is_only_said_to_have_most_where_that_is_sure() -> None:
    unsure = [group(v, mean_score_error=1.0, n_sequences=100) for v in ("a", "b")]
    figure = picture("groups", make_results(both_sides(), groups=unsure))
    assert figure.title == "By source: no group's mean score is surely different from zero"
    sure = [group("a", mean_score_error=0.001), unsure[1]]
    figure = picture("groups", make_results(both_sides(), groups=sure))
    assert figure.title.startswith("By source: “a” has most, net +8.00 with 5% of the corpus")


def lists(method: str, ids: Sequence[int]) -> Results:
    hits = [row(rank=r, sequence_id=i, document_id=f"{i}") for r, i in enumerate(ids, start=1)]
    return make_results(hits, method=method)


def test_methods_agree_on_as_many_as_both_lists_hold() -> None:
    ours, bm25, other = (
        lists("ekfac", [1, 2, 3, 4]),
        lists("bm25", [4, 1, 9]),
        lists("cosine", [1, 2, 3, 4]),
    )
    by_method = {one.method: one for one in (ours, bm25, other)}
    overlap, ranks, _ = pictures_of("agreement", Seen.of(ours, "q", 2), by_method)
    assert [cells for cells in overlap.rows if cells[0] == "bm25"] == [
        ("bm25", 1, 0, 0.0),
        ("bm25", 2, 1, 0.5),
        ("bm25", 3, 1, 1 / 3),
    ]
    assert overlap.title == (
        "Of the first 3 proponents by ekfac, 1 is also among the first 3 by bm25 "
        "and 3 are also among the first 3 by cosine"
    )
    assert ranks.rows == ((1, 1, 2), (2, 2, None), (3, 3, None), (4, 4, 1))
    assert said_of_agreement(ours, by_method.values(), "q") == (
        "Of the first 4 proponents 2 are among the first 3 by bm25, "
        "4 are among the first 4 by cosine."
    )
    assert said_of_agreement(ours, [ours], "q") == ""
    file = io.StringIO()
    render(ours, Console(file=file, width=200), others=[bm25])
    assert "Of the first 4 proponents 2 are among the first 3 by bm25." in file.getvalue()


# All of them.


@pytest.mark.parametrize("kind", PICTURES)
def test_what_is_not_there_is_not_drawn(kind: str) -> None:
    nothing = make_results([])
    assert pictures_of(kind, Seen.of(nothing, "q", 20), {"ekfac": nothing}) == []


@pytest.mark.parametrize("kind", PICTURES)
def test_places_are_on_the_plane_and_values_can_be_written(kind: str) -> None:
    groups = [group("a"), group("b", positive_sum=0.0, negative_sum=-3e9)]
    results = with_scores(SCORES * 1e-7, groups=groups)
    for figure in pictures_of(
        kind, Seen.of(results, "q", 20), {"a": results, "b": lists("b", [1])}
    ):
        for axis in (figure.x, figure.y):
            assert [0 <= axis.place(at) <= 1 for at, _ in axis.ticks] == [True] * len(axis.ticks)
            assert len({axis.place(at) for at, _ in axis.ticks}) == len(axis.ticks)
        json.dumps(figure.rows, allow_nan=False)
        assert all(len(cells) == len(figure.heads) for cells in figure.rows)


def test_axes_have_round_ticks() -> None:
    assert [text for _, text in linear("", [-3.0, 7.0]).ticks] == [
        "-4",
        "-2",
        "0",
        "2",
        "4",
        "6",
        "8",
    ]
    assert [text for _, text in logarithmic("", 0.02, 300.0).ticks] == ["0.1", "1", "10", "100"]
    assert [text for _, text in logarithmic("", 1.0, 5.0).ticks] == ["1", "2", "5"]
    axis = mirrored("", 3000, 20)
    assert [text for _, text in axis.ticks] == ["10", "1", "0", "1", "100"]
    assert axis.place(-20) < axis.place(-1) < axis.place(0) < axis.place(1) < axis.place(3000)
    assert [short(value) for value in (0, 1e-7, 1.5e6, 20000.0)] == ["0", "1e-7", "1.5e6", "20,000"]
