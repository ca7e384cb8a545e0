"""The scan stage: every split against every bank that lacks it, and merging.

Shards that are added get partials of their own, so all that was computed before stays valid.
"""

from __future__ import annotations

import json
from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass

from rayinfluence.config import ScanConfig
from rayinfluence.corpus.corpus import Corpus
from rayinfluence.corpus.splits import Split
from rayinfluence.dataflow import stage_names
from rayinfluence.dataflow.compute.partial import FAN_IN, MergeTree, Partial
from rayinfluence.dataflow.compute.quarantine import QUARANTINE_LIMIT
from rayinfluence.dataflow.jobs.banks import BankOperands, BankPlan, load_bank
from rayinfluence.dataflow.jobs.partials import read_partial
from rayinfluence.dataflow.jobs.query import MethodOperands
from rayinfluence.dataflow.jobs.scan import Pending, ScanJob, Settled
from rayinfluence.dataflow.jobs.watch import enter_phase
from rayinfluence.dataflow.layout import ASIDE, PARTIALS, SPLITS, aside_key, partial_key
from rayinfluence.dataflow.runners.base import Runner
from rayinfluence.dataflow.stages.damaged import Discarded
from rayinfluence.dataflow.stages.ensure import Lacking, Place, Stage, ensure
from rayinfluence.dataflow.stages.missing import Missing
from rayinfluence.dataflow.stages.progress import ProgressLog, StageProgress
from rayinfluence.errors import DamagedError, StageError
from rayinfluence.storage.store import read_json

#: Queries of banks that are read sooner than a process starts.
_FEW_QUERIES = 64


@dataclass(frozen=True)
class Aside:
    """A split that could not be scored, and why."""

    name: str
    digest: str
    reason: str

    @classmethod
    def of(cls, split: Split, reason: str) -> Aside:
        """Of a split."""
        return cls(split.name, split.digest, reason)


def scan(
    runner: Runner,
    corpus: Corpus,
    splits: Sequence[Split],
    banks: Sequence[BankPlan],
    config: ScanConfig,
    progress: ProgressLog,
    names: Mapping[str, str] | None = None,
    themselves: Sequence[MethodOperands] = (),
) -> tuple[list[tuple[BankOperands, Partial]], list[Aside]]:
    """Score all splits that lack a partial of a bank, and merge the partials of each bank.

    A partial that turns out to be damaged when it is merged is discarded and its split scored
    again. Splits that were set aside by an earlier run are tried again. ``names`` of queries, by
    digest, are for the progress. ``themselves``: methods that read more than banks hold: each
    sequence by itself, or a last layer.

    Returns:
        Per bank, the operands that the second pass needs, and the merged partial; and the splits
        that are missing from them.

    Raises:
        CorpusError: more than 1 % of the sequences have no score for some query.
        StorageError: a partial that was scored again is damaged again.
        StageError: more than 1 % of the splits (and more than 3) could not be scored.
    """
    small = sum(len(bank.query_digests) for bank in banks) <= _FEW_QUERIES
    shared = runner.share(load_bank, banks, small)
    by_themselves = {one.name: one for one in themselves}
    operands = [
        BankOperands(bank, tensors, by_themselves.get(bank.name))
        for bank, tensors in zip(banks, shared, strict=True)
    ]
    top = places(config.top, corpus)
    job = ScanJob(corpus.store, operands, top, tuple(config.grouped_by))
    discarded, sequences = Discarded(), Missing(banks, splits, names or {})
    sequences.refuse_committed()
    for bank in banks:
        bank.store.delete(ASIDE)
    while True:
        aside = _score(runner, job, splits, banks, progress, names or {}, sequences)
        with progress.stage(stage_names.MERGE):
            merged, damaged = [], 0
            for bank in banks:
                # What an earlier run scored with this bank stays in its results.
                there = bank.store.list(PARTIALS) if aside else {}
                missing = {one.digest for one in aside if partial_key(one.digest) not in there}
                partial, bad = merge(runner, bank, splits, missing, top)
                merged.append(partial)
                damaged += len(bad)
                for key in bad:
                    discarded.discard(bank.store, key)
        if not damaged:
            break
        progress.warn(f"{damaged} damaged partials were discarded; their splits are scored again.")
    sequences.refuse_merged(merged)
    return list(zip(operands, merged, strict=True)), aside


def note_splits(
    banks: Sequence[BankPlan], chosen: Sequence[Split], splits: Sequence[Split]
) -> None:
    """Leave with each bank which splits it is scanned with, where that is not the whole corpus."""
    tokens = {split.digest: split.n_tokens for split in chosen}
    for bank in banks:
        if len(chosen) < len(splits) or any(split.chosen is not None for split in chosen):
            bank.store.write(SPLITS, json.dumps(tokens).encode())
        else:
            bank.store.delete(SPLITS)


def places(top: int, corpus: Corpus) -> int:
    """How many survivors of a query and a direction room is made for: each sequence is one."""
    return min(top, corpus.n_sequences)


def _score(
    runner: Runner,
    job: ScanJob,
    splits: Sequence[Split],
    banks: Sequence[BankPlan],
    progress: ProgressLog,
    names: Mapping[str, str],
    sequences: Missing,
) -> list[Aside]:
    """Score splits until each has its partials or is set aside; returns those set aside."""
    aside = {one.digest: one for one in _set_aside(splits, banks)}

    def work(lacking: Sequence[Lacking[Split]], stage: StageProgress) -> Iterator[Settled]:
        pending = [Pending(one.item, one.outcomes) for one in lacking]
        stage.names = names
        for settled in runner.scan(job, pending, stage.advance, stage.lead):
            sequences.settled(settled.left_out)
            if settled.reason is not None:
                aside[settled.split.digest] = Aside.of(settled.split, settled.reason)
                refuse_many_aside(list(aside.values()), len(splits))
            yield settled
        # What a worker noted before it died, and nobody was told of.
        aside.update({one.digest: one for one in _set_aside(splits, banks)})

    refuse_many_aside(list(aside.values()), len(splits))
    ensure(
        Stage(
            stage_names.SCAN,
            splits,
            lambda split: [Place(bank.store, partial_key(split.digest)) for bank in banks],
            work,
            n_tokens=lambda split: split.n_tokens,
            given_up=lambda split: split.digest in aside,
        ),
        progress,
    )
    return list(aside.values())


def _set_aside(splits: Sequence[Split], banks: Sequence[BankPlan]) -> list[Aside]:
    """Splits that this command has set aside before."""
    notes = {key: bank.store for bank in banks for key in bank.store.list(ASIDE)}
    return [
        Aside.of(split, str(read_json(notes[key], key)["reason"]))
        for split in splits
        if (key := aside_key(split.digest)) in notes
    ]


def refuse_many_aside(aside: Sequence[Aside], n_splits: int) -> None:
    """End the stage when more splits failed than single ones can account for.

    Raises:
        StageError: with the first reason as an example.
    """
    if len(aside) > max(3, QUARANTINE_LIMIT * n_splits):
        raise StageError(
            f"{len(aside)} of {n_splits} splits could not be scored; the first is {aside[0].name}: "
            f"{aside[0].reason}. Put it right and run the same command again: what is scored is "
            "kept."
        )


def merge(
    runner: Runner, bank: BankPlan, splits: Sequence[Split], missing: AbstractSet[str], top: int
) -> tuple[Partial, list[str]]:
    """Merge a bank's partials in one fixed tree of fan-in 64 over the splits.

    Splits that are missing count as the identity. No more than 64 merged partials of a level exist
    at a time.

    Returns:
        The merged partial, and the keys of partials that are damaged (left out of it).
    """
    leaves = [
        (bank, tuple(s.digest for s in splits[i : i + FAN_IN] if s.digest not in missing), top)
        for i in range(0, len(splits), FAN_IN)
    ]
    tree = MergeTree()
    damaged: list[str] = []
    for partial, bad in runner.tasks(merge_leaf, leaves, small=len(leaves) == 1):
        tree.add(partial)
        damaged += bad
    return tree.total(), damaged


def merge_leaf(item: tuple[BankPlan, tuple[str, ...], int]) -> tuple[Partial, list[str]]:
    """Read and merge the partials of neighbouring splits, given by their digests."""
    bank, digests, top = item
    enter_phase("merge", digests[0] if digests else "")
    merged = Partial.empty(len(bank.query_digests), top)
    damaged = []
    for split in digests:
        try:
            merged = merged.merge(read_partial(bank.store, partial_key(split)))
        except DamagedError:
            damaged.append(partial_key(split))
    return merged, damaged


def by_split(
    splits: Sequence[Split], sequence_ids: Sequence[int]
) -> list[tuple[Split, tuple[int, ...]]]:
    """The splits that hold some sequences, each with the ids of those, ascending."""
    starts = [split.first_sequence_id for split in splits]
    members: dict[int, list[int]] = {}
    for sequence_id in sorted(sequence_ids):
        members.setdefault(bisect_right(starts, sequence_id) - 1, []).append(sequence_id)
    return [(splits[place], tuple(ids)) for place, ids in members.items()]
