"""Results as users read them.

    <run>/results/<fingerprint>/<method>.parquet        survivors; also -groups (sums per group),
                                                        -statistics and -tails (of all scores)
    <run>/results/<fingerprint>/manifest.json           what they are made of, with their digests
    <run>/results/manifest.json                         the same of the current ones; written last

Results of other settings have another fingerprint, and stay readable beside the current ones.

Positive scores are proponents: training on the sequence makes the completion MORE likely. The
tables hold no time, host, path or version, so equal inputs give equal bytes; all of that is in the
manifest.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from rayinfluence.errors import DamagedError, IncompleteResultsWarning, StorageError
from rayinfluence.storage.digest import digest_bytes
from rayinfluence.storage.store import Store, parse_table, read_json, read_table
from rayinfluence.text import visible_line

Direction = Literal["proponent", "opponent"]
METADATA_PREFIX = "metadata."

#: Columns before and after the flattened ``metadata.<key>`` columns. Scores are in the raw scale of
#: MATH (no 1/N); ``delta_nats`` is score / N, the predicted change of the completion's
#: log-probability, in nats, when the sequence is seen once more. It is no prediction where
#: ``beyond_linear`` is true, and both are null by a method without curvature, which predicts no
#: change. All are at full rank;
#: ``scan_score`` and ``scan_rank`` are what the scan found at the rank of its query bank.
#: ``token_scores[t]`` belongs to input position t, so it is about the prediction of token t + 1.
LEADING_FIELDS = (
    pa.field("query_id", pa.string()),
    pa.field("rank", pa.int32()),
    pa.field("direction", pa.string()),
    pa.field("score", pa.float64()),
    pa.field("delta_nats", pa.float64()),
    pa.field("beyond_linear", pa.bool_()),
    pa.field("scan_rank", pa.int32()),
    pa.field("scan_score", pa.float64()),
    pa.field("sequence_id", pa.int64()),
    pa.field("content_digest", pa.string()),
    pa.field("document_id", pa.string()),
    pa.field("shard", pa.string()),
    pa.field("row", pa.int64()),
    pa.field("n_tokens", pa.int32()),
    pa.field("char_start", pa.int64()),
    pa.field("char_end", pa.int64()),
)
TRAILING_FIELDS = (
    pa.field("token_texts", pa.list_(pa.string())),
    pa.field("token_scores", pa.list_(pa.float32())),
    pa.field("layer_scores", pa.map_(pa.string(), pa.float32())),
    pa.field("concentration", pa.float64()),
    pa.field("carried_by", pa.int32()),
    pa.field("carrier_in_completion", pa.bool_()),
    pa.field("suspect", pa.bool_()),
    pa.field("near_duplicate_of", pa.int64()),
)
#: Of the ``top`` proponents ``in_top`` are in the group; ``lift`` is that share over the group's
#: share of the corpus. Within a query and column the largest lift comes first.
GROUP_SCHEMA = pa.schema(
    [
        pa.field("query_id", pa.string()),
        pa.field("column", pa.string()),
        pa.field("value", pa.string()),
        pa.field("value_type", pa.string()),
        pa.field("n_sequences", pa.int64()),
        pa.field("share_of_corpus", pa.float64()),
        pa.field("positive_sum", pa.float64()),
        pa.field("negative_sum", pa.float64()),
        pa.field("mean_score", pa.float64()),
        pa.field("mean_score_error", pa.float64()),
        pa.field("top", pa.int64()),
        pa.field("in_top", pa.int64()),
        pa.field("lift", pa.float64()),
        pa.field("lift_low", pa.float64()),
        pa.field("lift_high", pa.float64()),
    ]
)
STATISTICS_SCHEMA = pa.schema(
    [
        pa.field("query_id", pa.string()),
        pa.field("n_sequences", pa.int64()),
        pa.field("n_positive", pa.int64()),
        pa.field("n_negative", pa.int64()),
        pa.field("positive_sum", pa.float64()),
        pa.field("negative_sum", pa.float64()),
        pa.field("top_1_percent_share", pa.float64()),
        pa.field("top_1_percent_share_error", pa.float64()),
        pa.field("tail_exponent", pa.float64()),
        pa.field("tail_exponent_error", pa.float64()),
        pa.field("tail_start", pa.float64()),
        pa.field("tail_count", pa.int64()),
    ]
)
#: ``lower``, ``upper`` and ``sum`` are of |score|.
TAIL_SCHEMA = pa.schema(
    [
        pa.field("query_id", pa.string()),
        pa.field("sign", pa.int8()),
        pa.field("lower", pa.float64()),
        pa.field("upper", pa.float64()),
        pa.field("count", pa.int64()),
        pa.field("sum", pa.float64()),
    ]
)
#: Names the current results.
MANIFEST = "results/manifest.json"
#: What the names of a method's tables end in.
TABLE_ENDINGS = ("", "-groups", "-statistics", "-tails")
#: A linear prediction of a larger change than this, in nats, is none.
LINEAR_RANGE = 0.5


def beyond_linear(delta_nats: float, log_probability: float) -> bool:
    """Whether a change in nats, of one sequence or of several, is out of the linear range.

    Args:
        delta_nats: the predicted change of the completion's log-probability.
        log_probability: what the model gives the completion, in nats.
    """
    return log_probability + delta_nats > 0 or abs(delta_nats) > LINEAR_RANGE


def scores_key(split_digest: str) -> str:
    """Where a bank keeps all scores of a split, when it keeps them."""
    return f"scores/{split_digest}.parquet"


def dense_table(
    query_digests: Sequence[str], ids_N: NDArray[np.int64], scores_NQ: NDArray[np.float64]
) -> pa.Table:
    """All scores of a split as float32, a row per sequence in the order of ids; null for NaN.

    Columns are ``sequence_id`` and one per query, named by its digest, so that a query can be read
    without the others.
    """
    order = np.argsort(ids_N)
    scores_QN = scores_NQ[order].T.astype(np.float32)
    arrays = [
        pa.array(scores_N, mask=nan_N if (nan_N := np.isnan(scores_N)).any() else None)
        for scores_N in scores_QN
    ]
    columns = dict(zip(query_digests, arrays, strict=True))
    return pa.table({"sequence_id": pa.array(ids_N[order]), **columns})


def survivor_schema(metadata_keys: Sequence[str]) -> pa.Schema:
    """The schema of a results table whose survivors carry these metadata keys (sorted)."""
    metadata = [pa.field(METADATA_PREFIX + key, pa.string()) for key in metadata_keys]
    return pa.schema([*LEADING_FIELDS, *metadata, *TRAILING_FIELDS])


@dataclass(frozen=True)
class Survivor:
    """One training sequence among a query's most influential.

    ``score`` is the raw influence (positive raises the completion's log-probability) at full rank,
    ``delta_nats`` the same divided by the number of training sequences, and no prediction where it
    is ``beyond_linear`` (both None by a method without curvature); ``scan_score`` and ``scan_rank``
    are those of the scan, whose query gradients may be of low rank. ``token_scores`` has one number
    per token of ``token_texts`` where the run has it (``scan.token_scores``), ``layer_scores`` one
    per tracked module; both sum to the score up to rounding. What follows from token scores is None
    without them.

    ``concentration`` says how the score is spread over tokens (0 evenly, 1 on a single one),
    ``carried_by`` is the place in ``token_texts`` of the token that outweighs all others, and
    ``carrier_in_completion`` whether the completion has it too. ``suspect``: the scan's score did
    not come out again in batches of other shapes.
    """

    query_id: str
    rank: int
    direction: Direction
    score: float
    delta_nats: float | None
    beyond_linear: bool | None
    scan_rank: int
    scan_score: float
    sequence_id: int
    content_digest: str
    document_id: str
    shard: str
    row: int
    n_tokens: int
    char_start: int
    char_end: int
    metadata: dict[str, str]
    token_texts: list[str]
    token_scores: list[float] | None
    layer_scores: dict[str, float]
    concentration: float | None
    carried_by: int | None
    carrier_in_completion: bool | None
    suspect: bool
    near_duplicate_of: int | None

    @property
    def text(self) -> str:
        """The sequence as text."""
        return "".join(self.token_texts)

    @property
    def carrier(self) -> str | None:
        """The text of the token that carries the score, where one does."""
        return None if self.carried_by is None else self.token_texts[self.carried_by]

    @property
    def source(self) -> str:
        """The ``source`` of its metadata, or an empty string."""
        return self.metadata.get("source", "")


def version_manifest(fingerprint: str) -> str:
    """Where the manifest of some results is, current ones or not."""
    return f"results/{fingerprint}/manifest.json"


def table_key(fingerprint: str, name: str) -> str:
    """Where a table of some results is."""
    return f"results/{fingerprint}/{name}"


def read_results_manifest(store: Store, version: str | None = None) -> dict[str, Any]:
    """The manifest of a run directory's results.

    Args:
        store: the run directory.
        version: fingerprint of the results; None names the current ones.

    Raises:
        DamagedError: it is not one that a run has written.
        StorageError: it is missing, cannot be read, or another version of rayinfluence wrote it.
    """
    key = MANIFEST if version is None else version_manifest(version)
    manifest = read_json(store, key)
    methods, queries = manifest.get("methods"), manifest.get("queries")
    if not (methods and isinstance(methods, dict) and isinstance(queries, list)):
        raise DamagedError(
            f"{store.url}/{key} is no manifest of results: it names no methods or no queries. If a "
            "run wrote it, delete it and run again; if not, this is no run directory."
        )
    if not isinstance(manifest.get("tables"), dict):
        raise StorageError(_other_version(store))
    return manifest


def _other_version(store: Store) -> str:
    return (
        f"{store.url} has results of another version of rayinfluence: `rayinfluence run` on its "
        "config makes them again, or read them with the version that wrote them."
    )


class Results:
    """What one method found for every query of a run.

    Args:
        method: the attribution method, such as ``ekfac``.
        table: one row per query and survivor, in the schema above.
        groups: sums of scores per query and value of each grouping column, over ALL scanned
            sequences.
        statistics: one row per query: counts, sums and concentration of all scores.
        tails: one row per query, sign and bin of |score|: a histogram of all scores.
        manifest: model, corpus, queries, numerics, versions and timings of the run.
        store: the run directory, where all scores are if the run kept them.
    """

    def __init__(
        self,
        method: str,
        table: pa.Table,
        groups: pa.Table,
        statistics: pa.Table,
        tails: pa.Table,
        manifest: dict[str, Any],
        store: Store | None = None,
    ) -> None:
        self.method = method
        self.table = table
        self.groups = groups
        self.statistics = statistics
        self.tails = tails
        self.manifest = manifest
        self._store = store
        self.queries: dict[str, dict[str, Any]] = {q["query_id"]: q for q in manifest["queries"]}
        self._places: dict[tuple[str, str], list[int]] = {}
        keys = (table["query_id"].to_pylist(), table["direction"].to_pylist())
        for place, key in enumerate(zip(*keys, strict=True)):
            self._places.setdefault(key, []).append(place)

    @classmethod
    def load(cls, store: Store, method: str | None = None, version: str | None = None) -> Results:
        """Read results from a run directory; those that lack splits come with a warning.

        Args:
            store: the run directory.
            method: of those that were run; None is the first.
            version: fingerprint of the results (:meth:`versions`); None names the current ones.

        Raises:
            StorageError: the run has no results yet, none of this method or version, some that
                another version of rayinfluence wrote, or a table that is not the manifest's.
        """
        if not store.exists(MANIFEST if version is None else version_manifest(version)):
            there = ", ".join(cls.versions(store))
            if version is not None and there:
                raise StorageError(f"{store.url} has no results {version!r}; it has {there}.")
            raise StorageError(
                f"{store.url} has no results yet: `rayinfluence run` on its configuration makes "
                "them, and `rayinfluence status` on that says how far they are."
            )
        manifest = read_results_manifest(store, version)
        methods = list(manifest["methods"])
        method = method or methods[0]
        if method not in methods:
            raise StorageError(
                f"{store.url} has no results of method {method!r}; it has {', '.join(methods)}."
            )
        names = [f"{method}{ending}.parquet" for ending in TABLE_ENDINGS]
        table, groups, statistics, tails = (_read(store, manifest, name) for name in names)
        wanted = {field.name for field in (*LEADING_FIELDS, *TRAILING_FIELDS)}
        if not wanted <= set(table.column_names) or groups.schema.names != GROUP_SCHEMA.names:
            raise StorageError(_other_version(store))
        results = cls(method, table, groups, statistics, tails, manifest, store)
        if not results.complete:
            aside = manifest["set_aside"]
            warnings.warn(
                visible_line(
                    f"the results in {store.url} lack {len(aside)} splits of the corpus, the first "
                    f"of them {aside[0]['name']}: {aside[0]['reason']}. Put it right and run "
                    "again; `Results.warnings` has all of them."
                ),
                IncompleteResultsWarning,
                stacklevel=2,
            )
        return results

    @staticmethod
    def versions(store: Store) -> list[str]:
        """Fingerprints of all results that a run directory holds, by when they were written."""
        found = store.list("results")
        keys = [key for key in found if key.endswith("/manifest.json") and key != MANIFEST]
        return [key.split("/")[1] for key in sorted(keys, key=lambda k: found[k].modified or 0.0)]

    @property
    def complete(self) -> bool:
        """Whether every split of the corpus is in the results; those that could not be are not."""
        return not self.manifest.get("set_aside")

    @property
    def warnings(self) -> list[str]:
        """What the run warned of, in sentences."""
        return list(self.manifest.get("warnings", ()))

    def proponents(self, query_id: str) -> list[Survivor]:
        """The sequences that raised the completion's log-probability most, strongest first."""
        return self._survivors(query_id, "proponent")

    def opponents(self, query_id: str) -> list[Survivor]:
        """The sequences that lowered the completion's log-probability most, strongest first."""
        return self._survivors(query_id, "opponent")

    def scores(self, query_id: str) -> pa.Table:
        """The scan's scores of ALL sequences for one query: ``sequence_id`` and ``score``.

        In the order of sequence ids, as float32, without those that are quarantined for this query;
        12 bytes each. Only this query's column is read.

        Raises:
            StorageError: the run kept the scores of survivors alone, or those of a split are gone.
        """
        digest, splits = self._query(query_id)["digest"], self.manifest["dense_scores"]
        if splits is None or self._store is None:
            raise StorageError(
                "these results hold the scores of survivors alone: set `scan.scores: dense`, run "
                "again, and load the results from the run directory."
            )
        banks = [self._store / "scan" / b for b in self.manifest["methods"][self.method]["banks"]]
        try:
            holding = [b for b in banks if digest in read_json(b, "manifest.json")["query_digests"]]
            tables = [
                read_table(holding[0], scores_key(split), ["sequence_id", digest])
                for split in splits
            ]
        except StorageError as error:
            raise StorageError(
                f"{error} To have all scores made again: `rayinfluence clean {self._store.url} "
                "--stage scan --stage results`, then run."
            ) from error
        table = pa.concat_tables(tables).rename_columns(["sequence_id", "score"])
        return table.filter(table["score"].is_valid()) if table["score"].null_count else table

    def _query(self, query_id: str) -> dict[str, Any]:
        if query_id not in self.queries:
            raise StorageError(
                f"the results have no query {query_id!r}; they have {len(self.queries)}, "
                f"such as {next(iter(self.queries), 'none')!r}."
            )
        return self.queries[query_id]

    def _survivors(self, query_id: str, direction: Direction) -> list[Survivor]:
        self._query(query_id)
        rows = self._places.get((query_id, direction), [])
        return [_survivor(row) for row in self.table.take(pa.array(rows, pa.int64())).to_pylist()]


def _read(store: Store, manifest: dict[str, Any], name: str) -> pa.Table:
    """A table, if it is the one that the manifest is about."""
    key = table_key(manifest["fingerprint"], name)
    body = store.read(key)
    if digest_bytes(body) != manifest["tables"].get(name):
        raise StorageError(
            f"{store.url}/{key} is damaged: it is not the table that its manifest is about. Delete "
            "it and run again."
        )
    return parse_table(store, key, body)


def _survivor(row: dict[str, Any]) -> Survivor:
    metadata = {
        key.removeprefix(METADATA_PREFIX): value
        for key, value in row.items()
        if key.startswith(METADATA_PREFIX) and value is not None
    }
    known = {key: value for key, value in row.items() if not key.startswith(METADATA_PREFIX)}
    known["layer_scores"] = dict(known["layer_scores"])
    return Survivor(**known, metadata=metadata)
