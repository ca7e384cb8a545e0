"""The fit's sample: which splits, dealt into lanes, the sizes at which it is tested, and by what.

Some of its rows are held out of the sums: the held-out set, which the factors have not seen.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from rayinfluence.config import FitConfig
from rayinfluence.corpus.corpus import Corpus
from rayinfluence.corpus.shards import ROWS_PER_SHARD
from rayinfluence.corpus.splits import Split
from rayinfluence.dataflow import layout, stage_names
from rayinfluence.dataflow.compute.module_groups import module_groups
from rayinfluence.dataflow.compute.replica import Numerics
from rayinfluence.dataflow.compute.stopping import RULE
from rayinfluence.dataflow.jobs.fold import Lane
from rayinfluence.methods.method import FactorKind
from rayinfluence.model.modules import ModuleShape
from rayinfluence.storage.digest import digest

#: A lane gets at least this many splits where the corpus has enough row groups, so that the sample
#: can double five times.
_SPLITS_PER_LANE = 32
#: The limit of the error at n sequences, times sqrt(n), is no less than this: the lowest of 60 fits
#: of 768 was 30 %.
_LOWEST_LIMIT = 8.0
#: The rule stops no fit before its third size.
_LEAST_ROUNDS = 3
#: Rows of the held-out set at most, and the most of a small sample that they may be.
_HELD_OUT = 40
_HELD_OUT_SHARE = 1 / 10


@dataclass(frozen=True)
class Piece:
    """Sequences that have factors of their own: a round's sample, or what is new in it, alone."""

    number: int
    alone: bool = False

    @property
    def name(self) -> str:
        """The folder of its bases and moments."""
        return layout.piece_name(self.number, self.alone)

    @property
    def held_out_key(self) -> str:
        """Where the scores of the held-out set with its factors are."""
        return layout.held_out_key(self.number, self.alone)


@dataclass(frozen=True)
class FitPlan:
    """What the factors will be made of.

    Attributes:
        parts: everything that decides their bytes.
        sample: splits in random order, so that its beginning is a sample too; split i belongs to
            lane i mod L.
        rounds: how many of them the sample holds when it is tested; the last is all.
        n_lanes: L.
        held_out: ids of the sequences of the held-out set, ascending; lanes leave them out. There
            are none where the fit is not tested.
        groups: modules that are fitted together, in a pass of their own.
        is_all: whether the sample is all of the corpus.
    """

    parts: dict[str, Any]
    sample: tuple[Split, ...]
    rounds: tuple[int, ...]
    n_lanes: int
    held_out: tuple[int, ...] = ()
    groups: tuple[tuple[str, ...], ...] = ((),)
    is_all: bool = False

    @property
    def fingerprint(self) -> str:
        """The name of the factors."""
        return digest(self.parts)

    @property
    def kind(self) -> str:
        """Of the factors: ``ekfac``, or ``diagonal``, whose bases are identities."""
        return layout.factor_kind(self.parts)

    @property
    def n_tokens(self) -> int:
        """Tokens of the whole sample."""
        return sum(split.n_tokens for split in self.sample)

    @property
    def n_sequences(self) -> int:
        """Rows of the whole sample, bad ones included."""
        return sum(split.n_rows for split in self.sample)

    def pieces(self, number: int) -> list[Piece]:
        """What is fitted in a round, in this order: what is new in it, then all of its sample."""
        return [Piece(number, alone=True)] * (number > 0) + [Piece(number)]

    def covariance_lanes(self, piece: Piece) -> list[Lane]:
        """What a piece's covariances are the sum of.

        Covariances are added to those of earlier rounds, so a round folds what is new in it.
        """
        first = piece.number if piece.alone else 0
        return [lane for n in range(first, piece.number + 1) for lane in self.new_lanes(n)]

    def new_lanes(self, number: int) -> list[Lane]:
        """The lanes of covariances that a round folds."""
        new = range(self._begin(number), self.rounds[number])
        return list(self._deal(stage_names.COVARIANCE, Piece(number), new))

    def moment_lanes(self, piece: Piece) -> list[Lane]:
        """The lanes of a piece's moments: they depend on its bases, so it folds all of them."""
        begin = self._begin(piece.number) if piece.alone else 0
        return list(self._deal(stage_names.MOMENTS, piece, range(begin, self.rounds[piece.number])))

    def held_out_rows(self) -> list[tuple[Split, list[int]]]:
        """The splits that hold rows of the held-out set, and which, in the order of their ids."""
        held = [(split, _inside(self.held_out, split)) for split in self.sample]
        return sorted(((s, ids) for s, ids in held if ids), key=lambda pair: pair[1])

    def _begin(self, number: int) -> int:
        return self.rounds[number - 1] if number else 0

    def _deal(self, stage: str, piece: Piece, places: range) -> Iterator[Lane]:
        dealt: dict[int, list[Split]] = {}  # only lanes that get some, of however many
        for place in places:
            dealt.setdefault(place % self.n_lanes, []).append(self.sample[place])
        for number, modules in enumerate(self.groups):
            group = number if len(self.groups) > 1 else None
            for index, splits in sorted(dealt.items()):
                held = tuple(i for split in splits for i in _inside(self.held_out, split))
                content = digest([[split.digest for split in splits], list(held)])
                key = layout.lane_key(stage, piece.name, layout.lane_name(index, group))
                yield Lane(key, tuple(splits), content, held, modules)


def plan_fit(
    config: FitConfig,
    corpus: Corpus,
    n_shards: int,
    numerics: Numerics,
    model_digest: str,
    shapes: Mapping[str, ModuleShape],
    kind: FactorKind = "ekfac",
) -> FitPlan:
    """Choose a sample of the corpus's first shards, for factors of a kind.

    Whole splits are taken, spread evenly over the shards, until they hold ``config.sequences``.
    """
    if kind == "diagonal":  # which has no bases that could be cut
        config = config.model_copy(update={"blocks": 1})
    groups = [group for s in corpus.manifest.shards[:n_shards] for group in s.row_groups]
    n_rows = sum(group.n_rows for group in groups)
    share = min(1.0, config.sequences / max(1, n_rows))
    sample_tokens = int(share * sum(group.n_tokens for group in groups))
    wanted = max(1, sample_tokens // (_SPLITS_PER_LANE * config.lanes))
    splits = [
        split
        for split in corpus.plan(min(wanted, numerics.split_tokens))
        if split.first_sequence_id < n_shards * ROWS_PER_SHARD
    ]
    spread = _spread(splits, config.sequences)
    order = np.random.Generator(np.random.Philox(key=numerics.seed)).permutation(len(spread))
    sample = tuple(spread[i] for i in order)
    rounds, held_out = _tested(sample, config, numerics.seed)
    parts = {
        "model": model_digest,
        "modules": [[s.name, s.d_in, s.d_out, s.bias, s.source] for s in shapes.values()],
        "corpus": corpus.prefix_fingerprint(n_shards),
        "n_shards": n_shards,
        "fit": config.model_dump(),
        "numerics": {
            key: value
            for key, value in asdict(numerics).items()
            if key not in ("device", "split_tokens")
        },
        "sample": digest([split.digest for split in sample]),
        "stopping": {"rule": RULE, "held_out": digest(list(held_out))},
    }
    if kind != "ekfac":
        parts["kind"] = kind
    if numerics.is_per_token:  # there were factors without
        parts["weights"] = "roots"
    if diagonal := {name: s.diagonal for name, s in shapes.items() if s.diagonal}:
        parts["diagonal"] = diagonal
    together = module_groups(shapes, numerics.device)
    if len(together) > 1:
        # A sequence without a finite gradient in one of them stays in the others.
        parts["groups"] = [list(names) for names in together]
    is_all = sum(split.n_rows for split in sample) == corpus.n_sequences
    return FitPlan(parts, sample, rounds, config.lanes, held_out, together, is_all)


def _tested(
    sample: Sequence[Split], config: FitConfig, seed: int
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Sizes of the sample at which it is tested, and the sequences that it is tested with.

    Halves of halves, down to one split a lane, or to a size whose limit is never below the bound,
    as long as all that is fitted has a sequence that is not held out. What would not be stopped
    before its end is not tested, and nothing is held out of it: tests take more than the fit.
    """
    rounds, bound = [len(sample)], config.error_bound
    rows = np.cumsum([split.n_rows for split in sample])
    while (
        bound is not None
        and rounds[0] // 2 >= config.lanes > 1
        and bound * rows[rounds[0] // 2 - 1] ** 0.5 >= _LOWEST_LIMIT
    ):
        rounds.insert(0, rounds[0] // 2)
    if len(rounds) < _LEAST_ROUNDS:
        return (len(sample),), ()
    held_out = _held_out(sample, seed)
    left = [split.n_rows - len(_inside(held_out, split)) for split in sample]
    while len(rounds) > 1 and not (sum(left[: rounds[0]]) and sum(left[rounds[0] : rounds[1]])):
        del rounds[0]
    if len(rounds) == 1 or not held_out:
        return (len(sample),), ()
    return tuple(rounds), held_out


def _held_out(sample: Sequence[Split], seed: int) -> tuple[int, ...]:
    """Rows of the held-out set: one of each of as many equal stretches of the sample, at random.

    At random, as the documents of a corpus may take turns with a period of their own.
    """
    splits = sorted(sample, key=lambda split: split.first_sequence_id)
    ends = np.cumsum([split.n_rows for split in splits])
    total = sum(split.n_rows for split in splits)
    count = min(_HELD_OUT, int(_HELD_OUT_SHARE * total))
    if count < 2:
        return ()
    edges = np.arange(count + 1) * total // count
    rows = np.random.Generator(np.random.Philox(key=seed + 1)).integers(edges[:-1], edges[1:])
    chosen = np.searchsorted(ends, rows, side="right")
    return tuple(
        splits[place].first_sequence_id + splits[place].n_rows + int(row) - int(ends[place])
        for place, row in zip(chosen.tolist(), rows.tolist(), strict=True)
    )


def _inside(sequence_ids: Sequence[int], split: Split) -> list[int]:
    """Those of some ascending ids that are in a split."""
    first = split.first_sequence_id
    begin, end = np.searchsorted(sequence_ids, [first, first + split.n_rows])
    return list(sequence_ids[begin:end])


def _spread(splits: Sequence[Split], n_sequences: int) -> list[Split]:
    """Splits at even distances, as few as hold this many sequences together, or all of them."""
    total = sum(split.n_rows for split in splits)
    count = min(len(splits), max(1, len(splits) * n_sequences // max(1, total)))
    while True:
        chosen = [splits[int((index + 0.5) * len(splits) / count)] for index in range(count)]
        if count == len(splits) or sum(split.n_rows for split in chosen) >= n_sequences:
            return chosen
        count += 1
