"""Survivors ranked again by the scores of some blocks of the model alone.

This is no scan by those blocks: only what survived by all of them is known, and a sequence that
would be first by the chosen ones may not be among them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from rayinfluence.errors import ConfigError
from rayinfluence.influence.blocks import OTHERS, by_block
from rayinfluence.storage.results import (
    Direction,
    Results,
    beyond_linear,
    ceiling_of,
    log_probability_of,
)

THIRDS = ("lower", "middle", "upper")
_RANGE = re.compile(r"(\d{1,6})(?:-(\d{1,6}))?")
#: What is of all layers, and is not known of some.
_OF_ALL = (
    *("concentration", "carried_by", "carrier_in_completion", "token_scores", "pair_scores"),
    *("output_token_influences", "input_token_influences", "embedding_influences"),
    *("score_se", "delta_nats_se"),
)


def chosen_blocks(there: Sequence[int], wanted: str) -> list[int]:
    """The blocks that are meant by ``A-B``, ``A``, ``lower``, ``middle`` or ``upper``.

    Args:
        there: numbers of all blocks with scores, ascending.
        wanted: as it was written.

    Raises:
        ConfigError: it means none of them.
    """
    if wanted in THIRDS:
        if len(there) < len(THIRDS):
            raise ConfigError(
                f"--layers {wanted}: the hits have scores of {len(there)} blocks, and thirds are "
                "of three at least."
            )
        part = np.array_split(np.array(there), len(THIRDS))[THIRDS.index(wanted)]
        return [int(one) for one in part]
    found = _RANGE.fullmatch(wanted)
    if found is None:
        raise ConfigError(f"--layers {wanted}: write A-B, lower, middle or upper.")
    first, last = int(found[1]), int(found[2] or found[1])
    chosen = [one for one in there if first <= one <= last]
    if not chosen:
        known = f"{there[0]} to {there[-1]}" if there else "none"
        raise ConfigError(f"--layers {wanted}: the hits have scores of blocks {known}.")
    return chosen


def restricted_to(
    by_method: Mapping[str, Results], wanted: str, methods: Sequence[str]
) -> dict[str, Results]:
    """The results of methods that have scores by layer, restricted; of those named or of all.

    Raises:
        ConfigError: a method that is named has none, or no method has.
    """
    first = next(iter(by_method))
    having = [name for name, one in by_method.items() if one.meaning.has_layers]
    chosen = list(methods) or having or [first]
    return {name: restricted(by_method[name], wanted) for name in chosen if name in by_method}


def restricted(results: Results, wanted: str) -> Results:
    """Results whose survivors have the score of some blocks, and ranks by that.

    Within the direction that a scan by all blocks gave them. What is of all sequences, and what is
    of tokens, is of all blocks, and is left out. ``manifest["layers"]`` has ``wanted``, ``blocks``
    and a ``sentence``.

    Raises:
        ConfigError: the method has no scores by layer, or none of the blocks.
    """
    table = results.survivors
    scores = [by_block(dict(one or ())) for one in table["layer_scores"].to_pylist()]
    names = {name for one in scores for name in one} - {OTHERS}
    there = sorted(int(name.removeprefix("block ")) for name in names)
    if not there:
        raise ConfigError(
            f"--layers {wanted}: {results.method} has no scores by layer; name another --method."
        )
    blocks = chosen_blocks(there, wanted)
    kept = [f"block {one}" for one in blocks]
    new_N = np.array([sum(sum(one.get(name, {}).values()) for name in kept) for one in scores])
    rows = _ranked(results, table, new_N)
    sentence = (
        f"Layers {wanted}: scores are those of {len(blocks)} of {len(there)} blocks "
        f"({blocks[0]} to {blocks[-1]}), and ranks are by them. Only survivors of the scan by all "
        "blocks are ranked again: a scan by these blocks alone may find others. Directions are "
        "those of the scan."
    )
    told = {"wanted": wanted, "blocks": blocks, "sentence": sentence}
    return results.of_survivors(rows, layers=told)


def _ranked(results: Results, table: pa.Table, new_N: NDArray[np.float64]) -> pa.Table:
    """The rows by their new scores, in each direction of each query, which stay in their order."""
    keys = list(zip(table["query_id"].to_pylist(), table["direction"].to_pylist(), strict=True))
    places = {key: place for place, key in enumerate(dict.fromkeys(keys))}
    ids_N = table["sequence_id"].to_numpy()
    side: Direction = "opponent"
    signs_N = np.array([1.0 if direction == side else -1.0 for _, direction in keys])
    places_N = np.array([places[key] for key in keys])
    # By side, then score, then id: stable sorts, the last key first.
    order = np.argsort(ids_N, kind="stable")
    for key_N in (signs_N * new_N, places_N):
        order = order[np.argsort(key_N[order], kind="stable")]
    n = results.manifest["n_training_sequences"]
    predicted = table["delta_nats"].is_valid().to_pylist()
    deltas = [float(s) / n if known else None for s, known in zip(new_N, predicted, strict=True)]
    kind = (results.manifest.get("objective") or {}).get("kind")
    beyond = [
        None
        if delta is None
        else beyond_linear(
            delta,
            log_probability_of(results.queries[query_id]),
            ceiling_of(results.queries[query_id], kind),
        )
        for delta, (query_id, _) in zip(deltas, keys, strict=True)
    ]
    changed = {
        "score": pa.array(new_N),
        "delta_nats": pa.array(deltas, pa.float64()),
        "beyond_linear": pa.array(beyond, pa.bool_()),
        **{
            name: pa.nulls(len(table), table.schema.field(name).type)
            for name in _OF_ALL
            if name in table.schema.names
        },
    }
    for name, column in changed.items():
        place = table.schema.get_field_index(name)
        table = table.set_column(place, table.schema.field(name), column)
    table = table.take(pa.array(order))
    ranks, seen = [], dict.fromkeys(places, 0)
    for row in order.tolist():
        seen[keys[row]] += 1
        ranks.append(seen[keys[row]])
    place = table.schema.get_field_index("rank")
    return table.set_column(place, table.schema.field("rank"), pa.array(ranks, pa.int32()))
