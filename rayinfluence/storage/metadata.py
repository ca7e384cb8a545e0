"""Metadata as columns: keys with types of their own, and canonical JSON where values are mixed.

The kind of a key says what all of its values have in common: ``boolean``, ``integer`` (a float64
holds it), ``long`` (64 bits do), ``number``, ``string``, ``list:`` with the kind of what is in the
list, or ``json``: anything else, and whatever differs from row to row.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pyarrow as pa

from rayinfluence.storage.digest import canonical_json

#: Up to here a float64 holds every whole number.
_ALL_HELD = 2**53
#: Below this a whole float64 is written as the integer that it is; from here on by its exponent.
_WRITTEN_OUT = 1e21
#: Keys that have a column of their own; of more than that, those that most rows have.
MOST_KEYS = 1000
#: Of rows: the values of the keys that have a column, and all others as one JSON object.
COLUMN, REST = "metadata", "metadata_rest"

_TYPES = {
    "boolean": pa.bool_(),
    "integer": pa.int64(),
    "long": pa.int64(),
    "number": pa.float64(),
    "string": pa.string(),
    "json": pa.string(),
}
_WIDER = {("integer", "long"): "long", ("integer", "number"): "number"}
_ENCODING = b"encoding"
_JSON = b"canonical JSON"

#: By key, its kind and how many rows have it.
Kinds = Mapping[str, tuple[str, int]]


def canonical(value: Any) -> str:
    """One JSON text for each value: keys sorted, numbers by their value (1.0 is 1).

    Integers have all of their digits, however many.

    1 and "1", true and "true" are different values, and have different texts.
    """
    return canonical_json(_by_value(value))


def as_text(value: Any) -> str:
    """A string as it is, anything else as canonical JSON: how reports show a value."""
    return value if isinstance(value, str) else canonical(value)


def kinds_of(rows: Iterable[Mapping[str, Any]]) -> dict[str, tuple[str, int]]:
    """What the values of each key have in common."""
    found: dict[str, tuple[str, int]] = {}
    for row in rows:
        _join_into(found, {key: (_kind(value), 1) for key, value in row.items()})
    return found


def joined(kinds: Iterable[Kinds]) -> dict[str, tuple[str, int]]:
    """What the values of each key have in common in several sets of rows."""
    found: dict[str, tuple[str, int]] = {}
    for one in kinds:
        _join_into(found, one)
    return found


def fields(kinds: Kinds, of_what: str) -> list[pa.Field]:
    """The columns of metadata: a struct where there are keys, and the rest.

    Parquet has no struct without fields, so that rows without metadata have no such column.
    """
    counts = Counter({key: count for key, (_, count) in kinds.items()})
    ranked = sorted(counts, key=lambda key: (-counts[key], key))
    inner = [_field(key, kinds[key][0]) for key in sorted(ranked[:MOST_KEYS])]
    found = []
    if inner:
        about = f"What else {of_what} has, by key; null where it does not have the key."
        found.append(pa.field(COLUMN, pa.struct(inner), metadata={"description": about}))
    about = (
        f"A JSON object of keys of {of_what} beyond the {MOST_KEYS} most frequent; null if none."
    )
    return [*found, pa.field(REST, pa.string(), metadata={"description": about})]


def columns(rows: Sequence[Mapping[str, Any]], schema: pa.Schema) -> dict[str, pa.Array]:
    """Rows of metadata as the columns that a schema has for them."""
    kept: set[str] = set()
    found: dict[str, pa.Array] = {}
    if COLUMN in schema.names:
        kind = schema.field(COLUMN).type
        inner = [kind.field(place) for place in range(kind.num_fields)]
        kept = {field.name for field in inner}
        arrays = [pa.array([_encoded(row, field) for row in rows], field.type) for field in inner]
        found[COLUMN] = pa.StructArray.from_arrays(arrays, fields=inner)
    rest = [{key: value for key, value in row.items() if key not in kept} for row in rows]
    found[REST] = pa.array([canonical(row) if row else None for row in rest], pa.string())
    return found


def decoded(row: Mapping[str, Any], schema: pa.Schema) -> dict[str, Any]:
    """The metadata of a row as JSON has them, from its columns."""
    found: dict[str, Any] = {}
    for key, value in (row.get(COLUMN) or {}).items():
        if value is not None:
            kind = schema.field(COLUMN).type
            field = kind.field(kind.get_field_index(key))
            found[key] = json.loads(value) if _is_json(field) else value
    if rest := row.get(REST):
        found |= json.loads(rest)
    return found


def _kind(value: Any) -> str:
    if isinstance(value, bool):
        return "boolean"
    if isinstance(value, int):
        if abs(value) <= _ALL_HELD:
            return "integer"
        return "long" if -(2**63) <= value < 2**63 else "json"
    if isinstance(value, float):
        return "number"
    if isinstance(value, str):
        return "string"
    if isinstance(value, list) and value:
        inner = {_kind(one) for one in value}
        common = inner.pop()
        while inner:
            common = _common(common, inner.pop())
        return "json" if common == "json" or common.startswith("list:") else f"list:{common}"
    return "json"


def _common(one: str, other: str) -> str:
    if one == other:
        return one
    if one.startswith("list:") and other.startswith("list:"):
        inner = _common(one.removeprefix("list:"), other.removeprefix("list:"))
        return "json" if inner == "json" else f"list:{inner}"
    return _WIDER.get((one, other)) or _WIDER.get((other, one)) or "json"


def _join_into(found: dict[str, tuple[str, int]], kinds: Kinds) -> None:
    for key, (kind, count) in kinds.items():
        known, before = found.get(key, (kind, 0))
        found[key] = _common(known, kind), before + count


def _field(key: str, kind: str) -> pa.Field:
    inner = kind.removeprefix("list:")
    about = {b"description": f"{key}, as it was given.".encode()}
    if kind == "json":
        about = {
            b"description": f"{key}, whose values are of several types, or objects.".encode(),
            _ENCODING: _JSON,
        }
    return pa.field(key, pa.list_(_TYPES[inner]) if inner != kind else _TYPES[kind], metadata=about)


def _is_json(field: pa.Field) -> bool:
    return bool((field.metadata or {}).get(_ENCODING) == _JSON)


def _encoded(row: Mapping[str, Any], field: pa.Field) -> Any:
    if field.name not in row:
        return None
    value = row[field.name]
    return canonical(value) if _is_json(field) else value


def _by_value(value: Any) -> Any:
    if isinstance(value, float) and value.is_integer() and abs(value) < _WRITTEN_OUT:
        return int(value)
    if isinstance(value, dict):
        return {key: _by_value(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_by_value(inner) for inner in value]
    return value
