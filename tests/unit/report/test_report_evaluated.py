"""What was measured of methods, on a terminal and as a page."""

from __future__ import annotations

import json
from dataclasses import replace
from xml.etree import ElementTree

import pytest
from made_up_results import HOSTILE
from measured_methods import BINS, EKFAC, FOUND, LDS, RANDOM

from rayinfluence.display.as_json import json_text
from rayinfluence.display.plain import plain_lines
from rayinfluence.report.evaluated import evaluation_page, evaluation_parts
from rayinfluence.report.evaluated.figures import figures
from rayinfluence.report.pictures.svg import draw
from rayinfluence.storage.results.evaluated import Groups, Protocol


def test_the_table_has_all_that_was_asked_and_the_ceiling() -> None:
    lines = list(plain_lines(evaluation_parts(FOUND)))
    (head,) = [line for line in lines if line.startswith("method ")]
    row, chance, ceiling = lines[lines.index(head) + 1 : lines.index(head) + 4]
    for column in (
        *("LDS half", "QLD without 10, nats", "QLD over bm25", "recall@10", "MRR"),
        *("without a source", "tail patch, nats", "slope of delta_nats", "seconds"),
        *("peak memory", "needs"),
    ):
        assert column in head
    for cell in ("0.480 [0.440, 0.520]", "+0.0700 [+0.0500, +0.0900]", "0.500", "3.2", "500 MiB"):
        assert cell in row
    assert "factors, gradients" in row
    assert chance.startswith("random")
    assert chance.endswith("nothing")
    assert ceiling.startswith("noise ceiling")
    assert "0.800 [0.700, 0.850]" in ceiling
    text = "\n".join(lines)
    assert "A note." in text
    assert "measured changes are 0.790 [0.700, 0.850] times the predicted ones" in text
    assert "predictions of 0.01 to 0.5 nats show that slope" in text
    assert "50% of what was measured is more than two standard errors" in text


def test_what_was_not_asked_has_no_column() -> None:
    bare = replace(FOUND, groups=None, removed=None, protocols=(), methods=(RANDOM,))
    lines = list(plain_lines(evaluation_parts(bare)))
    (head,) = [line for line in lines if line.startswith("method")]
    assert head.split() == ["method", "needs"]
    assert "LDS" not in "\n".join(lines)


def test_the_same_is_in_the_page_and_its_pictures() -> None:
    page = evaluation_page(FOUND)
    assert page == evaluation_page(FOUND)
    for shown in ("LDS half", "0.480 [0.440, 0.520]", "noise ceiling", "factors, gradients"):
        assert shown in page
    assert page.count("<figure") == 2
    assert "half: ekfac agrees best with training again" in page
    assert "measured changes are 0.79 times the predicted ones" in page


def test_pictures_are_drawn_and_their_numbers_are_in_tables() -> None:
    lds, changes = figures(FOUND)
    assert [mark.x[0] for mark in lds.series[1].marks] == [0.48, 0.01]
    assert lds.series[2].marks[0].x[0] == 0.8
    assert changes.rows == ((0.1, 0.08), (-0.2, -0.16))
    for figure in (lds, changes):
        drawn = draw(figure)
        svg = drawn[drawn.index("<svg") : drawn.index("</svg>") + len("</svg>")]
        assert ElementTree.fromstring(svg).get("aria-label") == figure.title


def test_lines_have_their_slope_and_stay_in_the_drawing() -> None:
    changes = figures(FOUND)[1]
    for series, slope in ((changes.series[1], 1.0), (changes.series[2], 0.79)):
        for mark in series.marks:
            (x, _), (y, _) = mark.x, mark.y
            assert y == pytest.approx(slope * x)
            assert changes.x.low - 1e-9 <= x <= changes.x.high + 1e-9
            assert changes.y.low - 1e-9 <= y <= changes.y.high + 1e-9


def test_names_of_others_are_data_everywhere() -> None:
    named = replace(EKFAC, name=HOSTILE, removal_over={HOSTILE: LDS}, lds={HOSTILE: LDS})
    hostile = replace(
        FOUND,
        queries=(HOSTILE,),
        notes=(HOSTILE,),
        protocols=(Protocol(HOSTILE, 4, 1, None),),
        groups=Groups(HOSTILE, (HOSTILE,), 1, None),
        methods=(named,),
    )
    page = evaluation_page(hostile)
    assert "<script>alert" not in page
    assert "<img" not in page
    for line in plain_lines(evaluation_parts(hostile)):
        assert "\x1b" not in line


def test_json_has_all_of_it_and_null_for_what_is_no_number() -> None:
    values = json.loads(json_text(FOUND.to_json()))
    assert values["methods"][0]["lds"]["half"] == {"mean": 0.48, "low": 0.44, "high": 0.52, "n": 20}
    assert values["methods"][0]["by_query"]["lds half"] == [0.4, None]
    assert values["protocols"][0]["ceiling"]["mean"] == 0.8
    assert values["groups"]["names"] == ["web", "books"]


@pytest.mark.parametrize("held", [[True, False, True], [True, True, False], [False] * 3])
def test_a_range_is_the_longest_run_of_bins(held: list[bool]) -> None:
    bins = tuple(replace(one, holds=does) for one, does in zip(BINS, held, strict=True))
    assert EKFAC.calibration is not None
    found = replace(EKFAC.calibration, bins=bins).holds
    expected = {(True, False, True): (0.1, 0.5), (True, True, False): (0.001, 0.1)}
    assert found == expected.get(tuple(held))  # type: ignore[call-overload]
