"""The fit's sample: which splits, dealt into lanes, and the sizes at which it is tested."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from rayinfluence.config import FitConfig
from rayinfluence.corpus.corpus import Corpus
from rayinfluence.corpus.shards import ROWS_PER_SHARD
from rayinfluence.corpus.splits import Split
from rayinfluence.dataflow.compute.replica import Numerics
from rayinfluence.dataflow.jobs.fold import Lane
from rayinfluence.model.modules import ModuleShape
from rayinfluence.storage.digest import digest

#: A lane gets at least this many splits where the corpus has enough row groups, so that the sample
#: can double five times.
_SPLITS_PER_LANE = 32


@dataclass(frozen=True)
class FitPlan:
    """What the factors will be made of.

    Attributes:
        parts: everything that decides their bytes.
        sample: splits in random order, so that its beginning is a sample too; split i belongs to
            lane i mod L.
        rounds: how many of them the sample holds when it is tested; the last is all.
        n_lanes: L.
    """

    parts: dict[str, Any]
    sample: tuple[Split, ...]
    rounds: tuple[int, ...]
    n_lanes: int

    @property
    def fingerprint(self) -> str:
        """The name of the factors."""
        return digest(self.parts)

    @property
    def n_tokens(self) -> int:
        """Tokens of the whole sample."""
        return sum(split.n_tokens for split in self.sample)

    @property
    def n_sequences(self) -> int:
        """Rows of the whole sample, bad ones included."""
        return sum(split.n_rows for split in self.sample)

    def lanes(self, kind: str, number: int) -> list[Lane]:
        """The lanes of a round.

        Covariances are added to those of earlier rounds, so a round folds what is new in it;
        moments depend on the round's bases, so it folds all.
        """
        start = self.rounds[number - 1] if kind == "covariance" and number else 0
        return list(self._deal(kind, number, range(start, self.rounds[number])))

    def covariance_lanes(self, number: int) -> list[Lane]:
        """What a round's covariances are the sum of: its own lanes and those of earlier rounds."""
        return [lane for n in range(number + 1) for lane in self.lanes("covariance", n)]

    def _deal(self, kind: str, number: int, places: range) -> Iterator[Lane]:
        for index in range(self.n_lanes):
            splits = tuple(self.sample[i] for i in places if i % self.n_lanes == index)
            if splits:
                key = f"{kind}/round-{number}/lane-{index:03d}.safetensors"
                yield Lane(key, splits, digest([split.digest for split in splits]))


def plan_fit(
    config: FitConfig,
    corpus: Corpus,
    n_shards: int,
    numerics: Numerics,
    model_digest: str,
    shapes: Mapping[str, ModuleShape],
) -> FitPlan:
    """Choose a sample of the corpus's first shards.

    Whole splits are taken, spread evenly over the shards, until they hold ``config.sequences``.
    """
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
    }
    return FitPlan(parts, sample, _rounds(len(sample), config), config.lanes)


def _rounds(n_splits: int, config: FitConfig) -> tuple[int, ...]:
    """Sizes of the sample at which it is tested: halves of halves, down to one split a lane."""
    rounds = [n_splits]
    while config.error_bound is not None and rounds[0] // 2 >= config.lanes > 1:
        rounds.insert(0, rounds[0] // 2)
    return tuple(rounds)


def _spread(splits: Sequence[Split], n_sequences: int) -> list[Split]:
    """Splits at even distances, as few as hold this many sequences together, or all of them."""
    total = sum(split.n_rows for split in splits)
    count = min(len(splits), max(1, len(splits) * n_sequences // max(1, total)))
    while True:
        chosen = [splits[int((index + 0.5) * len(splits) / count)] for index in range(count)]
        if count == len(splits) or sum(split.n_rows for split in chosen) >= n_sequences:
            return chosen
        count += 1
