"""Corpora whose samples err much: documents of one subject each, of very unequal lengths.

Rows of a document stand together, so a row group has one or few subjects; subjects, tokens and
lengths have heavy tails; and the model's answer to a token may be a hundred times that to another.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

import numpy as np
import pyarrow as pa
import torch
from cases import Case
from harness import fit_factors, plan_factors
from torch import Tensor

from rayinfluence.corpus.splits import read_rows
from rayinfluence.dataflow.compute.replica import Numerics, Replica
from rayinfluence.dataflow.jobs.fold import Lane
from rayinfluence.dataflow.jobs.handles import Deferred, read_stored
from rayinfluence.dataflow.jobs.held_out import HeldOutJob, held_out_rows, read_held_out
from rayinfluence.dataflow.jobs.watch import LocalWatch
from rayinfluence.dataflow.stages.factors import Factors
from rayinfluence.dataflow.stages.sample import Piece
from rayinfluence.model.modules import track
from rayinfluence.testing.models import CONTEXT, VOCABULARY

#: Rows of the longest document.
LONGEST = 96


@dataclass(frozen=True)
class Kind:
    """A distribution of documents.

    Attributes:
        name: in tables.
        subjects: distributions of tokens, which documents have one of.
        tail: of how often a subject is met: the k-th most frequent as k to the power of -tail.
        tokens: concentration of a subject's tokens: the smaller, the fewer of them it has.
    """

    name: str
    subjects: int
    tail: float
    tokens: float

    def weights(self) -> tuple[np.ndarray, np.ndarray]:
        """How often each subject is met [S], and its tokens [S, V]."""
        generator = np.random.default_rng(self.subjects)
        frequency = np.arange(1, self.subjects + 1) ** -self.tail
        # Of all tokens some are rare everywhere.
        base = self.tokens * VOCABULARY * np.arange(1, VOCABULARY + 1) ** -1.0
        tokens = generator.dirichlet(base / base.sum() * self.tokens * VOCABULARY, self.subjects)
        return frequency / frequency.sum(), tokens


KINDS = (Kind("two kinds", 2, 3.0, 0.05), Kind("subjects", 60, 1.1, 0.1))


def documents(kind: Kind, seed: int) -> Iterator[np.ndarray]:
    """Rows of endless documents, one after another."""
    generator = np.random.default_rng([seed, kind.subjects])
    frequency, tokens = kind.weights()
    while True:
        subject = generator.choice(kind.subjects, p=frequency)
        for _ in range(min(LONGEST, int(1 + 2 * generator.pareto(1.2)))):
            length = min(CONTEXT, int(2 + 2 * generator.pareto(1.0)))
            yield generator.choice(VOCABULARY, length, p=tokens[subject])


def rows(kind: Kind, seed: int, count: int) -> list[np.ndarray]:
    """The first rows of a corpus."""
    made = documents(kind, seed)
    return [next(made) for _ in range(count)]


def loud_replica(case: Case, batch_tokens: int = 4000) -> Replica:
    """A model whose tokens' embeddings have very unequal sizes, in float64."""
    model = case.model()
    generator = torch.Generator().manual_seed(1)
    embedding = next(m for m in model.modules() if isinstance(m, torch.nn.Embedding))
    size = torch.randn(VOCABULARY, 1, generator=generator, dtype=torch.float64).mul(0.8).exp()
    embedding.weight.data.mul_(size)
    numerics = Numerics("float64", "cpu", batch_tokens, 2**17, "eager", 3)
    return Replica(model, track(model, case.patterns), numerics)


@dataclass(frozen=True)
class Fitted:
    """A fit that was tested: what it states, and scores of its held-out set by its last factors."""

    factors: Factors
    held_out: pa.Table
    scores: Tensor

    @property
    def stated(self) -> float:
        """The upper limit of the error of its scores."""
        assert self.factors.error is not None
        return self.factors.error

    def true_error(self, replica: Replica, truth: Factors) -> float:
        """How far its scores are from those by other factors."""
        wanted = held_out_scores(replica, truth, self.held_out)
        return float((self.scores - wanted).norm() / wanted.norm())


def fitted(replica: Replica, sequences: list[np.ndarray], folder: Path, **more: object) -> Fitted:
    """A fit whose rounds are tested; more as for :func:`harness.plan_factors`."""
    corpus, plan = plan_factors(replica, sequences, folder, **more)
    factors = fit_factors(replica, sequences, folder, **more)
    rows = held_out_rows(read_rows(corpus.store, split, ids) for split, ids in plan.held_out_rows())
    key = Piece(len(factors.manifest["rounds"]) - 1).held_out_key
    tested = read_held_out(factors.store, key)
    assert tested is not None
    return Fitted(factors, rows, tested.scores)


def held_out_scores(replica: Replica, factors: Factors, rows: pa.Table) -> Tensor:
    """Scores of a held-out set by any factors."""
    (kept,) = {key.split("/")[1] for key in factors.store.list("moments")}
    lanes = tuple(
        Lane(key, (), "", modules=tuple(replica.modules))
        for key in factors.store.list(f"moments/{kept}")
    )
    counts = {"n_sequences": factors.n_sequences, "n_tokens": factors.n_tokens}
    bases = {place: Deferred(read_stored, stored) for place, stored in factors.parts().items()}
    job = HeldOutJob(factors.store, lanes, rows, bases, counts, alone=True)
    watch = LocalWatch(lambda tokens: None)
    return job.run(replica, f"held-out-{uuid4().hex}.safetensors", watch).scores


def large_sample(replica: Replica, kind: Kind, folder: Path, count: int) -> Factors:
    """Factors of many documents, which those of few are compared with."""
    many = rows(kind, 10**6, count)
    return fit_factors(replica, many, folder, lanes=1, row_group_tokens=4000)
