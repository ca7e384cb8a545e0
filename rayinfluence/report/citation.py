"""A hit as a citation: enough to find it again, in the corpus and in the results."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from rayinfluence.report.text import count, measured, one_line
from rayinfluence.storage.results import Survivor


@dataclass(frozen=True)
class Cited:
    """What all hits of a query by a method are cited with: names, and digests."""

    method: str
    query: Mapping[str, Any]
    fingerprint: str

    def of(self, hit: Survivor) -> str:
        """One line: document, place in it, score, query and results."""
        query = f"query {self.query['query_id']}"
        if digest := self.query.get("digest"):
            query += f" ({digest})"
        score = measured(hit.score, hit.score_se)
        parts = [
            _document(hit),
            f"{hit.direction} {count(hit.rank)}, score {score} by {self.method}",
            query,
            f"results {self.fingerprint}" if self.fingerprint else "",
        ]
        return one_line("; ".join(part for part in parts if part)) + "."


def _document(hit: Survivor) -> str:
    text = hit.document_id or f"sequence {hit.sequence_id}"
    if hit.document_file is not None:
        row = "" if hit.document_row is None else f", row {hit.document_row}"
        text += f" in {hit.document_file}{row}"
    if hit.char_end is not None:
        text += f", characters {hit.char_start} to {hit.char_end}"
    return text
