"""For programs: one JSON object."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

#: Of the keys that the reference documents; others may be added within it.
FORMAT = 1


def json_text(values: Mapping[str, Any]) -> str:
    """Values as a JSON object of ASCII alone; a number that JSON has no word for is null."""
    return json.dumps(_finite({"format": FORMAT, **values}), indent=1, allow_nan=False)


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): _finite(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(one) for one in value]
    return value
