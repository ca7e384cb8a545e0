"""Reading queries, in the forms that people have them in; checked before anything runs.

What a file is, its content says; its name does where that tells nothing.
"""

from __future__ import annotations

import datetime
import json
from codecs import BOM_UTF8
from typing import Any

import yaml

from rayinfluence.corpus.lines import other_encoding
from rayinfluence.corpus.magic import why_not_queries
from rayinfluence.corpus.query_exports import row_of
from rayinfluence.corpus.query_forms import Query, queries_of
from rayinfluence.corpus.query_lines import Rows, json_rows, rows_of_value
from rayinfluence.corpus.query_tables import delimiter_of, no_table, table_rows
from rayinfluence.errors import QueryError, brief
from rayinfluence.storage.store import Store
from rayinfluence.yamls import RepeatedKey, read_yaml_lines

_YAML, _TABLES, _JSON = (".yaml", ".yml"), (".csv", ".tsv"), (".jsonl", ".ndjson", ".json")
#: How YAML begins that is a list, or has one under this key, whatever its name.
_BEGINS_YAML = (b"- ", b"-\n", b"queries:", b"---\n")


def read_queries(file: Store) -> list[Query]:
    """Read a file of queries: JSON lines, a JSON array, CSV or TSV, YAML, or chats in any of them.

    Raises:
        QueryError: it is none of these, a row is no query, an id comes twice, or there is none.
    """
    queries: list[Query] = []
    places: dict[str, str] = {}
    body = file.read("")
    if said := why_not_queries(body) or other_encoding(body):
        raise QueryError(f"{file.url} {said}")
    for place, value in _rows(body, file.url):
        row = row_of(value, place)
        named = isinstance(row, dict) and "query_id" in row
        for query in queries_of(row, place):
            if query.query_id in places:
                where = places[query.query_id].removeprefix(file.url).lstrip(":, ")
                where = f"line {where}" if where.isdecimal() else where
                raise QueryError(
                    f"{place}: query_id {query.query_id!r} is already that of {where}; give each "
                    "query an id of its own."
                    if named
                    else f"{place}: it asks what {where} asks; take one of them out, or give each "
                    "a query_id."
                )
            places[query.query_id] = place
            queries.append(query)
    if not queries:
        raise QueryError(
            f"{file.url} holds no query; write one JSON object a line, such as "
            '{"prompt": ..., "completion": ...}.'
        )
    return queries


def _rows(body: bytes, url: str) -> Rows:
    name, begins = url.lower(), body.removeprefix(BOM_UTF8).lstrip()
    if not begins:
        return iter(())
    if begins[:1] in b"{[" and not name.endswith(_YAML):
        return json_rows(body, url)
    if (delimiter := delimiter_of(body)) is not None:
        return table_rows(body, url, delimiter)
    if name.endswith(_TABLES):
        raise QueryError(no_table(url, body))
    if name.endswith(_YAML) or begins.startswith(_BEGINS_YAML):
        return _yaml_rows(body, url)
    if name.endswith(_JSON):
        return json_rows(body, url)
    raise QueryError(
        f"{url} is in no form that queries are read in: neither JSON (an object a line, or a "
        "list of them), nor CSV or TSV (with columns prompt and completion in its header), nor "
        "YAML (a list of {prompt, completion}). Write one JSON object a line, such as "
        '{"prompt": ..., "completion": ...}.'
    )


def _yaml_rows(body: bytes, url: str) -> Rows:
    try:
        value, lines = read_yaml_lines(body.decode("utf-8-sig"), "queries")
        # As JSON would have it: what is kept and digested is that.
        value = json.loads(json.dumps(value, allow_nan=False, default=_plain))
    except RepeatedKey as error:
        raise QueryError(f"{url}: {error}") from error
    except (ValueError, TypeError, RecursionError, yaml.YAMLError) as error:
        raise QueryError(f"{url} cannot be read as YAML: {brief(error)}.") from error
    if value is None:
        return iter(())
    return rows_of_value(value, url, lines)


def _plain(value: Any) -> str:
    if isinstance(value, datetime.date):
        return value.isoformat()
    raise TypeError(f"it has a value of the kind {type(value).__name__}, which JSON has not")
