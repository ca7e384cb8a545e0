"""What tables of several seeds have besides: of a mean over them, how sure it is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa

from rayinfluence.storage.results.meaning import Meaning
from rayinfluence.storage.results.schema import survivor_schema

#: Columns that follow the others.
SEED_COLUMNS = ("score_se", "delta_nats_se", "n_seeds")


def seeds_schema(meaning: Meaning) -> pa.Schema:
    """Of survivors whose scores are means over seeds."""
    about: Sequence[tuple[str, pa.DataType, Mapping[str, str]]] = (
        (
            "score_se",
            pa.float64(),
            {
                "description": "Of results of several seeds: the standard error of score, their "
                "mean.",
                "unit": meaning.unit,
            },
        ),
        (
            "delta_nats_se",
            pa.float64(),
            {
                "description": "The same of delta_nats; null where that is.",
                "unit": "nats",
            },
        ),
        (
            "n_seeds",
            pa.int32(),
            {"description": "Of how many seeds score and all that is made of scores are means."},
        ),
    )
    schema = survivor_schema(meaning)
    for name, kind, told in about:
        schema = schema.append(pa.field(name, kind, metadata=dict(told)))
    return schema


def seeds_of(manifest: Mapping[str, Any]) -> int | None:
    """How many seeds results are means over; None of a single run's."""
    told = manifest.get("seeds") or {}
    n_seeds: int | None = told.get("n")
    return n_seeds
