"""rayinfluence: the stage functions that every actor runs, on tables in memory."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent / "numerics"))
sys.path.insert(0, str(Path(__file__).parent.parent))

import tempfile

import torch
from contenders import BATCH_TOKENS, RANK, TOP
from harness import encoded, fit_factors, make_bank, table
from shapes import MLP_PATTERNS, Shape

from rayinfluence.dataflow.folding import Bases, fitting_labels, fold_covariance, fold_moments
from rayinfluence.dataflow.replica import Numerics, Replica
from rayinfluence.dataflow.stages import explain, score_split
from rayinfluence.model.modules import track


class Ours:
    """The three passes, and the explanation of survivors."""

    def __init__(self, shape: Shape) -> None:
        model = shape.build()
        dtype = str(shape.dtype).removeprefix("torch.")
        numerics = Numerics(dtype, shape.device, BATCH_TOKENS, 2**21, "sdpa", 0)
        self.shape = shape
        self.replica = Replica(model, track(model, MLP_PATTERNS), numerics)
        self.sequences = shape.sequences()
        self.table = table(self.sequences)
        self.mixed = table(shape.mixed_sequences())
        self.folder = tempfile.TemporaryDirectory()
        self.stages = (
            "covariance",
            "lambda",
            *(f"scan-{n}" for n in shape.queries),
            f"mixed-{shape.queries[0]}",
            f"explain-{shape.queries[0]}",
        )
        self.factors = None
        self.banks = {}
        self.bases = None

    def prepare(self, stage: str) -> None:
        """Factors from a few sequences, bases, banks."""
        if stage == "covariance":
            return
        if self.factors is None:
            path = Path(self.folder.name)
            self.factors = fit_factors(self.replica, self.sequences[:32], path, lanes=1)
            self.bases = Bases.on(self.replica, self.factors.tensors())
        kind, _, n = stage.partition("-")
        if kind in ("scan", "mixed", "explain") and n not in self.banks:
            queries = [encoded(tokens) for tokens in self.shape.query_sequences(int(n))]
            path = Path(self.folder.name)
            self.banks[n] = make_bank(self.replica, self.factors, queries, path, rank=RANK)
        if kind == "explain":
            (partial,) = score_split(self.replica, [self.banks[n]], self.table, TOP, [])
            self.pairs = [
                (query, int(sequence_id))
                for query in range(int(n))
                for side in (partial.proponents, partial.opponents)
                for sequence_id in side.of_query(query)[1]
            ]

    def run(self, stage: str) -> None:
        """One stage over all sequences."""
        labels, kind = fitting_labels("sampled", 0), stage.partition("-")
        if stage == "covariance":
            fold_covariance(self.replica, lambda: [self.table], labels, 1, _ignore)
        elif stage == "lambda":
            fold_moments(self.replica, lambda: [self.table], labels, self.bases, _ignore)
        elif kind[0] == "scan":
            score_split(self.replica, [self.banks[kind[2]]], self.table, TOP, [])
        elif kind[0] == "mixed":
            score_split(self.replica, [self.banks[kind[2]]], self.mixed, TOP, [])
        else:
            explain(self.replica, self.banks[kind[2]], self.table, self.pairs)


def _ignore(n_tokens: int) -> None:
    pass


torch.set_num_threads(1)
