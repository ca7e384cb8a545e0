"""What a scan found, by method and query."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rayinfluence.config_scored import ScoredMethod
from rayinfluence.corpus.queries import EncodedQuery
from rayinfluence.dataflow.compute.partial import Partial
from rayinfluence.dataflow.jobs.banks import BankOperands
from rayinfluence.methods.registry import asked

Ids = NDArray[np.int64]


@dataclass(frozen=True)
class Side:
    """One direction of a query's survivors as a scan found them, the strongest first."""

    sign: int
    scores_K: NDArray[np.float64]
    ids_K: Ids


@dataclass(frozen=True)
class Scanned:
    """What a scan found by one method: its banks with their merged partials.

    ``name``: what the method's results are called.
    """

    method: str
    name: str
    banks: Sequence[tuple[BankOperands, Partial]]

    def asked(self, queries: Sequence[EncodedQuery]) -> list[EncodedQuery]:
        """Those of some queries that the method asks."""
        return asked(self.method, queries)

    def of_query(self, query_digest: str) -> tuple[Partial, int]:
        """The partial of the bank that a query is in, and its place there."""
        for bank, partial in self.banks:
            if query_digest in bank.plan.query_digests:
                return partial, bank.plan.query_digests.index(query_digest)
        raise AssertionError(
            f"query {query_digest} is in no bank"
        )  # plan_banks covers all that it asks

    def bank(self, query_digest: str) -> str | None:
        """The fingerprint of the bank that a query is in; None if the method does not ask it."""
        holding = (b.plan for b, _ in self.banks if query_digest in b.plan.query_digests)
        return next((plan.fingerprint for plan in holding), None)

    def sides(self, query_digest: str) -> tuple[Side, Side]:
        """Proponents and opponents."""
        partial, place = self.of_query(query_digest)
        proponents, opponents = partial.proponents, partial.opponents
        return Side(1, *proponents.of_query(place)), Side(-1, *opponents.of_query(place))

    def survivors(self, query_digest: str) -> Ids:
        """The ids of both directions, ascending."""
        partial, place = self.of_query(query_digest)
        return partial.survivors(place)


def scanned_by_method(
    methods: Sequence[ScoredMethod], merged: Sequence[tuple[BankOperands, Partial]]
) -> list[Scanned]:
    """Banks with their merged partials, by method."""
    return [
        Scanned(one.method, one.name, [pair for pair in merged if pair[0].plan.name == one.name])
        for one in methods
    ]


def union(some: Iterable[Ids]) -> Ids:
    """All ids of some, ascending."""
    return np.unique(np.concatenate([np.zeros(0, np.int64), *some]))
