"""The pictures that docs/findings.md shows: there, small, and drawn of the numbers in the page."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))

import finding_pictures

DOCS = Path(__file__).parents[2] / "docs"
PAGE = (DOCS / "findings.md").read_text("utf-8")
#: Bytes of a picture, at most.
MOST = 40_000


def linked() -> list[str]:
    return re.findall(r"\]\((images/[^)]+\.png)\)", PAGE)


def test_pictures_of_the_page_are_there_and_small() -> None:
    assert linked()
    for name in linked():
        assert (DOCS / name).read_bytes()[1:4] == b"PNG"
        assert (DOCS / name).stat().st_size < MOST
    there = {f"images/{path.name}" for path in (DOCS / "images").glob("findings-*.png")}
    assert there <= {*linked()}


def test_each_table_that_is_drawn_has_its_picture() -> None:
    drawn = list(finding_pictures.figures(PAGE))
    assert {f"images/{one.name}.png" for one in drawn} <= {*linked()}
    for one in drawn:
        points = [
            mark for series in one.series if series.shape == "points" for mark in series.marks
        ]
        assert len(points) >= 6
        # What a mark says is in the page.
        assert all(mark.says.split(": ")[1].rstrip("0") in PAGE for mark in points)


def test_numbers_of_a_cell_are_read_with_their_intervals() -> None:
    assert finding_pictures.values_of("-1.60 (-1.59, -1.61)") == [(-1.6, -1.6, -1.6)]
    assert finding_pictures.values_of("8.28 [7.02, 9.57]") == [(8.28, 7.02, 9.57)]
    assert [one for one, *_ in finding_pictures.values_of("0.43, 0.46, 0.39")] == [0.43, 0.46, 0.39]
    page = "| a | b |\n| --- | --- |\n| **x** | 1.0 |\n"
    assert finding_pictures.table_with(page, "b") == (["a", "b"], [["x", "1.0"]])
    with pytest.raises(SystemExit, match="has no table with 'c'"):
        finding_pictures.table_with(page, "c")
