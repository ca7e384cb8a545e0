"""Survivors of a method in pieces of some queries, and tables put together of pieces.

Scores by layer and token are read where the second pass left them, tokens where they were gathered.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from rayinfluence.corpus.shards import sequences_of
from rayinfluence.dataflow.compute.survivors import Completion, Ranked, Read, survivor_table
from rayinfluence.dataflow.jobs.gather import with_types
from rayinfluence.dataflow.jobs.pairs import read_pair_scores
from rayinfluence.dataflow.jobs.rescore import INFLUENCES
from rayinfluence.errors import DamagedError
from rayinfluence.storage.pieces import read_if_whole, read_piece, write_piece
from rayinfluence.storage.results.meaning import Meaning
from rayinfluence.storage.store import Store
from rayinfluence.storage.tables import writing_table
from rayinfluence.storage.tensors import read_tensors

#: What the driver knows of the pairs of an object by one method: scores and those of the scan's
#: query, which have scores by token, and which token influences.
Scores = tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.int64], NDArray[np.int64]]


@dataclass(frozen=True)
class ReadScores:
    """Reads the scores of objects of the second pass, without their layers and tokens."""

    store: Store
    methods: tuple[str, ...]

    def __call__(self, keys: Sequence[str]) -> list[list[Scores] | None]:
        """By object and method; None where the object is damaged."""
        return [self._of(key) for key in keys]

    def _of(self, key: str) -> list[Scores] | None:
        try:
            parts = _by_method(self.store, key)[0]
        except DamagedError:
            return None
        return [
            (
                parts[method]["layer_scores"].sum(axis=1),
                parts[method]["scanned"],
                parts[method]["token_places"],
                parts[method]["influence_places"],
            )
            for method in self.methods
        ]


@dataclass(frozen=True)
class Piece:
    """Rows of some queries by one method, which are to be there.

    Attributes:
        key: where they are committed; a digest of everything that decides them.
        method: that found them.
        meaning: of its scores.
        ranked: the rows; their queries and objects are by place in what follows.
        completions: of the queries.
        n_training: N; None where the method predicts no change.
        items: objects of the second pass.
        sequences: pieces of the sequences.
        pair_keys: of each query, where its scores by pairs of tokens are; None without any.
    """

    key: str
    method: str
    meaning: Meaning
    ranked: Ranked
    completions: tuple[Completion, ...]
    n_training: int | None
    items: tuple[str, ...]
    sequences: tuple[str, ...]
    pair_keys: tuple[str | None, ...]


@dataclass(frozen=True)
class MakePiece:
    """Makes pieces, or finds them."""

    store: Store

    def __call__(self, item: Piece) -> str:
        """See that a piece is there; returns where."""
        if read_if_whole(self.store, item.key) is None:
            read = self._read(item, item.meaning.has_layers)
            table = survivor_table(
                item.ranked, item.completions, read, item.n_training, item.meaning
            )
            write_piece(self.store, item.key, table)
        return item.key

    def _read(self, item: Piece, has_layers: bool) -> Read:
        ranked = item.ranked
        layers_RM: NDArray[np.float64] | None = None
        modules: list[str] = []
        by_token: dict[int, NDArray[np.float64]] = {}
        influences: dict[str, dict[int, NDArray[np.float64]]] = {name: {} for name in INFLUENCES}
        for place, key in enumerate(item.items):
            parts, modules = _by_method(self.store, key)
            modules = modules if has_layers else []
            ours = parts[item.method]
            if layers_RM is None:
                layers_RM = np.zeros((len(ranked), len(modules)))
            (rows,) = np.nonzero(ranked.items_R == place)
            layers_RM[rows] = ours["layer_scores"][ranked.pairs_R[rows], : len(modules)]
            (rows,) = np.nonzero(ranked.token_items_R == place)
            _take(ours, "token", rows, ranked.token_pairs_R, {"token_scores": by_token})
            (rows,) = np.nonzero(ranked.influence_items_R == place)
            _take(ours, "influence", rows, ranked.influence_pairs_R, influences)
        assert layers_RM is not None
        pairs = self._pairs(item)
        told = modules, layers_RM, by_token, influences, pairs
        return Read(*told, *self._sequences(item, by_token))

    def _pairs(self, item: Piece) -> dict[int, NDArray[np.float64]]:
        """Scores by pairs of tokens, by row."""
        found: dict[int, NDArray[np.float64]] = {}
        for place, key in enumerate(item.pair_keys):
            if key is not None:
                (rows,) = np.nonzero(item.ranked.queries_R == place)
                by_id = dict(zip(item.ranked.ids_R[rows].tolist(), rows.tolist(), strict=True))
                scores = read_pair_scores(self.store, key, item.method)
                found |= {by_id[sequence_id]: of for sequence_id, of in scores.items()}
        return found

    def _sequences(
        self, item: Piece, by_token: Mapping[int, Any]
    ) -> tuple[dict[int, NDArray[np.int32]], dict[int, list[str]]]:
        """Tokens of all sequences, and their texts where they are asked for."""
        wanted = np.unique(item.ranked.ids_R)
        with_texts = {int(item.ranked.ids_R[row]) for row in by_token}
        tokens: dict[int, NDArray[np.int32]] = {}
        texts: dict[int, list[str]] = {}
        for key in item.sequences:
            table = read_piece(self.store, key, ["sequence_id", "tokens", "token_texts"])
            (places,) = np.nonzero(np.isin(table["sequence_id"].to_numpy(), wanted))
            table = table.take(pa.array(places))
            ids = table["sequence_id"].to_pylist()
            tokens |= dict(zip(ids, sequences_of(table), strict=True))
            texts |= {
                i: table["token_texts"][row].as_py() for row, i in enumerate(ids) if i in with_texts
            }
        return tokens, texts


@dataclass(frozen=True)
class TableOfPieces:
    """A table of results, to be put together of its pieces.

    Attributes:
        store: with the pieces.
        pieces: where they are, in their order.
        run: where the table goes.
        key: there.
        schema: of the table.
    """

    store: Store
    pieces: tuple[str, ...]
    run: Store
    key: str
    schema: pa.Schema

    def write(self) -> str:
        """Write it, a piece at a time; returns its digest."""
        with writing_table(self.run, self.key, self.schema) as writer:
            for piece in self.pieces:
                writer.write(with_types(read_piece(self.store, piece), self.schema))
        return writer.digest


def _take(
    ours: Mapping[str, NDArray[Any]],
    kind: str,
    rows: NDArray[np.int64],
    pairs_R: NDArray[np.int32],
    into: Mapping[str, dict[int, NDArray[np.float64]]],
) -> None:
    """Take what some rows have for each token out of an object, by its name there."""
    ends = ours[f"{kind}_ends"]
    at = np.searchsorted(ours[f"{kind}_places"], pairs_R[rows])
    for row, one in zip(rows.tolist(), at.tolist(), strict=True):
        start = int(ends[one - 1]) if one else 0
        for name, found in into.items():
            # A copy: the rest of the object is not kept.
            found[row] = ours[name][start : int(ends[one])].copy()


def _by_method(store: Store, key: str) -> tuple[dict[str, dict[str, NDArray[Any]]], list[str]]:
    """What an object of the second pass says, by method and name; and the modules."""
    tensors, header = read_tensors(store, key)
    found: dict[str, dict[str, NDArray[Any]]] = {}
    for name, tensor in tensors.items():
        method, _, part = name.partition("/")
        found.setdefault(method, {})[part] = tensor.numpy()
    return found, list(header["modules"])
