"""How queries are refined: by which solver, and on which sample of the corpus.

The sample that G is a mean over is drawn once, from the shards that the factors were fitted on: so
shards that are added later change no query.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from rayinfluence.config_solver import SolverConfig
from rayinfluence.corpus.corpus import Corpus
from rayinfluence.corpus.shards import ROWS_PER_SHARD
from rayinfluence.corpus.splits import Split
from rayinfluence.curvature.iterative.solvers import IterativeSolver
from rayinfluence.dataflow.jobs.sample_rows import SampleRows
from rayinfluence.dataflow.layout import sample_key
from rayinfluence.dataflow.stages.scan import by_split
from rayinfluence.dataflow.stages.scanned import Ids
from rayinfluence.dataflow.stages.select import sampled
from rayinfluence.errors import CorpusError
from rayinfluence.storage.digest import digest_bytes

#: Rows of a piece of the sample.
_PIECE_ROWS = 512
#: Raised whenever the same sample would give other bits.
_VERSION = 1
#: The sample is drawn by a stream of its own, beside those of the fit's.
_STREAM = 2


def solver_of(ours: SolverConfig) -> IterativeSolver:
    """The solver that a configuration names, with its settings."""
    return IterativeSolver(ours.name, ours.most_steps, ours.tolerance, ours.scale, ours.repeats)


@dataclass(frozen=True)
class Refinement:
    """How queries are refined, and on which sample.

    Attributes:
        settings: of the solver.
        ids: of the sample's sequences, ascending.
        splits: of the corpus, which hold them.
        n_tokens: of the sample, about.
        n_shards: that it was drawn from.
        drawn_from: fingerprint of those.
        key: of the settings, in the section of the scan.
    """

    settings: SolverConfig
    ids: Ids
    splits: Sequence[Split]
    n_tokens: int
    n_shards: int
    drawn_from: str
    key: str = "solver"

    @classmethod
    def plan(
        cls,
        settings: SolverConfig,
        corpus: Corpus,
        splits: Sequence[Split],
        n_shards: int,
        bad: Collection[int],
        seed: int,
        key: str = "solver",
    ) -> Refinement:
        """Draw the sample: sequences at random, each as likely as any other.

        Args:
            settings: of the solver.
            corpus: of the splits.
            splits: of the corpus, in their order.
            n_shards: the first ones, which factors were fitted on.
            bad: ids of sequences that the model cannot be scored on.
            seed: of the run.
            key: of the settings, in the section of the scan.

        Raises:
            CorpusError: none that was drawn can be used.
        """
        ours = [one for one in splits if one.first_sequence_id < n_shards * ROWS_PER_SHARD]
        ids = sampled(ours, settings.sequences, seed + _STREAM)
        ids = ids[~np.isin(ids, np.fromiter(bad, np.int64, len(bad)))]
        if not len(ids):
            raise CorpusError(
                f"scan.{key}.sequences: {settings.sequences:,}, and the model cannot be scored on "
                "any that were drawn. Take more."
            )
        rows = sum(one.n_rows for one in ours)
        n_tokens = sum(one.n_tokens for one in ours) * len(ids) // rows
        fingerprint = corpus.prefix_fingerprint(n_shards)
        return cls(settings, ids, splits, n_tokens, n_shards, fingerprint, key)

    @property
    def parts(self) -> dict[str, Any]:
        """What of it decides a query's bytes."""
        settings = self.settings.model_dump(exclude={"steps", "sequences"})
        return {
            **settings,
            "steps": self.settings.most_steps,
            "sequences": len(self.ids),
            "drawn_from": self.drawn_from,
            "sample": digest_bytes(self.ids.tobytes()),
            "version": _VERSION,
        }

    @property
    def solver(self) -> IterativeSolver:
        """With its settings."""
        return solver_of(self.settings)

    def pieces(self) -> list[SampleRows]:
        """Of the sample, where workers read all of it."""
        starts = range(0, len(self.ids), _PIECE_ROWS)
        return [
            SampleRows(
                sample_key(number),
                tuple(by_split(self.splits, self.ids[start : start + _PIECE_ROWS].tolist())),
            )
            for number, start in enumerate(starts)
        ]
