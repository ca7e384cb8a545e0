"""What tables of groups have besides, where models were trained without each group."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pyarrow as pa

from rayinfluence.storage.results.meaning import Meaning
from rayinfluence.storage.results.schema import GROUP_SCHEMA

#: Columns that follow the others, but for the sums of scores that stand beside.
EFFECT_COLUMNS = ("effect", "effect_se", "n_seeds")
#: By method, sums of the run's own scores over the group.
SUMS = "sums"


def effects_schema(meaning: Meaning) -> pa.Schema:
    """Of groups that were left out: a row per query and group, the largest effect first.

    What the table of a scan has of single scores is null.

    Args:
        meaning: of what was measured.
    """
    about: tuple[tuple[str, pa.DataType, Mapping[str, str]], ...] = (
        (
            "effect",
            pa.float64(),
            {
                "description": "Where groups were left out: what the query asks for by models "
                "trained on all, less that by models trained without the group; the mean over "
                "seeds.",
                "unit": meaning.unit,
            },
        ),
        (
            "effect_se",
            pa.float64(),
            {"description": "Its standard error over seeds.", "unit": meaning.unit},
        ),
        ("n_seeds", pa.int32(), {"description": "Of how many seeds effect is the mean."}),
        (
            SUMS,
            pa.map_(pa.string(), pa.float64()),
            {
                "description": "By method of the run that was asked: the sum of its scores over "
                "the group; over N, in nats, where scores predict changes, else as they are. "
                "Empty where the run has none by this key.",
            },
        ),
    )
    schema = GROUP_SCHEMA
    for name, kind, told in about:
        schema = schema.append(pa.field(name, kind, metadata=dict(told)))
    return schema


def group_scores(row: Mapping[str, Any]) -> dict[str, float]:
    """The sums of a row, by method."""
    return dict(row.get(SUMS) or ())
