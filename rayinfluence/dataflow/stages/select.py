"""The selecting stage: which sequences of the corpus a scan is of.

It changes no shard: a split with some of its rows is a split of its own, with a digest that covers
which, so that partials of other selections are neither misread nor lost.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from rayinfluence.config import RunConfig
from rayinfluence.config_rows import SampleConfig
from rayinfluence.corpus.conditions import Chosen, Condition, told
from rayinfluence.corpus.corpus import Corpus
from rayinfluence.corpus.splits import Split
from rayinfluence.dataflow import stage_names
from rayinfluence.dataflow.compute.partial import FAN_IN
from rayinfluence.dataflow.jobs.select import ReadChosen, SelectRows
from rayinfluence.dataflow.layout import SELECTED, chosen_key
from rayinfluence.dataflow.runners.base import Runner
from rayinfluence.dataflow.stages.damaged import Discarded
from rayinfluence.dataflow.stages.ensure import Lacking, Place, Stage, ensure
from rayinfluence.dataflow.stages.progress import ProgressLog, StageProgress
from rayinfluence.dataflow.stages.scanned import Ids, union
from rayinfluence.errors import CorpusError
from rayinfluence.influence.ranks import best_share
from rayinfluence.storage.digest import digest
from rayinfluence.storage.store import Store

#: Tokens that are looked at sooner than a process that does it starts.
_FEW_TOKENS = 1 << 22
#: Ids that are named of those that no document has.
_NAMED = 3


@dataclass(frozen=True)
class Selection:
    """The sequences that a scan is of.

    Attributes:
        splits: with these alone; those without any are not among them.
        n_corpus: how many sequences the corpus has.
        left_out: how many, by the key of the configuration that left them out.
        unknown: see :class:`~rayinfluence.corpus.conditions.Chosen`.
        remarks: what to warn of.
    """

    splits: Sequence[Split]
    n_corpus: int
    left_out: dict[str, int] = field(default_factory=dict)
    unknown: dict[str, int] = field(default_factory=dict)
    remarks: list[str] = field(default_factory=list)

    @property
    def n_sequences(self) -> int:
        """How many these are."""
        return sum(split.n_rows for split in self.splits)

    @property
    def n_sampled_from(self) -> int | None:
        """How many there were before a random sample was taken; None without one."""
        left_out = self.left_out.get("corpus.sample")
        return None if left_out is None else self.n_sequences + left_out

    def report(self) -> dict[str, Any]:
        """What the manifest says of it."""
        sampled_from = self.n_sampled_from
        return {
            "corpus_sequences": self.n_corpus,
            "sequences": self.n_sequences,
            "left_out": self.left_out,
            "unknown": self.unknown,
            "sampled_from": sampled_from,
            "best_is_among_top_share": sampled_from and best_share(self.n_sequences, sampled_from),
        }


def narrowed(splits: Sequence[Split], sequence_ids: Ids) -> list[Split]:
    """Splits with those of their sequences that are among some, ascending."""
    return [one for split in splits if (one := split.narrowed(sequence_ids)) is not None]


def sampled(splits: Sequence[Split], n: int, seed: int) -> Ids:
    """The ids of n sequences of some splits, ascending; each set of n is as likely."""
    total = sum(split.n_rows for split in splits)
    generator = np.random.Generator(np.random.Philox(key=seed))
    places = np.sort(generator.choice(total, min(n, total), replace=False, shuffle=False))
    ends = np.cumsum([split.n_rows for split in splits])
    holding = np.searchsorted(ends, places, side="right")
    parts = []
    for place in np.unique(holding).tolist():
        inside = places[holding == place] - (ends[place] - splits[place].n_rows)
        parts.append(splits[place].sequence_ids[inside])
    return union(parts)


def select(
    runner: Runner,
    corpus: Corpus,
    root: Store,
    splits: Sequence[Split],
    conditions: tuple[Condition | None, Condition | None],
    config: RunConfig,
    progress: ProgressLog,
) -> Selection:
    """Find the sequences that the configuration's section of the corpus leaves to be scanned.

    Args:
        runner: where it runs; no model is needed.
        corpus: of the splits.
        root: the run directory.
        splits: of the corpus.
        conditions: ``corpus.select`` and ``corpus.exclude``.
        config: with the sample.
        progress: told of it.

    Raises:
        CorpusError: a shard cannot be read, or nothing is left.
        StorageError: what was chosen again is damaged again.
    """
    found = Selection(splits, corpus.n_sequences)
    if any(conditions):
        found = _by_conditions(runner, corpus, root, splits, conditions, progress)
    if config.corpus.sample is not None:
        found = _sample(found, config.corpus.sample)
    if found.left_out:
        progress.note(
            f"selected     {found.n_sequences:,} of {found.n_corpus:,} sequences; left out: "
            + ", ".join(f"{count:,} by {key}" for key, count in found.left_out.items())
        )
    return found


def _sample(found: Selection, wanted: SampleConfig) -> Selection:
    ids = sampled(found.splits, wanted.sequences, wanted.seed)
    left_out = {**found.left_out, "corpus.sample": found.n_sequences - len(ids)}
    splits = narrowed(found.splits, ids)
    return Selection(splits, found.n_corpus, left_out, found.unknown, found.remarks)


def _by_conditions(
    runner: Runner,
    corpus: Corpus,
    root: Store,
    splits: Sequence[Split],
    conditions: tuple[Condition | None, Condition | None],
    progress: ProgressLog,
) -> Selection:
    parts = [condition and [condition.place, condition.digest] for condition in conditions]
    store = root / SELECTED / digest(parts)
    small = sum(split.n_tokens for split in splits) <= _FEW_TOKENS
    choose = SelectRows(corpus.store, store, *conditions)

    def work(lacking: Sequence[Lacking[Split]], told: StageProgress) -> Iterator[Split]:
        for split in runner.tasks(choose, [one.item for one in lacking], small):
            told.advance(split.n_tokens)
            yield split

    stage = Stage(
        stage_names.SELECT,
        splits,
        lambda split: [Place(store, chosen_key(split.digest))],
        work,
        n_tokens=lambda split: split.n_tokens,
    )
    discarded = Discarded()
    while True:
        ensure(stage, progress)
        chosen, damaged = _read(runner, store, splits, small)
        if not damaged:
            break
        for key in damaged:
            discarded.discard(store, key)
    all_of_them = told(chosen)
    ids = [split.sequence_ids[one.rows_K] for split, one in zip(splits, chosen, strict=True)]
    left = [split.narrowed(of) for split, of in zip(splits, ids, strict=True) if len(of)]
    remarks = _remarks(all_of_them, conditions)
    if not left:
        raise CorpusError(
            f"none of the {corpus.n_sequences:,} sequences of the corpus at {corpus.store.url} is "
            f"left to be scanned: {_left_out(all_of_them, conditions)}"
            + "".join(f" {remark[0].upper()}{remark[1:]}" for remark in remarks)
        )
    return Selection(
        [split for split in left if split is not None],
        corpus.n_sequences,
        {one.place: all_of_them.left_out[one.place] for one in conditions if one},
        {place: n for place, n in all_of_them.unknown.items() if n},
        remarks,
    )


def _read(
    runner: Runner, store: Store, splits: Sequence[Split], small: bool
) -> tuple[list[Chosen], list[str]]:
    digests = [split.digest for split in splits]
    leaves = [digests[start : start + FAN_IN] for start in range(0, len(digests), FAN_IN)]
    chosen: list[Chosen] = []
    damaged: list[str] = []
    for found, bad in runner.tasks(ReadChosen(store), leaves, small):
        chosen += found
        damaged += bad
    return chosen, damaged


def _left_out(found: Chosen, conditions: Sequence[Condition | None]) -> str:
    texts = {one.place: one.text for one in conditions if one is not None}
    said = [
        f"{place} ({' '.join(texts[place].split())}) leaves out {count:,}"
        for place, count in found.left_out.items()
    ]
    return " and ".join(said) + "."


def _remarks(found: Chosen, conditions: Sequence[Condition | None]) -> list[str]:
    said = [
        f"{place}: of {count:,} sequences the condition is neither true nor false, as they lack a "
        "key or have another kind of value there; they are "
        + ("left out." if place == "corpus.select" else "not excluded.")
        for place, count in found.unknown.items()
        if count
    ]
    for (key, kind), (count, shown) in found.others.items():
        said.append(
            f"{key!r} is compared with a {kind}, and is something else in {count:,} sequences, "
            f"such as {shown[:60]!r}."
        )
    for condition in conditions:
        if condition is not None and condition.ids is not None:
            lost = sorted(condition.ids - found.found.get(condition.place, frozenset()))
            if lost:
                said.append(
                    f"{condition.place}: {len(lost):,} of {len(condition.ids):,} ids are of no "
                    f"document of the corpus, such as {', '.join(map(repr, lost[:_NAMED]))}."
                )
    return said
