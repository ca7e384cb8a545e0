"""Which sequences a bank left out, for which of its queries, and why.

A sequence that cannot be run, or whose scores are finite for no query, is left out for all. One
whose score overflows for some of them is left out for those alone: what the others find does not
depend on who was asked beside them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from rayinfluence.errors import CorpusError

#: More bad sequences than this share end a stage.
QUARANTINE_LIMIT = 0.01


class Bad(NamedTuple):
    """Why a sequence was left out.

    Attributes:
        reason: in words.
        queries: for which, by their places in the bank, ascending; None is for all.
        n_tokens: that it has, where it was left out for some alone.
    """

    reason: str
    queries: tuple[int, ...] | None = None
    n_tokens: int = 0

    def concerns(self, query: int) -> bool:
        """Whether it was left out for a query, by its place."""
        return self.queries is None or query in self.queries


#: By sequence id.
LeftOut = Mapping[int, Bad]


def whole(reasons: Mapping[int, str]) -> dict[int, Bad]:
    """Sequences that are left out for all queries, with the reasons."""
    return {sequence_id: Bad(reason) for sequence_id, reason in reasons.items()}


def lacking(left_out: Iterable[Bad], n_queries: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Sequences, and their tokens, that each query lacks of those left out for some alone [Q]."""
    sequences_Q, tokens_Q = np.zeros(n_queries, np.int64), np.zeros(n_queries, np.int64)
    for bad in left_out:
        if bad.queries is not None:
            sequences_Q[list(bad.queries)] += 1
            tokens_Q[list(bad.queries)] += bad.n_tokens
    return sequences_Q, tokens_Q


class Tally:
    """How many sequences each query of a bank lacks, counted as they come.

    Args:
        n_queries: of the bank.
        asked: places of those that count; None is all.
    """

    def __init__(self, n_queries: int, asked: Sequence[int] | None = None) -> None:
        self._for_all = 0
        self._asked = np.arange(n_queries) if asked is None else np.array(asked, dtype=np.int64)
        self._lacking_Q = np.zeros(n_queries, np.int64)
        self._known: dict[int, Bad] = {}

    def add(self, left_out: LeftOut) -> None:
        """Count some; those that are known already are not counted again."""
        fresh = {i: bad for i, bad in left_out.items() if i not in self._known}
        self._known |= fresh
        self._for_all += sum(bad.queries is None for bad in fresh.values())
        self._lacking_Q += lacking(fresh.values(), len(self._lacking_Q))[0]

    @property
    def worst(self) -> int:
        """What the query lacks that lacks most."""
        return self._for_all + int(self._lacking_Q[self._asked].max(initial=0))

    def of_worst(self) -> tuple[int, dict[int, Bad]]:
        """That query, by its place, and what it lacks."""
        query = int(self._asked[self._lacking_Q[self._asked].argmax()])
        return query, {i: bad for i, bad in self._known.items() if bad.concerns(query)}


def worst(left_out: LeftOut, n_queries: int) -> int:
    """How many sequences the query lacks that lacks most."""
    tally = Tally(n_queries)
    tally.add(left_out)
    return tally.worst


def to_json(left_out: LeftOut) -> list[list[Any]]:
    """As a header has it."""
    return [
        [sequence_id, bad.reason, bad.queries and list(bad.queries), bad.n_tokens]
        for sequence_id, bad in left_out.items()
    ]


def from_json(rows: Sequence[Sequence[Any]]) -> dict[int, Bad]:
    """From a header."""
    return {
        int(sequence_id): Bad(str(reason), None if queries is None else tuple(queries), n_tokens)
        for sequence_id, reason, queries, n_tokens in rows
    }


def refuse_many_bad(n_bad: int, n_all: int, reasons: Mapping[int, str]) -> None:
    """End the stage when more than 1 % of the sequences were quarantined.

    Raises:
        CorpusError: with the first reason as an example.
    """
    if n_bad > QUARANTINE_LIMIT * n_all:
        sequence_id, reason = next(iter(sorted(reasons.items())))
        raise CorpusError(
            f"{n_bad} of {n_all} sequences cannot be used, more than {QUARANTINE_LIMIT:.0%}; the "
            "first is "
            f"sequence {sequence_id}: {reason}. Check that the corpus was tokenised for this model."
        )
