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
from rayinfluence.dataflow.compute.quarantine import LeftOut, worst
from rayinfluence.dataflow.compute.replica import Replica
from rayinfluence.dataflow.compute.scoring import score_split
from rayinfluence.dataflow.compute.texts import TextBank
from rayinfluence.dataflow.jobs.banks import BankOperands
from rayinfluence.dataflow.jobs.watch import MOST_STARTS, Watch
from rayinfluence.dataflow.layout import aside_key, mark_key, partial_key
from rayinfluence.errors import ConfigError, StorageError
from rayinfluence.influence.bank import QueryBank
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
    _banks: list[QueryBank | TextBank] = field(default_factory=list)
    #: Tokens of the split under way that the watch was told of.
    _advanced: int = 0

    def prepare(self, replica: Replica) -> None:
        """Put the banks on the device."""
        self._banks = [operands.bank(replica) for operands in self.operands]

    def run(self, replica: Replica, bundle: Sequence[Pending], watch: Watch) -> Iterator[Settled]:
        """Score some splits in order, reading one ahead.

        Splits that an earlier worker committed before it died are passed over.

        Raises:
            StorageError: the storage fails; no split is to blame for that.
        """
        with ThreadPoolExecutor(max_workers=1) as reader:
            ahead: Future[pa.Table] | None = None
            for item, following in zip(bundle, [*bundle[1:], None], strict=True):
                starts, table, ahead = watch.begin(item.split.digest), ahead, None
                lacking = item.banks if starts == 1 else self._lacking(item)
                reason, self._advanced = None, 0
                left_out: dict[int, LeftOut] = {}
                if lacking and starts > MOST_STARTS:
                    reason = f"the {MOST_STARTS} workers that began it died"
                elif lacking:
                    table = table or reader.submit(self._read, item.split, watch)
                    # Beside a split that may have killed a worker no other is read.
                    if following and starts == 1:
                        ahead = reader.submit(self._read, following.split, watch)
                    reason = self._score(replica, item, lacking, table, watch, left_out)
                if reason is not None:
                    self._set_aside(item, reason, watch)
                watch.advance(item.split.n_tokens - self._advanced)
                yield Settled(item.split, reason, left_out)

    def _score(
        self,
        replica: Replica,
        item: Pending,
        banks: tuple[int, ...],
        table: Future[pa.Table],
        watch: Watch,
        left_out: dict[int, LeftOut],
    ) -> str | None:
        """Score and commit one split, and tell ``left_out`` by bank which sequences it left out.

        Returns:
            Why it could not be scored, if it could not.
        """
        digest = item.split.digest
        try:
            rows = table.result()
            with watch.phase("score", digest):
                chosen = [self._banks[index] for index in banks]
                scored = score_split(replica, chosen, rows, partial(self._advance, watch))
                partials = [one.partial(rows, self.top, self.group_by) for one in scored]
        except (StorageError, ConfigError):
            raise
        except Exception as error:
            return "".join(traceback.format_exception_only(error)).strip()
        with watch.phase("write", digest):
            for index, made, one in zip(banks, partials, scored, strict=True):
                plan = self.operands[index].plan
                if plan.dense:
                    # Before the partial: where that is, all of the split is.
                    scores = dense_table(plan.query_digests, one.ids_N, one.scores_NQ)
                    write_table(plan.store, scores_key(digest), scores)
                if made.quarantine:
                    # Before it, too: who comes again finds all of them by their marks.
                    missing = worst(made.quarantine, len(plan.query_digests))
                    note = {"split": item.split.name, "missing": missing}
                    plan.store.write(mark_key(digest, missing), json.dumps(note).encode())
                    left_out[index] = made.quarantine
                made.write(plan.store, partial_key(digest), plan.about(digest))
        with watch.phase("commit", digest):
            watch.count("rayinfluence_splits", 1)
            watch.count("rayinfluence_sequences", partials[0].n_sequences)
            bad = len(partials[0].quarantine)
            watch.count("rayinfluence_quarantined", bad, kind="sequence")
        # Those of the first method: they are for whoever watches, and not a result.
        watch.lead(
            {
                query: (float(scores[0]), int(ids[0]))
                for index, made in zip(banks, partials, strict=True)
                if self.operands[index].plan.method == self.operands[0].plan.method
                for place, query in enumerate(self.operands[index].plan.query_digests)
                for scores, ids in [made.proponents.of_query(place)]
                if len(scores)
            }
        )
        return None

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
