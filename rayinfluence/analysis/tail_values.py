"""What is said of tails: values that a terminal, a page and JSON show."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from rayinfluence.analysis.asked import Gate, Verdict
from rayinfluence.influence.against import Against
from rayinfluence.storage.results.evaluated import Interval

#: At this probability and below a power law is rejected.
REJECTED = 0.1


@dataclass(frozen=True)
class Fitted:
    """The power law of a query's largest scores.

    Attributes:
        exponent: of the density, which falls as score^-exponent; the share of larger scores falls
            as score^-(exponent - 1).
        error: its standard error.
        start: where the law begins, in the unit of scores.
        count: scores from there on.
        distance: of shares below a score, of the sample and of the law, at most.
        p: how often samples of the law are further from their own fit.
        against: the law beside others.
        needed: sequences among which ten are expected as strong as `wanted`.
        wanted: that score, and by whose tenth hit.
        wanted_by: ``tfidf`` or ``bm25``, or the method itself.
        held_out: the number needed by one half over what the other took; None without all scores.
    """

    exponent: float
    error: float
    start: float
    count: int
    distance: float
    p: float
    against: tuple[Against, ...]
    needed: float | None
    wanted: float | None
    wanted_by: str
    held_out: float | None

    @property
    def holds(self) -> bool:
        """Whether it is not rejected, beats the exponential law, and no other law beats it."""
        better = {one.law: one.better for one in self.against}
        beaten = "other" in better.values()
        return self.p > REJECTED and better["exponential"] == "power law" and not beaten

    @property
    def infinite(self) -> str:
        """Which moments such a law has not: the n-th where exponent is at most n + 1."""
        if self.exponent <= 2:
            return "mean"
        return "variance" if self.exponent <= 3 else ""


@dataclass(frozen=True)
class QueryTail:
    """Of one query.

    Attributes:
        query_id: its id.
        n_sequences: scores that there are.
        top_share: what the largest 1 % hold of all positive scores, right to `top_share_error`.
        top_share_error: see there.
        random_signs: 2.5 %, median and 97.5 % of that share with random signs; None where all
            scores have one sign.
        largest_share: what the strongest sequence holds of all positive scores.
        largest_nats: by how much it is predicted to raise the completion, in nats.
        information: -log p of the completion, in nats.
        law: None where there are too few scores.
    """

    query_id: str
    n_sequences: int
    top_share: float | None
    top_share_error: float | None
    random_signs: tuple[float, float, float] | None
    largest_share: float | None
    largest_nats: float | None
    information: float | None
    law: Fitted | None

    @property
    def largest_of_information(self) -> float | None:
        """The strongest sequence's part of the completion's information; above 1 it is no part."""
        if self.largest_nats is None or not self.information:
            return None
        return self.largest_nats / self.information


@dataclass(frozen=True)
class Tails:
    """What the analysis says.

    Attributes:
        method: whose scores they are.
        fingerprint: of the results.
        scores: which scores laws are fitted to, in words.
        gate: which queries it is of.
        queries: of those that are known.
        noise_share: what the largest 1 % of normal noise hold.
        refused: why no law is fitted to some queries; empty where one is to all.
        summary: means over queries, by name.
        verdicts: by finding.
        notes: on all figures.
    """

    method: str
    fingerprint: str
    scores: str
    gate: Gate
    queries: tuple[QueryTail, ...]
    noise_share: float
    refused: str
    summary: Mapping[str, Interval | None]
    verdicts: tuple[Verdict, ...]
    notes: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """As plain values; the reference has the keys."""
        return {"what": "tails", **asdict(self)}
