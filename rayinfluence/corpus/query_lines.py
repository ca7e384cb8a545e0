"""Queries in JSON: an object a line, or one value over all of the file."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from rayinfluence.corpus.lines import parsed, why_none
from rayinfluence.corpus.query_exports import is_chat
from rayinfluence.errors import QueryError

Rows = Iterator[tuple[str, Any]]
#: The key that a list of queries may stand under.
_QUERIES = "queries"


def json_rows(body: bytes, url: str) -> Rows:
    """The queries of a file, each with its place.

    Args:
        body: all of it.
        url: of the file, for messages.

    Raises:
        QueryError: it is not JSON, where it is not.
    """
    try:
        value = parsed(body, 1, _refuse_constant)
    except (ValueError, RecursionError) as error:
        first = body.strip().partition(b"\n")[0].strip()
        if first.startswith(b"[") and not _is_json(first):
            raise QueryError(f"{url} is {why_none(error)}.") from error
        yield from _lines(body, url)
        return
    begins = body[: len(body) - len(body.lstrip())].count(b"\n") + 1
    is_list = isinstance(value, list) and not is_chat(value)
    yield from rows_of_value(value, url, line_of_elements(body) if is_list else [begins])


def rows_of_value(value: Any, url: str, lines: list[int]) -> Rows:
    """The queries of one value: those of a list, or it is one itself.

    Args:
        value: a list, an object with a list under ``queries``, a conversation or a query.
        url: of the file, for messages.
        lines: of the list's elements, or where the one value begins; none are not known.
    """
    if isinstance(value, dict) and value.keys() == {_QUERIES}:
        value = value[_QUERIES]
        if not isinstance(value, list):
            raise QueryError(f"{url}: `queries` must be a list of queries.")
        lines = lines if len(lines) == len(value) else []
    if not isinstance(value, list) or is_chat(value):
        yield f"{url}:{lines[0] if lines else 1}", value
        return
    for place, one in enumerate(value):
        yield (f"{url}:{lines[place]}" if lines else f"{url}, query {place + 1}"), one


def line_of_elements(body: bytes) -> list[int]:
    """The line of each element of a list, which is known to be JSON."""
    text, decoder = body.decode("utf-8-sig"), json.JSONDecoder()
    lines: list[int] = []
    at = text.index("[") + 1
    line = 1 + text.count("\n", 0, at)
    while True:
        begins = at
        while text[at] in " \t\r\n,":
            at += 1
        line += text.count("\n", begins, at)
        if text[at] == "]":
            return lines
        lines.append(line)
        _, end = decoder.raw_decode(text, at)
        line += text.count("\n", at, end)
        at = end


def _lines(body: bytes, url: str) -> Rows:
    # Not splitlines(): a JSON string may hold a line separator of Unicode.
    for number, line in enumerate(body.split(b"\n"), start=1):
        if not line.strip():
            continue
        place = f"{url}:{number}"
        try:
            row = parsed(line, number, _refuse_constant)
        except (ValueError, RecursionError) as error:
            raise QueryError(f"{place} is {why_none(error)}.") from error
        yield place, row


def _is_json(line: bytes) -> bool:
    try:
        json.loads(line)
    except (ValueError, RecursionError):
        return False
    return True


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON number")
