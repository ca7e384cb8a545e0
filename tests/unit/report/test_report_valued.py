"""What groups are worth, on a terminal, as a page and as pictures."""

from __future__ import annotations

from dataclasses import replace
from xml.etree import ElementTree

from made_up_results import HOSTILE

from rayinfluence.display.plain import plain_lines
from rayinfluence.report.pictures.svg import draw
from rayinfluence.report.valued import valued_page, valued_parts, valued_section
from rayinfluence.report.valued.figures import values_figure
from rayinfluence.report.valued.grids import MOST_ROWS
from rayinfluence.storage.results.evaluated import Interval
from rayinfluence.storage.results.valued import (
    GroupValue,
    GroupValues,
    Player,
    Sums,
    Utility,
    Valued,
)


def value(mean: float, half: float | None = 0.1) -> GroupValue:
    if half is None:
        return GroupValue(mean, None, None, 0.0, None)
    return GroupValue(mean, mean - half, mean + half, half / 3, half / 4)


FOUND = Valued(
    recipe="r" * 32,
    corpus="c" * 32,
    key="source",
    n_sequences=100,
    groups=(Player("books", 60), Player("web", 30)),
    seeds=(0, 1, 2),
    n_coalitions=4,
    n_trainings=12,
    notes=("A note.",),
    utilities=(
        Utility("q0", "queries", "nats", -1.0, -3.0, "d0"),
        Utility("validation", "validation", "nats per token", -2.0, -2.5),
    ),
    methods=(
        GroupValues(
            "shapley",
            "orders",
            40,
            3,
            [[value(0.5), value(0.1, None)], [value(1.5), value(0.4)]],
            (0.02, 0.0),
        ),
        GroupValues("knn(3)", "neighbours", 0, 0, [[value(0.25, None), None], [value(0.5), None]]),
    ),
    beside=(
        Sums("ekfac", "nats", [[0.3, None], [1.2, None]], {"shapley": Interval(1.0, 0.9, 1.0, 7)}),
    ),
)


def test_a_table_has_groups_by_their_values_and_sums_beside() -> None:
    lines = list(plain_lines(valued_parts(FOUND)))
    text = "\n".join(lines)
    [head] = [line for line in lines if "sum of ekfac, nats" in line and line.startswith("source")]
    first, second = lines[lines.index(head) + 1 : lines.index(head) + 3]
    assert first.startswith("web")
    assert "+1.50 [+1.40, +1.60]" in first
    assert "+1.20" in first
    assert second.startswith("books")
    assert "q0, nats: -3.00 with none of the groups, -1.00 with all" in text
    assert "shapley: 40 random orders; they add up to v(all) - v(none) within 0.01 of it." in text
    assert "1.000 [0.900, 1.000]" in text
    assert "A note." in text
    assert "12 trainings with 3 seeds" in text
    # Of the second utility neighbours say nothing.
    [tail] = [line for line in lines if line.startswith("source") and "knn" not in line]
    assert "shapley" in tail


def test_the_page_has_the_same_and_pictures() -> None:
    page = valued_page(FOUND)
    assert page == valued_page(FOUND)
    for shown in ("What 2 groups are worth, by source", "+1.50 [+1.40, +1.60]", "A note."):
        assert shown in page
    assert page.count("<figure") == 2
    assert "“web” counts most by shapley, +1.50 nats" in page


def test_a_picture_is_drawn_of_many_groups() -> None:
    groups = tuple(Player(f"group {g}", 1) for g in range(60))
    cells = [[value(g / 10), value(0.0)] for g in range(60)]
    many = replace(
        FOUND, groups=groups, methods=(replace(FOUND.methods[0], values=cells),), beside=()
    )
    figure = values_figure(many, 0)
    ElementTree.fromstring(str(draw(figure)))
    dots = [mark for one in figure.series if one.shape == "points" for mark in one.marks]
    assert len(dots) == 20
    assert len(figure.rows) == 60
    assert "of 60" in " ".join(figure.notes)
    text = "\n".join(plain_lines(valued_parts(many)))
    assert f"{60 - MOST_ROWS} more in JSON" in text


def test_names_of_others_act_on_nothing() -> None:
    hostile = replace(
        FOUND,
        key=HOSTILE,
        groups=(Player(HOSTILE, 60), Player("web", 30)),
        utilities=(replace(FOUND.utilities[0], name=HOSTILE), FOUND.utilities[1]),
    )
    page = valued_page(hostile)
    assert "<script>alert" not in page
    lines = "\n".join(plain_lines(valued_parts(hostile)))
    assert "\x1b" not in lines


def test_a_report_shows_the_query_that_was_asked_and_no_other() -> None:
    shown = str(valued_section(FOUND, {"query_id": "q0", "digest": "d0"}))
    assert "What groups are worth, by training again" in shown
    assert "+1.50 [+1.40, +1.60]" in shown
    assert str(valued_section(FOUND, {"query_id": "q0", "digest": "another"})) == ""
    assert str(valued_section(FOUND, {"query_id": "validation"})) == ""
    assert str(valued_section(None, {"query_id": "q0", "digest": "d0"})) == ""
