"""The engine as a run drives it, on a few sequences: fit, precondition, score."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import naive
import numpy as np
import pyarrow as pa
import torch
from cases import Case
from device import DEVICE
from rich.console import Console
from torch import Tensor

from rayinfluence.config import FitConfig
from rayinfluence.corpus.corpus import Corpus
from rayinfluence.corpus.fragments import ShardRecord
from rayinfluence.corpus.manifest import CorpusManifest
from rayinfluence.corpus.queries import EncodedAnswer, EncodedQuery
from rayinfluence.corpus.query_forms import Query
from rayinfluence.corpus.shards import SCHEMA, ShardWriter
from rayinfluence.corpus.tokenize import TokenizeSettings
from rayinfluence.curvature.ekfac import EKFAC, ModuleFactors
from rayinfluence.dataflow.compute.grouping import SplitGroups
from rayinfluence.dataflow.compute.replica import Numerics, Replica
from rayinfluence.dataflow.compute.rescoring import Asked, rescore
from rayinfluence.dataflow.compute.scoring import score_split
from rayinfluence.dataflow.jobs.banks import BankOperands, BankPlan, load_bank
from rayinfluence.dataflow.jobs.handles import Deferred, read_stored
from rayinfluence.dataflow.jobs.query import MethodOperands, QueryJob, SharedCurvature
from rayinfluence.dataflow.jobs.watch import LocalWatch
from rayinfluence.dataflow.runners.inline import InlineRunner
from rayinfluence.dataflow.stages.factors import Factors
from rayinfluence.dataflow.stages.fit import fit
from rayinfluence.dataflow.stages.progress import ProgressLog
from rayinfluence.dataflow.stages.sample import FitPlan, plan_fit
from rayinfluence.influence.bank import DenseQueries, QueryBank
from rayinfluence.methods.registry import factors_of
from rayinfluence.model.modules import track
from rayinfluence.storage.store import Store

SEED = 3
Tokens = Sequence[np.ndarray]
#: Of each sequence, which tokens the loss counted.
Masks = Sequence[Sequence[bool]]


def make_replica(case: Case, batch_tokens: int = 20, seed: int = SEED) -> Replica:
    """A model in float64, with its tracked modules."""
    model = case.model().to(DEVICE)
    numerics = Numerics("float64", DEVICE.type, batch_tokens, 2**17, "eager", seed)
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


def table(
    sequences: Tokens,
    ids: Sequence[int] | None = None,
    masks: Masks | None = None,
    classes: Sequence[int] | None = None,
) -> pa.Table:
    """The rows of a split; ids count from 0 when not given."""
    ids = range(len(sequences)) if ids is None else ids
    rows = [
        row(tokens, n_tokens=len(tokens), loss_mask=mask, label=label)
        for tokens, mask, label in zip(sequences, *_told(sequences, masks, classes), strict=True)
    ]
    column = pa.array(ids, type=pa.int64())
    return pa.Table.from_pylist(rows, schema=SCHEMA).append_column("sequence_id", column)


def _told(
    sequences: Tokens, masks: Masks | None, classes: Sequence[int] | None
) -> tuple[Sequence[Any], Sequence[Any]]:
    nothing = [None] * len(sequences)
    return masks or nothing, classes or nothing


def write_corpus(
    folder: Path,
    sequences: Tokens,
    row_group_tokens: int = 8,
    masks: Masks | None = None,
    classes: Sequence[int] | None = None,
) -> Corpus:
    """A corpus of one shard in several row groups; ids count from 0."""
    writer = ShardWriter(row_group_tokens=row_group_tokens)
    for tokens, mask, label in zip(sequences, *_told(sequences, masks, classes), strict=True):
        writer.add(row(tokens, loss_mask=mask, label=label))
    store = Store(str(folder))
    store.write("shard.parquet", body := writer.finish())
    record = ShardRecord("shard.parquet", len(body), writer.row_groups, writer.bounds)
    settings = TokenizeSettings("text", "id", 16, 8, 2**20)
    return Corpus(store, CorpusManifest("", settings, (record,), ()))


def plan_factors(
    replica: Replica,
    sequences: Tokens,
    folder: Path,
    /,
    labels: str = "sampled",
    lanes: int = 3,
    row_group_tokens: int = 8,
    masks: Masks | None = None,
    classes: Sequence[int] | None = None,
    **more: object,
) -> tuple[Corpus, FitPlan]:
    """What factors will be made of: all sequences unless told otherwise."""
    corpus = write_corpus(folder / "corpus", sequences, row_group_tokens, masks, classes)
    settings = {"sequences": 10**6, "labels": labels, "lanes": lanes, "error_bound": None}
    config = FitConfig(**{**settings, **more})
    return corpus, plan_fit(config, corpus, 1, replica.numerics, "model", replica.shapes)


def fit_factors(
    replica: Replica,
    sequences: Tokens,
    folder: Path,
    log: ProgressLog | None = None,
    /,
    **more: object,
) -> Factors:
    """The factors as the fit stage commits them; more as for :func:`plan_factors`."""
    corpus, plan = plan_factors(replica, sequences, folder, **more)
    log = log or ProgressLog(Console(quiet=True))
    runner = InlineRunner(lambda: replica)
    return fit(runner, corpus.store, Store(str(folder / "factors")), plan, replica.shapes, log)


def operator_of(factors: Factors) -> dict[str, EKFAC]:
    """The operators of all modules on the suite's device."""
    return {
        name: EKFAC(
            ModuleFactors.from_tensors({k: t.to(DEVICE) for k, t in module.to_tensors().items()}),
            name,
        )
        for name, module in factors.by_module().items()
    }


def basis_tensors(factors: Factors) -> dict[str, Tensor]:
    """The bases of all modules by name, as they are committed."""
    return {
        f"{name}/{part}": tensor
        for name, module in factors.by_module().items()
        for part, tensor in module.to_tensors().items()
        if "_basis." in part
    }


def bases_of(operator: dict[str, EKFAC]) -> dict[str, tuple[Tensor, Tensor]]:
    """(Q_A, Q_S) of each module, dense."""
    return {
        name: (one.factors.inputs_basis.dense(), one.factors.outputs_basis.dense())
        for name, one in operator.items()
    }


def encoded(tokens: np.ndarray, first_target: int = 1) -> EncodedQuery:
    """A query whose completion starts at a token."""
    name = f"{[int(token) for token in tokens]} {first_target}"
    return EncodedQuery(
        Query.of(name, "", ""), (EncodedAnswer(tuple(int(t) for t in tokens), first_target),)
    )


def operands(
    factors: Factors, folder: Path, method: str = "ekfac", damping: float | None = None
) -> MethodOperands:
    """What a method preconditions with, its queries in a folder."""
    parts = factors.parts().items()
    curvature = SharedCurvature(
        {place: Deferred(read_stored, stored) for place, stored in parts},
        factors.n_tokens,
        factors.n_sequences,
        0.1,
        damping,
        factors.n_routed,
    )
    return MethodOperands(
        method, method, Store(str(folder)), curvature if factors_of(method) else None
    )


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
    job = QueryJob([operands(factors, Path(store.url), method, damping)], rank)
    job.prepare(replica)
    job.run(replica, [(query, (0,)) for query in queries], LocalWatch(lambda tokens: None))
    digests = tuple(query.digest for query in queries)
    return bank_operands(BankPlan(method, method, "", digests, store, store)).bank(replica)


def bank_operands(plan: BankPlan) -> BankOperands:
    """A bank whose queries are made."""
    return BankOperands(plan, Deferred(load_bank, plan))


def all_scores(
    replica: Replica,
    bank: QueryBank,
    sequences: Tokens,
    ids: Sequence[int] | None = None,
    masks: Masks | None = None,
    classes: Sequence[int] | None = None,
) -> Tensor:
    """Scores [N, Q] in the order of the sequences, read from what a split's partial keeps."""
    ids = list(range(len(sequences))) if ids is None else list(ids)
    rows = table(sequences, ids, masks, classes)
    (scored,) = score_split(replica, [bank], rows)
    partial = scored.partial(SplitGroups(rows), len(ids))
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
class Explanation:
    """A pair's score at full rank, and its parts by token and by layer."""

    score: float
    token_scores: np.ndarray
    layer_scores: dict[str, float]


def explain_pairs(
    replica: Replica, bank: QueryBank, sequences: Tokens, pairs: Sequence[tuple[int, int]]
) -> dict[tuple[int, int], Explanation]:
    """Explanations of (query, sequence) pairs by the queries of a bank; ids count from 0."""
    ids = sorted({sequence for _, sequence in pairs})
    wanted_NQ = np.zeros((len(ids), len(bank)), dtype=np.bool_)
    for query, sequence in pairs:
        wanted_NQ[ids.index(sequence), query] = True
    rows = table([sequences[sequence] for sequence in ids], ids)
    (found,) = rescore(replica, [Asked(dense(bank), None, wanted_NQ, wanted_NQ)], rows)
    return {
        (int(query), ids[row]): Explanation(
            float(layers.sum()),
            found.token_scores[place],
            dict(zip(replica.modules, layers.tolist(), strict=True)),
        )
        for place, (row, query, layers) in enumerate(
            zip(found.rows_P, found.queries_P, found.layer_scores_PM, strict=True)
        )
    }


def dense(bank: QueryBank) -> QueryBank:
    """The same queries, multiplied out."""
    modules = {
        name: module
        if isinstance(module, DenseQueries)
        else DenseQueries(
            torch.einsum("oqr,jqr->qoj", module.left_OQR, module.right_JQR), module.d_in
        )
        for name, module in bank.modules.items()
    }
    return QueryBank(bank.query_digests, modules, bank.normalised)


@dataclass(frozen=True)
class Fitted:
    """A case with factors fitted on shared sequences, and queries to ask about them."""

    case: Case
    replica: Replica
    sequences: list[np.ndarray]
    queries: list[EncodedQuery]
    factors: Factors
    operator: dict[str, EKFAC]
    folder: Path

    @property
    def names(self) -> list[str]:
        """The tracked modules."""
        return list(self.replica.modules)


def naive_scores(fitted: Fitted, method: str, damping: float | None = None) -> dict[str, Tensor]:
    """<P_q, D_z> [N, Q] by module: autograd for both gradients and a dense solve between them.

    By ``cosine``, over the norms of both gradients, of all modules together.
    """
    model, names = fitted.replica.model, fitted.names
    twin = naive.trainable(model)
    queries = [
        naive.gradients(
            twin,
            names,
            naive.log_probability(
                twin, list(query.answers[0].tokens), first=query.answers[0].first_target
            ),
        )
        for query in fitted.queries
    ]
    sequences = naive.sequence_gradients(model, names, fitted.sequences)
    scores = {}
    for name, (Q_A, Q_S) in bases_of(fitted.operator).items():
        moments = fitted.operator[name].factors.moments
        value = float(0.1 * moments.mean()) if damping is None else damping
        dense = naive.dense_operator(Q_A, Q_S, moments, value)
        solved = [
            naive.solve(dense, query[name]) if method == "ekfac" else query[name]
            for query in queries
        ]
        scores[name] = torch.tensor(
            [[float((P * D[name]).sum()) for P in solved] for D in sequences], dtype=torch.float64
        )
    if method == "cosine":
        norms_N, norms_Q = (
            torch.stack([torch.cat([V.flatten() for V in of.values()]).norm() for of in some])
            for some in (sequences, queries)
        )
        scores = {name: of / torch.outer(norms_N, norms_Q).cpu() for name, of in scores.items()}
    return scores
