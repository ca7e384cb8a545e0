"""Findings as lines and tables of the terminal, and as one HTML document."""

from __future__ import annotations

from rayinfluence.display import Part
from rayinfluence.report.analysed import grids
from rayinfluence.report.analysed.figures import figures
from rayinfluence.report.compare.page import grid_table
from rayinfluence.report.frame import measured_page
from rayinfluence.report.lines import grid_parts, line
from rayinfluence.report.markup import tag
from rayinfluence.report.pictures.svg import draw


def analysis_parts(found: grids.Found) -> list[Part]:
    """Of what it is, what the run says of findings, figures, and how to read them."""
    parts: list[Part] = [line(grids.heading(found), "bold")]
    for grid in grids.grids(found):
        parts += grid_parts(grid)
    return [*parts, "", *(line(text, "dim") for text in grids.about(found))]


def analysis_page(found: grids.Found) -> str:
    """The page: verdicts, pictures, tables; equal values give equal text, and all is escaped."""
    first, *others = grids.grids(found)
    return measured_page(
        grids.heading(found),
        grids.about(found),
        [draw(figure) for figure in figures(found)],
        tag("section", grid_table(first), class_="verdicts"),
        tag("section", *(grid_table(grid) for grid in others)),
        fingerprint=found.fingerprint,
    )
