"""rayinfluence: the stage functions that every actor runs, on tables in memory."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent / "numerics"))
sys.path.insert(0, str(Path(__file__).parent.parent))

import tempfile

import numpy as np
import pyarrow as pa
import torch
from contenders import BATCH_TOKENS, RANK, TOP
from harness import basis_tensors, encoded, fit_factors, make_bank, operands, table
from shapes import MLP_PATTERNS, Shape

from rayinfluence.corpus.queries import EncodedQuery
from rayinfluence.curvature.solver import Solver
from rayinfluence.dataflow.compute.folding import (
    Bases,
    LaneRows,
    fitting_labels,
    fold_covariance,
    fold_moments,
)
from rayinfluence.dataflow.compute.grouping import SplitGroups
from rayinfluence.dataflow.compute.partial import Partial
from rayinfluence.dataflow.compute.replica import Numerics, Replica
from rayinfluence.dataflow.compute.rescoring import Asked, rescore, whole_banks
from rayinfluence.dataflow.compute.scoring import score_split
from rayinfluence.dataflow.runners.memory import prepare_process
from rayinfluence.dataflow.stages.second_pass import queries_at_once
from rayinfluence.model.modules import track


class Ours:
    """The three passes, and the second one over survivors."""

    def __init__(self, shape: Shape) -> None:
        prepare_process()
        model = shape.build()
        dtype = str(shape.dtype).removeprefix("torch.")
        numerics = Numerics(dtype, shape.device, BATCH_TOKENS[shape.device], 2**21, "sdpa", 0)
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
            f"rescore-{shape.queries[0]}",
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
            self.bases = Bases.on(self.replica, basis_tensors(self.factors))
        kind, _, n = stage.partition("-")
        if kind in ("scan", "mixed", "rescore") and n not in self.banks:
            path = Path(self.folder.name)
            queries = self.queries(int(n))
            self.banks[n] = make_bank(self.replica, self.factors, queries, path, rank=RANK)
        if kind == "rescore":
            partial = self.score(n, self.table)
            of_module = operands(self.factors, Path(self.folder.name)).solver
            self.again = functools.partial(of_module, self.replica), self.queries(int(n)), partial

    def run(self, stage: str) -> None:
        """One stage over all sequences."""
        rows = LaneRows(lambda start: [self.table], fitting_labels("sampled", 0))
        kind = stage.partition("-")
        if stage == "covariance":
            fold_covariance(self.replica, rows, 1)
        elif stage == "lambda":
            fold_moments(self.replica, rows, self.bases)
        elif kind[0] == "scan":
            self.score(kind[2], self.table)
        elif kind[0] == "mixed":
            self.score(kind[2], self.mixed)
        else:
            second_pass(self.replica, *self.again, self.table)

    def queries(self, n: int) -> list[EncodedQuery]:
        """The first queries of the shape."""
        return [encoded(tokens) for tokens in self.shape.query_sequences(n)]

    def score(self, n: str, rows: pa.Table) -> Partial:
        """A split's partial."""
        (scored,) = score_split(self.replica, [self.banks[n]], rows)
        return scored.partial(SplitGroups(rows), TOP)


def second_pass(
    replica: Replica,
    solvers: Callable[[str], Solver],
    queries: list[EncodedQuery],
    partial: Partial,
    rows: pa.Table,
) -> None:
    """All survivors again at full rank, by layer and by token, in blocks of queries."""
    size = queries_at_once(replica.shapes, replica.numerics.device, 1)
    for start in range(0, len(queries), size):
        block = queries[start : start + size]
        survivors = [partial.survivors(start + place) for place in range(len(block))]
        ids = np.unique(np.concatenate(survivors))
        wanted_NQ = np.stack([np.isin(ids, of) for of in survivors], axis=1)
        (whole,) = whole_banks(replica, [solvers], block, [False])
        rescore(replica, [Asked(whole, None, wanted_NQ, wanted_NQ)], rows.take(pa.array(ids)))


torch.set_num_threads(1)
