"""BM25 over the words of a few texts: the baseline that every attribution should be seen beside.

In a run the method ``bm25`` is the same over token ids.

Scores come from the bm25s library (extra ``demo``). They say which texts share words with the
query, and nothing about the model.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rayinfluence.errors import ConfigError


class BM25:
    """An index of sequences by their words.

    Args:
        sequence_ids: of the sequences.
        texts: theirs.

    Raises:
        ConfigError: the bm25s library is not installed.
    """

    def __init__(self, sequence_ids: Sequence[int], texts: Sequence[str]) -> None:
        self._library = _bm25s()
        self._ids = list(sequence_ids)
        self._index = self._library.BM25()
        self._index.index(self._words(texts), show_progress=False)

    def top(self, query: str, k: int) -> list[int]:
        """Ids of the k sequences whose words fit the query best, best first."""
        found, _ = self._index.retrieve(
            self._words([query]), corpus=self._ids, k=min(k, len(self._ids)), show_progress=False
        )
        return [int(sequence_id) for sequence_id in found[0]]

    def _words(self, texts: Sequence[str]) -> Any:
        return self._library.tokenize(list(texts), stopwords=None, show_progress=False)


def _bm25s() -> Any:
    try:
        import bm25s
    except ImportError as error:
        raise ConfigError(
            "BM25 needs the bm25s library: pip install 'rayinfluence[demo]'."
        ) from error
    return bm25s
