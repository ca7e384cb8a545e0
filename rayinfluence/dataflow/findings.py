"""From merged partials to results.

Explain the survivors, put them in order, write tables and the manifest.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from rayinfluence.corpus.corpus import Split, read_rows
from rayinfluence.corpus.metadata import as_text
from rayinfluence.corpus.queries import EncodedQuery
from rayinfluence.corpus.shards import ROWS_PER_SHARD, SCHEMA
from rayinfluence.corpus.tokenizer import token_texts
from rayinfluence.dataflow.banks import BankOperands
from rayinfluence.dataflow.grouping import group_table
from rayinfluence.dataflow.jobs import Explained, ExplainJob, MethodOperands
from rayinfluence.dataflow.partial import Partial
from rayinfluence.dataflow.progress import ProgressLog
from rayinfluence.dataflow.runner import Runner
from rayinfluence.dataflow.scan import by_split
from rayinfluence.dataflow.statistics import statistics_table, tails_table
from rayinfluence.influence.attribution import carrier, near_duplicates, reproduces
from rayinfluence.methods.preconditioner import WITHOUT_CURVATURE
from rayinfluence.storage.results import METADATA_PREFIX, beyond_linear, survivor_schema
from rayinfluence.storage.store import Store, write_table

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

#: A completion's token below this probability, and not the model's first choice, makes a warning.
UNLIKELY = 0.1
#: Of survivors.
_ROWS = pa.schema([*SCHEMA, pa.field("sequence_id", pa.int64()), pa.field("shard", pa.string())])
#: Splits whose row groups are read sooner than a process that reads them starts.
_FEW_SPLITS = 64
#: Ranks of either direction that a change of order is counted in.
_COMPARED_RANKS = 10


@dataclass(frozen=True)
class Scanned:
    """What one method found: its banks with their merged partials, and its survivors, by query."""

    method: str
    banks: Sequence[tuple[BankOperands, Partial]]
    explained: dict[str, Explained]

    def of_query(self, query_digest: str) -> tuple[Partial, int]:
        """The partial of the bank that a query is in, and its place there."""
        return _of_query(self.banks, query_digest)


def _of_query(
    banks: Sequence[tuple[BankOperands, Partial]], query_digest: str
) -> tuple[Partial, int]:
    for bank, partial in banks:
        if query_digest in bank.plan.query_digests:
            return partial, bank.plan.query_digests.index(query_digest)
    raise AssertionError(f"query {query_digest} is in no bank")  # plan_banks covers all


def explain_survivors(
    runner: Runner,
    corpus: Store,
    splits: Sequence[Split],
    merged: Sequence[tuple[BankOperands, Partial]],
    methods: Sequence[MethodOperands],
    queries: Sequence[EncodedQuery],
    tokenizer: PreTrainedTokenizerFast,
    progress: ProgressLog,
) -> list[Scanned]:
    """A small second pass: the survivors of each query are scored again at full rank.

    Their rows are gathered first, without a model, from the row groups that hold them.
    """
    asked = {query.digest: query for query in queries}
    banks = [[pair for pair in merged if pair[0].plan.method == one.method] for one in methods]
    # By method and query: the ids of the survivors, ascending.
    survivors: list[dict[str, NDArray[np.int64]]] = []
    for of_method in banks:
        places = {digest: _of_query(of_method, digest) for digest in asked}
        survivors.append({d: partial.survivors(q) for d, (partial, q) in places.items()})
    with progress.stage("gather"):
        found = [ids for of_query in survivors for ids in of_query.values()]
        everyone = np.unique(np.concatenate(found))
        holding = [(corpus, split, ids) for split, ids in by_split(splits, everyone.tolist())]
        gathered = runner.tasks(gather, holding, small=len(holding) <= _FEW_SPLITS)
        rows = pa.concat_tables([_ROWS.empty_table(), *gathered])
    work = [
        [
            (asked[digest], rows.take(pa.array(np.searchsorted(everyone, ids))))
            for digest, ids in of_query.items()
            if len(ids)
        ]
        for of_query in survivors
    ]
    n_tokens = sum(pc.sum(table["n_tokens"]).as_py() for of in work for _, table in of)
    scanned = []
    with progress.stage("explain", n_tokens) as stage:
        for operands, of_method, items in zip(methods, banks, work, strict=True):
            job = ExplainJob(operands, tokenizer)
            explained = {e.query_digest: e for e in runner.replicas(job, items, stage.advance)}
            scanned.append(Scanned(operands.method, of_method, explained))
    return scanned


def gather(item: tuple[Store, Split, tuple[int, ...]]) -> pa.Table:
    """The rows of some sequences of a split, with the name of its shard."""
    corpus, split, ids = item
    shard = pa.array([split.shard] * len(ids))
    return read_rows(corpus, split, ids).append_column("shard", shard).cast(_ROWS)


def survivor_table(queries: Sequence[EncodedQuery], scanned: Scanned, n_training: int) -> pa.Table:
    """The result table of one method: a row per query and survivor, in order of queries and ranks.

    A sequence whose score changed its sign when it was scored again stays in the direction that the
    scan found it in. ``n_training`` is N, which ``delta_nats`` divides by; a method without
    curvature predicts no change, and has none.
    """
    predicts = scanned.method not in WITHOUT_CURVATURE
    metadata_of = _metadata(scanned)
    keys = sorted({key for metadata in metadata_of.values() for key in metadata})
    rows: list[dict[str, Any]] = []
    for query in queries:
        partial, place = scanned.of_query(query.digest)
        for direction, side, sign in (
            ("proponent", partial.proponents, 1.0),
            ("opponent", partial.opponents, -1.0),
        ):
            scan_scores, scan_ids = side.of_query(place)
            if not len(scan_ids):
                continue
            explained = scanned.explained[query.digest]
            completion = query.tokens[query.first_target :]
            scan_ranks = {i: rank for rank, i in enumerate(scan_ids.tolist(), start=1)}
            order = [(-sign * explained.explanations[i].score, i) for i in scan_ranks]
            ids = [sequence_id for _, sequence_id in sorted(order)]
            duplicates = near_duplicates([explained.rows[i]["tokens"].tolist() for i in ids])
            for rank, (sequence_id, earlier) in enumerate(
                zip(ids, duplicates, strict=True), start=1
            ):
                row = explained.rows[sequence_id]
                explanation = explained.explanations[sequence_id]
                metadata = metadata_of[sequence_id]
                scan_rank = scan_ranks[sequence_id]
                scan_score = sign * float(scan_scores[scan_rank - 1])
                delta_nats = explanation.score / n_training if predicts else None
                carries = carrier(
                    explanation.token_scores,
                    row["tokens"].tolist(),
                    row["token_texts"],
                    completion,
                    explained.completion_texts,
                )
                rows.append(
                    {
                        "query_id": query.query.query_id,
                        "rank": rank,
                        "direction": direction,
                        "score": explanation.score,
                        "delta_nats": delta_nats,
                        "beyond_linear": None
                        if delta_nats is None
                        else beyond_linear(delta_nats, explained.log_probability),
                        "scan_rank": scan_rank,
                        "scan_score": scan_score,
                        "sequence_id": sequence_id,
                        "content_digest": row["content_digest"],
                        "document_id": row["document_id"],
                        "shard": row["shard"],
                        "row": sequence_id % ROWS_PER_SHARD,
                        "n_tokens": row["n_tokens"],
                        "char_start": row["char_start"],
                        "char_end": row["char_end"],
                        **{
                            METADATA_PREFIX + key: as_text(value) for key, value in metadata.items()
                        },
                        "token_texts": row["token_texts"],
                        "token_scores": explanation.token_scores.astype(np.float32),
                        "layer_scores": list(explanation.layer_scores.items()),
                        "concentration": carries.concentration,
                        "carried_by": carries.position,
                        "carrier_in_completion": carries.in_completion,
                        "suspect": not reproduces(scan_score, explanation.scanned),
                        "near_duplicate_of": None if earlier is None else ids[earlier],
                    }
                )
    return pa.Table.from_pylist(rows, schema=survivor_schema(keys))


def rescoring(table: pa.Table) -> dict[str, dict[str, Any]]:
    """What scoring the survivors again changed, by query.

    Returns:
        ``largest_relative_difference`` of a survivor's two scores, relative to that of the scan (0
        where there is no survivor); ``changed_ranks``: of the first ten ranks of either direction,
        of which there are ``compared_ranks``, how many hold another sequence than in the scan;
        ``changed_signs``: how many scores changed their sign.
    """
    columns = {
        name: np.asarray(table[name])
        for name in ("query_id", "rank", "scan_rank", "score", "scan_score")
    }
    scores, scan_scores = columns["score"], columns["scan_score"]
    differences = np.abs(scores - scan_scores) / np.abs(scan_scores)
    report = {}
    for query_id in dict.fromkeys(columns["query_id"].tolist()):
        ours = columns["query_id"] == query_id
        first = ours & (columns["rank"] <= _COMPARED_RANKS)
        report[query_id] = {
            "largest_relative_difference": float(differences[ours].max()),
            "changed_ranks": int((columns["rank"] != columns["scan_rank"])[first].sum()),
            "compared_ranks": int(first.sum()),
            "changed_signs": int((scores * scan_scores <= 0)[ours].sum()),
        }
    return report


def write_method(
    store: Store, queries: Sequence[EncodedQuery], scanned: Scanned, n_training: int
) -> dict[str, dict[str, Any]]:
    """Write the tables of one method; returns what scoring its survivors again changed."""
    survivors = survivor_table(queries, scanned, n_training)
    partials = {query.query.query_id: scanned.of_query(query.digest) for query in queries}
    tables = {
        "": survivors,
        "-groups": group_table(partials, _proponents(survivors, _metadata(scanned), partials)),
        "-statistics": statistics_table(partials),
        "-tails": tails_table(partials),
    }
    for ending, table in tables.items():
        write_table(store, f"results/{scanned.method}{ending}.parquet", table)
    return rescoring(survivors)


def _metadata(scanned: Scanned) -> dict[int, dict[str, Any]]:
    """The metadata of all survivors, by sequence id."""
    return {
        sequence_id: json.loads(row["metadata"])
        for explained in scanned.explained.values()
        for sequence_id, row in explained.rows.items()
    }


def _proponents(
    survivors: pa.Table, metadata_of: Mapping[int, dict[str, Any]], query_ids: Iterable[str]
) -> dict[str, list[dict[str, Any]]]:
    """The metadata of each query's proponents, strongest first."""
    found: dict[str, list[dict[str, Any]]] = {query_id: [] for query_id in query_ids}
    columns = (survivors[name].to_pylist() for name in ("query_id", "direction", "sequence_id"))
    for query_id, direction, sequence_id in zip(*columns, strict=True):
        if direction == "proponent":
            found[query_id].append(metadata_of[sequence_id])
    return found


def query_manifest(
    query: EncodedQuery, header: Mapping[str, Any], tokenizer: PreTrainedTokenizerFast
) -> dict[str, Any]:
    """What the manifest says of a query.

    The model's own log-probability of it, and whether it would say it.
    """
    log_ps: list[float] = header["log_probabilities"]
    texts = token_texts(tokenizer, query.tokens)[query.first_target :]
    unlikely = [
        (text, log_p)
        for text, log_p, rank in zip(texts, log_ps, header["ranks"], strict=True)
        if rank > 1 and np.exp(log_p) < UNLIKELY
    ]
    warning = None
    if unlikely:
        text, log_p = min(unlikely, key=lambda pair: pair[1])
        warning = (
            f"the model would hardly say this: it gives {text!r} a probability of "
            f"{np.exp(log_p):.2g}. "
            "The influences below are on a probability that is low already."
        )
    return {
        "query_id": query.query.query_id,
        "digest": query.digest,
        "prompt": query.query.prompt,
        "completion": query.query.completion,
        "metadata": query.query.metadata,
        "log_probability": float(np.sum(log_ps)),
        "n_completion_tokens": len(log_ps),
        "token_texts": texts,
        "token_log_probabilities": log_ps,
        "greedy": all(rank == 1 for rank in header["ranks"]),
        "warning": warning,
    }
