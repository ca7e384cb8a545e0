"""Findings as pictures."""

from __future__ import annotations

from rayinfluence.analysis import Copies, Every, Layers, Order, Scale, Tails
from rayinfluence.report.analysed.grids import Found
from rayinfluence.report.analysed.order import order_figures
from rayinfluence.report.analysed.scale import scale_figures
from rayinfluence.report.evaluated.grids import ranged
from rayinfluence.report.pictures.figure import Figure, Mark, Series, Tone, categories, linear
from rayinfluence.storage.results.evaluated import Interval

_ELSEWHERE = "`--json` has all of them."


def figures(found: Found) -> list[Figure]:
    """All pictures of an analysis, in their order."""
    if isinstance(found, Every):
        return [figure for one in found.found for figure in figures(one)]
    if isinstance(found, Layers):
        return [_depth(found)]
    if isinstance(found, Scale):
        return scale_figures(found)
    if isinstance(found, Order):
        return order_figures(found)
    made = _by_copies(found) if isinstance(found, Copies) else _shares(found)
    return [] if made is None else [made]


def _by_copies(found: Copies) -> Figure | None:
    known = [one for one in found.numbers if one.n_queries]
    if not known:
        return None

    parts: dict[str, tuple[Tone, list[float | None]]] = {
        "copies": ("raises", [_mean(one.copies_share) for one in known]),
        "rewordings": ("plain", [_mean(one.reworded_share) for one in known]),
        "all others": ("quiet", [_mean(one.others_share) for one in known]),
    }
    lines = tuple(
        Series(
            name,
            "line",
            tone,
            tuple(
                Mark.at(place + 0.5, share, f"{known[place].copies} times, {name}: {share:.1%}")
                for place, share in enumerate(shares)
                if share is not None
            ),
        )
        for name, (tone, shares) in parts.items()
    )
    return Figure(
        "copies",
        "What holds the positive influence on a passage",
        categories("times that the passage is there", [str(one.copies) for one in known]),
        linear("share of the sum of positive scores", [0.0, 1.0]),
        lines,
        ("Means over known queries.",),
        ("times", *parts),
        tuple(
            (one.copies, *(shares[place] for _, shares in parts.values()))
            for place, one in enumerate(known)
        ),
        _ELSEWHERE,
    )


def _mean(interval: Interval | None) -> float | None:
    return None if interval is None else interval.mean


def _shares(found: Tails) -> Figure | None:
    known = [
        (one.query_id, one.top_share, one.random_signs)
        for one in found.queries
        if one.top_share is not None
    ]
    if not known:
        return None
    places = range(len(known))
    dots = tuple(
        Mark.at(share, len(known) - place - 0.5, f"{name}: {share:.1%}")
        for place, (name, share, _) in zip(places, known, strict=True)
    )
    bars = tuple(
        Mark(
            (signs[0], signs[2]),
            (len(known) - place - 0.7, len(known) - place - 0.3),
            f"{name}, random signs: {signs[0]:.1%} to {signs[2]:.1%}",
        )
        for place, (name, _, signs) in zip(places, known, strict=True)
        if signs is not None
    )
    noise = f"normal noise: {found.noise_share:.1%}"
    line = tuple(Mark.at(found.noise_share, y, noise) for y in (0.0, float(len(known))))
    mean = found.summary["top 1 % share"]
    return Figure(
        "top-shares",
        f"The top 1 % of sequences hold {ranged(mean)} of all positive influence",
        linear("share of the sum of positive scores", [share for _, share, _ in known] + [1.0]),
        categories("query", [name for name, *_ in known][::-1]),
        (
            Series("with random signs (95 %)", "bars", "chance", bars),
            Series("normal noise", "line", "quiet", line),
            Series("a query", "points", "raises", dots),
        ),
        (
            "Random signs keep the sizes of scores, so heavy tails stay in that control: it tells "
            "whether what raises is more uneven than what lowers. Noise without any tail is the "
            "line.",
        ),
        ("query", "top 1 % share", "random signs, 2.5 %", "97.5 %"),
        tuple(
            (name, share, *((signs[0], signs[2]) if signs else (None, None)))
            for name, share, signs in known
        ),
        _ELSEWHERE,
    )


def _depth(found: Layers) -> Figure:
    several = [one for one in found.classes if one.n_queries]
    lines = tuple(
        Series(
            one.name,
            "line",
            "raises" if place == 0 else "plain",
            tuple(
                Mark.at(band + 0.5, share.mean, f"{one.name}, block {name}: {ranged(share)}")
                for band, (name, share) in enumerate(zip(found.bands, one.shares, strict=True))
                if share is not None
            ),
        )
        for place, one in enumerate(several)
    )
    even = 1 / len(found.bands)
    chance = tuple(Mark.at(x, even, f"even: {even:.1%}") for x in (0.0, float(len(found.bands))))
    heights = [s.mean for one in several for s in one.shares if s is not None]
    return Figure(
        "depth",
        f"Where the score of the first {found.n_hits} proponents comes about, by block",
        categories("block of the model", found.bands),
        linear("share of the sizes of hits' scores", heights),
        (Series("even", "line", "quiet", chance), *lines),
        (f"Means over queries, of the first {found.n_hits} proponents of each.",),
        ("queries", *found.bands),
        tuple((one.name, *(None if s is None else s.mean for s in one.shares)) for one in several),
        _ELSEWHERE,
    )
