"""What groups are worth, as one HTML document that needs nothing else."""

from __future__ import annotations

from rayinfluence.report.compare.page import grid_table
from rayinfluence.report.frame import framed
from rayinfluence.report.markup import Html, tag
from rayinfluence.report.pictures.svg import draw
from rayinfluence.report.text import shorten
from rayinfluence.report.valued import grids
from rayinfluence.report.valued.figures import values_figure
from rayinfluence.storage.results.valued import Valued

#: Utilities that stand open, and that have a picture.
_OPEN, _DRAWN = 3, 100


def valued_page(found: Valued) -> str:
    """The page: agreement, a table and a picture for each utility, and how to read them.

    Equal values give equal text. Names of groups, keys and queries are escaped, and the page's own
    policy forbids requests of any kind and scripts other than its own; it can be read without any.
    """
    heading = grids.heading(found)
    head = tag(
        "header",
        tag("h1", tag("bdi", heading)),
        *(tag("p", tag("bdi", line), class_="quiet") for line in grids.about(found)),
    )
    main = tag(
        "main",
        tag("section", grid_table(grids.agreement_grid(found))),
        *(_utility(found, place) for place in range(len(found.utilities))),
        tag(
            "section",
            tag("h2", "How to read this"),
            *(tag("p", line, class_="quiet") for line in grids.how_to_read(found)),
        ),
        id="main",
    )
    return framed(heading, head, main, fingerprint="")


def _utility(found: Valued, place: int) -> Html:
    picture = (
        tag("div", draw(values_figure(found, place)), class_="pictures")
        if place < _DRAWN and any(one.how != "neighbours" for one in found.methods)
        else Html()
    )
    return tag(
        "details",
        tag("summary", tag("h2", tag("bdi", shorten(found.utilities[place].name, 90)))),
        grid_table(grids.utility_grid(found, place)),
        picture,
        class_="query",
        id=f"u{place + 1}",
        open=place < _OPEN,
    )
