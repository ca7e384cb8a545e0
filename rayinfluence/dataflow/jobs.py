"""Jobs: a stage's pure function with its operands, where it reads and where it commits.

Picklable; no Ray.

Running a job on an item twice writes the same bytes under the same key, so any runner may retry.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar, Protocol, TypeVar

import pyarrow as pa
from torch import Tensor

from rayinfluence.corpus.corpus import Split, read_split
from rayinfluence.corpus.queries import EncodedQuery
from rayinfluence.curvature.ekfac import factors_by_module
from rayinfluence.dataflow.banks import query_key
from rayinfluence.dataflow.checkpoint import Checkpoint
from rayinfluence.dataflow.folding import (
    Bases,
    LaneRows,
    fitting_labels,
    fold_covariance,
    fold_moments,
)
from rayinfluence.dataflow.replica import Quarantine, Replica
from rayinfluence.dataflow.stages import (
    query_gradient,
)
from rayinfluence.dataflow.watch import Watch, begin_or_refuse, trap
from rayinfluence.methods.preconditioner import Preconditioner, preconditioner
from rayinfluence.storage.shared import SharedTensors
from rayinfluence.storage.store import Store
from rayinfluence.storage.tensors import write_tensors

if TYPE_CHECKING:
    pass

Item = TypeVar("Item", contravariant=True)
Outcome = TypeVar("Outcome", covariant=True)


class Job(Protocol[Item, Outcome]):
    """Work on items that needs a model replica."""

    @property
    def stage(self) -> str:
        """The stage's name in metrics."""

    def prepare(self, replica: Replica) -> None:
        """Make what all items need, once per process."""

    def run(self, replica: Replica, item: Item, watch: Watch) -> Outcome:
        """Do one item."""


@dataclass(frozen=True)
class Lane:
    """Splits that are folded, in this order, into one accumulator.

    ``key`` is where it is committed; ``digest`` names their content.
    """

    key: str
    splits: tuple[Split, ...]
    digest: str

    @property
    def n_tokens(self) -> int:
        """Tokens in its splits."""
        return sum(split.n_tokens for split in self.splits)


@dataclass
class FoldJob:
    """Fold a lane into sums and commit them with their counts as one object.

    Covariances, or moments when bases are given. Sums so far are kept beside the lane's place every
    ``checkpoint_seconds``, so an actor that dies loses no more than that.
    """

    corpus: Store
    factors: Store
    labels: str
    n_blocks: int
    checkpoint_seconds: float
    bases: SharedTensors | None = None
    _bases: Bases | None = None

    @property
    def stage(self) -> str:
        """The stage's name."""
        return "covariance" if self.bases is None else "moments"

    def prepare(self, replica: Replica) -> None:
        """Move the bases to the device."""
        if self.bases is not None:
            self._bases = Bases.on(replica, self.bases)

    def run(self, replica: Replica, item: Lane, watch: Watch) -> Quarantine:
        """Fold one lane; returns the sequences it left out."""
        checkpoint = Checkpoint(self.factors, item.key, item.digest, self.checkpoint_seconds)
        found = checkpoint.read()
        begin_or_refuse(watch, f"{item.key} from its split {found.n_splits if found else 0} on")

        def read(start: int) -> Iterator[pa.Table]:
            for place, split in enumerate(item.splits[start:]):
                if place:
                    trap(f"lane of {self.stage}", item.key)
                with watch.phase("read", split.digest):
                    table = read_split(self.corpus, split)
                with watch.phase("score", split.digest):
                    yield table

        labels = fitting_labels(self.labels, replica.numerics.seed)
        rows = LaneRows(read, labels, watch.advance, found, checkpoint.offer)
        if self._bases is None:
            fold = fold_covariance(replica, rows, self.n_blocks)
        else:
            fold = fold_moments(replica, rows, self._bases)
        with watch.phase("write", item.digest):
            write_tensors(self.factors, item.key, fold.tensors, fold.header(item.digest))
        checkpoint.drop()
        watch.count("rayinfluence_sequences", fold.n_sequences)
        watch.count("rayinfluence_quarantined", len(fold.quarantine), kind="sequence")
        return fold.quarantine


@dataclass(frozen=True)
class MethodOperands:
    """What a method needs to precondition query gradients, and where its queries are kept.

    ``factors`` are as :meth:`Factors.tensors` gives them; empty for methods without curvature.
    """

    method: str
    store: Store
    factors: SharedTensors
    damping_scale: float
    damping: float | None
    n_tokens: int
    n_sequences: int

    def preconditioner(self, replica: Replica) -> Preconditioner:
        """The operator, on a replica's device."""
        shapes = replica.shapes.values()
        sources = {shape.name: shape.source for shape in shapes} if self.factors else {}
        tensors = {name: tensor.to(replica.device) for name, tensor in self.factors.items()}
        return preconditioner(
            self.method,
            factors_by_module(tensors, sources),
            {shape.name: shape.bias for shape in shapes},
            damping_scale=self.damping_scale,
            damping=self.damping,
            n_tokens=self.n_tokens,
            n_sequences=self.n_sequences,
        )


@dataclass
class QueryJob:
    """A query's gradient, preconditioned by each method that lacks it, cut and committed."""

    methods: Sequence[MethodOperands]
    rank: int | None
    stage: ClassVar[str] = "queries"
    _operators: list[Preconditioner] = field(default_factory=list)

    def prepare(self, replica: Replica) -> None:
        """Build the operators on the device."""
        self._operators = [operands.preconditioner(replica) for operands in self.methods]

    def run(
        self, replica: Replica, item: tuple[EncodedQuery, tuple[int, ...]], watch: Watch
    ) -> str:
        """Do one query for the methods at these places; returns its digest."""
        query, methods = item
        begin_or_refuse(watch, f"query {query.query.query_id!r}")
        found = query_gradient(replica, query)
        seed = int(query.digest[:8], 16) ^ replica.numerics.seed
        for index in methods:
            header = {
                "query": query.digest,
                "log_probabilities": found.log_probabilities,
                "ranks": found.ranks,
                "damping": dict(self._operators[index].damping),
            }
            tensors: dict[str, Tensor] = {}
            for name, (inputs, grads) in found.tokens.items():
                solved = self._operators[index].solve_tokens(name, inputs, grads, self.rank, seed)
                tensors |= {f"{name}/{part}": tensor for part, tensor in solved.items()}
            write_tensors(self.methods[index].store, query_key(query.digest), tensors, header)
        watch.advance(len(query.tokens))
        return query.digest
