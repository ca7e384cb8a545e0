"""What was measured, as one HTML document that needs nothing else."""

from __future__ import annotations

from rayinfluence.report.compare.page import grid_table
from rayinfluence.report.evaluated import grids
from rayinfluence.report.evaluated.figures import figures
from rayinfluence.report.frame import measured_page
from rayinfluence.report.markup import tag
from rayinfluence.report.pictures.svg import draw
from rayinfluence.storage.results.evaluated import Evaluated


def evaluation_page(found: Evaluated) -> str:
    """The page: the table of methods, pictures, and how to read them.

    Equal values give equal text. Names of methods, keys and queries are escaped, and the page's own
    policy forbids requests of any kind and scripts other than its own; it can be read without any.
    """
    return measured_page(
        grids.heading(found),
        grids.about(found),
        [draw(figure) for figure in figures(found)],
        tag("section", grid_table(grids.methods(found)), class_="methods"),
        tag(
            "section",
            grid_table(grids.protocols(found)),
            *(tag("p", line) for line in grids.calibrated(found)),
            grid_table(grids.sizes(found)),
        ),
        tag(
            "section",
            tag("h2", "How to read this"),
            *(tag("p", line, class_="quiet") for line in grids.how_to_read(found)),
        ),
        fingerprint="",
    )
