"""Queries as other tools write them, as rows of ours.

A chat that was exported asks about what its assistant says last. What else such a row has is its
author's, and comes back as metadata; a key that is nearly one of ours is a mistake, and no datum.
"""

from __future__ import annotations

import difflib
from typing import Any

from rayinfluence.corpus.query_forms import KNOWN_KEYS
from rayinfluence.errors import QueryError

#: Who speaks, in the exports that write ``{"from": ..., "value": ...}``.
_ROLES = {
    "system": "system",
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "assistant": "assistant",
    "model": "assistant",
}
_SPEAKER, _SAID = "from", "value"
_CONVERSATIONS, _MESSAGES, _SYSTEM = "conversations", "messages", "system"
#: One of these is in each query.
_ASKING = {"completion", "completions", "messages", "set"}
#: Keys in a message.
_NAMED = 5
#: How alike two keys are of which one is the other, mistyped.
_ALIKE = 0.84


def is_chat(value: Any) -> bool:
    """Whether a value is a list of messages, and so one conversation."""
    return (
        isinstance(value, list)
        and bool(value)
        and all(isinstance(one, dict) and one.keys() & {"role", _SPEAKER} for one in value)
    )


def row_of(value: Any, place: str) -> Any:
    """A query as a row of ours, with what else it has under ``metadata``; of no object the value.

    Args:
        value: as it was read.
        place: of it, for messages.

    Raises:
        QueryError: a key is nearly one of ours, stands for the same as another, or names a speaker
            who is unknown.
    """
    if is_chat(value):
        value = {_MESSAGES: value}
    if not isinstance(value, dict):
        return value
    row = dict(value)
    if _CONVERSATIONS in row:
        if _MESSAGES in row:
            raise QueryError(f"{place}: messages and conversations are both given; leave one out.")
        row[_MESSAGES] = _with_system(row.pop(_CONVERSATIONS), row, place)
    if isinstance(row.get(_MESSAGES), list):
        row[_MESSAGES] = [_message(one, place) for one in row[_MESSAGES]]
    if "query_id" not in row and row.get("id") not in (None, ""):
        found = row.pop("id")
        is_number = isinstance(found, int) and not isinstance(found, bool)
        row["query_id"] = str(found) if is_number else found
    return _with_metadata(row, place)


def _with_system(messages: Any, row: dict[str, Any], place: str) -> Any:
    """A conversation after what the system says, where that stands beside it."""
    said = row.pop(_SYSTEM, None)
    if said in (None, "") or not isinstance(messages, list):
        return messages
    if not isinstance(said, str):
        raise QueryError(f"{place}: system must be a string.")
    return [{"role": "system", "content": said}, *messages]


def _message(message: Any, place: str) -> Any:
    """A message with role and content, whatever it had them under."""
    if not isinstance(message, dict) or "role" in message or _SPEAKER not in message:
        return message
    rest = dict(message)
    speaker = rest.pop(_SPEAKER)
    role = _ROLES.get(speaker) if isinstance(speaker, str) else None
    if role is None:
        raise QueryError(
            f"{place}: a message is from {speaker!r}, and those are read that are from "
            f"{', '.join(_ROLES)}: give this conversation as messages of {{role, content}}, with "
            "the roles that the chat template knows."
        )
    content = {"content": rest.pop(_SAID)} if _SAID in rest else {}
    return {"role": role, **content, **rest}


def _with_metadata(row: dict[str, Any], place: str) -> dict[str, Any]:
    """A row whose keys are ours alone; the others are under ``metadata``."""
    others = {key: value for key, value in row.items() if key not in KNOWN_KEYS}
    if not others:
        return row
    known = sorted(KNOWN_KEYS)
    for key in others:
        if close := difflib.get_close_matches(str(key).lower(), known, n=1, cutoff=_ALIKE):
            raise QueryError(
                f"{place}: unknown key {key!r}; if it is {close[0]}, call it so, and put what is "
                "yours under metadata."
            )
    if _ASKING.isdisjoint(row):
        raise QueryError(
            f"{place}: a query needs the keys prompt and completion (or, in their place, messages, "
            f"completions or set), and this has {', '.join(map(repr, list(row)[:_NAMED]))}: rename "
            "them."
        )
    given = row.get("metadata") or {}
    if not isinstance(given, dict):
        raise QueryError(f"{place}: metadata must be an object.")
    if twice := sorted(others.keys() & given.keys()):
        raise QueryError(f"{place}: {twice[0]!r} stands beside metadata and in it; leave one out.")
    kept = {key: value for key, value in row.items() if key in KNOWN_KEYS}
    return {**kept, "metadata": {**given, **others}}
