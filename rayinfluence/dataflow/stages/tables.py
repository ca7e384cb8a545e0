"""Tables of results: the driver ranks and names, workers write.

Of a survivor the driver has ids, scores and places; that is some 70 bytes, whatever the length of
its text and the number of layers.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from itertools import pairwise
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from rayinfluence.corpus.queries import EncodedQuery
from rayinfluence.dataflow.compute.grouping import group_table
from rayinfluence.dataflow.compute.statistics import statistics_table, tails_table
from rayinfluence.dataflow.compute.survivors import Completion, Ranked, rescoring
from rayinfluence.dataflow.jobs.tables import MakePiece, Piece, TableOfPieces
from rayinfluence.dataflow.layout import rows_key
from rayinfluence.dataflow.runners.base import Runner
from rayinfluence.dataflow.stages.gathering import Sequences
from rayinfluence.dataflow.stages.scanned import Scanned, Side
from rayinfluence.dataflow.stages.second_pass import Found, Rescored
from rayinfluence.influence.attribution import reproduces
from rayinfluence.methods.registry import meaning_of
from rayinfluence.storage.digest import digest, digest_bytes
from rayinfluence.storage.results import (
    GROUP_SCHEMA,
    SEQUENCES,
    STATISTICS_SCHEMA,
    TAIL_SCHEMA,
    in_version,
    method_tables,
    of_method,
    sequence_schema,
    survivor_schema,
    table_key,
)
from rayinfluence.storage.results.meaning import Meaning
from rayinfluence.storage.store import Store
from rayinfluence.storage.tables import writing_table

#: Rows of a piece, and tokens of its sequences, at most, unless a single query has more.
_PIECE_ROWS, _PIECE_TOKENS = 10_000, 1 << 22
#: Rows that are made, or put together, sooner than a process that does it starts: a piece's.
_FEW_ROWS = _PIECE_ROWS
#: Raised whenever the same rows would make other pieces.
_VERSION = 3


@dataclass(frozen=True)
class Tables:
    """Where the tables of some results are written, and what they are made of.

    Args:
        runner: where rows are read and written.
        pieces: where the second pass and the sequences are, and pieces of tables go.
        run: the run directory.
        fingerprint: of the results.
        queries: that were asked.
        completions: of those, what rows say.
        sequences: all survivors.
        rescored: what the second pass found.
        n_training: N.
        own: the function that training maximised, where it is the user's own.
        pair_keys: of each query, where its scores by pairs of tokens are; None without any.
    """

    runner: Runner
    pieces: Store
    run: Store
    fingerprint: str
    queries: Sequence[EncodedQuery]
    completions: Sequence[Completion]
    sequences: Sequences
    rescored: Rescored
    n_training: int
    own: str | None
    pair_keys: Sequence[str | None]

    def key(self, name: str) -> str:
        """Where a table goes."""
        return table_key(self.fingerprint, name)

    def of_sequences(self, name: str = SEQUENCES) -> dict[str, str]:
        """Write the table of all sequences; returns its digest by its name."""
        small = len(self.sequences.ids) <= _FEW_ROWS
        schema = sequence_schema(self.sequences.kinds)
        return {name: self._put_together(name, self.sequences.pieces, schema, small)}

    def of_method(
        self, scanned: Scanned, found: Mapping[str, Found]
    ) -> tuple[dict[str, str], dict[str, Any]]:
        """Write the tables of one method.

        Returns:
            Their digests by name, and what scoring the survivors again changed.
        """
        ranked = rank(self.queries, scanned, found)
        meaning = meaning_of(scanned.method, self.own)
        small = len(ranked) <= _FEW_ROWS
        pieces = self.runner.tasks(
            MakePiece(self.pieces),
            list(self._pieces(scanned.name, meaning, ranked)),
            small,
        )
        name, *names = method_tables(scanned.name)
        written = self._put_together(name, tuple(pieces), survivor_schema(meaning), small)
        asked = scanned.asked(self.queries)
        partials = {query.query.query_id: scanned.of_query(query.digest) for query in asked}
        others = (
            (GROUP_SCHEMA, group_table(partials, self._best(ranked))),
            (STATISTICS_SCHEMA, iter([statistics_table(partials)])),
            (TAIL_SCHEMA, tails_table(partials)),
        )
        tables = {name: written}
        for name, (schema, parts) in zip(names, others, strict=True):
            schema = in_version(of_method(schema, meaning), self.fingerprint)
            with writing_table(self.run, self.key(name), schema) as writer:
                writer.extend(parts)
            tables[name] = writer.digest
        return tables, rescoring(ranked, self.completions)

    def _put_together(
        self, name: str, pieces: tuple[str, ...], schema: pa.Schema, small: bool
    ) -> str:
        """Write a table of pieces that are there; returns its digest."""
        of_version = in_version(schema, self.fingerprint)
        table = TableOfPieces(self.pieces, pieces, self.run, self.key(name), of_version)
        written: str
        (written,) = self.runner.tasks(TableOfPieces.write, [table], small=small)
        return written

    def _pieces(self, method: str, meaning: Meaning, ranked: Ranked) -> Iterator[Piece]:
        """The rows, cut between queries."""
        tokens = self.sequences.n_tokens[self.sequences.places(ranked.ids_R)].astype(np.int64)
        for start, end in _cuts(ranked.queries_R, tokens):
            ours = ranked.slice(start, end)
            queries, of_row = np.unique(ours.queries_R, return_inverse=True)
            items, inverse = np.unique(
                np.concatenate([ours.items_R, ours.token_items_R, ours.influence_items_R]),
                return_inverse=True,
            )
            # -1, of rows without scores by token or influences, is the first where there is any.
            shift = int(items[0] < 0)
            at_3R: NDArray[np.int32] = np.asarray(inverse - shift, np.int32).reshape(3, len(ours))
            ours = replace(
                ours,
                queries_R=of_row.astype(np.int32),
                items_R=at_3R[0],
                token_items_R=at_3R[1],
                influence_items_R=at_3R[2],
            )
            completions = tuple(self.completions[query] for query in queries.tolist())
            keys = tuple(self.rescored.items[item] for item in items[shift:].tolist())
            sequences = self.sequences.holding(ours.ids_R)
            pair_keys = tuple(self.pair_keys[query] for query in queries.tolist())
            n_training = self.n_training if meaning.predicts else None
            about = {
                "version": _VERSION,
                "method": method,
                "rows": digest_bytes(*(getattr(ours, f.name).tobytes() for f in fields(ours))),
                "completions": [[*vars(one).values()] for one in completions],
                "n_training": n_training,
                "items": keys,
                "sequences": sequences,
                "pairs": pair_keys,
            }
            key = rows_key(digest(about))
            told = method, meaning, ours, completions, n_training, keys, sequences, pair_keys
            yield Piece(key, *told)

    def _best(self, ranked: Ranked) -> dict[str, dict[str, pa.ChunkedArray]]:
        """By query and key, the digests of the groups of its proponents, strongest first."""
        (rows,) = np.nonzero(ranked.directions_R == 0)
        ends = np.searchsorted(ranked.queries_R[rows], np.arange(len(self.completions) + 1))
        places = self.sequences.places(ranked.ids_R[rows])
        return {
            completion.query_id: {
                key: values.take(pa.array(places[start:end]))
                for key, values in self.sequences.groups.items()
            }
            for completion, start, end in zip(self.completions, ends[:-1], ends[1:], strict=True)
        }


def rank(queries: Sequence[EncodedQuery], scanned: Scanned, found: Mapping[str, Found]) -> Ranked:
    """The survivors of all queries by one method, in the order of the table.

    A sequence whose score changed its sign when it was scored again stays in the direction that the
    scan found it in.
    """
    parts = []
    ours = {query.digest for query in scanned.asked(queries)}
    for place, query in enumerate(queries):
        if query.digest not in ours:
            continue
        for code, side in enumerate(scanned.sides(query.digest)):
            if query.digest in found:
                parts.append(_ranked(place, code, side, found[query.digest]))
    return Ranked.joined(parts)


def _ranked(place: int, code: int, side: Side, found: Found) -> Ranked:
    places = found.ranked(side)
    n, ids = len(places), found.ids_S[places]
    in_scan = np.argsort(side.ids_K)[np.searchsorted(np.sort(side.ids_K), ids)]
    scan_scores = side.sign * side.scores_K[in_scan]
    again = found.scanned_S[places]
    return Ranked(
        np.full(n, place, dtype=np.int32),
        np.full(n, code, dtype=np.int8),
        ids,
        np.arange(1, n + 1, dtype=np.int32),
        found.scores_S[places],
        (in_scan + 1).astype(np.int32),
        scan_scores,
        ~reproduces(scan_scores, again),
        *found.at_S2[places].T,
        *found.by_token_S2[places].T,
        *found.influences_S2[places].T,
    )


def _cuts(queries_R: NDArray[np.int32], tokens_R: NDArray[np.int64]) -> Iterator[tuple[int, int]]:
    """Where pieces begin and end: between queries, and before they are too large."""
    starts = np.flatnonzero(np.diff(queries_R, prepend=-1)).tolist()
    before = np.concatenate([[0], np.cumsum(tokens_R)])
    begin = 0
    for start, end in pairwise([*starts, len(queries_R)]):
        large = end - begin > _PIECE_ROWS or before[end] - before[begin] > _PIECE_TOKENS
        if large and start > begin:
            yield begin, start
            begin = start
    if len(queries_R):
        yield begin, len(queries_R)
