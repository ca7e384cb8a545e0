"""A comparison as lines and tables of the terminal."""

from __future__ import annotations

from rayinfluence.display import Part
from rayinfluence.report.compare import grids
from rayinfluence.report.compare.comparison import Comparison, Pair
from rayinfluence.report.lines import grid_parts, line
from rayinfluence.report.text import count

#: Queries whose hits are printed; of all there is the summary.
_QUERIES = 5


def comparison_parts(comparison: Comparison) -> list[Part]:
    """What sides are, how much they have in common, and the first hits side by side.

    Args:
        comparison: of results.
    """
    parts: list[Part] = [line(text) for text in grids.sides(comparison)]
    parts += grid_parts(grids.differing(comparison))
    for pair in comparison.pairs:
        if not comparison.of_one:
            a, b = pair.sides
            parts += ["", line(f"{b.letter} beside {a.letter}", "bold")]
        parts += _pair(pair)
    return [*parts, "", *(line(text, "dim") for text in grids.how_to_read(comparison))]


def _pair(pair: Pair) -> list[Part]:
    parts: list[Part] = [line(text, "yellow") for text in (*pair.notes, *pair.others)]
    if not pair.queries:
        return [*parts, line(grids.NOTHING, "yellow")]
    if len(pair.queries) > 1:
        parts += [*grid_parts(grids.summary(pair)), line(grids.over_all(pair))]
    for one, groups in pair.queries[:_QUERIES]:
        parts += ["", *(line(text, "bold") for text in grids.questions(one))]
        parts += [line(text) for text in grids.sentences(pair, one)]
        shown = [grids.hit_grid(pair, one, hits) for hits in one.hits]
        for grid in (*shown, *grids.group_grids(pair, one, groups)):
            parts += grid_parts(grid)
    rest = len(pair.queries) - _QUERIES
    if rest > 0:
        parts += ["", f"and {count(rest)} more queries: --query shows one, the page and --json all"]
    return parts
