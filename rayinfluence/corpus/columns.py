"""The keys that name columns of documents: what is wrong with a column is said of its key."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rayinfluence.corpus.forms import Columns
from rayinfluence.corpus.token_rows import TokenForm


def columns_named(
    text: str | Sequence[str] | Mapping[str, str | Sequence[str]],
    identity: str,
    prompt: str | None = None,
    counted: str | None = None,
    label: str | None = None,
    template: str | None = None,
    metadata: Sequence[str] | None = None,
    path: str | None = None,
    blocks: bool = False,
    features: Sequence[str] = (),
    tokens: TokenForm | None = None,
) -> Columns:
    """Columns as a configuration names them.

    Args:
        text: a name, names in order of preference, or either by globs of files.
        identity: the others are as :class:`Columns` has them.
        prompt: that is.
        counted: that is.
        label: that is.
        template: that is.
        metadata: that is.
        path: that is.
        blocks: that is.
        features: that is.
        tokens: that is; its column is in the place of ``text``.
    """
    if tokens is not None:
        text = tokens.column
    by_file: list[tuple[str, tuple[str, ...]]] = []
    if isinstance(text, Mapping):
        by_file = [(pattern, _listed(names)) for pattern, names in text.items()]
        first, *others = by_file[0][1]
    else:
        first, *others = _listed(text)
    return Columns(
        first,
        identity,
        prompt,
        counted,
        label,
        tuple(others),
        tuple(by_file),
        template,
        None if metadata is None else tuple(metadata),
        path,
        blocks,
        tuple(features),
        tokens,
    )


def _listed(names: str | Sequence[str]) -> tuple[str, ...]:
    return (names,) if isinstance(names, str) else tuple(names)


def keys_of(columns: Columns) -> dict[str, str]:
    """The keys by the columns that they name; the documents' id is in none, as none needs one."""
    of_texts = "corpus.text_column" if columns.tokens is None else "corpus.tokens.column"
    named: dict[str | None, str] = {
        **dict.fromkeys(columns.texts, of_texts),
        columns.prompt: "corpus.prompt_column",
        columns.counted: "objective.loss",
        columns.label: "corpus.label_column",
        **dict.fromkeys(columns.features, "corpus.feature_columns"),
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
    if reason.startswith("corpus.template "):
        return "Mend the file, or let the template do without (`{% if name is defined %}`)."
    return "Mend the file."
