"""Rows of survivors whose scores are means over seeds.

What a row has besides its score is a mean where all seeds have it, and null elsewhere. H hit.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from rayinfluence.dataflow.compute.survivors import Completion, Ranked, Read, survivor_table
from rayinfluence.dataflow.seeds.hits import Hits
from rayinfluence.storage.results import Meaning, ceiling_of, is_predicted, log_probability_of
from rayinfluence.storage.results.seeds import seeds_schema

#: Lists of scores that a row may have, and how a table calls them.
_BY_TOKEN, _BY_PAIRS = "token_scores", "pair_scores"
_INFLUENCES = ("output_token_influences", "input_token_influences", "embedding_influences")
_LISTS = (_BY_TOKEN, *_INFLUENCES, _BY_PAIRS)

Lists = Mapping[int, NDArray[np.float64]]


@dataclass(frozen=True)
class Asked:
    """A query as all seeds asked it.

    Attributes:
        row: of the table of queries, with means.
        kind: of the models' objective.
        same_parts: whether scores by pairs of tokens are of the same parts of its completion.
    """

    row: Mapping[str, Any]
    kind: str | None
    same_parts: bool

    def completion(self) -> Completion:
        """What rows say of it; of a set, whose tokens no table has, without those."""
        tokens, n = self.row.get("tokens") or (), self.row.get("n_completion_tokens") or 0
        return Completion(
            self.row["query_id"],
            is_predicted(self.row),
            log_probability_of(self.row),
            ceiling_of(self.row, self.kind),
            tuple(tokens[len(tokens) - n :]) if n else (),
            tuple(self.row.get("token_texts") or ()) if n else (),
        )


def rows_of(
    asked: Asked,
    hits: Hits,
    of_seeds: Sequence[pa.Table],
    sequences: pa.Table,
    n_training: int,
    meaning: Meaning,
) -> pa.Table:
    """The rows of a query.

    Args:
        asked: the query.
        hits: which they are.
        of_seeds: of each seed, the query's rows of its table of survivors.
        sequences: of all hits, with tokens and their texts.
        n_training: N.
        meaning: of the scores.
    """
    n, n_seeds = len(hits.ids_H), len(of_seeds)
    found = [_by_id(table, hits.ids_H) for table in of_seeds]
    rows = [[of[i] for of in found if i in of] for i in hits.ids_H.tolist()]
    suspect_H = np.array([any(one["suspect"] for one in some) for some in rows], np.bool_)
    whole = {place: some for place, some in enumerate(rows) if len(some) == n_seeds}
    by_token, *influences, pairs = (_means(whole, name) for name in _LISTS)
    pairs = pairs if asked.same_parts else {}
    tokens = _tokens(sequences)
    texts = dict(
        zip(sequences["sequence_id"].to_pylist(), sequences["token_texts"].to_pylist(), strict=True)
    )
    of_tokens = dict(zip(_INFLUENCES, influences, strict=True))
    read = Read((), np.zeros((n, 0)), by_token, of_tokens, pairs, tokens, texts)
    predicted = n_training if meaning.predicts else None
    table = survivor_table(_ranked(hits, suspect_H), [asked.completion()], read, predicted, meaning)
    layers = [_layers(whole.get(place)) for place in range(n)]
    place = table.schema.get_field_index("layer_scores")
    field = table.schema.field(place)
    table = table.set_column(place, field, pa.array(layers, field.type))
    return _with_errors(table, hits, n_seeds, n_training, meaning)


def measured_rows(
    asked: Asked, hits: Hits, n_seeds: int, sequences: pa.Table, meaning: Meaning
) -> pa.Table:
    """The rows of a query of which there are means and their errors, and nothing else.

    Args:
        asked: the query.
        hits: which they are.
        n_seeds: that means are over.
        sequences: of all hits, with tokens.
        meaning: of the scores, which predict no change.
    """
    n = len(hits.ids_H)
    nothing: Mapping[str, Lists] = {name: {} for name in _INFLUENCES}
    read = Read((), np.zeros((n, 0)), {}, nothing, {}, _tokens(sequences), {})
    ranked = _ranked(hits, np.zeros(n, np.bool_))
    table = survivor_table(ranked, [asked.completion()], read, None, meaning)
    return _with_errors(table, hits, n_seeds, 1, meaning)


def _tokens(sequences: pa.Table) -> dict[int, NDArray[np.int32]]:
    """Of some sequences, by id."""
    ids, tokens = (sequences[name].to_pylist() for name in ("sequence_id", "tokens"))
    return {i: np.array(one, np.int32) for i, one in zip(ids, tokens, strict=True)}


def _with_errors(
    table: pa.Table, hits: Hits, n_seeds: int, n_training: int, meaning: Meaning
) -> pa.Table:
    """Rows with the columns that means over seeds have besides."""
    nats = table["delta_nats"].to_pylist()
    errors = hits.errors_H.tolist()
    of_nats = [
        None if nat is None else error / n_training for nat, error in zip(nats, errors, strict=True)
    ]
    schema = seeds_schema(meaning)
    more = {"score_se": errors, "delta_nats_se": of_nats, "n_seeds": [n_seeds] * len(errors)}
    for name, values in more.items():
        table = table.append_column(schema.field(name), pa.array(values, schema.field(name).type))
    return table


def _by_id(table: pa.Table, ids: NDArray[np.int64]) -> dict[int, dict[str, Any]]:
    """Of the rows of some sequences what a mean is made of."""
    ours = table.filter(pa.array(np.isin(table["sequence_id"].to_numpy(), ids)))
    there = [name for name in _LISTS if name in ours.column_names]
    columns = ["sequence_id", "suspect", "layer_scores", *there]
    return {row["sequence_id"]: row for row in ours.select(columns).to_pylist()}


def _means(rows: Mapping[int, Sequence[Mapping[str, Any]]], name: str) -> Lists:
    """By row, the mean of a list of scores that all seeds have."""
    found = {}
    for place, some in rows.items():
        values = [one.get(name) for one in some]
        if all(value is not None for value in values):
            found[place] = np.mean([np.array(value, np.float64) for value in values], axis=0)
    return found


def _layers(rows: Sequence[Mapping[str, Any]] | None) -> list[tuple[str, float]]:
    """Mean scores by module, of a row that all seeds have."""
    if rows is None:
        return []
    by_seed = [dict(row["layer_scores"]) for row in rows]
    return [(name, float(np.mean([one[name] for one in by_seed]))) for name in by_seed[0]]


def _ranked(hits: Hits, suspect_H: NDArray[np.bool_]) -> Ranked:
    nothing = np.zeros(len(hits.ids_H), np.int32)
    return Ranked(
        nothing,
        hits.directions_H,
        hits.ids_H,
        hits.ranks_H,
        hits.means_H,
        hits.scan_ranks_H,
        hits.scan_means_H,
        suspect_H,
        *[nothing] * 6,
    )
