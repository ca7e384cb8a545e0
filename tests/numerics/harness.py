"""The engine as a run drives it, on a few sequences: fit, precondition, score."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch
from cases import Case
from rich.console import Console
from torch import Tensor

from rayinfluence.config import FitConfig
from rayinfluence.corpus.corpus import Corpus, CorpusManifest
from rayinfluence.corpus.queries import EncodedQuery, Query
from rayinfluence.corpus.shards import SCHEMA, ShardWriter
from rayinfluence.corpus.tokenize import ShardRecord, TokenizeSettings
from rayinfluence.curvature.ekfac import EKFAC
from rayinfluence.dataflow.factors import Factors
from rayinfluence.dataflow.fit import fit
from rayinfluence.dataflow.jobs import BankOperands, BankPlan, MethodOperands, QueryJob
from rayinfluence.dataflow.progress import ProgressLog
from rayinfluence.dataflow.replica import Numerics, Replica
from rayinfluence.dataflow.runner import InlineRunner
from rayinfluence.dataflow.sample import plan_fit
from rayinfluence.dataflow.stages import score_split
from rayinfluence.dataflow.watch import LocalWatch
from rayinfluence.influence.bank import QueryBank
from rayinfluence.model.modules import track
from rayinfluence.storage.shared import SharedTensors
from rayinfluence.storage.store import Store

SEED = 3
Tokens = Sequence[np.ndarray]


def make_replica(case: Case, batch_tokens: int = 20, seed: int = SEED) -> Replica:
    """A model in float64 on the CPU, with its tracked modules."""
    model = case.model()
    numerics = Numerics("float64", "cpu", batch_tokens, 2**17, "eager", seed)
    return Replica(model, track(model, case.patterns), numerics)


def row(tokens: np.ndarray, **more: object) -> dict[str, object]:
    """A row of a shard."""
    return {
        "tokens": [int(token) for token in tokens],
        "document_id": "",
        "token_start": 0,
        "char_start": 0,
        "char_end": 0,
        "metadata": "{}",
        **more,
    }


def table(sequences: Tokens, ids: Sequence[int] | None = None) -> pa.Table:
    """The rows of a split; ids count from 0 when not given."""
    ids = range(len(sequences)) if ids is None else ids
    rows = [row(tokens, n_tokens=len(tokens)) for tokens in sequences]
    column = pa.array(ids, type=pa.int64())
    return pa.Table.from_pylist(rows, schema=SCHEMA).append_column("sequence_id", column)


def write_corpus(folder: Path, sequences: Tokens) -> Corpus:
    """A corpus of one shard in several row groups; ids count from 0."""
    writer = ShardWriter(row_group_tokens=8)
    for tokens in sequences:
        writer.add(row(tokens))
    store = Store(str(folder))
    store.write("shard.parquet", writer.finish())
    record = ShardRecord("shard.parquet", "", writer.row_groups)
    settings = TokenizeSettings("text", "id", 16, 8, 2**20)
    return Corpus(store, CorpusManifest("", settings, (record,), ()))


def fit_factors(
    replica: Replica,
    sequences: Tokens,
    folder: Path,
    labels: str = "sampled",
    lanes: int = 3,
    **more: object,
) -> Factors:
    """The factors as the fit stage commits them, from all sequences unless told otherwise."""
    corpus = write_corpus(folder / "corpus", sequences)
    settings = {"sequences": 10**6, "labels": labels, "lanes": lanes, "error_bound": None}
    config = FitConfig(**{**settings, **more})
    plan = plan_fit(config, corpus, 1, replica.numerics, "model", replica.shapes)
    log = ProgressLog(Console(quiet=True))
    runner = InlineRunner(lambda: replica)
    return fit(runner, corpus.store, Store(str(folder / "factors")), plan, replica.shapes, log)


def bases_of(operator: EKFAC) -> dict[str, tuple[Tensor, Tensor]]:
    """(Q_A, Q_S) of each module, dense."""
    return {
        name: (f.inputs_basis.dense(), f.outputs_basis.dense())
        for name, f in operator.factors.items()
    }


def encoded(tokens: np.ndarray, first_target: int = 1) -> EncodedQuery:
    """A query whose completion starts at a token."""
    name = f"{[int(token) for token in tokens]} {first_target}"
    return EncodedQuery(Query(name, "", ""), tuple(int(t) for t in tokens), first_target)


def make_bank(
    replica: Replica,
    factors: Factors,
    queries: Sequence[EncodedQuery],
    folder: Path,
    method: str = "ekfac",
    rank: int | None = None,
    damping: float | None = None,
) -> QueryBank:
    """Queries preconditioned and stacked as the scan stage does it."""
    store = Store(str(folder / f"queries-{method}-{rank}-{damping}"))
    operands = MethodOperands(
        method,
        store,
        factors.tensors() if method != "gradient_product" else SharedTensors(),
        0.1,
        damping,
        factors.n_tokens,
        factors.n_sequences,
    )
    job = QueryJob([operands], rank)
    job.prepare(replica)
    for query in queries:
        job.run(replica, (query, (0,)), LocalWatch(lambda tokens: None))
    digests = tuple(query.digest for query in queries)
    return BankOperands.load(BankPlan(method, "", digests, store, store)).bank(replica)


def all_scores(
    replica: Replica, bank: QueryBank, sequences: Tokens, ids: Sequence[int] | None = None
) -> Tensor:
    """Scores [N, Q] in the order of the sequences, read from what a split's partial keeps."""
    ids = list(range(len(sequences))) if ids is None else list(ids)
    (partial,) = score_split(replica, [bank], table(sequences, ids), len(ids), [])
    assert partial.n_sequences == len(ids)
    assert partial.n_tokens == sum(len(tokens) for tokens in sequences)
    assert not partial.quarantine
    scores = torch.full((len(ids), len(bank)), torch.nan, dtype=torch.float64)
    for query in range(len(bank)):
        for sign, kept in ((1, partial.proponents), (-1, partial.opponents)):
            for score, sequence_id in zip(*kept.of_query(query), strict=True):
                scores[ids.index(sequence_id), query] = sign * score
    return scores


@dataclass(frozen=True)
class Fitted:
    """A case with factors fitted on shared sequences, and queries to ask about them."""

    case: Case
    replica: Replica
    sequences: list[np.ndarray]
    queries: list[EncodedQuery]
    factors: Factors
    operator: EKFAC
    folder: Path

    @property
    def names(self) -> list[str]:
        """The tracked modules."""
        return list(self.replica.modules)
