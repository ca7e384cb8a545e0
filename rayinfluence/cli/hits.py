"""Survivors as programs read them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rayinfluence.storage.results import Results, Survivor

_KEYS = (
    "rank",
    "score",
    "delta_nats",
    "beyond_linear",
    "suspect",
    "sequence_id",
    "document_file",
    "document_id",
    "document_row",
    "char_start",
    "char_end",
    "text",
    *("score_se", "delta_nats_se", "n_seeds"),
)


def hit_values(survivor: Survivor) -> dict[str, Any]:
    """What JSON has of a survivor."""
    return {key: getattr(survivor, key) for key in _KEYS}


def sides(results: Results, queries: Sequence[str], top: int) -> dict[str, Any]:
    """Proponents and opponents of queries, by their ids."""
    return {
        query_id: {
            "proponents": [hit_values(one) for one in results.proponents(query_id, top)],
            "opponents": [hit_values(one) for one in results.opponents(query_id, top)],
        }
        for query_id in queries
    }
