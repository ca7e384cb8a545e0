"""Survivors, or groups that were left out, as CSV for spreadsheets.

Nothing in it is a formula, whoever wrote the documents.

A cell that a spreadsheet would compute begins with an apostrophe instead, which shows it as text,
and characters that act instead of showing are shown, as in the report. The exact texts are in the
Parquet tables.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rayinfluence.report.asked import said
from rayinfluence.report.effects import effect_rows, told
from rayinfluence.storage.metadata import as_text
from rayinfluence.storage.results import (
    EFFECT_COLUMNS,
    SEED_COLUMNS,
    Direction,
    Results,
    Survivor,
    group_scores,
    seeds_of,
)
from rayinfluence.text import visible

#: What a cell begins with that spreadsheets take for a formula, also in full width.
_FORMULA = ("=", "+", "-", "@", "\t", "\n", "\r", "\uff1d", "\uff0b", "\uff0d", "\uff20")
_SIDES: tuple[Direction, ...] = ("proponent", "opponent")
_OF_A_SURVIVOR = (
    "direction",
    "rank",
    "score",
    "delta_nats",
    "beyond_linear",
    "suspect",
    "near_duplicate_of",
    "concentration",
    "carrier",
    "carrier_in_completion",
    "scan_rank",
    "scan_score",
    "source",
    "document_file",
    "document_id",
    "document_row",
    "sequence_id",
    "char_start",
    "char_end",
    "n_tokens",
    "text",
)
#: All but those of results of several seeds, and of metadata, which are `metadata.<key>`.
COLUMNS = ("query_id", "prompt", "completion", "method", *_OF_A_SURVIVOR)


#: Of a table of effects, besides the sums of scores, which are `sum.<method>`.
_OF_A_GROUP = ("column", "value", "value_type", "n_sequences", "share_of_corpus", *EFFECT_COLUMNS)


def effects_csv(results: Results, queries: Sequence[str]) -> str:
    """Groups that were left out, a row each: by query and effect.

    Args:
        results: with effects.
        queries: their ids.
    """
    methods = [one["method"] for one in told(results)["beside"]]
    rows = []
    for query_id in queries:
        prompt, completion, _ = said(results.queries[query_id])
        for row in effect_rows(results, query_id):
            sums = group_scores(row)
            cells = [*(row[name] for name in _OF_A_GROUP), *(sums.get(one) for one in methods)]
            rows.append([query_id, prompt, completion, results.method, *cells])
    return _csv([*COLUMNS[:4], *_OF_A_GROUP, *(f"sum.{one}" for one in methods)], rows)


def survivors_csv(
    results_by_method: Mapping[str, Results], queries: Sequence[str], n: int | None = None
) -> str:
    """The survivors of queries, a row each: by method, query, direction and rank.

    Args:
        results_by_method: of one run.
        queries: their ids.
        n: of each direction; None is all that were kept.
    """
    is_of_seeds = any(seeds_of(results.manifest) for results in results_by_method.values())
    more = SEED_COLUMNS if is_of_seeds else ()
    rows: list[tuple[list[Any], Mapping[str, Any]]] = []
    for method, results in results_by_method.items():
        asked = [query_id for query_id in queries if query_id in results.queries]
        for query_id in asked:
            prompt, completion, _ = said(results.queries[query_id])
            for side in _SIDES:
                find = results.proponents if side == "proponent" else results.opponents
                for one in find(query_id, n):
                    cells = [
                        query_id,
                        prompt,
                        completion,
                        method,
                        *_cells(one, (*_OF_A_SURVIVOR, *more)),
                    ]
                    rows.append((cells, one.metadata))
    keys = sorted({key for _, metadata in rows for key in metadata})
    return _csv(
        [*COLUMNS, *more, *(f"metadata.{key}" for key in keys)],
        ([*cells, *(_plain(metadata.get(key)) for key in keys)] for cells, metadata in rows),
    )


def _csv(heads: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    file = io.StringIO()
    # Text stands in quotes, so that no separator of any spreadsheet ends its cell.
    writer = csv.writer(file, quoting=csv.QUOTE_NONNUMERIC, lineterminator="\r\n")
    writer.writerow(safe_cells(heads))
    for cells in rows:
        writer.writerow(safe_cells(cells))
    return file.getvalue()


def _cells(survivor: Survivor, names: Sequence[str]) -> list[Any]:
    return [getattr(survivor, name) for name in names]


def _plain(value: Any) -> Any:
    """A number as it is, anything else as text."""
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return "" if value is None else value if number else as_text(value)


def safe_cells(cells: Iterable[Any]) -> list[Any]:
    """Cells of a row, none of which a spreadsheet computes."""
    return [_cell(cell) for cell in cells]


def _cell(value: Any) -> Any:
    if value is None:
        return ""
    if isinstance(value, bool):
        return str(value).lower()
    if not isinstance(value, str):
        return value
    text = visible(value)
    return f"'{text}" if text.startswith(_FORMULA) else text
