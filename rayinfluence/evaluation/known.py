"""Which documents belong to queries, by what the metadata of both has at a key.

N sequence, Q query.
"""

from __future__ import annotations

from collections.abc import Sequence

from rayinfluence.corpus.metadata import as_text, at_key
from rayinfluence.corpus.queries import EncodedQuery
from rayinfluence.errors import ConfigError
from rayinfluence.evaluation.claims import Known
from rayinfluence.evaluation.sequences import CorpusSequence

#: Queries and documents in a message.
_NAMED = 3


def known_documents(
    key: str, queries: Sequence[EncodedQuery], sequences: Sequence[CorpusSequence]
) -> Known:
    """The documents that have, at a key, what a query's metadata has there.

    Args:
        key: of ``evaluation.known``, dotted.
        queries: that are asked [Q].
        sequences: with the values of that key as their groups [N].

    Raises:
        ConfigError: no query has the key, or no document has the value of any.
    """
    values = [at_key(query.query.metadata, key) for query in queries]
    if all(value is None for value in values):
        raise ConfigError(
            f"evaluation.known: no query's metadata has {key!r}. Give queries the value that "
            "their documents have there, or leave the key out."
        )
    documents: dict[str, set[str]] = {}
    for one in sequences:
        if one.group is not None:
            documents.setdefault(one.group, set()).add(one.document_id)
    found = [
        frozenset[str]() if value is None else frozenset(documents.get(as_text(value), ()))
        for value in values
    ]
    if not any(found):
        shown = ", ".join(repr(as_text(value)) for value in values[:_NAMED] if value is not None)
        raise ConfigError(
            f"evaluation.known: no document has at {key!r} what a query has there, such as "
            f"{shown}. Name a key that both have, or leave it out."
        )
    return Known(tuple(one.document_id for one in sequences), tuple(found))
