"""Pictures of results, as values that the page and files are drawn from."""

from __future__ import annotations

from collections.abc import Mapping

from rayinfluence.report.pictures.agreement import agreement
from rayinfluence.report.pictures.concentration import concentration
from rayinfluence.report.pictures.figure import Figure
from rayinfluence.report.pictures.groups import groups
from rayinfluence.report.pictures.layers import layers
from rayinfluence.report.pictures.rescoring import rescoring
from rayinfluence.report.pictures.seen import Seen
from rayinfluence.report.pictures.tail import tail
from rayinfluence.report.pictures.tokens import tokens
from rayinfluence.storage.results import Results

__all__ = ["PICTURES", "Figure", "Seen", "pictures_of"]

_ONE = {
    "tail": tail,
    "concentration": concentration,
    "layers": layers,
    "tokens": tokens,
    "rescoring": rescoring,
}
#: The kinds of pictures, in the order in which they are shown.
PICTURES = ("tail", "concentration", "layers", "groups", "tokens", "agreement", "rescoring")


def pictures_of(kind: str, seen: Seen, by_method: Mapping[str, Results]) -> list[Figure]:
    """The pictures of a kind, which are none where the results have nothing to draw.

    Args:
        kind: one of :data:`PICTURES`.
        seen: a query by one method.
        by_method: the results of all methods of the run, to be compared with.
    """
    if kind == "groups":
        return groups(seen)
    if kind == "agreement":
        return agreement(seen, by_method)
    found = _ONE[kind](seen)
    return [] if found is None else [found]
