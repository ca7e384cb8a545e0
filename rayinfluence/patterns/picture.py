"""Pictures of patterns: tokens by depth, with heads and skip connections on the way."""

from __future__ import annotations

from rayinfluence.patterns.found import Flowing
from rayinfluence.patterns.line import SKIP
from rayinfluence.patterns.refine import Pattern
from rayinfluence.patterns.sentences import name
from rayinfluence.report.pictures.figure import Cell, Figure, Mark, Series, categories, linear
from rayinfluence.report.text import percent, shorten, signed

#: Patterns that are drawn, of as many tokens with the most influence; the table has more.
_DRAWN = 4
#: Patterns in that table, as many as the page shows of one.
_ROWS = 100
#: Characters of a token beside its row.
_NAME = 18
#: Of a row's height, by which paths in it stand apart.
_APART = 0.2


def pattern_figure(flowing: Flowing) -> Figure:
    """The patterns of the most influential tokens: a row for each token, a column for each depth.

    A dot is where a path arrives, by a head or by the skip connection.
    """
    question = flowing.question
    n, n_blocks = len(question.texts), len(flowing.skip_shares)
    drawn = flowing.strongest()[:_DRAWN]
    asides = [_APART * ((len(drawn) - 1) / 2 - place) for place in range(len(drawn))]
    lines = [
        Series(
            f"{name(flowing, one.start)}: {signed(one.whole)}",
            "line",
            "raises" if one.whole >= 0 else "lowers",
            tuple(
                Mark.at(depth + 0.5, n - position - 0.5 + aside, "")
                for depth, position in enumerate(one.positions)
            ),
        )
        for one, aside in zip(drawn, asides, strict=True)
    ]
    arrivals: dict[bool, list[Mark]] = {True: [], False: []}
    for one, aside in zip(drawn, asides, strict=True):
        for block, way in enumerate(one.ways):
            position = one.positions[block + 1]
            mark = Mark.at(block + 1.5, n - position - 0.5 + aside, _arrives(flowing, one, block))
            arrivals[way == SKIP].append(mark)
    strongest = drawn[0]
    rows: list[tuple[Cell, ...]] = [
        (
            name(flowing, one.start),
            one.whole,
            one.by_positions,
            one.influence,
        )
        for one in flowing.strongest()[:_ROWS]
    ]
    return Figure(
        "pattern",
        f"The pattern of {shorten(name(flowing, strongest.start), 30)} {_route(strongest)}: "
        f"{signed(strongest.influence)} of its {signed(strongest.whole)} logits",
        categories("depth", ["input", *(f"block {block + 1}" for block in range(n_blocks))]),
        categories("token", [shorten(name(flowing, at), _NAME) for at in reversed(range(n))]),
        (
            *lines,
            Series("by a head", "points", "plain", tuple(arrivals[False])),
            Series("by the skip connection", "points", "quiet", tuple(arrivals[True])),
        ),
        (
            f"The path of each of the {len(drawn)} most influential tokens that carries the most "
            "of its influence, by guided refinement: greedy, so another may carry more. The table "
            f"has {len(rows)} of {len(flowing.patterns)} tokens.",
        ),
        ("token", "influence", "through tokens", "by ways"),
        tuple(rows),
    )


def _arrives(flowing: Flowing, pattern: Pattern, block: int) -> str:
    way = pattern.ways[block]
    by = "the skip connection" if way == SKIP else f"head {way}"
    return (
        f"{name(flowing, pattern.start)}: block {block + 1} by {by} to "
        f"{name(flowing, pattern.positions[block + 1])}"
    )


def _route(pattern: Pattern) -> str:
    """Which ways a pattern goes, in a few words."""
    heads = [block + 1 for block, way in enumerate(pattern.ways) if way != SKIP]
    if not heads:
        return "goes past all heads"
    blocks = "block " if len(heads) == 1 else "blocks "
    return f"takes a head in {blocks}{', '.join(map(str, heads))} and skips in all others"


def skip_figure(flowing: Flowing) -> Figure:
    """The share of the skip connection in each block, of influence in size."""
    shares = [one or 0.0 for one in flowing.skip_shares]
    middle = sum(shares) / len(shares)
    bars = tuple(
        Mark(
            (block + 0.1, block + 0.9),
            (0.0, share),
            f"block {block + 1}: {percent(share)} past the heads",
        )
        for block, share in enumerate(shares)
    )
    rows = tuple(
        (block + 1, share, flowing.by_skip[block], flowing.by_heads[block])
        for block, share in enumerate(flowing.skip_shares)
    )
    return Figure(
        "skips",
        f"On average over blocks {percent(middle)} of what flows goes past the heads",
        categories("block", [str(block + 1) for block in range(len(shares))]),
        linear("share of the skip connection", [1.0]),
        (Series("", "bars", "plain", bars),),
        (
            "At each token what flows by the skip connection and by each head is taken in size, "
            "whichever way it pushes; the table has the sums with their signs.",
        ),
        ("block", "share", "by skip", "by heads"),
        rows,
    )
