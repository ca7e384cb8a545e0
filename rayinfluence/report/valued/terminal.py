"""What groups are worth as lines and tables of the terminal."""

from __future__ import annotations

from rayinfluence.display import Part
from rayinfluence.report.lines import grid_parts, line
from rayinfluence.report.text import count
from rayinfluence.report.valued import grids
from rayinfluence.storage.results.valued import Valued

#: Utilities that have a table each.
_UTILITIES = 5


def valued_parts(found: Valued) -> list[Part]:
    """Of what it is, a table for each of the first utilities, and how to read them."""
    parts: list[Part] = [line(grids.heading(found), "bold")]
    parts += [line(text) for text in grids.about(found)]
    parts += grid_parts(grids.agreement_grid(found))
    n = len(found.utilities)
    for place in range(min(n, _UTILITIES)):
        parts += grid_parts(grids.utility_grid(found, place))
    if n > _UTILITIES:
        parts += ["", f"and {count(n - _UTILITIES)} more utilities: the page and --json have all"]
    return [*parts, "", *(line(text, "dim") for text in grids.how_to_read(found))]
