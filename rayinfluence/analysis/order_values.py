"""What is asked of the order of words, and what is found, as values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from rayinfluence.analysis.asked import Gate, Verdict
from rayinfluence.storage.results.evaluated import Interval


@dataclass(frozen=True)
class Scored:
    """A text that was scored with a query.

    Attributes:
        query: its id.
        part: what the text is to it: of :mod:`rayinfluence.influence.order`.
        tokens: of the text.
        score: the method's.
    """

    query: str
    part: str
    tokens: tuple[int, ...]
    score: float


@dataclass(frozen=True)
class Signs:
    """A paired sign test over queries.

    Attributes:
        more, less: parts; how often the first has more influence.
        larger: of so many queries.
        n: that differ.
        p: two-sided, of fair coins.
    """

    more: str
    less: str
    larger: int
    n: int
    p: float


@dataclass(frozen=True)
class OfPart:
    """A part over queries.

    Attributes:
        name: of it.
        n_texts: scored for known queries.
        share: of the forward sentences' influence: the ratio of sums over queries.
        nats: the mean predicted change by one such sequence more; None where none is predicted.
    """

    name: str
    n_texts: int
    share: Interval | None
    nats: Interval | None


@dataclass(frozen=True)
class Order:
    """What the analysis says.

    Attributes:
        method: whose scores they are.
        fingerprint: of the results.
        gate: which queries it is of, of those that texts are given for.
        parts: forward first.
        signs: forward against each part, and a reversed sentence against its beginning.
        queries: by query the mean score of each part, None where it has none.
        verdicts: by finding.
        notes: on all figures.
    """

    method: str
    fingerprint: str
    gate: Gate
    parts: tuple[OfPart, ...]
    signs: tuple[Signs, ...]
    queries: Mapping[str, Mapping[str, float | None]]
    verdicts: tuple[Verdict, ...]
    notes: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """As plain values; the reference has the keys."""
        return {"what": "order", **asdict(self)}
