"""Classes of texts: what a document's label says, in the words of the model's config.json."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

#: Names in a message.
_NAMED = 12
#: Characters of a value in it.
_SHOWN = 40


@dataclass(frozen=True)
class Label:
    """A class of a text: its place among the model's, and its name."""

    index: int
    name: str


def names_of_classes(id2label: Mapping[Any, Any]) -> tuple[str, ...]:
    """Names of a model's classes by their ids, from its configuration."""
    by_id = {int(index): str(name) for index, name in id2label.items()}
    return tuple(by_id[index] for index in sorted(by_id))


def label_of(value: Any, names: Sequence[str]) -> Label | str:
    """The class that a value names, or why it names none.

    Args:
        value: a name, or a number (also one that is written as text, as in CSV).
        names: of the model's classes by their ids.
    """
    if value is None:
        return "is missing"
    if isinstance(value, str) and value in names:
        return Label(names.index(value), value)
    number = int(value) if isinstance(value, str) and value.isdecimal() else value
    if isinstance(number, int) and not isinstance(number, bool) and 0 <= number < len(names):
        return Label(number, names[number])
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return (
        f"is {str(value)[:_SHOWN]!r}, and the model's classes are {', '.join(names[:_NAMED])}"
        f"{more} (or 0 to {len(names) - 1})"
    )
