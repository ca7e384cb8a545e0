"""From merged partials to results.

Explain the survivors, put them in order, write tables and the manifest.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from transformers import PreTrainedTokenizerFast

from rayinfluence.corpus.corpus import Split
from rayinfluence.corpus.queries import EncodedQuery
from rayinfluence.corpus.shards import ROWS_PER_SHARD
from rayinfluence.corpus.tokenizer import token_texts
from rayinfluence.dataflow.jobs import BankOperands, BankPlan, ExplainJob
from rayinfluence.dataflow.partial import Partial
from rayinfluence.dataflow.progress import ProgressLog
from rayinfluence.dataflow.runner import Runner
from rayinfluence.dataflow.scan import survivors_by_split
from rayinfluence.dataflow.stages import Explanation
from rayinfluence.influence.attribution import is_spurious, near_duplicates
from rayinfluence.storage.results import GROUP_SCHEMA, METADATA_PREFIX, survivor_schema
from rayinfluence.storage.store import Store, write_table

#: A completion's token below this probability, and not the model's first choice, makes a warning.
UNLIKELY = 0.1


@dataclass(frozen=True)
class Scanned:
    """A bank after the scan: its merged partial, and its attributions by (query, sequence id)."""

    plan: BankPlan
    rank: int | None
    partial: Partial
    rows: dict[int, dict[str, Any]]
    explanations: dict[tuple[int, int], Explanation]


def explain_survivors(
    runner: Runner,
    corpus: Store,
    splits: Sequence[Split],
    merged: Sequence[tuple[BankOperands, Partial]],
    wanted: set[str],
    tokenizer: PreTrainedTokenizerFast,
    progress: ProgressLog,
) -> list[Scanned]:
    """A small second pass, over the survivors of the wanted queries (by digest) alone."""
    jobs = []
    for bank, partial in merged:
        queries = [i for i, d in enumerate(bank.plan.query_digests) if d in wanted]
        items = survivors_by_split(splits, partial, queries)
        jobs.append((ExplainJob(corpus, bank, tokenizer), items, partial))
    scanned = []
    with progress.stage("explain", sum(_expected_tokens(items) for _, items, _ in jobs)) as stage:
        for job, items, partial in jobs:
            rows: dict[int, dict[str, Any]] = {}
            explanations: dict[tuple[int, int], Explanation] = {}
            for explained in runner.replicas(job, items, stage.advance):
                rows |= explained.rows
                explanations |= {(e.query, e.sequence_id): e for e in explained.explanations}
            scanned.append(
                Scanned(job.operands.plan, job.operands.rank, partial, rows, explanations)
            )
    return scanned


def _expected_tokens(items: Sequence[tuple[Split, tuple[tuple[int, int], ...]]]) -> int:
    """Tokens of the survivors, had they the mean length of their splits."""
    return sum(
        len({sequence_id for _, sequence_id in pairs}) * split.n_tokens // split.n_rows
        for split, pairs in items
    )


def survivor_table(
    queries: Sequence[EncodedQuery], scanned: Sequence[Scanned], n_sequences: int
) -> pa.Table:
    """The result table of one method.

    A row per query and survivor, in the order of queries and ranks.
    """
    keys = sorted(
        {k for bank in scanned for r in bank.rows.values() for k in json.loads(r["metadata"])}
    )
    rows: list[dict[str, Any]] = []
    for query in queries:
        bank, place = _bank_of(query, scanned)
        for direction, side, sign in (
            ("proponent", bank.partial.proponents, 1.0),
            ("opponent", bank.partial.opponents, -1.0),
        ):
            scores, ids = side.of_query(place)
            duplicates = near_duplicates([bank.rows[i]["tokens"].tolist() for i in ids.tolist()])
            for rank, (score, sequence_id) in enumerate(
                zip(scores.tolist(), ids.tolist(), strict=True)
            ):
                row = bank.rows[sequence_id]
                explanation = bank.explanations[place, sequence_id]
                earlier = duplicates[rank]
                metadata = json.loads(row["metadata"])
                rows.append(
                    {
                        "query_id": query.query.query_id,
                        "rank": rank + 1,
                        "direction": direction,
                        "score": sign * score,
                        "delta_nats": sign * score / n_sequences,
                        "sequence_id": sequence_id,
                        "content_digest": row["content_digest"],
                        "document_id": row["document_id"],
                        "shard": row["shard"],
                        "row": sequence_id % ROWS_PER_SHARD,
                        "n_tokens": row["n_tokens"],
                        "char_start": row["char_start"],
                        "char_end": row["char_end"],
                        **{
                            METADATA_PREFIX + key: str(metadata[key])
                            for key in keys
                            if key in metadata
                        },
                        "token_texts": row["token_texts"],
                        "token_scores": explanation.token_scores.astype(np.float32),
                        "layer_scores": list(explanation.layer_scores.items()),
                        "spurious": is_spurious(explanation.token_scores),
                        "near_duplicate_of": None if earlier is None else int(ids[earlier]),
                    }
                )
    return pa.Table.from_pylist(rows, schema=survivor_schema(keys))


def group_table(queries: Sequence[EncodedQuery], scanned: Sequence[Scanned]) -> pa.Table:
    """Sums of scores per query and group, over all scanned sequences."""
    rows = []
    for query in queries:
        bank, place = _bank_of(query, scanned)
        groups = bank.partial.groups
        for column, value in sorted(groups.counts):
            positive, negative = groups.sums_2Q[column, value][:, place].tolist()
            rows.append(
                {
                    "query_id": query.query.query_id,
                    "column": column,
                    "value": value,
                    "n_sequences": groups.counts[column, value],
                    "positive_sum": positive,
                    "negative_sum": negative,
                }
            )
    return pa.Table.from_pylist(rows, schema=GROUP_SCHEMA)


def write_method(
    store: Store,
    method: str,
    queries: Sequence[EncodedQuery],
    scanned: Sequence[Scanned],
    n_sequences: int,
) -> None:
    """Write the tables of one method."""
    write_table(store, f"results/{method}.parquet", survivor_table(queries, scanned, n_sequences))
    write_table(store, f"results/{method}-groups.parquet", group_table(queries, scanned))


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


def _bank_of(query: EncodedQuery, scanned: Sequence[Scanned]) -> tuple[Scanned, int]:
    for bank in scanned:
        if query.digest in bank.plan.query_digests:
            return bank, bank.plan.query_digests.index(query.digest)
    raise AssertionError(f"query {query.query.query_id} is in no bank")  # plan_banks covers all
