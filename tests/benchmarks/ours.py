"""rayinfluence: the stage functions that every actor runs, on tables in memory."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent / "numerics"))
sys.path.insert(0, str(Path(__file__).parent.parent))

import tempfile

import pyarrow as pa
import torch
from contenders import BATCH_TOKENS, RANK, TOP
from harness import encoded, fit_factors, make_bank, operands, table
from shapes import MLP_PATTERNS, Shape

from rayinfluence.corpus.queries import EncodedQuery
from rayinfluence.dataflow.folding import (
    Bases,
    LaneRows,
    fitting_labels,
    fold_covariance,
    fold_moments,
)
from rayinfluence.dataflow.memory import prepare_process
from rayinfluence.dataflow.partial import Partial
from rayinfluence.dataflow.replica import Numerics, Replica
from rayinfluence.dataflow.stages import explain, query_gradient, score_split, whole_gradient
from rayinfluence.model.modules import track


class Ours:
    """The three passes, and the explanation of survivors."""

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
            path = Path(self.folder.name)
            queries = self.queries(int(n))
            self.banks[n] = make_bank(self.replica, self.factors, queries, path, rank=RANK)
        if kind == "explain":
            partial = self.score(n, self.table)
            operator = operands(self.factors, Path(self.folder.name)).preconditioner(self.replica)
            self.asked = [
                (operator, query, self.table.take(pa.array(partial.survivors(place))))
                for place, query in enumerate(self.queries(int(n)))
            ]

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
            for operator, query, rows in self.asked:
                found = query_gradient(self.replica, query)
                explain(self.replica, whole_gradient(self.replica, operator, found), None, rows)

    def queries(self, n: int) -> list[EncodedQuery]:
        """The first queries of the shape."""
        return [encoded(tokens) for tokens in self.shape.query_sequences(n)]

    def score(self, n: str, rows: pa.Table) -> Partial:
        """A split's partial."""
        (scored,) = score_split(self.replica, [self.banks[n]], rows)
        return scored.partial(rows, TOP, [])


torch.set_num_threads(1)
