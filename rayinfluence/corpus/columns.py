"""The keys that name columns of documents: what is wrong with a column is said of its key."""

from __future__ import annotations

from rayinfluence.corpus.forms import Columns


def keys_of(columns: Columns) -> dict[str, str]:
    """The keys by the columns that they name; the documents' id is in none, as none needs one."""
    named = {
        columns.text: "corpus.text_column",
        columns.prompt: "corpus.prompt_column",
        columns.counted: "objective.loss",
        columns.label: "corpus.label_column",
    }
    return {column: key for column, key in named.items() if column is not None}


def what_to_do(reason: str, columns: Columns) -> str:
    """What helps where a row is no document, as a sentence.

    Args:
        reason: why it is none; it begins with the column that is to blame, where one is.
        columns: that have a meaning.
    """
    for column, key in keys_of(columns).items():
        if reason.startswith(f"{column!r} "):
            return f"Mend the file, or name another column under {key}."
    return "Mend the file."
