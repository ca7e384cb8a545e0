"""From what the scan found to results: survivors scored again, and all tables written."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from rayinfluence.corpus.metadata import plain
from rayinfluence.corpus.queries import EncodedQuery
from rayinfluence.corpus.tokenizer import token_texts
from rayinfluence.dataflow import stage_names
from rayinfluence.dataflow.compute.survivors import Completion
from rayinfluence.dataflow.stages.gathering import gather
from rayinfluence.dataflow.stages.progress import ProgressLog
from rayinfluence.dataflow.stages.queries import MethodQueries, query_report
from rayinfluence.dataflow.stages.second_pass import SecondPass
from rayinfluence.dataflow.stages.tables import Tables
from rayinfluence.storage.metadata import columns, kinds_of
from rayinfluence.storage.results import QUERIES, in_version, query_schema
from rayinfluence.storage.store import Store
from rayinfluence.storage.tables import writing_table

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

#: A completion's token below this probability, and not the model's first choice, makes a warning.
UNLIKELY = 0.1
#: What the manifest says of a query; all else is in the table of queries.
_IN_MANIFEST = (
    "query_id",
    "digest",
    "log_probability",
    "n_completion_tokens",
    "greedy",
    "warning",
)


@dataclass(frozen=True)
class Written:
    """Results whose tables are written.

    Attributes:
        fingerprint: of the results.
        tables: digests of the tables, by name.
        rescored: by method and query, what scoring the survivors again changed.
        queries: what the manifest says of each.
        warning: of completions that the model would hardly say.
    """

    fingerprint: str
    tables: dict[str, str]
    rescored: dict[str, dict[str, dict[str, Any]]]
    queries: list[dict[str, Any]]
    warning: str | None


@dataclass(frozen=True)
class Documents:
    """What there is to know of the corpus's documents.

    Attributes:
        files: by ordinal of a shard, what its documents' file is called.
        tokenizer: that they were tokenised with.
        group_by: metadata keys that results are grouped by.
    """

    files: Sequence[str | None]
    tokenizer: PreTrainedTokenizerFast
    group_by: Sequence[str]


def write_results(
    again: SecondPass,
    store: Store,
    prepared: MethodQueries,
    documents: Documents,
    n_by_token: int | None,
    n_influences: int,
    n_training: int,
    fingerprint: str,
    progress: ProgressLog,
) -> Written:
    """Score the survivors again, and write the tables of all methods.

    Args:
        again: the second pass.
        store: the run directory.
        prepared: queries of a method, which say what the model thinks of them.
        documents: what survivors are made of.
        n_by_token: of each direction get token scores; None is all.
        n_influences: of each direction get token influences.
        n_training: N.
        fingerprint: of the results.
        progress: told of it.
    """
    rows = query_rows(prepared, again.queries, documents.tokenizer)
    with progress.stage(stage_names.GATHER):
        sequences = gather(
            again.runner,
            again.corpus,
            again.store,
            again.splits,
            documents.files,
            documents.tokenizer,
            documents.group_by,
            again.ids(),
        )
    rescored = again.run(sequences, n_by_token, n_influences, progress)
    with progress.stage(stage_names.TABLES):
        completions = [
            completion(query, row) for query, row in zip(again.queries, rows, strict=True)
        ]
        tables = Tables(
            again.runner,
            again.store,
            store,
            fingerprint,
            again.queries,
            completions,
            sequences,
            rescored,
            n_training,
        )
        digests = {QUERIES: write_queries(store, tables.key(QUERIES), rows, fingerprint)}
        digests |= tables.of_sequences()
        changed = {}
        for scanned, found in zip(again.scanned, rescored.found, strict=True):
            written, changed[scanned.method] = tables.of_method(scanned, found)
            digests |= written
    in_manifest = [{key: row[key] for key in _IN_MANIFEST} for row in rows]
    return Written(fingerprint, digests, changed, in_manifest, _unlikely(rows))


def query_rows(
    method: MethodQueries, queries: Sequence[EncodedQuery], tokenizer: PreTrainedTokenizerFast
) -> list[dict[str, Any]]:
    """What the table of queries says of each: what the model thinks of it, and its tokens."""
    return [
        _query_row(
            query,
            query_report(method, query),
            token_texts(tokenizer, query.tokens)[query.first_target :],
        )
        for query in queries
    ]


def completion(query: EncodedQuery, row: Mapping[str, Any]) -> Completion:
    """What rows of survivors say of a query."""
    return Completion(
        query.query.query_id,
        row["log_probability"],
        query.tokens[query.first_target :],
        tuple(row["token_texts"]),
    )


def write_queries(
    store: Store, key: str, rows: Sequence[Mapping[str, Any]], fingerprint: str
) -> str:
    """Write the table of queries; returns its digest."""
    metadata = [plain(row["metadata"]) for row in rows]
    schema = in_version(query_schema(kinds_of(metadata)), fingerprint)
    of_metadata = columns(metadata, schema)
    arrays = [
        of_metadata[field.name]
        if field.name in of_metadata
        else pa.array([row[field.name] for row in rows], field.type)
        for field in schema
    ]
    with writing_table(store, key, schema) as writer:
        writer.write(pa.table(arrays, schema=schema))
    return writer.digest


def _query_row(
    query: EncodedQuery, header: Mapping[str, Any], texts: Sequence[str]
) -> dict[str, Any]:
    log_ps: list[float] = header["log_probabilities"]
    unlikely = [
        (text, log_p)
        for text, log_p, rank in zip(texts, log_ps, header["ranks"], strict=True)
        if rank > 1 and np.exp(log_p) < UNLIKELY
    ]
    warning = None
    if unlikely:
        text, log_p = min(unlikely, key=lambda pair: pair[1])
        said = repr(text) if text else "a token that is a part of a character"
        warning = (
            f"the model would hardly say this: it gives {said} a probability of "
            f"{np.exp(log_p):.2g}. "
            "The influences below are on a probability that is low already."
        )
    return {
        "query_id": query.query.query_id,
        "digest": query.digest,
        "prompt": query.query.prompt,
        "completion": query.query.completion,
        "tokens": list(query.tokens),
        "n_completion_tokens": len(log_ps),
        "log_probability": float(np.sum(log_ps)),
        "token_texts": list(texts),
        "token_log_probabilities": log_ps,
        "token_ranks": header["ranks"],
        "greedy": all(rank == 1 for rank in header["ranks"]),
        "warning": warning,
        "metadata": query.query.metadata,
    }


def _unlikely(queries: Sequence[Mapping[str, Any]]) -> str | None:
    """A warning of completions that the model would hardly say."""
    names = [query["query_id"] for query in queries if query["warning"]]
    if not names:
        return None
    return (
        f"the model would hardly say the completions of {len(names)} of {len(queries)} "
        f"queries ({', '.join(names[:3])}{', ...' * (len(names) > 3)}); see the report."
    )
