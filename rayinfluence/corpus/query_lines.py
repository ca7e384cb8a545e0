"""Reading queries.jsonl, checked before anything runs."""

from __future__ import annotations

import json

from rayinfluence.corpus.lines import other_encoding, parsed, why_none
from rayinfluence.corpus.magic import why_not_queries
from rayinfluence.corpus.query_forms import Query, queries_of
from rayinfluence.errors import QueryError
from rayinfluence.storage.store import Store


def read_queries(file: Store) -> list[Query]:
    """Read queries.jsonl.

    Raises:
        QueryError: it is not JSON lines, a line is not a query, an id comes twice, or there is
            none.
    """
    queries: list[Query] = []
    lines_of: dict[str, int] = {}
    body = file.read("")
    if said := why_not_queries(body) or other_encoding(body):
        raise QueryError(f"{file.url} {said}")
    # Not splitlines(): a JSON string may hold a line separator of Unicode.
    for number, line in enumerate(body.split(b"\n"), start=1):
        if not line.strip():
            continue
        place = f"{file.url}:{number}"
        try:
            row = parsed(line, number, _refuse_constant)
        except (ValueError, RecursionError) as error:
            if _is_one_value(body):
                raise QueryError(
                    f"{file.url} is one JSON value over several lines, and queries are read as "
                    "JSON lines: write each object on a line of its own (`jq -c '.[]'` does so to "
                    "a list)."
                ) from error
            raise QueryError(f"{place} is {why_none(error)}.") from error
        for query in queries_of(row, place):
            if query.query_id in lines_of:
                raise QueryError(
                    f"{place}: query_id {query.query_id!r} is already that of line "
                    f"{lines_of[query.query_id]}; give each query an id of its own."
                )
            lines_of[query.query_id] = number
            queries.append(query)
    if not queries:
        raise QueryError(f"{file.url} holds no query; write one JSON object a line.")
    return queries


def _is_one_value(body: bytes) -> bool:
    """Whether several lines are one JSON value together."""
    try:
        json.loads(body)
    except (ValueError, RecursionError):
        return False
    return b"\n" in body.strip()


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON number")
