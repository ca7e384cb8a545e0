"""Results in a notebook: a line, a small table, and a data frame.

What stands in them is others': it is made visible, and in HTML escaped.
"""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from rayinfluence.errors import StorageError
from rayinfluence.text import visible_line

if TYPE_CHECKING:
    from rayinfluence.storage.results.reader import Results

#: Queries of a table, and characters of a cell.
_ROWS, _LONGEST = 20, 80
_HEADS = ("query", "prompt", "completion", "log-probability", "first proponent", "score")
#: Of whole numbers with gaps, which pandas would make floats of.
_WHOLE = {
    pa.int8(): "Int8",
    pa.int16(): "Int16",
    pa.int32(): "Int32",
    pa.int64(): "Int64",
    pa.uint32(): "UInt32",
    pa.uint64(): "UInt64",
    pa.bool_(): "Boolean",
}


def said_of(results: Results) -> str:
    """Results in a line."""
    part = "" if results.complete else ", incomplete"
    fingerprint = str(results.manifest.get("fingerprint") or "")[:12]
    return visible_line(
        f"<Results {fingerprint} by {results.method}: {len(results.queries):,} queries, "
        f"{results.manifest['n_sequences']:,} sequences{part}>"
    )


def html_of(results: Results) -> str:
    """A table of the first queries, each with its first proponent."""
    first = {row["query_id"]: row for row in results.leading(1)}
    rows = []
    for query_id, query in list(results.queries.items())[:_ROWS]:
        log_probability, found = query.get("log_probability"), first.get(query_id)
        rows.append(
            (
                query_id,
                query.get("prompt") or "",
                query.get("completion") or "",
                "" if log_probability is None else f"{log_probability:.2f}",
                "" if found is None else f"{found['source']} {found['document_id']}",
                "" if found is None else f"{found['score']:+.4g}",
            )
        )
    rest = len(results.queries) - len(rows)
    more = f"<p>and {rest:,} more queries</p>" if rest > 0 else ""
    return f"<p>{escape(said_of(results))}</p>{_table(_HEADS, rows)}{more}"


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    head = "".join(f"<th>{escape(name)}</th>" for name in heads)
    body = "".join(
        "<tr>" + "".join(f"<td><bdi>{_cell(text)}</bdi></td>" for text in row) + "</tr>"
        for row in rows
    )
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def _cell(text: str) -> str:
    shown = text if len(text) <= _LONGEST else f"{text[: _LONGEST - 1]}…"
    return escape(visible_line(shown))


def frame_of(table: pa.Table) -> Any:
    """A table as a pandas DataFrame; whole numbers and truths with gaps stay what they are.

    A map is a dictionary.

    Raises:
        StorageError: pandas is not installed.
    """
    try:
        import pandas  # of whoever asks; nothing here needs it
    except ImportError as error:
        raise StorageError(
            "a data frame needs pandas, which is not installed: `pip install pandas`. The Arrow "
            "tables (`Results.table`, `survivors`, `sequences`) need nothing more."
        ) from error
    gaps = {table.schema.field(n).type for n in range(table.num_columns) if table[n].null_count}
    types = {kind: getattr(pandas, f"{_WHOLE[kind]}Dtype")() for kind in gaps & _WHOLE.keys()}
    return table.to_pandas(types_mapper=types.get, maps_as_pydicts="strict")
