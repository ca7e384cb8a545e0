"""The order of words, as tables of text and as a picture."""

from __future__ import annotations

from rayinfluence.analysis import Order
from rayinfluence.report.compare.grids import Grid
from rayinfluence.report.evaluated.grids import ranged
from rayinfluence.report.pictures.figure import Figure, Mark, Series, categories, linear
from rayinfluence.report.text import count, signed


def order_grids(found: Order) -> list[Grid]:
    """Parts over all queries, tests, and each query."""
    parts = Grid(
        "Parts of sentences, over queries",
        ("part", "of the forward influence", "nats", "queries", "texts"),
        tuple(
            (
                one.name,
                ranged(one.share),
                ranged(one.nats),
                "" if one.share is None else count(one.share.n),
                count(one.n_texts),
            )
            for one in found.parts
        ),
    )
    signs = Grid(
        "Which has more influence, query by query (sign tests)",
        ("part", "beside", "has more for", "of", "p"),
        tuple(
            (one.more, one.less, count(one.larger), count(one.n), f"{one.p:.2g}")
            for one in found.signs
        ),
        2,
    )
    names = [one.name for one in found.parts]
    queries = Grid(
        "Each query: mean scores",
        ("query", *names),
        tuple(
            (query, *("" if (v := of[name]) is None else signed(v) for name in names))
            for query, of in found.queries.items()
        ),
    )
    return [parts, signs, queries]


def order_figures(found: Order) -> list[Figure]:
    """Shares of the forward sentences' influence, with their intervals."""
    told = [(one.name, one.share) for one in found.parts if one.share is not None]
    places = [len(told) - place - 0.5 for place in range(len(told))]
    bars = tuple(
        Mark((share.low, share.high), (y - 0.15, y + 0.15), f"{name}: {ranged(share)}")
        for y, (name, share) in zip(places, told, strict=True)
        if share.low is not None and share.high is not None
    )
    dots = tuple(
        Mark.at(share.mean, y, f"{name}: {share.mean:.1%}")
        for y, (name, share) in zip(places, told, strict=True)
    )
    ends = [end for _, s in told for end in (s.low, s.mean, s.high) if end is not None]
    return [
        Figure(
            "order",
            "What parts of a sentence have of its influence",
            linear("share of the forward sentence's influence", [*ends, 1.0]),
            categories("part", [name for name, _ in told][::-1]),
            (
                Series("95 % over queries", "bars", "chance", bars),
                Series("all queries", "points", "raises", dots),
            ),
            ("The beginning of a reversed sentence ends after what the query asks for.",),
            ("part", "share", "2.5 %", "97.5 %"),
            tuple((name, share.mean, share.low, share.high) for name, share in told),
            "`--json` has each query.",
        )
    ]
