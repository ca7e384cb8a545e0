"""Addresses within pages: the same for a query and a hit, whatever else a run has."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

from rayinfluence.storage.digest import digest
from rayinfluence.storage.results import Survivor

_LENGTH = 12


def query_anchors(queries: Iterable[Mapping[str, Any]]) -> dict[str, str]:
    """The anchor of each query, by its id: of its digest, so that others may come and go.

    Of several queries that ask the same, each but the first is told apart by its place.
    """
    taken: Counter[str] = Counter()
    return {
        query["query_id"]: _free(f"q{_short(query.get('digest') or query['query_id'])}", taken)
        for query in queries
    }


class HitAnchors:
    """Anchors of one query's hits, ``<query>-<hit>``: a hit is a method's of a sequence's text.

    Args:
        query: the query's own anchor.
    """

    def __init__(self, query: str) -> None:
        self._query = query
        self._taken: Counter[str] = Counter()

    def of(self, method: str, hit: Survivor) -> str:
        """The anchor of a hit, by its text and its place in its document."""
        what = [method, hit.content_digest, hit.document_id, hit.token_start]
        return _free(f"{self._query}-{digest(what)[:_LENGTH]}", self._taken)


def _short(name: object) -> str:
    text = str(name)
    whole = text if re.fullmatch("[0-9a-f]{32,}", text) else digest(text)
    return whole[:_LENGTH]


def _free(anchor: str, taken: Counter[str]) -> str:
    taken[anchor] += 1
    n = taken[anchor]
    return anchor if n == 1 else f"{anchor}-{n}"
