"""Sequences that a query has no score of: more than 1 % of them end a scan, as soon as it is sure.

Beside its partial a split that has such sequences leaves a mark whose name says how many. So a
scan that is asked for again counts them by one listing, and reads headers only where it is close.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rayinfluence.corpus.splits import Split
from rayinfluence.dataflow.compute.partial import Partial
from rayinfluence.dataflow.compute.quarantine import (
    QUARANTINE_LIMIT,
    LeftOut,
    Tally,
    from_json,
    refuse_many_bad,
)
from rayinfluence.dataflow.jobs.banks import BankPlan
from rayinfluence.dataflow.layout import MARKS, PARTIALS, marked, partial_key
from rayinfluence.errors import DamagedError
from rayinfluence.storage.tensors import read_header

#: Sequences of a part of the corpus that may be missing, as splits of a scan may.
_FEW = 3


class Missing:
    """Counts what each bank's queries lack while a scan goes on.

    Args:
        banks: of the scan.
        splits: of the scan.
        names: of the queries that are asked, by digest; others of a bank are not counted.
    """

    def __init__(
        self, banks: Sequence[BankPlan], splits: Sequence[Split], names: Mapping[str, str]
    ) -> None:
        self._n_all = sum(split.n_rows for split in splits)
        # Of a part of the corpus one in a hundred may be less than one.
        tolerated = _FEW if any(split.chosen is not None for split in splits) else 0
        ours = {split.digest for split in splits}
        self._banks = [_OfBank(bank, ours, names, tolerated) for bank in banks]

    def settled(self, left_out: Mapping[int, LeftOut]) -> None:
        """Count what a split's partials lack, by the place of the bank.

        Raises:
            CorpusError: more than 1 % of the corpus is missing.
        """
        for place, of_bank in left_out.items():
            self._banks[place].tally.add(of_bank)
            self._banks[place].refuse(self._n_all)

    def refuse_committed(self) -> None:
        """See whether what earlier runs scored is enough to end this one.

        Raises:
            CorpusError: more than 1 % of the corpus is missing.
        """
        for bank in self._banks:
            bank.refuse(self._n_all)

    def refuse_merged(self, partials: Sequence[Partial]) -> None:
        """See whether what was scored, which may be fewer splits than there are, is enough.

        Raises:
            CorpusError: more than 1 % of it is missing.
        """
        for bank, partial in zip(self._banks, partials, strict=True):
            bank.begin_with(partial.quarantine)
            for_all = sum(bad.queries is None for bad in partial.quarantine.values())
            bank.refuse(partial.n_sequences + for_all)


class _OfBank:
    """What one bank's queries lack, and the marks whose partials have not been looked at."""

    def __init__(
        self, bank: BankPlan, ours: set[str], names: Mapping[str, str], tolerated: int
    ) -> None:
        self._bank, self._names, self._tolerated = bank, names, tolerated
        digests = bank.query_digests
        self._asked = [place for place, d in enumerate(digests) if not names or d in names]
        self.tally = Tally(len(digests), self._asked)
        marks = dict(map(marked, bank.store.list(MARKS)))
        there = bank.store.list(PARTIALS) if marks else {}
        self._unread = {
            split: count
            for split, count in marks.items()
            if split in ours and partial_key(split) in there
        }

    def begin_with(self, left_out: LeftOut) -> None:
        """Count these, and nothing that was counted before."""
        self._unread = {}
        self.tally = Tally(len(self._bank.query_digests), self._asked)
        self.tally.add(left_out)

    def refuse(self, n_all: int) -> None:
        """End the scan if more than 1 % of so many are missing, and more than are tolerated."""
        limit = max(self._tolerated, QUARANTINE_LIMIT * n_all)
        if self.tally.worst + sum(self._unread.values()) > limit:
            while self._unread and self.tally.worst <= limit:
                split, _ = self._unread.popitem()
                try:
                    header = read_header(self._bank.store, partial_key(split))
                except DamagedError:
                    continue  # it will be scored again
                self.tally.add(from_json(header["quarantine"]))
        if self.tally.worst > limit:
            refuse_many_bad(self.tally.worst, n_all, self._reasons())

    def _reasons(self) -> dict[int, str]:
        query, left_out = self.tally.of_worst()
        digest = self._bank.query_digests[query]
        name = self._names.get(digest, digest)
        return {
            i: bad.reason if bad.queries is None else f"{bad.reason}, for query {name!r}"
            for i, bad in left_out.items()
        }
