"""Which sequences several methods agree on: of the first k how many, and at which ranks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from rayinfluence.report.pictures.figure import Figure, Mark, Series, linear, logarithmic
from rayinfluence.report.pictures.seen import Seen
from rayinfluence.report.text import count, percent
from rayinfluence.storage.results import Results

#: Of the title; and places of the curve.
_FIRST, _PLACES = 10, 30


@dataclass(frozen=True)
class _Pair:
    """The proponents by two methods, as ids in the order of ranks."""

    method: str
    ours: Sequence[int]
    theirs: Sequence[int]

    def both(self, k: int) -> int:
        """How many of the first k of one are among the first k of the other."""
        return len({*self.ours[:k]} & {*self.theirs[:k]})

    @property
    def most(self) -> int:
        """The largest k that both have sequences for."""
        return min(len(self.ours), len(self.theirs))


def agreement(seen: Seen, by_method: Mapping[str, Results]) -> list[Figure]:
    """The overlap with every other method, then the ranks beside each; none without others.

    Args:
        seen: the query by one method; all of its proponents are compared, not only the shown ones.
        by_method: the results of all methods of the run.
    """
    ours = seen.results.ids(seen.query_id, "proponent")
    pairs = [
        _Pair(method, ours, other.ids(seen.query_id, "proponent"))
        for method, other in by_method.items()
        if method != seen.results.method and seen.query_id in other.queries
    ]
    pairs = [pair for pair in pairs if pair.most]
    return [_overlap(seen, pairs), *(_ranks(seen, pair) for pair in pairs)] if pairs else []


def _overlap(seen: Seen, pairs: Sequence[_Pair]) -> Figure:
    longest = max(pair.most for pair in pairs)
    lines, rows = [], []
    for pair in pairs:
        places = np.unique(np.round(np.geomspace(1, pair.most, _PLACES)).astype(int)).tolist()
        marks = []
        for k in places:
            both = pair.both(k)
            says = f"{pair.method}: {both} of the first {k} ({percent(both / k)})"
            marks.append(Mark.at(float(k), both / k, says))
            rows.append((pair.method, k, both, both / k))
        lines.append(Series(pair.method, "line", "plain", tuple(marks)))
    return Figure(
        "overlap",
        _title(seen, pairs),
        logarithmic("first proponents that are compared, k", 1.0, float(max(longest, 2))),
        linear("share that both have", [1.0]),
        tuple(lines),
        (
            f"Of the first k proponents by {seen.results.method} and by another method, the share "
            "that both lists hold. What a method of texts alone finds as well did not take the "
            "model to find; what none else finds is neither more nor less true for that.",
        ),
        ("method", "k", "in both", "share"),
        tuple(rows),
    )


def _title(seen: Seen, pairs: Sequence[_Pair]) -> str:
    k = min(_FIRST, min(pair.most for pair in pairs))
    said = [
        f"{both} {'is' if both == 1 else 'are'} also among the first {k} by {pair.method}"
        for pair in pairs
        for both in (pair.both(k),)
    ]
    listed = " and ".join(filter(None, (", ".join(said[:-1]), said[-1])))
    return f"Of the first {k} proponents by {seen.results.method}, {listed}"


def _ranks(seen: Seen, pair: _Pair) -> Figure:
    rank = {sequence: place for place, sequence in enumerate(pair.theirs, start=1)}
    beyond = 2.0 * len(pair.theirs)
    inside, outside, rows = [], [], []
    for place, sequence in enumerate(pair.ours, start=1):
        there = rank.get(sequence)
        rows.append((sequence, place, there))
        if there is None:
            says = f"sequence {sequence}: rank {place}, not kept by {pair.method}"
            outside.append(Mark.at(float(place), beyond, says))
        else:
            says = f"sequence {sequence}: rank {place}, {there} by {pair.method}"
            inside.append(Mark.at(float(place), float(there), says))
    kept = len(pair.theirs)
    return Figure(
        "ranks",
        f"{pair.method} keeps {count(len(inside))} of the {count(len(pair.ours))} proponents that "
        f"{seen.results.method} keeps",
        logarithmic(f"rank by {seen.results.method}", 1.0, float(max(2, len(pair.ours)))),
        logarithmic(f"rank by {pair.method}", 1.0, max(2.0, 1.2 * beyond)),
        (
            Series("kept by both", "points", "raises", tuple(inside)),
            Series(
                f"not among the {count(kept)} kept by {pair.method}",
                "points",
                "quiet",
                tuple(outside),
            ),
        ),
        (
            f"Each dot is a proponent by {seen.results.method}. {pair.method} keeps its first "
            f"{count(kept)} (scan.top); what is not among them has no rank, and is drawn above.",
        ),
        ("sequence", f"rank by {seen.results.method}", f"rank by {pair.method}"),
        tuple(rows),
    )
