"""Findings as tables of text, which terminal and page show alike."""

from __future__ import annotations

from dataclasses import replace

from rayinfluence.analysis import Copies, Every, Layers, One, Order, Scale, Tails, kind_of
from rayinfluence.analysis.asked import Verdict
from rayinfluence.analysis.tail_values import QueryTail
from rayinfluence.report.analysed.order import order_grids
from rayinfluence.report.analysed.scale import scale_grids
from rayinfluence.report.compare.grids import Grid
from rayinfluence.report.evaluated.grids import ranged
from rayinfluence.report.text import count, percent

Found = One | Every


def heading(found: Found) -> str:
    """What was asked, in a few words."""
    if isinstance(found, Every):
        return f"Findings, by {found.method}"
    if isinstance(found, Tails):
        return f"Tails and concentration of influence, by {found.method}"
    if isinstance(found, Copies):
        return f"Copies and rewordings of passages, by {found.method}"
    if isinstance(found, Scale):
        return f"{count(len(found.sizes))} sizes of models, by {found.method}"
    if isinstance(found, Order):
        return f"Order of words, by {found.method}"
    return f"Influence by depth of the model, by {found.method}"


def about(found: Found) -> list[str]:
    """Sentences that hold of all figures."""
    if isinstance(found, Every):
        return list(dict.fromkeys(line for one in found.found for line in about(one)))
    first = [f"Scores: {found.scores}."] if isinstance(found, Tails) else []
    refused = [found.refused] if isinstance(found, Tails) and found.refused else []
    return [*refused, *first, *found.notes]


def verdicts(told: tuple[Verdict, ...]) -> Grid:
    """What the run says of each finding."""
    rows = tuple((one.finding, one.word, one.why) for one in told)
    return Grid("Findings", ("finding", "this run", "because"), rows, 3)


def grids(found: Found) -> list[Grid]:
    """All tables, verdicts first."""
    return [verdicts(found.verdicts), *_figures(found)]


def _figures(found: Found) -> list[Grid]:
    if isinstance(found, Every):
        return [
            replace(grid, title=f"{kind_of(one)}: {grid.title}")
            for one in found.found
            for grid in _figures(one)
        ]
    if isinstance(found, Tails):
        return _of_tails(found)
    if isinstance(found, Scale):
        return scale_grids(found)
    if isinstance(found, Copies):
        return _of_copies(found)
    return order_grids(found) if isinstance(found, Order) else _of_layers(found)


def _of_tails(found: Tails) -> list[Grid]:
    means = Grid(
        "Means over queries",
        ("figure", "mean", "queries"),
        tuple((name, ranged(one), count(one.n)) for name, one in found.summary.items() if one),
    )
    queries = Grid(
        "Each query: the largest scores",
        (
            *("query", "top 1 % hold", "random signs", "strongest holds"),
            *("strongest, nats", "of -log p"),
        ),
        tuple(map(_row, found.queries)),
    )
    laws = Grid(
        "Each query: power laws",
        (
            *("query", "exponent", "CCDF slope", "from", "scores", "p", "infinite"),
            *("sequences for ten", "as the tenth of", "held-out ratio"),
        ),
        tuple(
            (
                one.query_id,
                f"{law.exponent:.2f} ± {law.error:.2f}",
                f"{1 - law.exponent:.2f}",
                f"{law.start:.3g}",
                count(law.count),
                f"{law.p:.2f}",
                law.infinite,
                "" if law.needed is None else f"{law.needed:,.0f}",
                law.wanted_by,
                "" if law.held_out is None else f"{law.held_out:.2f}",
            )
            for one in found.queries
            if (law := one.law) is not None
        ),
    )
    against = Grid(
        "Each query: the power law against others (log likelihood ratio, p)",
        ("query", "law", "ratio", "p", "better"),
        tuple(
            (one.query_id, a.law, f"{a.ratio:+.2f}", f"{a.p:.2g}", a.better)
            for one in found.queries
            if one.law is not None
            for a in one.law.against
        ),
        2,
    )
    return [means, queries, laws, against]


def _row(one: QueryTail) -> tuple[str, ...]:
    signs, part = one.random_signs, one.largest_of_information
    return (
        one.query_id,
        "" if one.top_share is None else f"{one.top_share:.1%}",
        "" if signs is None else f"{signs[0]:.1%} to {signs[2]:.1%}",
        "" if one.largest_share is None else percent(min(one.largest_share, 1.0)),
        "" if one.largest_nats is None else f"{one.largest_nats:.3g}",
        "" if part is None else f"{part:.1%}",
    )


def _of_layers(found: Layers) -> list[Grid]:
    shares = Grid(
        "Shares by blocks",
        ("queries", "n", *(f"block {name}" for name in found.bands), "centre of mass", "p"),
        tuple(
            (
                one.name,
                count(one.n_queries),
                *map(ranged, one.shares),
                ranged(one.centre),
                "" if one.p is None else f"{one.p:.2g}",
            )
            for one in found.classes
        ),
    )
    shuffled = Grid(
        "The same with shuffled labels of queries, 95 %",
        ("queries", *(f"block {name}" for name in found.bands)),
        tuple(
            (one.name, *(f"{low:.3f} to {high:.3f}" for low, high in one.shuffled))
            for one in found.classes
            if one.shuffled
        ),
    )
    energy = Grid(
        "Beside gradient energy",
        ("of all queries", *(f"block {name}" for name in found.bands)),
        (
            ("share of gradient energy", *(f"{one:.3f}" for one in found.energy)),
            ("share over energy, scaled to 1", *(f"{one:.3f}" for one in found.over_energy)),
        )
        if found.energy
        else (),
    )
    pairs = Grid(
        "Beside hits of other queries (shuffled pairs)",
        ("queries", *(f"block {name}" for name in found.bands), "hits' centre is deeper by"),
        tuple(
            (one.name, *map(ranged, one.pairs), ranged(one.beyond_pairs))
            for one in found.classes
            if one.pairs
        ),
    )
    names = [*found.thirds[0].classes] if found.thirds else []
    thirds = Grid(
        "Tokens of the query, by rarity, that first hits have",
        ("ranked by", "all queries", "beside all blocks", *names),
        tuple(
            (
                one.name,
                ranged(one.overlap),
                ranged(one.beside_all),
                *(ranged(one.classes[name]) for name in names),
            )
            for one in found.thirds
        ),
    )
    return [shares, shuffled, pairs, thirds, energy]


def _of_copies(found: Copies) -> list[Grid]:
    shares = Grid(
        "Shares of all positive influence, by how often the passage is there",
        ("copies", "known", "not known", "copies hold", "rewordings hold", "all others hold"),
        tuple(
            (
                count(one.copies),
                count(one.n_queries),
                count(one.n_unknown),
                ranged(one.copies_share),
                ranged(one.reworded_share),
                ranged(one.others_share),
            )
            for one in found.numbers
        ),
    )
    strength = Grid(
        "Strength and ranks",
        (
            *("copies", "a copy is first", "a rewording over a copy", "rewordings over others'"),
            *("all copies, of -log p", "first copy's rank", "first rewording's rank"),
        ),
        tuple(
            (
                count(one.copies),
                ranged(one.copy_first),
                ranged(one.reworded_of_copy),
                ranged(one.reworded_above_others),
                ranged(one.copies_of_information),
                _middle(one.copy_rank, one.n_queries if one.copies else 0),
                _middle(one.reworded_rank, one.n_queries),
            )
            for one in found.numbers
        ),
    )
    return [shares, strength]


def _middle(rank: float | None, n_queries: int) -> str:
    """A median rank; of some queries none where more than half of them kept none."""
    return f"{rank:g}" if rank is not None else "not kept" if n_queries else ""
