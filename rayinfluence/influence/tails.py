"""How the scores of ALL scanned sequences are distributed, in memory that no corpus outgrows.

Per query and sign a histogram of |score| over bins [2^(i/16), 2^((i+1)/16)), of which only those
that hold something are kept, each with its count and its sum. Zeros are in no bin. A monoid: counts
merge exactly; sums of floats depend on their order, so they are merged in one fixed tree over
splits and never twice.

Q query, N sequence, E entry: a bin of a query and a sign that holds something.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

BINS_PER_OCTAVE = 16
#: More bins than float64 has: those of one query and sign have codes of their own.
_SPAN = 1 << 16
_SHIFT = _SPAN // 2
#: Most numbers in a table of all bins of some queries.
_TABLE_NUMBERS = 1 << 20


def _edges() -> NDArray[np.float64]:
    """2^(j/16) / 2 for j < 16, by square roots and products alone.

    IEEE 754 fixes those to the last bit, as it does not fix powers.
    """
    roots = [math.sqrt(2.0)]
    while len(roots) < 4:
        roots.append(math.sqrt(roots[-1]))
    edges = np.full(BINS_PER_OCTAVE, 0.5)
    for bit, root in zip((8, 4, 2, 1), roots, strict=True):
        edges[(np.arange(BINS_PER_OCTAVE) & bit) > 0] *= root
    return edges


_EDGES = _edges()


def bin_of(sizes: NDArray[np.float64]) -> NDArray[np.int64]:
    """The bin i of each positive number, by its exponent and comparisons with fixed edges."""
    fraction, exponent = np.frexp(sizes)
    within = np.searchsorted(_EDGES, fraction, side="right") - 1
    return BINS_PER_OCTAVE * (exponent.astype(np.int64) - 1) + within


def lower_edge(bins: NDArray[np.int64]) -> NDArray[np.float64]:
    """Where bins begin; the largest float64 for the one after the last."""
    exponent, within = np.divmod(bins, BINS_PER_OCTAVE)
    with np.errstate(over="ignore"):
        edges: NDArray[np.float64] = np.ldexp(_EDGES[within], exponent + 1)
    return np.minimum(edges, np.finfo(np.float64).max)


@dataclass(frozen=True)
class Tail:
    """The histogram of one query and sign, in ascending bins."""

    bins: NDArray[np.int64]
    counts: NDArray[np.int64]
    sums: NDArray[np.float64]

    @property
    def count(self) -> int:
        """How many scores there are."""
        return int(self.counts.sum())

    @property
    def total(self) -> float:
        """The sum of |score|."""
        return float(self.sums.sum())

    @property
    def lower(self) -> NDArray[np.float64]:
        """Where each bin begins."""
        return lower_edge(self.bins)

    @property
    def upper(self) -> NDArray[np.float64]:
        """Where each bin ends."""
        return lower_edge(self.bins + 1)


@dataclass(frozen=True)
class Tails:
    """The histograms of all queries: codes (ascending), counts and sums of |score| [E]."""

    codes_E: NDArray[np.int64]
    counts_E: NDArray[np.int64]
    sums_E: NDArray[np.float64]

    @classmethod
    def empty(cls) -> Tails:
        """The identity of merging."""
        return cls(np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0))

    @classmethod
    def of(cls, scores_NQ: NDArray[np.float64]) -> Tails:
        """Count a split's scores; those that are not finite have no bin, and are passed over."""
        sizes_NQ = np.abs(scores_NQ)
        if not (finite_NQ := np.isfinite(sizes_NQ)).all():
            sizes_NQ = np.where(finite_NQ, sizes_NQ, 0.0)
        bins_NQ = bin_of(np.where(sizes_NQ > 0, sizes_NQ, 1.0))
        first = int(bins_NQ.min(initial=0))
        width = int(bins_NQ.max(initial=0)) - first + 1
        parts = [cls.empty()]
        step = max(1, _TABLE_NUMBERS // (2 * width))
        for start in range(0, scores_NQ.shape[1], step):
            some = slice(start, start + step)
            scores, sizes = scores_NQ[:, some], sizes_NQ[:, some]
            rows = 2 * np.arange(scores.shape[1]) + (scores < 0)
            index = rows * width + (bins_NQ[:, some] - first)
            counts = np.bincount(index[sizes > 0])
            sums = np.bincount(index[sizes > 0], weights=sizes[sizes > 0]).astype(np.float64)
            held = np.nonzero(counts)[0]
            codes = (held // width + 2 * start) * _SPAN + _SHIFT + held % width + first
            parts.append(cls(codes, counts[held], sums[held]))
        return cls(
            np.concatenate([part.codes_E for part in parts]),
            np.concatenate([part.counts_E for part in parts]),
            np.concatenate([part.sums_E for part in parts]),
        )

    def merge(self, other: Tails) -> Tails:
        """Add another's counts and sums to ours; left plus right, in that order."""
        codes = np.union1d(self.codes_E, other.codes_E)
        counts, sums = np.zeros(len(codes), np.int64), np.zeros(len(codes))
        for part in (self, other):
            places = np.searchsorted(codes, part.codes_E)
            counts[places] += part.counts_E
            sums[places] += part.sums_E
        return Tails(codes, counts, sums)

    def of_query(self, query: int, sign: int) -> Tail:
        """The histogram of a query's positive (sign 1) or negative (sign -1) scores."""
        first = (2 * query + (sign < 0)) * _SPAN
        start, end = np.searchsorted(self.codes_E, [first, first + _SPAN])
        bins = self.codes_E[start:end] - first - _SHIFT
        return Tail(bins, self.counts_E[start:end], self.sums_E[start:end])
