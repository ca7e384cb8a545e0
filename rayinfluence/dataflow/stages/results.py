"""From what the scan and the second pass found to results: order, tables, what changed."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from rayinfluence.corpus.metadata import as_text
from rayinfluence.corpus.queries import EncodedQuery
from rayinfluence.corpus.shards import ROWS_PER_SHARD, sequences_of
from rayinfluence.corpus.tokenizer import token_texts
from rayinfluence.dataflow.compute.grouping import group_table
from rayinfluence.dataflow.compute.statistics import statistics_table, tails_table
from rayinfluence.dataflow.stages.progress import ProgressLog
from rayinfluence.dataflow.stages.queries import MethodQueries, query_report
from rayinfluence.dataflow.stages.second_pass import Found, Scanned, SecondPass
from rayinfluence.influence.attribution import carrier, near_duplicates, reproduces, shingles
from rayinfluence.methods.solvers import WITHOUT_CURVATURE
from rayinfluence.storage.digest import digest_bytes
from rayinfluence.storage.results import METADATA_PREFIX, beyond_linear, survivor_schema, table_key
from rayinfluence.storage.store import Store, write_table

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

#: A completion's token below this probability, and not the model's first choice, makes a warning.
UNLIKELY = 0.1
#: Ranks of either direction that a change of order is counted in.
_COMPARED_RANKS = 10


@dataclass(frozen=True)
class Survivors:
    """The rows of all survivors, by the places of their ids: text, tokens, where they are from."""

    rows: pa.Table
    texts: list[list[str]]
    metadata: list[dict[str, Any]]
    tokens: list[NDArray[np.int32]]
    shingles: list[frozenset[tuple[int, ...]]]

    @classmethod
    def of(cls, rows: pa.Table, tokenizer: PreTrainedTokenizerFast) -> Survivors:
        """What is needed of rows in the order of their ids."""
        tokens = sequences_of(rows)
        return cls(
            rows,
            [token_texts(tokenizer, one.tolist()) for one in tokens],
            [json.loads(text) for text in rows["metadata"].to_pylist()],
            tokens,
            [shingles(one.tolist()) for one in tokens],
        )

    def places(self, ids: NDArray[np.int64]) -> NDArray[np.int64]:
        """Where some sequences are."""
        return np.searchsorted(self.rows["sequence_id"].to_numpy(), ids)


@dataclass(frozen=True)
class Rescored:
    """What one method found, scored again, by query digest."""

    scanned: Scanned
    modules: Sequence[str]
    found: dict[str, Found]


def survivor_table(
    queries: Sequence[EncodedQuery],
    rescored: Rescored,
    survivors: Survivors,
    headers: Mapping[str, Mapping[str, Any]],
    n_training: int,
) -> pa.Table:
    """The result table of one method: a row per query and survivor, in order of queries and ranks.

    A sequence whose score changed its sign when it was scored again stays in the direction that the
    scan found it in.

    Args:
        queries: in order.
        rescored: what the method found.
        survivors: rows of its sequences, at least.
        headers: by query digest, what the model thinks of it.
        n_training: N, which ``delta_nats`` divides by; a method without curvature predicts no
            change, and has none.
    """
    predicts = rescored.scanned.method not in WITHOUT_CURVATURE
    keys = sorted({key for metadata in survivors.metadata for key in metadata})
    schema = survivor_schema(keys)
    tables = [schema.empty_table()]
    for query in queries:
        found = rescored.found.get(query.digest)
        if found is None:
            continue
        log_probability = float(np.sum(headers[query.digest]["log_probabilities"]))
        completion = query.tokens[query.first_target :], headers[query.digest]["texts"]
        for direction, side in zip(
            ("proponent", "opponent"), rescored.scanned.sides(query.digest), strict=True
        ):
            places = found.ranked(side)
            ids, scores = found.ids_S[places], found.scores_S[places]
            in_scan = np.argsort(side.ids_K)[np.searchsorted(np.sort(side.ids_K), ids)]
            scan_scores = side.sign * side.scores_K[in_scan]
            rows = survivors.places(ids)
            nats = (scores / n_training).tolist() if predicts else [None] * len(ids)
            carriers = [
                carrier(tokens, survivors.tokens[row].tolist(), survivors.texts[row], *completion)
                if (tokens := found.token_scores.get(place)) is not None
                else None
                for place, row in zip(places.tolist(), rows.tolist(), strict=True)
            ]
            duplicates = near_duplicates([survivors.shingles[row] for row in rows])
            columns = {
                "query_id": [query.query.query_id] * len(ids),
                "rank": np.arange(1, len(ids) + 1),
                "direction": [direction] * len(ids),
                "score": scores,
                "delta_nats": nats,
                "beyond_linear": [
                    None if change is None else beyond_linear(change, log_probability)
                    for change in nats
                ],
                "scan_rank": in_scan + 1,
                "scan_score": scan_scores,
                "sequence_id": ids,
                "content_digest": [content_digest(survivors.tokens[row]) for row in rows],
                "row": ids % ROWS_PER_SHARD,
                "token_texts": [survivors.texts[row] for row in rows],
                "token_scores": [found.token_scores.get(place) for place in places.tolist()],
                "layer_scores": _layers(rescored.modules, found.layer_scores_SM[places]),
                "concentration": [one and one.concentration for one in carriers],
                "carried_by": [one and one.position for one in carriers],
                "carrier_in_completion": [one and one.in_completion for one in carriers],
                "suspect": [
                    not reproduces(scan_score, again)
                    for scan_score, again in zip(scan_scores, found.scanned_S[places], strict=True)
                ],
                "near_duplicate_of": [None if one is None else int(ids[one]) for one in duplicates],
            }
            columns |= {
                name: survivors.rows[name].take(pa.array(rows))
                for name in ("document_id", "shard", "n_tokens", "char_start", "char_end")
            }
            columns |= {
                METADATA_PREFIX + key: [
                    as_text(survivors.metadata[row][key])
                    if key in survivors.metadata[row]
                    else None
                    for row in rows
                ]
                for key in keys
            }
            arrays = [_column(columns[field.name], field.type) for field in schema]
            tables.append(pa.table(arrays, schema=schema))
    return pa.concat_tables(tables).combine_chunks()


def _column(values: Any, kind: pa.DataType) -> pa.Array | pa.ChunkedArray:
    if isinstance(values, pa.Array | pa.ChunkedArray):
        return values.cast(kind)
    return pa.array(values, kind)


def _layers(modules: Sequence[str], scores_SM: NDArray[np.float64]) -> pa.Array:
    """Scores by module, of each survivor."""
    n, width = scores_SM.shape
    names = pa.array(list(modules) * n, pa.string())
    scores = pa.array(scores_SM.astype(np.float32).ravel())
    return pa.MapArray.from_arrays(np.arange(n + 1, dtype=np.int32) * width, names, scores)


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


@dataclass(frozen=True)
class Written:
    """Results whose tables are written.

    Attributes:
        fingerprint: of the results.
        tables: digests of the tables, by name.
        rescored: by method and query, what scoring the survivors again changed.
        headers: by query digest, what the model thinks of it.
        warning: of completions that it would hardly say.
    """

    fingerprint: str
    tables: dict[str, str]
    rescored: dict[str, dict[str, dict[str, Any]]]
    headers: dict[str, dict[str, Any]]
    warning: str | None


def write_results(
    again: SecondPass,
    store: Store,
    prepared: MethodQueries,
    tokenizer: PreTrainedTokenizerFast,
    n_by_token: int | None,
    n_training: int,
    fingerprint: str,
    progress: ProgressLog,
) -> Written:
    """Score the survivors again, and write the tables of all methods.

    Args:
        again: the second pass.
        store: the run directory.
        prepared: queries of a method, which say what the model thinks of them.
        tokenizer: of the corpus.
        n_by_token: of each direction get token scores; None is all.
        n_training: N.
        fingerprint: of the results.
        progress: told of it.
    """
    headers = query_headers(prepared, again.queries, tokenizer)
    rows = again.gather(progress)
    found = again.run(rows, n_by_token, progress)
    survivors, modules = Survivors.of(rows, tokenizer), list(again.replica.modules)
    warning = _unlikely([query_manifest(query, headers[query.digest]) for query in again.queries])
    written = Written(fingerprint, {}, {}, headers, warning)
    for scanned, of_method in zip(again.scanned, found, strict=True):
        rescored = Rescored(scanned, modules, of_method)
        tables = _tables(again.queries, rescored, survivors, headers, n_training)
        written.rescored[scanned.method] = rescoring(tables[""])
        for ending, table in tables.items():
            name = f"{scanned.method}{ending}.parquet"
            body = write_table(store, table_key(fingerprint, name), table)
            written.tables[name] = digest_bytes(body)
    return written


def _tables(
    queries: Sequence[EncodedQuery],
    rescored: Rescored,
    survivors: Survivors,
    headers: Mapping[str, Mapping[str, Any]],
    n_training: int,
) -> dict[str, pa.Table]:
    """The tables of one method, by what their names end in."""
    scanned = rescored.scanned
    found = survivor_table(queries, rescored, survivors, headers, n_training)
    partials = {query.query.query_id: scanned.of_query(query.digest) for query in queries}
    return {
        "": found,
        "-groups": group_table(partials, _proponents(found, survivors, partials)),
        "-statistics": statistics_table(partials),
        "-tails": tails_table(partials),
    }


def _proponents(
    found: pa.Table, survivors: Survivors, query_ids: Iterable[str]
) -> dict[str, list[dict[str, Any]]]:
    """The metadata of each query's proponents, strongest first."""
    proponents = found.filter(pc.equal(found["direction"], "proponent"))
    rows = survivors.places(proponents["sequence_id"].to_numpy()).tolist()
    best: dict[str, list[dict[str, Any]]] = {query_id: [] for query_id in query_ids}
    for query_id, row in zip(proponents["query_id"].to_pylist(), rows, strict=True):
        best[query_id].append(survivors.metadata[row])
    return best


def content_digest(tokens: NDArray[np.int32]) -> str:
    """The digest of a sequence's token ids: equal text, equal digest."""
    return digest_bytes(np.ascontiguousarray(tokens, dtype="<i4").tobytes())


def query_headers(
    method: MethodQueries, queries: Sequence[EncodedQuery], tokenizer: PreTrainedTokenizerFast
) -> dict[str, dict[str, Any]]:
    """By query digest, what the model thinks of its completion, and the texts of its tokens."""
    return {
        query.digest: {
            **query_report(method, query),
            "texts": token_texts(tokenizer, query.tokens)[query.first_target :],
        }
        for query in queries
    }


def query_manifest(query: EncodedQuery, header: Mapping[str, Any]) -> dict[str, Any]:
    """What the manifest says of a query.

    The model's own log-probability of it, and whether it would say it; ``header`` has the texts of
    the completion's tokens, too.
    """
    log_ps: list[float] = header["log_probabilities"]
    texts: list[str] = header["texts"]
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


def _unlikely(queries: Sequence[Mapping[str, Any]]) -> str | None:
    """A warning of completions that the model would hardly say, from the manifest's queries."""
    names = [query["query_id"] for query in queries if query["warning"]]
    if not names:
        return None
    return (
        f"the model would hardly say the completions of {len(names)} of {len(queries)} "
        f"queries ({', '.join(names[:3])} ...); see the report."
    )
