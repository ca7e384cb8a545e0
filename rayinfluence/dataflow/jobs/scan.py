"""The scan's job: score splits with banks, commit partials, set aside what cannot be scored.

Picklable; no Ray. Scoring a split twice writes the same bytes under the same key.
"""

from __future__ import annotations

import json
import traceback
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import ClassVar

import pyarrow as pa

from rayinfluence.corpus.splits import Split, read_split
from rayinfluence.dataflow import stage_names
from rayinfluence.dataflow.compute.grouping import SplitGroups
from rayinfluence.dataflow.compute.partial import Partial
from rayinfluence.dataflow.compute.quarantine import LeftOut, worst
from rayinfluence.dataflow.compute.replica import Replica
from rayinfluence.dataflow.compute.scored import Scored
from rayinfluence.dataflow.compute.scoring import AnyBank, score_split
from rayinfluence.dataflow.jobs.banks import BankOperands
from rayinfluence.dataflow.jobs.partials import write_partial
from rayinfluence.dataflow.jobs.watch import MOST_STARTS, Leaders, Watch
from rayinfluence.dataflow.layout import aside_key, mark_key, partial_key
from rayinfluence.errors import ConfigError, StorageError
from rayinfluence.storage.results import dense_table, scores_key
from rayinfluence.storage.store import Store, write_table


@dataclass(frozen=True)
class Pending:
    """A split and the places of the banks that it has yet to be scored with."""

    split: Split
    banks: tuple[int, ...]


@dataclass(frozen=True)
class Settled:
    """A split that is committed, or set aside for this reason.

    ``left_out``: the sequences that its partials lack, by the place of the bank.
    """

    split: Split
    reason: str | None
    left_out: Mapping[int, LeftOut] = field(default_factory=dict)


@dataclass(frozen=True)
class _Made:
    """The rows of a split, and their scores by the place of the bank."""

    rows: pa.Table
    scored: Mapping[int, Scored]


@dataclass
class ScanJob:
    """Score splits with the banks that they lack; commit one partial per split and bank.

    A split that cannot be scored is set aside: what is wrong with it is written where the first of
    its banks keeps such notes, and the scan goes on.
    """

    corpus: Store
    operands: Sequence[BankOperands]
    top: int
    group_by: tuple[str, ...]
    stage: ClassVar[str] = stage_names.SCAN
    _banks: list[AnyBank] = field(default_factory=list)
    #: Tokens of the split under way that the watch was told of.
    _advanced: int = 0

    def prepare(self, replica: Replica) -> None:
        """Put the banks on the device."""
        self._banks = [operands.bank(replica) for operands in self.operands]

    def run(self, replica: Replica, bundle: Sequence[Pending], watch: Watch) -> Iterator[Settled]:
        """Score some splits in order, reading one ahead and committing one behind.

        Splits that an earlier worker committed before it died are passed over.

        Raises:
            StorageError: the storage fails; no split is to blame for that.
        """
        with ThreadPoolExecutor(1) as reader, ThreadPoolExecutor(1) as writer:
            ahead: Future[pa.Table] | None = None
            behind: Future[tuple[Settled, Leaders]] | None = None
            for item, following in zip(bundle, [*bundle[1:], None], strict=True):
                starts, table, ahead = watch.begin(item.split.digest), ahead, None
                # Beside a split that may have killed a worker nothing else is done.
                apart = starts > 1
                if behind and apart:
                    yield _told(behind, watch)
                    behind = None
                lacking = self._lacking(item) if apart else item.banks
                self._advanced = 0
                made: _Made | str | None = None
                if lacking and starts > MOST_STARTS:
                    made = f"the {MOST_STARTS} workers that began it died"
                elif lacking:
                    table = table or reader.submit(self._read, item.split, watch)
                    if following and not apart:
                        ahead = reader.submit(self._read, following.split, watch)
                    made = self._score(replica, item, lacking, table, watch)
                watch.advance(item.split.n_tokens - self._advanced)
                if behind:
                    yield _told(behind, watch)
                behind = writer.submit(self._settle, item, made, watch)
                if apart:
                    yield _told(behind, watch)
                    behind = None
            if behind:
                yield _told(behind, watch)

    def _score(
        self,
        replica: Replica,
        item: Pending,
        banks: tuple[int, ...],
        table: Future[pa.Table],
        watch: Watch,
    ) -> _Made | str:
        """The scores of one split by some banks, or why it could not be scored."""
        try:
            rows = table.result()
            with watch.phase("score", item.split.digest):
                chosen = [self._banks[index] for index in banks]
                scored = score_split(replica, chosen, rows, partial(self._advance, watch))
            return _Made(rows, dict(zip(banks, scored, strict=True)))
        except (StorageError, ConfigError):
            raise
        except Exception as error:
            return _described(error)

    def _settle(
        self, item: Pending, made: _Made | str | None, watch: Watch
    ) -> tuple[Settled, Leaders]:
        """Commit what a split's scores come to, or set it aside; beside the scoring of the next."""
        left_out: dict[int, LeftOut] = {}
        leaders: Leaders = {}
        if isinstance(made, _Made):
            try:
                groups = SplitGroups(made.rows, self.group_by)
                partials = {i: one.partial(groups, self.top) for i, one in made.scored.items()}
            except Exception as error:
                made = _described(error)
            else:
                left_out = self._commit(item, made.scored, partials, watch)
                leaders = self._leaders(partials)
        if isinstance(made, str):
            self._set_aside(item, made, watch)
        reason = made if isinstance(made, str) else None
        return Settled(item.split, reason, left_out), leaders

    def _commit(
        self,
        item: Pending,
        scored: Mapping[int, Scored],
        partials: Mapping[int, Partial],
        watch: Watch,
    ) -> dict[int, LeftOut]:
        """Write the partials of a split by their banks; which sequences they leave out."""
        digest = item.split.digest
        left_out: dict[int, LeftOut] = {}
        with watch.phase("write", digest):
            for index, made in partials.items():
                plan = self.operands[index].plan
                if plan.dense:
                    # Before the partial: where that is, all of the split is.
                    one = scored[index]
                    scores = dense_table(plan.query_digests, one.ids_N, one.scores_NQ)
                    write_table(plan.store, scores_key(digest), scores)
                if made.quarantine:
                    # Before it, too: who comes again finds all of them by their marks.
                    missing = worst(made.quarantine, len(plan.query_digests))
                    note = {"split": item.split.name, "missing": missing}
                    plan.store.write(mark_key(digest, missing), json.dumps(note).encode())
                    left_out[index] = made.quarantine
                write_partial(made, plan.store, partial_key(digest))
        with watch.phase("commit", digest):
            first = next(iter(partials.values()))
            watch.count("rayinfluence_splits", 1)
            watch.count("rayinfluence_sequences", first.n_sequences)
            watch.count("rayinfluence_quarantined", len(first.quarantine), kind="sequence")
        return left_out

    def _leaders(self, partials: Mapping[int, Partial]) -> Leaders:
        """Those of the first method: they are for whoever watches, and not a result."""
        return {
            query: (float(scores[0]), int(ids[0]))
            for index, made in partials.items()
            if self.operands[index].plan.name == self.operands[0].plan.name
            for place, query in enumerate(self.operands[index].plan.query_digests)
            for scores, ids in [made.proponents.of_query(place)]
            if len(scores)
        }

    def _advance(self, watch: Watch, tokens: int) -> None:
        """A split may take an hour, and silence ends a run: each batch is told of."""
        self._advanced += tokens
        watch.advance(tokens)

    def _read(self, split: Split, watch: Watch) -> pa.Table:
        with watch.phase("read", split.digest):
            return read_split(self.corpus, split)

    def _lacking(self, item: Pending) -> tuple[int, ...]:
        key = partial_key(item.split.digest)
        return tuple(i for i in item.banks if not self.operands[i].plan.store.exists(key))

    def _set_aside(self, item: Pending, reason: str, watch: Watch) -> None:
        split = item.split
        note = {"split": split.index, "name": split.name, "digest": split.digest, "reason": reason}
        store = self.operands[item.banks[0]].plan.store
        store.write(aside_key(split.digest), json.dumps(note, indent=1).encode())
        watch.count("rayinfluence_quarantined", 1, kind="split")


def _told(behind: Future[tuple[Settled, Leaders]], watch: Watch) -> Settled:
    """What the writer has done, of which the watch hears in the thread that tells it all else."""
    settled, leaders = behind.result()
    watch.lead(leaders)
    return settled


def _described(error: Exception) -> str:
    return "".join(traceback.format_exception_only(error)).strip()
