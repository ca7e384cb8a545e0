"""Questions that were asked of a run beside its file of queries, and are its queries from then on.

Each is an object of its own, named by what it says, so that several may be asked at once.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from rayinfluence.config import RunConfig
from rayinfluence.corpus.query_exports import is_chat, row_of
from rayinfluence.corpus.query_forms import Query, queries_of
from rayinfluence.dataflow import layout
from rayinfluence.errors import ConfigError
from rayinfluence.storage.digest import digest
from rayinfluence.storage.results import MANIFEST
from rayinfluence.storage.store import Store, read_json

#: The row of a query, as `query_forms` has it.
Row = Mapping[str, Any]


def asked_before(store: Store) -> list[Query]:
    """The questions that a run directory keeps.

    Raises:
        DamagedError: one of them cannot be read.
        QueryError: one of them is none.
    """
    questions = store / layout.ASKED
    return [
        query
        for key in sorted(questions.list())
        for query in queries_of(dict(read_json(questions, key)), f"{questions.url}/{key}")
    ]


def keep_question(store: Store, row: Row) -> None:
    """Leave a question in a run directory, whose query it is from now on."""
    body = json.dumps(row, indent=1, ensure_ascii=False).encode()
    (store / layout.ASKED).create(layout.question_key(digest(row)), body)


def with_questions(queries: Sequence[Query] | None, more: Sequence[Query]) -> list[Query] | None:
    """Queries with those of some questions that are not among them; an id is made of what it asks.

    Args:
        queries: of a file; None where there is none.
        more: the questions.
    """
    if queries is None and not more:
        return None
    found = {query.query_id: query for query in queries or ()}
    for query in more:
        found.setdefault(query.query_id, query)
    return list(found.values())


def refuse_unready(config: RunConfig) -> None:
    """Refuse to ask a run that has nothing to answer with.

    Raises:
        ConfigError: it asks no queries, or has neither results nor factors.
    """
    if not config.scan.asks_queries:
        raise ConfigError(
            f"scan.methods: {', '.join(config.scan.methods)} has each sequence for its own query, "
            "and is asked no other. Ask a run with another method, such as ekfac."
        )
    store = Store(config.run, config.storage.options(config.run))
    if not store.exists(MANIFEST) and not layout.with_manifest((store / layout.FACTORS).list()):
        raise ConfigError(
            f"{store.url} has neither results nor factors, and a question is asked of a run that "
            "has: `rayinfluence run` on its configuration (or `fit`, where there is no file of "
            "queries yet) comes first."
        )


def question(prompt: str, completion: str | None, *, chat: bool, generate: bool) -> dict[str, Any]:
    """The row of what was given on a command line; without a completion where one is to be made.

    Args:
        prompt: a text; of a chat what its user says, or a list of messages as JSON.
        completion: what is asked about.
        chat: whether the prompt is made a text by a chat template.
        generate: whether the model is to answer first.

    Raises:
        ConfigError: there is no completion, or two.
    """
    said: Any = _messages(prompt) if chat else prompt
    if generate:
        if completion is not None:
            raise ConfigError(
                "a completion is given, and --generate lets the model say one: leave one of them "
                "out."
            )
        return {"prompt": said}
    if completion is not None:
        return {"prompt": said, "completion": completion}
    if isinstance(said, list) and len(said) > 1:
        return {"messages": said}
    raise ConfigError(
        "there is nothing to explain: give a completion after the prompt, or --generate to let "
        "the model answer first."
    )


def _messages(prompt: str) -> Any:
    """A list of messages, or what a user says as one."""
    try:
        value = json.loads(prompt)
    except (ValueError, RecursionError):
        value = None
    if is_chat(value):
        return row_of(value, "the question")["messages"]
    return [{"role": "user", "content": prompt}]
