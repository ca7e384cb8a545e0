"""Jobs: a stage's pure function with its operands, where it reads and where it commits.

Picklable; no Ray.

Running a job on an item twice writes the same bytes under the same key, so any runner may retry.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

import pyarrow as pa
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from rayinfluence.corpus.corpus import Split, read_split
from rayinfluence.corpus.queries import EncodedQuery
from rayinfluence.corpus.tokenizer import token_texts
from rayinfluence.curvature.ekfac import factors_by_module
from rayinfluence.curvature.products import operand_dtype
from rayinfluence.dataflow.folding import (
    Bases,
    Fold,
    fitting_labels,
    fold_covariance,
    fold_moments,
)
from rayinfluence.dataflow.replica import Quarantine, Replica
from rayinfluence.dataflow.stages import (
    Advance,
    Explanation,
    content_digest,
    explain,
    query_gradient,
    rows_by_id,
    score_split,
    whole_gradient,
)
from rayinfluence.influence.bank import QueryBank, stack_queries
from rayinfluence.methods.preconditioner import Preconditioner, preconditioner
from rayinfluence.storage.results import dense_table, scores_key
from rayinfluence.storage.shared import SharedTensors
from rayinfluence.storage.store import Store, write_table
from rayinfluence.storage.tensors import read_tensors, write_tensors

Item = TypeVar("Item", contravariant=True)
Outcome = TypeVar("Outcome", covariant=True)


class Job(Protocol[Item, Outcome]):
    """Work on items that needs a model replica."""

    def prepare(self, replica: Replica) -> None:
        """Make what all items need, once per process."""

    def run(self, replica: Replica, item: Item, advance: Advance) -> Outcome:
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

    Covariances, or moments when bases are given.
    """

    corpus: Store
    factors: Store
    labels: str
    n_blocks: int
    bases: SharedTensors | None = None
    _bases: Bases | None = None

    def prepare(self, replica: Replica) -> None:
        """Move the bases to the device."""
        if self.bases is not None:
            self._bases = Bases.on(replica, self.bases)

    def run(self, replica: Replica, item: Lane, advance: Advance) -> Quarantine:
        """Fold one lane; returns the sequences it left out."""

        def read() -> Any:
            return (read_split(self.corpus, split) for split in item.splits)

        labels = fitting_labels(self.labels, replica.numerics.seed)
        if self._bases is None:
            fold = fold_covariance(replica, read, labels, self.n_blocks, advance)
        else:
            fold = fold_moments(replica, read, labels, self._bases, advance)
        write_tensors(self.factors, item.key, fold.tensors, _lane_header(item, fold))
        return fold.quarantine


def _lane_header(lane: Lane, fold: Fold) -> dict[str, Any]:
    return {
        "lane": lane.digest,
        "n_sequences": fold.n_sequences,
        "n_tokens": fold.n_tokens,
        "quarantine": [list(pair) for pair in sorted(fold.quarantine.items())],
    }


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
    _operators: list[Preconditioner] = field(default_factory=list)

    def prepare(self, replica: Replica) -> None:
        """Build the operators on the device."""
        self._operators = [operands.preconditioner(replica) for operands in self.methods]

    def run(
        self, replica: Replica, item: tuple[EncodedQuery, tuple[int, ...]], advance: Advance
    ) -> str:
        """Do one query for the methods at these places; returns its digest."""
        query, methods = item
        found = query_gradient(replica, query)
        header = {
            "query": query.digest,
            "log_probabilities": found.log_probabilities,
            "ranks": found.ranks,
        }
        seed = int(query.digest[:8], 16) ^ replica.numerics.seed
        for index in methods:
            tensors: dict[str, Tensor] = {}
            for name, (inputs, grads) in found.tokens.items():
                solved = self._operators[index].solve_tokens(name, inputs, grads, self.rank, seed)
                tensors |= {f"{name}/{part}": tensor for part, tensor in solved.items()}
            write_tensors(self.methods[index].store, query_key(query.digest), tensors, header)
        advance(len(query.tokens))
        return query.digest


def query_key(query_digest: str) -> str:
    """Where a preconditioned query is."""
    return f"{query_digest}.safetensors"


@dataclass(frozen=True)
class BankPlan:
    """Some queries of one method, scanned together: where they are, and their partials.

    ``dense``: every score is kept, not those of survivors alone.
    """

    method: str
    fingerprint: str
    query_digests: tuple[str, ...]
    queries: Store
    store: Store
    dense: bool = False

    def about(self, split_digest: str) -> dict[str, Any]:
        """What a partial must say of itself."""
        return {"split": split_digest, "bank": self.fingerprint}


@dataclass(frozen=True)
class BankOperands:
    """A query bank as it travels."""

    plan: BankPlan
    tensors: SharedTensors

    @classmethod
    def load(cls, plan: BankPlan) -> BankOperands:
        """Read the bank's queries and stack them."""
        queries = [read_tensors(plan.queries, query_key(d))[0] for d in plan.query_digests]
        return cls(plan, SharedTensors(stack_queries(queries)))

    @property
    def rank(self) -> int | None:
        """The largest rank of a module's queries, or None where they are dense."""
        ranks = [t.shape[2] for name, t in self.tensors.items() if name.endswith("/left")]
        return max(ranks, default=None)

    def bank(self, replica: Replica) -> QueryBank:
        """The bank on a replica's device; on a CPU its tensors are the shared ones."""
        dtype = operand_dtype(replica.numerics.torch_dtype, replica.device)
        return QueryBank.from_tensors(
            self.plan.query_digests,
            {name: t.to(replica.device, dtype) for name, t in self.tensors.items()},
            {name: shape.d_in for name, shape in replica.shapes.items()},
        )


def partial_key(split_digest: str) -> str:
    """Where a split's partial is: its name is what it was made of."""
    return f"partials/{split_digest}.safetensors"


@dataclass
class ScanJob:
    """Score a split with the banks that lack it, and commit one partial per bank."""

    corpus: Store
    operands: Sequence[BankOperands]
    top: int
    group_by: tuple[str, ...]
    _banks: list[QueryBank] = field(default_factory=list)

    def prepare(self, replica: Replica) -> None:
        """Put the banks on the device."""
        self._banks = [operands.bank(replica) for operands in self.operands]

    def score(
        self, replica: Replica, split_digest: str, table: pa.Table, banks: Sequence[int]
    ) -> None:
        """Score the rows of one split with the banks at these places."""
        chosen = [self._banks[index] for index in banks]
        scored = score_split(replica, chosen, table)
        partials = scored.partials(table, self.top, self.group_by)
        for index, partial, scores_NQ in zip(banks, partials, scored.scores, strict=True):
            plan = self.operands[index].plan
            if plan.dense:
                # Before the partial: where that is, all of the split is.
                scores = dense_table(plan.query_digests, scored.ids_N, scores_NQ)
                write_table(plan.store, scores_key(split_digest), scores)
            partial.write(plan.store, partial_key(split_digest), plan.about(split_digest))


@dataclass(frozen=True)
class Explained:
    """The survivors of one query, by sequence id.

    Their rows, with token texts and content digest, and their scores at full rank.
    """

    query_digest: str
    rows: dict[int, dict[str, Any]]
    explanations: dict[int, Explanation]


@dataclass
class ExplainJob:
    """Score a query's survivors again at full rank, by token and by layer.

    The query's gradient is computed again and kept whole, one query at a time, and never written.
    Commits nothing: it is cheap to repeat.
    """

    operands: MethodOperands
    tokenizer: PreTrainedTokenizerFast
    _operator: Preconditioner | None = None

    def prepare(self, replica: Replica) -> None:
        """Build the operator on the device."""
        self._operator = self.operands.preconditioner(replica)

    def run(
        self, replica: Replica, item: tuple[EncodedQuery, pa.Table], advance: Advance
    ) -> Explained:
        """Explain one query's survivors, given their rows."""
        query, table = item
        assert self._operator is not None
        whole = whole_gradient(replica, self._operator, query_gradient(replica, query))
        explanations = explain(replica, whole, table)
        rows = rows_by_id(table)
        for row in rows.values():
            row["token_texts"] = token_texts(self.tokenizer, row["tokens"])
            row["content_digest"] = content_digest(row["tokens"])
        advance(sum(len(row["tokens"]) for row in rows.values()))
        return Explained(query.digest, rows, explanations)
