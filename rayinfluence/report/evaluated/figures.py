"""What was measured as pictures: scores with their intervals, and predicted beside measured."""

from __future__ import annotations

from collections.abc import Sequence

from rayinfluence.report.evaluated.grids import CEILING, ranged
from rayinfluence.report.pictures.figure import Figure, Mark, Series, categories, linear
from rayinfluence.report.text import signed
from rayinfluence.storage.results.evaluated import Evaluated, Interval, MethodFigures, Protocol


def scores(found: Evaluated, protocol: Protocol) -> Figure | None:
    """Linear datamodeling scores of the methods over some subsets; None where none has one."""
    known = [
        (one.name, interval)
        for one in found.methods
        if (interval := one.lds.get(protocol.name)) is not None
    ]
    if not known:
        return None
    names, intervals = [name for name, _ in known], [interval for _, interval in known]
    ceiling = protocol.ceiling
    ends = [*_ends(intervals), *_ends([ceiling] if ceiling else [])]
    best = max(known, key=lambda one: one[1].mean)
    series = [*_with_intervals(names, intervals)]
    if ceiling is not None:
        says = f"{CEILING}: {ranged(ceiling)}"
        line = tuple(Mark.at(ceiling.mean, y, says) for y in (0.0, float(len(known))))
        series.append(Series(CEILING, "line", "chance", line))
    return Figure(
        "lds",
        f"{protocol.name}: {best[0]} agrees best with training again, {ranged(best[1])}",
        linear("LDS: rank correlation with what was measured", ends),
        categories("method", names[::-1]),
        tuple(series),
        (
            f"Means over queries, with 95 % intervals; {protocol.n_subsets} subsets, "
            f"{protocol.n_seeds} seed{'s' * (protocol.n_seeds != 1)}.",
        ),
        ("method", "LDS", "low", "high", "queries"),
        tuple((name, i.mean, i.low, i.high, i.n) for name, i in known),
    )


def _ends(intervals: Sequence[Interval]) -> list[float]:
    return [end for one in intervals for end in (one.mean, one.low, one.high) if end is not None]


def _with_intervals(names: Sequence[str], intervals: Sequence[Interval]) -> tuple[Series, ...]:
    """A dot and a bar of its interval for each name, the first one uppermost."""
    bars, dots = [], []
    for place, (name, one) in enumerate(zip(names, intervals, strict=True)):
        y = len(names) - 1 - place + 0.5
        says = f"{name}: {ranged(one)}, of {one.n} queries"
        dots.append(Mark.at(one.mean, y, says))
        if one.low is not None and one.high is not None:
            bars.append(Mark((one.low, one.high), (y - 0.12, y + 0.12), says))
    return (
        Series("95 % interval", "bars", "quiet", tuple(bars)),
        Series("mean over queries", "points", "plain", tuple(dots)),
    )


def changes(one: MethodFigures) -> Figure | None:
    """What was measured beside what was predicted, where sequences were seen once more."""
    told = one.calibration
    if told is None or not told.pairs:
        return None
    predicted = [p for p, _ in told.pairs]
    measured = [m for _, m in told.pairs]
    dots = tuple(
        Mark.at(p, m, f"predicted {signed(p)}, measured {signed(m)} nats") for p, m in told.pairs
    )
    x = linear("predicted: delta_nats of one copy more, less its mean", predicted)
    y = linear("measured, less its mean, nats", measured)

    def line(name: str, slope: float) -> tuple[Mark, ...]:
        """A line through zero, as far as it is in the drawing."""
        ends = [x.low, x.high]
        if slope:
            low, high = sorted((y.low / slope, y.high / slope))
            ends = [max(x.low, low), min(x.high, high)]
        return tuple(Mark.at(end, slope * end, name) for end in ends)

    fitted = f"slope {ranged(told.slope)}"
    drawn = len(told.pairs)
    some = "" if drawn == told.n_pairs else f" {drawn:,} of {told.n_pairs:,} pairs are drawn."
    return Figure(
        "calibration",
        f"{one.name}: measured changes are {told.slope.mean:.2f} times the predicted ones",
        x,
        y,
        (
            Series("a sequence added, and a query", "points", "raises", dots),
            Series("as predicted", "line", "quiet", line("as predicted: slope 1", 1.0)),
            Series(fitted, "line", "chance", line(fitted, told.slope.mean)),
        ),
        (
            "Each dot is a query and a training with a sequence once more; of both numbers the "
            f"query's mean over all such trainings is taken off.{some}",
        ),
        ("predicted", "measured"),
        told.pairs,
        "`evaluation.json` beside this page has them.",
    )


def figures(found: Evaluated) -> list[Figure]:
    """All pictures, in the order in which they are shown."""
    made = [scores(found, one) for one in found.protocols]
    made += [changes(one) for one in found.methods]
    return [one for one in made if one is not None]
