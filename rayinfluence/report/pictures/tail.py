"""How the scores of all sequences are distributed, and where among them the shown hits are."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from rayinfluence.influence.tails import BINS_PER_OCTAVE, Tail
from rayinfluence.report.pictures.figure import Figure, Mark, Series, Tone, logarithmic, mirrored
from rayinfluence.report.pictures.seen import Seen, some
from rayinfluence.report.text import count, signed
from rayinfluence.storage.results import Direction, Survivor

#: Octaves below the largest score that are drawn, a factor of a million; and bars at most.
_OCTAVES, _BARS = 20, 48
#: Of the line of the fitted law.
_PLACES = 9
_SIDES: tuple[tuple[Direction, int, Tone], ...] = (
    ("proponent", 1, "raises"),
    ("opponent", -1, "lowers"),
)
#: A bar: its place, how many scores it has, and the sum of their sizes.
_Bar = tuple[int, int, float]


def tail(seen: Seen) -> Figure | None:
    """A histogram of all scores by size, upwards those above zero; None where there are none."""
    tails = {direction: seen.tail(direction) for direction, *_ in _SIDES}
    held = [one.bins for one in tails.values() if one.count]
    if not held:
        return None
    last = max(int(bins[-1]) for bins in held)
    first = max(min(int(bins[0]) for bins in held), last - BINS_PER_OCTAVE * _OCTAVES)
    width = 1
    while last // width - first // width >= _BARS:
        width *= 2
    bars = {direction: _bars(one, first, width) for direction, one in tails.items()}
    most = {
        direction: max((n for _, n, _ in found), default=0) for direction, found in bars.items()
    }
    x = logarithmic(
        f"size of the score, {_unit(seen)}",
        _edge(first // width, width),
        _edge(last // width + 1, width),
    )
    y = mirrored("sequences in a bar", most["proponent"], most["opponent"])
    row = _statistics(seen)
    end = max((_edge(place + 1, width) for place, *_ in bars["proponent"]), default=0.0)
    law = _law(row, end, width)
    names = ("raise", "lower") if seen.results.meaning.directed else ("above zero", "below zero")
    series = [
        Series(name, "bars", tone, tuple(_drawn(bars[direction], sign, width)))
        for (direction, sign, tone), name in zip(_SIDES, names, strict=True)
    ]
    if law:
        series.append(Series("power law fitted to the largest", "line", "chance", law))
    for (direction, sign, tone), hits in zip(
        _SIDES, (seen.proponents, seen.opponents), strict=True
    ):
        marked = tuple(_marked(hits, sign * 1.2 * most[direction]))
        if marked:
            series.append(Series(f"shown {direction}s", "points", tone, marked))
    rows = tuple(
        (direction, _edge(place, width), _edge(place + 1, width), n, mass)
        for direction, found in bars.items()
        for place, n, mass in found
    )
    return Figure(
        "tail",
        _title(seen, tails["proponent"], row),
        x,
        y,
        tuple(series),
        tuple(_notes(seen, tails, first, row)),
        ("direction", "from", "to", "sequences", "sum of sizes"),
        rows,
    )


def _unit(seen: Seen) -> str:
    return seen.results.meaning.unit


def _edge(place: int, width: int) -> float:
    return float(2.0 ** (place * width / BINS_PER_OCTAVE))


def _bars(one: Tail, first: int, width: int) -> list[_Bar]:
    shown = one.bins >= first
    places, index = np.unique(one.bins[shown] // width, return_inverse=True)
    counts = np.bincount(index, weights=one.counts[shown], minlength=len(places))
    sums = np.bincount(index, weights=one.sums[shown], minlength=len(places))
    return [
        (int(place), int(n), float(mass))
        for place, n, mass in zip(places, counts, sums, strict=True)
    ]


def _drawn(bars: Sequence[_Bar], sign: int, width: int) -> list[Mark]:
    return [
        Mark(
            (_edge(place, width), _edge(place + 1, width)),
            (0.0, float(sign * n)),
            f"{count(n)} from {signed(sign * _edge(place, width))} to "
            f"{signed(sign * _edge(place + 1, width))}, together {signed(sign * mass)}",
        )
        for place, n, mass in bars
    ]


def _marked(hits: Sequence[Survivor], y: float) -> list[Mark]:
    return [
        Mark.at(
            abs(hit.scan_score),
            y,
            f"{hit.direction} {hit.rank}: {signed(hit.scan_score)} in the scan, "
            f"{signed(hit.score)} scored again",
        )
        for hit in hits
        if math.isfinite(hit.scan_score) and hit.scan_score
    ]


def _law(row: dict[str, Any], end: float, width: int) -> tuple[Mark, ...]:
    """How many scores a bar has by the fitted power law, from the first that begins with it."""
    exponent, start, n = (row.get(key) for key in ("tail_exponent", "tail_start", "tail_count"))
    half = 2.0 ** (width / BINS_PER_OCTAVE / 2)
    if exponent is None or start is None or n is None or end <= start * half:
        return ()
    marks = []
    for x in np.geomspace(start * half, end, _PLACES).tolist():
        expected = n * sum(
            sign * (edge / start) ** (1 - exponent)
            for edge, sign in ((x / half, 1), (x * half, -1))
        )
        says = f"{expected:,.3g} expected from {signed(x / half)} to {signed(x * half)}"
        marks.append(Mark.at(x, expected, says))
    return tuple(marks)


def _title(seen: Seen, positive: Tail, row: dict[str, Any]) -> str:
    n = row.get("n_sequences") or positive.count
    found = [hit.scan_rank for hit in seen.proponents if hit.scan_score > 0]
    if not found:
        return f"None of {count(n)} scores is above zero"
    them = f"The {some(seen.proponents)} shown {'is' if len(found) == 1 else 'are'}"
    if max(found) == len(found):
        return f"{them} the largest of {count(n)} scores"
    return f"{them} among the largest {count(max(found))} of {count(n)} scores"


def _notes(seen: Seen, tails: dict[Direction, Tail], first: int, row: dict[str, Any]) -> list[str]:
    notes = ["Scores are those of the scan, of all sequences; dots are the hits that are shown."]
    small = sum(int(one.counts[one.bins < first].sum()) for one in tails.values())
    zeros = (row.get("n_sequences") or 0) - sum(one.count for one in tails.values())
    if small:
        notes.append(f"{count(small)} smaller than a millionth of the largest are not drawn.")
    if zeros > 0:
        notes.append(f"{count(zeros)} are zero, and on no such axis.")
    if row.get("tail_exponent") is not None:
        exponent = row["tail_exponent"]
        error = row.get("tail_exponent_error")
        margin = "" if error is None else f" ± {error:.2f}"
        notes.append(
            f"The line: the {count(row['tail_count'])} scores from {signed(row['tail_start'])} on "
            f"have a density that falls as score^-{exponent:.2f}{margin}, and so a share of larger "
            f"ones that falls as score^-{exponent - 1:.2f} (maximum likelihood on these bins, "
            "Virkar & Clauset 2014)."
        )
    return notes


def _statistics(seen: Seen) -> dict[str, Any]:
    table = seen.results.statistics
    ids = table["query_id"].to_pylist()
    return table.slice(ids.index(seen.query_id), 1).to_pylist()[0] if seen.query_id in ids else {}
