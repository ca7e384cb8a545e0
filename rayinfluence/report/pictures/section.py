"""The pictures of a query in the page, as many as there is room for."""

from __future__ import annotations

from collections.abc import Mapping

from rayinfluence.report.markup import Html, tag
from rayinfluence.report.pictures import PICTURES, Seen, pictures_of
from rayinfluence.report.pictures.svg import draw
from rayinfluence.storage.results import Results


def pictures_section(seen: Seen, by_method: Mapping[str, Results], room: int) -> Html:
    """All kinds of pictures, in their order; nothing where there is nothing to draw.

    Args:
        seen: a query by one method.
        by_method: the results of all methods of the run, to be compared with.
        room: characters of markup; what does not fit is named.
    """
    drawn, left = [], []
    for kind in PICTURES:
        for figure in pictures_of(kind, seen, by_method):
            made = draw(figure)
            if len(made) <= room:
                drawn.append(made)
                room -= len(made)
            else:
                left.append(figure.name)
    if not drawn and not left:
        return Html()
    more = f"Not on this page for want of room: {', '.join(left)}. `rayinfluence plot` draws them."
    return tag(
        "section",
        tag("h3", "Pictures"),
        tag("div", *drawn, class_="pictures"),
        tag("p", more, class_="quiet") if left else "",
        class_="pictured",
    )
