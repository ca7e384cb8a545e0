"""What the table of queries says of questions that several seeds were asked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from rayinfluence.dataflow.seeds.rows import Asked

#: Numbers, and lists of them, that are means.
_MEANS = ("value", "log_probability", "rather_than_log_probability", "token_log_probabilities")


def asked_by_all(rows: Sequence[Mapping[str, Any]], kind: str | None) -> Asked:
    """A question as it stands in the table: what models think of it is a mean over them.

    Ranks of tokens are of a model, and null where models differ; a completion is greedy where all
    of them choose it, and the warning is that of the first that has one.

    Args:
        rows: of each seed.
        kind: of the models' objective.
    """
    first = dict(rows[0])
    for name in _MEANS:
        values = [row.get(name) for row in rows]
        if all(value is not None for value in values):
            mean = np.mean(np.array(values, np.float64), axis=0)
            first[name] = mean.tolist()
    if first.get("set"):
        first["set"] = [
            {**members[0], "log_probability": _mean([one["log_probability"] for one in members])}
            for members in zip(*(row["set"] for row in rows), strict=True)
        ]
    if any(row.get("token_ranks") != first.get("token_ranks") for row in rows):
        first["token_ranks"] = None
    if first.get("greedy") is not None:
        first["greedy"] = all(row["greedy"] for row in rows)
    said = next((row["warning"] for row in rows if row.get("warning")), None)
    first["warning"] = said and f"of one of the models at least: {said}"
    same_parts = all(row.get("part_ends") == first.get("part_ends") for row in rows)
    if not same_parts:
        first["part_ends"] = None
    return Asked(first, kind, same_parts)


def _mean(values: Sequence[float]) -> float:
    return float(np.mean(values))
