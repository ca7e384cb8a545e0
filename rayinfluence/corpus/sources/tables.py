"""Rows of tables of Arrow: a value that Python cannot hold spoils no other one."""

from __future__ import annotations

from itertools import chain
from typing import Any

import pyarrow as pa

from rayinfluence.corpus.sources.source import NotDocumentsError, Wanted, without_column


def chosen(schema: pa.Schema, wanted: Wanted) -> list[str]:
    """Those of a table's columns that are read, in their order.

    Raises:
        NotDocumentsError: that of the text is not there, or one is there twice, or has a field in
            it that is.
    """
    names = schema.names
    if wanted.is_needed and wanted.text not in names:
        raise without_column(f"has no column {wanted.text!r}; it has", names, wanted.key)
    found = [name for name in names if wanted.columns is None or name in wanted.columns]
    if twice := [name for name in found if names.count(name) > 1]:
        raise NotDocumentsError(
            f"has two columns {twice[0]!r}, and it cannot be told which of them is meant: rename "
            "one."
        )
    for name in found:
        if (field := _twice_in(schema.field(name).type)) is not None:
            raise NotDocumentsError(
                f"has two fields {field!r} in its column {name!r}, and one of them would be lost: "
                "rename one, or name under corpus.metadata the columns to keep, without it."
            )
    return found


def _twice_in(kind: pa.DataType) -> str | None:
    """The name that two fields of a struct have, wherever it is within a type."""
    if pa.types.is_dictionary(kind) or pa.types.is_run_end_encoded(kind):
        return _twice_in(kind.value_type)
    fields = [kind.field(place) for place in range(kind.num_fields)]
    names = [field.name for field in fields] if pa.types.is_struct(kind) else []
    twice = (name for name in names if names.count(name) > 1)
    within = (name for field in fields if (name := _twice_in(field.type)) is not None)
    return next(chain(twice, within), None)


def rows_of(batch: pa.RecordBatch) -> list[dict[str, Any]]:
    """The rows of a batch, by column."""
    columns = [_values(column) for column in batch.columns]
    return [dict(zip(batch.schema.names, row, strict=True)) for row in zip(*columns, strict=True)]


def refuse_unsound(batch: pa.RecordBatch) -> None:
    """See that what was read as it stands, such as where each text ends, holds together.

    Raises:
        pa.ArrowInvalid: it does not; bytes that are not UTF-8 are none of it.
    """
    for column in batch.columns:
        try:
            column.validate(full=True)
        except pa.ArrowInvalid:
            if _bare(column.type) == column.type:
                raise
            column.view(_bare(column.type)).validate(full=True)


def _values(column: pa.Array) -> list[Any]:
    """What is in a column; of what has no value in Python, what it is made of.

    A time out of Python's years, or in a zone that this machine does not know, is the number that
    stands in the file; bytes that should be UTF-8 and are not are bytes.
    """
    try:
        found: list[Any] = column.to_pylist()
    except (ValueError, OverflowError, LookupError, pa.ArrowException):
        return [_value(one) for one in column]
    return found


def _value(one: pa.Scalar) -> Any:
    try:
        return one.as_py()
    except (ValueError, OverflowError, LookupError, pa.ArrowException):
        return pa.array([one], one.type).cast(_bare(one.type)).to_pylist()[0]


def _bare(kind: pa.DataType) -> pa.DataType:
    """The type of what a value is made of."""
    if pa.types.is_date32(kind) or pa.types.is_time32(kind):
        return pa.int32()
    if pa.types.is_temporal(kind):
        return pa.int64()
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        return pa.binary() if pa.types.is_string(kind) else pa.large_binary()
    if pa.types.is_string_view(kind):
        return pa.binary_view()
    if pa.types.is_dictionary(kind):
        return _bare(kind.value_type)
    if pa.types.is_struct(kind):
        return pa.struct([pa.field(field.name, _bare(field.type)) for field in kind])
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        return pa.large_list(_bare(kind.value_type))
    if pa.types.is_fixed_size_list(kind):
        return pa.list_(_bare(kind.value_type), kind.list_size)
    if pa.types.is_map(kind):
        return pa.map_(_bare(kind.key_type), _bare(kind.item_type))
    return kind
