"""Rows of survivors: what a scan and the second pass found of some queries, as a table.

R row: a query, a direction and a sequence; M module.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from itertools import pairwise
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from rayinfluence.influence.attribution import carrier, near_duplicates, shingles
from rayinfluence.storage.results import Meaning, beyond_linear, survivor_schema

#: In the order of their codes.
DIRECTIONS = ("proponent", "opponent")
#: Of the first ranks of either direction a change of order is counted.
_COMPARED_RANKS = 10


@dataclass(frozen=True)
class Completion:
    """Of a query, what rows say; sequences that are scored for themselves have no completion.

    Attributes:
        query_id: its id.
        predicts: whether a change of f is one of a log-probability, or of a difference of such.
        log_probability: what f is, where that is one, in nats; None elsewhere.
        ceiling: what that cannot be above.
        tokens, texts: of the completions that it asks for.
    """

    query_id: str
    predicts: bool
    log_probability: float | None
    ceiling: float
    tokens: tuple[int, ...]
    texts: tuple[str, ...]


@dataclass(frozen=True)
class Ranked:
    """Survivors of some queries in the order of the table: queries, directions, ranks.

    Attributes:
        queries_R: places of their queries.
        directions_R: codes of their directions.
        ids_R: of the sequences.
        ranks_R, scores_R: at full rank.
        scan_ranks_R, scan_scores_R: what the scan found.
        suspect_R: whether that did not come out again.
        items_R, pairs_R: which object of the second pass has their scores by layer, and where.
        token_items_R, token_pairs_R: the same of scores by token; -1 where there are none.
        influence_items_R, influence_pairs_R: the same of token influences.
    """

    queries_R: NDArray[np.int32]
    directions_R: NDArray[np.int8]
    ids_R: NDArray[np.int64]
    ranks_R: NDArray[np.int32]
    scores_R: NDArray[np.float64]
    scan_ranks_R: NDArray[np.int32]
    scan_scores_R: NDArray[np.float64]
    suspect_R: NDArray[np.bool_]
    items_R: NDArray[np.int32]
    pairs_R: NDArray[np.int32]
    token_items_R: NDArray[np.int32]
    token_pairs_R: NDArray[np.int32]
    influence_items_R: NDArray[np.int32]
    influence_pairs_R: NDArray[np.int32]

    def __len__(self) -> int:
        return len(self.ids_R)

    @classmethod
    def joined(cls, parts: Sequence[Ranked]) -> Ranked:
        """Rows that follow each other."""
        parts = [_nobody(), *parts]
        return cls(
            *(np.concatenate([getattr(part, f.name) for part in parts]) for f in fields(cls))
        )

    def slice(self, start: int, end: int) -> Ranked:
        """Some rows that follow each other."""
        return Ranked(*(getattr(self, f.name)[start:end] for f in fields(self)))

    def ends(self) -> list[int]:
        """Where the rows of each query and direction begin, and the end."""
        codes = self.queries_R.astype(np.int64) * len(DIRECTIONS) + self.directions_R
        return [0, *(np.flatnonzero(np.diff(codes)) + 1).tolist(), len(self)] if len(self) else [0]


def _nobody() -> Ranked:
    places = np.zeros(0, np.int32)
    scores = np.zeros(0, np.float64)
    ids, codes = np.zeros(0, np.int64), np.zeros(0, np.int8)
    suspect = np.zeros(0, np.bool_)
    return Ranked(
        *(places, codes, ids, places, scores, places, scores, suspect),
        *(places, places, places, places, places, places),
    )


@dataclass(frozen=True)
class Read:
    """What rows have that is too large to be passed around.

    Attributes:
        modules: by name; none where the method has no scores by module.
        layer_scores_RM: by module.
        token_scores: by row, where there are any.
        influences: of tokens, by column and row, where there are any.
        pair_scores: by part of a completion and by token [C, T], by row, where there are any.
        tokens: by sequence.
        texts: of those, by sequence, where a row of it has token scores.
    """

    modules: Sequence[str]
    layer_scores_RM: NDArray[np.float64]
    token_scores: Mapping[int, NDArray[np.float64]]
    influences: Mapping[str, Mapping[int, NDArray[np.float64]]]
    pair_scores: Mapping[int, NDArray[np.float64]]
    tokens: Mapping[int, NDArray[np.int32]]
    texts: Mapping[int, Sequence[str]]


def survivor_table(
    ranked: Ranked,
    completions: Sequence[Completion],
    read: Read,
    n_training: int | None,
    meaning: Meaning,
) -> pa.Table:
    """A row per query and survivor.

    Args:
        ranked: the rows.
        completions: of the queries.
        read: what else belongs to them.
        n_training: N, which ``delta_nats`` divides by; None: the method predicts no change.
        meaning: of its scores.
    """
    n = len(ranked)
    queries = [completions[place] for place in ranked.queries_R.tolist()]
    nats: list[Any] = [None] * n
    if n_training is not None:
        changes = (ranked.scores_R / n_training).tolist()
        nats = [
            change if query.predicts else None
            for change, query in zip(changes, queries, strict=True)
        ]
    ids = ranked.ids_R.tolist()
    carriers = [
        None
        if (scores := read.token_scores.get(row)) is None
        else carrier(
            scores,
            read.tokens[i].tolist(),
            read.texts[i],
            query.tokens,
            query.texts,
            meaning.ahead,
        )
        for row, (i, query) in enumerate(zip(ids, queries, strict=True))
    ]
    columns: dict[str, Any] = {
        "query_id": [query.query_id for query in queries],
        "sequence_id": ranked.ids_R,
        "rank": ranked.ranks_R,
        "direction": [DIRECTIONS[code] for code in ranked.directions_R.tolist()],
        "score": ranked.scores_R,
        "delta_nats": nats,
        "beyond_linear": [
            None if change is None else beyond_linear(change, query.log_probability, query.ceiling)
            for change, query in zip(nats, queries, strict=True)
        ],
        "scan_rank": ranked.scan_ranks_R,
        "scan_score": ranked.scan_scores_R,
        "suspect": ranked.suspect_R,
        "near_duplicate_of": _near_duplicates(ranked, ids, read.tokens),
        "concentration": [one and one.concentration for one in carriers],
        "carried_by": [one and one.position for one in carriers],
        "carrier_in_completion": [
            one.in_completion if one and query.tokens else None
            for one, query in zip(carriers, queries, strict=True)
        ],
        "layer_scores": _layers(read.modules, read.layer_scores_RM),
        "token_scores": [read.token_scores.get(row) for row in range(n)],
        **{name: [of.get(row) for row in range(n)] for name, of in read.influences.items()},
        "pair_scores": [
            None if (scores_CT := read.pair_scores.get(row)) is None else list(scores_CT)
            for row in range(n)
        ],
    }
    schema = survivor_schema(meaning)
    arrays = [_column(columns[field.name], field.type) for field in schema]
    return pa.table(arrays, schema=schema)


def rescoring(ranked: Ranked, completions: Sequence[Completion]) -> dict[str, dict[str, Any]]:
    """What scoring the survivors again changed, by query.

    Returns:
        ``largest_relative_difference`` of a survivor's two scores, relative to that of the scan (0
        where there is no survivor); ``changed_ranks``: of the first ten ranks of either direction,
        of which there are ``compared_ranks``, how many hold another sequence than in the scan;
        ``changed_signs``: how many scores changed their sign.
    """
    differences = np.abs(ranked.scores_R - ranked.scan_scores_R) / np.abs(ranked.scan_scores_R)
    starts = np.flatnonzero(np.diff(ranked.queries_R, prepend=-1)).tolist()
    report = {}
    for start, end in pairwise([*starts, len(ranked)]):
        ours = slice(start, end)
        first = ranked.ranks_R[ours] <= _COMPARED_RANKS
        changed = ranked.ranks_R[ours] != ranked.scan_ranks_R[ours]
        report[completions[int(ranked.queries_R[start])].query_id] = {
            "largest_relative_difference": float(differences[ours].max()),
            "changed_ranks": int(changed[first].sum()),
            "compared_ranks": int(first.sum()),
            "changed_signs": int((ranked.scores_R * ranked.scan_scores_R <= 0)[ours].sum()),
        }
    return report


def _near_duplicates(
    ranked: Ranked, ids: Sequence[int], tokens: Mapping[int, NDArray[np.int32]]
) -> list[int | None]:
    """Of each row, the best-ranked sequence of its query and direction that it nearly repeats."""
    found: list[int | None] = []
    for start, end in pairwise(ranked.ends()):
        # Of one list at a time: shingles are Python objects, and many.
        places = near_duplicates([shingles(tokens[i].tolist()) for i in ids[start:end]])
        found += [None if place is None else ids[start + place] for place in places]
    return found


def _column(values: Any, kind: pa.DataType) -> pa.Array | pa.ChunkedArray:
    if isinstance(values, pa.Array | pa.ChunkedArray):
        return values.cast(kind)
    return pa.array(values, kind)


def _layers(modules: Sequence[str], scores_RM: NDArray[np.float64]) -> pa.Array:
    """Scores by module, of each row."""
    n, width = scores_RM.shape
    names = pa.array(list(modules) * n, pa.string())
    scores = pa.array(scores_RM.astype(np.float32).ravel())
    return pa.MapArray.from_arrays(np.arange(n + 1, dtype=np.int32) * width, names, scores)
