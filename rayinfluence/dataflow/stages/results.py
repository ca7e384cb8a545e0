"""From what the scan found to results: survivors scored again, and all tables written."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from rayinfluence.corpus.metadata import plain
from rayinfluence.corpus.queries import EncodedQuery
from rayinfluence.corpus.query_forms import PER_TOKEN
from rayinfluence.dataflow import stage_names
from rayinfluence.dataflow.compute.query_rows import completion_texts, query_row
from rayinfluence.dataflow.compute.survivors import Completion
from rayinfluence.dataflow.stages.gathering import gather
from rayinfluence.dataflow.stages.pair_pass import PairPass
from rayinfluence.dataflow.stages.progress import ProgressLog
from rayinfluence.dataflow.stages.queries import MethodQueries, query_report
from rayinfluence.dataflow.stages.second_pass import SecondPass
from rayinfluence.dataflow.stages.tables import Tables
from rayinfluence.methods.method import ITSELF
from rayinfluence.methods.registry import asks
from rayinfluence.storage.metadata import columns, kinds_of
from rayinfluence.storage.results import (
    QUERIES,
    ceiling_of,
    in_version,
    is_itself,
    is_predicted,
    log_probability_of,
    query_schema,
)
from rayinfluence.storage.store import Store
from rayinfluence.storage.tables import writing_table

if TYPE_CHECKING:
    from rayinfluence.corpus.tokenizer import Coding

#: What the manifest says of a query; all else is in the table of queries.
_IN_MANIFEST = (
    "query_id",
    "digest",
    "objective",
    "unit",
    "value",
    "log_probability",
    "n_completion_tokens",
    "greedy",
    "warning",
)


#: Of the sequences themselves, which nothing was asked of.
_ITSELF_ROW: dict[str, Any] = {
    **dict.fromkeys(query_schema({}).names),
    "query_id": ITSELF.query.query_id,
    "digest": ITSELF.digest,
    "metadata": {},
}


@dataclass(frozen=True)
class Written:
    """Results whose tables are written.

    Attributes:
        fingerprint: of the results.
        tables: digests of the tables, by name.
        rescored: by method and query, what scoring the survivors again changed.
        queries: what the manifest says of each.
        warning: of completions that the model would hardly say.
        paired: what the manifest says of scores by pairs of tokens.
    """

    fingerprint: str
    tables: dict[str, str]
    rescored: dict[str, dict[str, dict[str, Any]]]
    queries: list[dict[str, Any]]
    warning: str | None
    paired: dict[str, Any]


@dataclass(frozen=True)
class Documents:
    """What there is to know of the corpus's documents.

    Attributes:
        files: by ordinal of a shard, what its documents' file is called.
        tokenizer: that they were tokenised with.
        group_by: metadata keys that results are grouped by.
        n_around: characters that are kept on either side of a sequence.
    """

    files: Sequence[str | None]
    tokenizer: Coding
    group_by: Sequence[str]
    n_around: int


def write_results(
    again: SecondPass,
    store: Store,
    prepared: Sequence[MethodQueries],
    documents: Documents,
    n_by_token: int | None,
    n_influences: int,
    n_pair_scores: int,
    n_training: int,
    fingerprint: str,
    progress: ProgressLog,
) -> Written:
    """Score the survivors again, and write the tables of all methods.

    Args:
        again: the second pass.
        store: the run directory.
        prepared: queries of all methods, which say what the model thinks of them.
        documents: what survivors are made of.
        n_by_token: of each direction get token scores; None is all.
        n_influences: of each direction get token influences.
        n_pair_scores: of each direction get scores by pairs of tokens.
        n_training: N.
        fingerprint: of the results.
        progress: told of it.
    """
    numerics = again.replica.numerics
    own = None if numerics.function is None else numerics.function.name
    of_itself = PER_TOKEN if numerics.is_per_token else own and "that of objective.kind"
    rows = query_rows(prepared, again.queries, documents.tokenizer, of_itself)
    with progress.stage(stage_names.GATHER):
        sequences = gather(
            again.runner,
            again.corpus,
            again.store,
            again.splits,
            documents.files,
            documents.tokenizer,
            documents.group_by,
            documents.n_around,
            again.ids(),
        )
    rescored = again.run(sequences, n_by_token, n_influences, progress)
    paired = PairPass(again, sequences, rescored, n_pair_scores).run(progress)
    for row, ends in zip(rows, paired.ends, strict=True):
        row["part_ends"] = ends
    with progress.stage(stage_names.TABLES):
        completions = [
            completion(query, row, documents.tokenizer, numerics.objective)
            for query, row in zip(again.queries, rows, strict=True)
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
            own,
            paired.keys,
        )
        digests = {QUERIES: write_queries(store, tables.key(QUERIES), rows, fingerprint)}
        digests |= tables.of_sequences()
        changed = {}
        for scanned, found in zip(again.scanned, rescored.found, strict=True):
            written, changed[scanned.name] = tables.of_method(scanned, found)
            digests |= written
    in_manifest = [{key: row[key] for key in _IN_MANIFEST} for row in rows]
    told = in_manifest, _unlikely(rows), paired.told()
    return Written(fingerprint, digests, changed, *told)


def query_rows(
    methods: Sequence[MethodQueries],
    queries: Sequence[EncodedQuery],
    tokenizer: Coding,
    of_itself: str | None,
) -> list[dict[str, Any]]:
    """What the table of queries says of each: what the model thinks of it, and its tokens.

    The row that stands for the sequences themselves says nothing but its id, and ``of_itself``, the
    unit of what training maximised of them where that is no log-probability.
    """
    rows = []
    for query in queries:
        if query.digest == ITSELF.digest:
            rows.append({**_ITSELF_ROW, "unit": of_itself})
            continue
        asking = next(one for one in methods if asks(one.method, query.digest))
        rows.append(query_row(query, query_report(asking, query), tokenizer))
    return rows


def completion(
    query: EncodedQuery, row: Mapping[str, Any], tokenizer: Coding, kind: str
) -> Completion:
    """What rows of survivors say of a query, of a model of a kind."""
    asked = query.spoken_for
    return Completion(
        query.query.query_id,
        query.predicts and is_predicted(row),
        log_probability_of(row),
        ceiling_of(row, kind),
        tuple(token for one in asked for token in one.completion),
        tuple(text for one in asked for text in completion_texts(one, tokenizer)),
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


def _unlikely(queries: Sequence[Mapping[str, Any]]) -> str | None:
    """A warning of completions that the model would hardly say."""
    names = [query["query_id"] for query in queries if query["warning"]]
    if not names:
        return None
    n_asked = sum(not is_itself(query) for query in queries)
    of = f"{n_asked} queries" if n_asked != 1 else "1 query"
    return (
        f"the model would hardly say the completion{'s' * (len(names) != 1)} of {len(names)} of "
        f"{of} ({', '.join(names[:3])}{', ...' * (len(names) > 3)}): the report says of each "
        "how likely it is."
    )
