"""Results as users read them: tables that are opened when they are used, and joined by query."""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from copy import copy
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from rayinfluence.errors import IncompleteResultsWarning, StorageError
from rayinfluence.storage.digest import digest_bytes
from rayinfluence.storage.metadata import COLUMN, REST, as_text, decoded
from rayinfluence.storage.results import manifest as manifests
from rayinfluence.storage.results.dense import (
    BANK_MANIFEST,
    BANKS,
    error_column,
    scores_key,
)
from rayinfluence.storage.results.joining import Join
from rayinfluence.storage.results.manifest import MANIFEST, read_results_manifest, table_key
from rayinfluence.storage.results.meaning import Meaning
from rayinfluence.storage.results.notebook import frame_of, html_of, said_of
from rayinfluence.storage.results.schema import (
    GROUP_SCHEMA,
    QUERIES,
    SEQUENCES,
    STATISTICS_SCHEMA,
    TAIL_SCHEMA,
    is_itself,
    method_tables,
)
from rayinfluence.storage.results.seeds import SEED_COLUMNS, seeds_of
from rayinfluence.storage.results.survivor import Direction, Survivor
from rayinfluence.storage.results.valued import Valued, read_valued
from rayinfluence.storage.store import Store, parse_table, read_json, read_table
from rayinfluence.storage.tables import Rows, damaged
from rayinfluence.text import visible_line

#: What `leading` gives of a survivor.
_LEADING = (
    "query_id",
    "sequence_id",
    "rank",
    "score",
    "delta_nats",
    "beyond_linear",
    "scan_score",
    "suspect",
)


class Results:
    """What one method found for every query of a run.

    Args:
        method: the attribution method, such as ``ekfac``.
        survivors: one row per query and survivor: scores, ranks and flags.
        sequences: one row per sequence that survived: text, tokens, where it is from; by id.
        queries: one row per query; the method asks all but the one that stands for the sequences
            themselves, or that one alone.
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
        survivors: Rows,
        sequences: Rows,
        queries: pa.Table,
        groups: pa.Table,
        statistics: pa.Table,
        tails: pa.Table,
        manifest: dict[str, Any],
        store: Store | None = None,
    ) -> None:
        self.method = method
        self.groups = groups
        self.statistics = statistics
        self.tails = tails
        self.manifest = manifest
        self.queries: dict[str, dict[str, Any]] = {
            row["query_id"]: {
                **{key: value for key, value in row.items() if key not in (COLUMN, REST)},
                "metadata": decoded(row, queries.schema),
            }
            for row in queries.to_pylist()
            if is_itself(row) is self.meaning.of_itself
        }
        self._store = store
        self._join = Join(survivors, sequences)

    @classmethod
    def load(cls, store: Store, method: str | None = None, version: str | None = None) -> Results:
        """Read results from a run directory; those that lack splits come with a warning.

        Args:
            store: the run directory.
            method: of those that were run; None is the first.
            version: fingerprint of the results (:meth:`versions`); None names the current ones.

        Raises:
            StorageError: the run has no results yet, none of this method or version, some of
                another version of the schema, or a table that is not the manifest's.
        """
        if not store.exists(MANIFEST if version is None else manifests.version_manifest(version)):
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
        first, *others = method_tables(method)
        survivors, sequences = (_rows(store, manifest, name) for name in (first, SEQUENCES))
        queries, groups, statistics, tails = (
            _read(store, manifest, name) for name in (QUERIES, *others)
        )
        results = cls(
            method, survivors, sequences, queries, groups, statistics, tails, manifest, store
        )
        if not results.complete:
            aside = manifest["set_aside"]
            warnings.warn(
                visible_line(
                    f"the results in {store.url} lack {len(aside)} splits of the corpus, the first "
                    f"of them {aside[0]['name']}: {aside[0]['reason'].rstrip('.')}. Put it "
                    "right and run again; `Results.warnings` has all of them."
                ),
                IncompleteResultsWarning,
                stacklevel=2,
            )
        return results

    @staticmethod
    def versions(store: Store) -> list[str]:
        """Fingerprints of all results that a run directory holds, by when they were written."""
        return manifests.versions(store)

    @property
    def meaning(self) -> Meaning:
        """What the method's scores mean; an influence where its run did not say."""
        method = (self.manifest.get("methods") or {}).get(self.method) or {}
        return Meaning(**(method.get("meaning") or {}))

    @property
    def complete(self) -> bool:
        """Whether every split of the corpus is in the results; those that could not be are not."""
        return not self.manifest.get("set_aside")

    @property
    def warnings(self) -> list[str]:
        """What the run warned of, in sentences."""
        return list(self.manifest.get("warnings", ()))

    @cached_property
    def valued(self) -> Valued | None:
        """What groups of the same corpus are worth, if the run directory has that."""
        found = None if self._store is None else read_valued(self._store)
        corpus = (self.manifest.get("corpus") or {}).get("fingerprint")
        return found if found is not None and found.corpus == corpus else None

    @property
    def survivors(self) -> pa.Table:
        """The whole table of survivors, a row per query and sequence, without their texts."""
        return self._join.survivors.read()

    @property
    def sequences(self) -> pa.Table:
        """The whole table of the sequences that survived for any query, by any method."""
        return self._join.sequences.read()

    def rows(self, query_id: str) -> pa.Table:
        """A query's rows of :attr:`survivors`, in their order."""
        self._query(query_id)
        return self._join.of_query(query_id)

    @property
    def sequence_ids(self) -> NDArray[np.int64]:
        """The ids in :attr:`sequences`, ascending."""
        return self._join.ids

    def sequences_of(self, ids: NDArray[np.int64]) -> pa.Table:
        """The rows of :attr:`sequences` of some ids, ascending; only what they need is read.

        Raises:
            StorageError: one of them is not there.
        """
        return self._join.take(ids, remember=False)

    def metadata(self) -> dict[int, dict[str, Any]]:
        """The metadata of all sequences that survived, for any query and method, by their ids."""
        return self._join.metadata()

    def of_survivors(self, survivors: pa.Table, **told: Any) -> Results:
        """The same queries with other survivors, and nothing of all scores, which are not theirs.

        Args:
            survivors: of the columns that ours have.
            told: what the manifest says of them, by its key.
        """
        other = copy(self)
        other.__dict__.pop("table", None)
        other._join = Join(Rows(survivors), self._join.sequences)
        other.groups = GROUP_SCHEMA.empty_table()
        other.statistics = STATISTICS_SCHEMA.empty_table()
        other.tails = TAIL_SCHEMA.empty_table()
        methods = {
            name: {key: value for key, value in method.items() if key != "rescoring"}
            for name, method in self.manifest["methods"].items()
        }
        other.manifest = {**self.manifest, "methods": methods, **told}
        return other

    @cached_property
    def table(self) -> pa.Table:
        """The survivors with all that is known of their sequences, joined when it is first asked.

        Metadata are columns called ``metadata.<key>``. A sequence is repeated for each query: where
        there are many, join :attr:`survivors` and :attr:`sequences` by what is needed.
        """
        return self._join.with_sequences(self.survivors).flatten()

    def proponents(self, query_id: str, n: int | None = None) -> list[Survivor]:
        """The sequences with the largest positive scores, strongest first.

        By methods whose scores are directed they raise what the query asks for most.

        Args:
            query_id: of the query.
            n: how many at most; all when not given.
        """
        return self._of(query_id, "proponent", n)

    def opponents(self, query_id: str, n: int | None = None) -> list[Survivor]:
        """The sequences with the largest negative scores, strongest first.

        By methods whose scores are directed they lower what the query asks for most.

        Args:
            query_id: of the query.
            n: how many at most; all when not given.
        """
        return self._of(query_id, "opponent", n)

    def count(self, query_id: str, direction: Direction) -> int:
        """How many sequences a query has in a direction."""
        return len(self._places(query_id, direction))

    def deltas(self, query_id: str, direction: Direction, n: int) -> list[float | None]:
        """The predicted changes of the first sequences of a direction, in nats."""
        places = self._places(query_id, direction)[:n]
        deltas: list[float | None] = self._join.survivors.take(places)["delta_nats"].to_pylist()
        return deltas

    def ids(self, query_id: str, direction: Direction, n: int | None = None) -> list[int]:
        """The ids of the first sequences of a direction; of all when not given how many."""
        places = self._places(query_id, direction)[:n]
        ids: list[int] = self._join.survivors.take(places)["sequence_id"].to_pylist()
        return ids

    def keep(self, n: int, queries: Iterable[str] | None = None) -> None:
        """Read the sequences of the first ``n`` of each direction at once, and keep them.

        For who goes through many queries: what one query needs is all over the table.

        Args:
            n: of each direction.
            queries: of which; all when not given.
        """
        wanted = [
            self._places(query_id, direction)[:n]
            for query_id in (self.queries if queries is None else queries)
            for direction in ("proponent", "opponent")
            if query_id in self.queries
        ]
        self._join.keep(np.concatenate([np.zeros(0, np.int64), *wanted]))

    def leading(self, n: int) -> list[dict[str, Any]]:
        """The first proponents of all queries, in their order, without texts and tokens.

        Args:
            n: of each query.

        Returns:
            Of each its row in the table of survivors, as far as it is a number or a name, with
            ``document_file``, ``document_id``, ``document_row`` and ``source`` (a string).
        """
        places = [self._places(query_id, "proponent")[:n] for query_id in self.queries]
        errors = [name for name in SEED_COLUMNS if name in self._join.survivors.schema.names]
        rows = self._join.survivors.read([*_LEADING, *errors]).take(
            pa.array(np.concatenate([np.zeros(0, np.int64), *places]))
        )
        return [
            {**row, "source": as_text(metadata.get("source", ""))}
            for row, metadata in self._join.with_documents(rows)
        ]

    def to_pandas(self) -> Any:
        """:attr:`table` as a pandas DataFrame; whole numbers with gaps stay whole numbers.

        Raises:
            StorageError: pandas is not installed.
        """
        return frame_of(self.table)

    def __repr__(self) -> str:
        return said_of(self)

    def _repr_html_(self) -> str:
        return html_of(self)

    def scores(self, query_id: str) -> pa.Table:
        """The scan's scores of ALL sequences for one query: ``sequence_id`` and ``score``.

        In the order of sequence ids, as float32, without those that are quarantined for this query;
        12 bytes each. Only this query's column is read. Of results of several seeds means as
        float64, and ``score_se``.

        Raises:
            StorageError: the run kept the scores of survivors alone, or those of a split are gone.
        """
        digest, splits = self._query(query_id)["digest"], self.manifest["dense_scores"]
        if splits is None or self._store is None:
            raise StorageError(
                "these results hold the scores of survivors alone: set `scan.scores: dense`, run "
                "again, and load the results from the run directory."
            )
        banks = [self._store / BANKS / b for b in self.manifest["methods"][self.method]["banks"]]
        try:
            holding = [b for b in banks if digest in read_json(b, BANK_MANIFEST)["query_digests"]]
            columns = {"sequence_id": "sequence_id", digest: "score"}
            if seeds_of(self.manifest) is not None:
                columns[error_column(digest)] = "score_se"
            tables = [read_table(holding[0], scores_key(split), list(columns)) for split in splits]
        except StorageError as error:
            raise StorageError(
                f"{error} To have all scores made again: `rayinfluence clean {self._store.url} "
                "--stage scan --stage results`, then run."
            ) from error
        table = pa.concat_tables(tables).rename_columns(list(columns.values()))
        return table.filter(table["score"].is_valid()) if table["score"].null_count else table

    def _query(self, query_id: str) -> dict[str, Any]:
        if query_id not in self.queries:
            raise StorageError(
                f"the results have no query {query_id!r}; they have {len(self.queries)}, "
                f"such as {next(iter(self.queries), 'none')!r}."
            )
        return self.queries[query_id]

    def _places(self, query_id: str, direction: Direction) -> NDArray[np.int64]:
        """Of a query's survivors of a direction, in the order of ranks."""
        self._query(query_id)
        return self._join.places(query_id, direction)

    def _of(self, query_id: str, direction: Direction, n: int | None) -> list[Survivor]:
        rows = self._join.survivors.take(self._places(query_id, direction)[:n])
        joined = self._join.with_sequences(rows)
        return [_survivor(row, joined.schema) for row in joined.to_pylist()]


def _rows(store: Store, manifest: dict[str, Any], name: str) -> Rows:
    key = table_key(manifest["fingerprint"], name)
    if name == SEQUENCES and not store.exists(key):
        raise StorageError(f"{store.url}/{key} does not exist.")
    return Rows(store=store, key=key, digest=manifest["tables"].get(name))


def _read(store: Store, manifest: dict[str, Any], name: str) -> pa.Table:
    """A table, if it is the one that the manifest is about."""
    key = table_key(manifest["fingerprint"], name)
    body = store.read(key)
    if digest_bytes(body) != manifest["tables"].get(name):
        raise damaged(store, key)
    return parse_table(store, key, body)


def _survivor(row: dict[str, Any], schema: pa.Schema) -> Survivor:
    known = {key: value for key, value in row.items() if key not in (COLUMN, REST)}
    known["layer_scores"] = dict(known["layer_scores"])
    return Survivor(**known, metadata=decoded(row, schema))
