"""Jobs: a stage's pure function with its operands, where it reads and where it commits.

Picklable; no Ray.

Running a job on an item twice writes the same bytes under the same key, so any runner may retry.
"""

from __future__ import annotations

import json
import traceback
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol, TypeVar

import pyarrow as pa
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from rayinfluence.corpus.corpus import Split, read_split
from rayinfluence.corpus.queries import EncodedQuery
from rayinfluence.corpus.tokenizer import token_texts
from rayinfluence.curvature.ekfac import factors_by_module
from rayinfluence.curvature.products import operand_dtype
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
    Explanation,
    content_digest,
    explain,
    query_gradient,
    rows_by_id,
    score_split,
    whole_gradient,
)
from rayinfluence.dataflow.watch import MOST_STARTS, Watch, begin_or_refuse, trap
from rayinfluence.errors import ConfigError, StorageError
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
        watch.advance(len(query.tokens))
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


def aside_key(split_digest: str) -> str:
    """Where a note is that a split could not be scored, and why."""
    return f"aside/{split_digest}.json"


@dataclass(frozen=True)
class Pending:
    """A split and the places of the banks that it has yet to be scored with."""

    split: Split
    banks: tuple[int, ...]


@dataclass(frozen=True)
class Settled:
    """A split that is committed, or set aside for this reason."""

    split: Split
    reason: str | None


@dataclass
class ScanJob:
    """Score splits with the banks that they lack; commit one partial per split and bank.

    A split that cannot be scored is set aside: what is wrong with it is written where the first of
    its banks keeps such notes, and the scan goes on.
    """

    corpus: Store
    operands: Sequence[BankOperands]
    top: int
    group_by: tuple[str, ...]
    stage: ClassVar[str] = "scan"
    _banks: list[QueryBank] = field(default_factory=list)

    def prepare(self, replica: Replica) -> None:
        """Put the banks on the device."""
        self._banks = [operands.bank(replica) for operands in self.operands]

    def run(self, replica: Replica, bundle: Sequence[Pending], watch: Watch) -> Iterator[Settled]:
        """Score some splits in order, reading one ahead.

        Splits that an earlier worker committed before it died are passed over.

        Raises:
            StorageError: the storage fails; no split is to blame for that.
        """
        with ThreadPoolExecutor(max_workers=1) as reader:
            ahead: Future[pa.Table] | None = None
            for item, following in zip(bundle, [*bundle[1:], None], strict=True):
                starts, table, ahead = watch.begin(item.split.digest), ahead, None
                lacking = item.banks if starts == 1 else self._lacking(item)
                reason = None
                if lacking and starts > MOST_STARTS:
                    reason = f"the {MOST_STARTS} workers that began it died"
                elif lacking:
                    table = table or reader.submit(self._read, item.split, watch)
                    # Beside a split that may have killed a worker no other is read.
                    if following and starts == 1:
                        ahead = reader.submit(self._read, following.split, watch)
                    reason = self._score(replica, item, lacking, table, watch)
                if reason is not None:
                    self._set_aside(item, reason, watch)
                watch.advance(item.split.n_tokens)
                yield Settled(item.split, reason)

    def _score(
        self,
        replica: Replica,
        item: Pending,
        banks: tuple[int, ...],
        table: Future[pa.Table],
        watch: Watch,
    ) -> str | None:
        """Score and commit one split; returns why it could not be scored, if it could not."""
        digest = item.split.digest
        try:
            rows = table.result()
            with watch.phase("score", digest):
                scored = score_split(replica, [self._banks[index] for index in banks], rows)
                partials = scored.partials(rows, self.top, self.group_by)
        except (StorageError, ConfigError):
            raise
        except Exception as error:
            return "".join(traceback.format_exception_only(error)).strip()
        with watch.phase("write", digest):
            for index, partial, scores_NQ in zip(banks, partials, scored.scores, strict=True):
                plan = self.operands[index].plan
                if plan.dense:
                    # Before the partial: where that is, all of the split is.
                    scores = dense_table(plan.query_digests, scored.ids_N, scores_NQ)
                    write_table(plan.store, scores_key(digest), scores)
                partial.write(plan.store, partial_key(digest), plan.about(digest))
        with watch.phase("commit", digest):
            watch.count("rayinfluence_splits", 1)
            watch.count("rayinfluence_sequences", partials[0].n_sequences)
            bad = len(partials[0].quarantine)
            watch.count("rayinfluence_quarantined", bad, kind="sequence")
        # Those of the first method: they are for whoever watches, and not a result.
        watch.lead(
            {
                query: (float(scores[0]), int(ids[0]))
                for index, partial in zip(banks, partials, strict=True)
                if self.operands[index].plan.method == self.operands[0].plan.method
                for place, query in enumerate(self.operands[index].plan.query_digests)
                for scores, ids in [partial.proponents.of_query(place)]
                if len(scores)
            }
        )
        return None

    def _read(self, split: Split, watch: Watch) -> pa.Table:
        with watch.phase("read", split.digest):
            return read_split(self.corpus, split)

    def _lacking(self, item: Pending) -> tuple[int, ...]:
        key = partial_key(item.split.digest)
        return tuple(i for i in item.banks if not self.operands[i].plan.store.exists(key))

    def _set_aside(self, item: Pending, reason: str, watch: Watch) -> None:
        split = item.split
        note = {"split": split.index, "name": split.name, "digest": split.digest, "reason": reason}
        store = self.operands[item.banks[0]].plan.store
        store.write(aside_key(split.digest), json.dumps(note, indent=1).encode())
        watch.count("rayinfluence_quarantined", 1, kind="split")


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
    stage: ClassVar[str] = "explain"
    _operator: Preconditioner | None = None

    def prepare(self, replica: Replica) -> None:
        """Build the operator on the device."""
        self._operator = self.operands.preconditioner(replica)

    def run(self, replica: Replica, item: tuple[EncodedQuery, pa.Table], watch: Watch) -> Explained:
        """Explain one query's survivors, given their rows."""
        query, table = item
        begin_or_refuse(watch, f"explaining the survivors of query {query.query.query_id!r}")
        assert self._operator is not None
        whole = whole_gradient(replica, self._operator, query_gradient(replica, query))
        explanations = explain(replica, whole, table)
        rows = rows_by_id(table)
        for row in rows.values():
            row["token_texts"] = token_texts(self.tokenizer, row["tokens"])
            row["content_digest"] = content_digest(row["tokens"])
        watch.advance(sum(len(row["tokens"]) for row in rows.values()))
        return Explained(query.digest, rows, explanations)
