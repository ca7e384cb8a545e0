"""What was measured, as one HTML document that needs nothing else."""

from __future__ import annotations

from rayinfluence.report.compare.page import grid_table
from rayinfluence.report.evaluated import grids
from rayinfluence.report.evaluated.figures import figures
from rayinfluence.report.frame import framed
from rayinfluence.report.markup import tag
from rayinfluence.report.pictures.svg import draw
from rayinfluence.storage.results.evaluated import Evaluated


def evaluation_page(found: Evaluated) -> str:
    """The page: the table of methods, pictures, and how to read them.

    Equal values give equal text. Names of methods, keys and queries are escaped, and the page's own
    policy forbids requests of any kind and scripts other than its own; it can be read without any.
    """
    heading = grids.heading(found)
    head = tag(
        "header",
        tag("h1", heading),
        *(tag("p", tag("bdi", line), class_="quiet") for line in grids.about(found)),
    )
    drawn = [draw(figure) for figure in figures(found)]
    main = tag(
        "main",
        tag("section", grid_table(grids.methods(found)), class_="methods"),
        tag("section", tag("h2", "Pictures"), tag("div", *drawn, class_="pictures"))
        if drawn
        else "",
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
        id="main",
    )
    return framed(heading, head, main, fingerprint="")
