"""Which subsets referees ask for, and what became of them in a table of trainings.

S subset, N sequence, Q query, R seed, G group, K added sequence.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from rayinfluence.errors import NumericsError
from rayinfluence.evaluation.bank import Bank
from rayinfluence.evaluation.lds import by_seed
from rayinfluence.evaluation.subsets import DROP, HALF, Subset, full

#: The same subsets, trained with each seed [R, S].
BySeed = Sequence[Sequence[Subset]]


def protocols(subsets: Sequence[Subset]) -> dict[str, BySeed]:
    """Subsets that linear datamodeling scores are over, by the name of their design.

    Of each those that were, or will be, trained with every seed of its design.
    """
    found: dict[str, list[Subset]] = {}
    for subset in subsets:
        if subset.design in (HALF, DROP):
            share = subset.share or 0.0
            name = HALF if subset.design == HALF else f"{DROP} {100 * share:.3g}%"
            found.setdefault(name, []).append(subset)
    return {
        name: [[some[place] for place in row] for row in rows.tolist()]
        for name, some in found.items()
        if (rows := by_seed([one.dropped for one in some], [one.seed for one in some])).size
    }


def with_seeds(subsets: Sequence[Subset], seeds: Sequence[int]) -> BySeed:
    """Subsets with each of some seeds."""
    return [[subset.of_seed(seed) for subset in subsets] for seed in seeds]


def distinct(subsets: Sequence[Subset]) -> list[Subset]:
    """Each training once, whatever it is asked for."""
    return list({subset.digest: subset for subset in subsets}.values())


def weights(subsets: Sequence[Subset], ids_N: NDArray[np.int64]) -> NDArray[np.float32]:
    """How often each sequence is seen in each subset [S, N]."""
    rows = [subset.weights(ids_N) for subset in subsets]
    return np.stack(rows) if rows else np.zeros((0, len(ids_N)), dtype=np.float32)


def refuse_not_finite(
    values_MQ: NDArray[np.float64], models: Sequence[str], query_ids: Sequence[str], whose: str
) -> None:
    """See that all models say something finite of all queries.

    Args:
        values_MQ: f by model and query.
        models: what each was trained on, after "the model".
        query_ids: of the queries.
        whose: who asks, at the beginning of the message.

    Raises:
        NumericsError: one does not.
    """
    bad_M, bad_Q = np.nonzero(~np.isfinite(values_MQ))
    if len(bad_M):
        raise NumericsError(
            f"{whose}: the model {models[bad_M[0]]} gives {values_MQ[bad_M[0], bad_Q[0]]} for "
            f"query {query_ids[bad_Q[0]]!r}: no difference can be made of that. Leave the query "
            "out, or let the recipe train more gently."
        )


@dataclass(frozen=True)
class Answers:
    """A table of trainings that is asked by subset."""

    bank: Bank

    @cached_property
    def _rows(self) -> Mapping[str, int]:
        return {subset.digest: row for row, subset in enumerate(self.bank.subsets)}

    @property
    def n_queries(self) -> int:
        """How many the table has."""
        return len(self.bank.about.query_ids)

    def has(self, subsets: Sequence[Subset]) -> bool:
        """Whether it has all of some subsets."""
        return all(subset.digest in self._rows for subset in subsets)

    def of(self, subsets: Sequence[Subset]) -> NDArray[np.float64]:
        """F of each query after training on each of some subsets [S, Q], in nats."""
        rows = [self._rows[subset.digest] for subset in subsets]
        found: NDArray[np.float64] = self.bank.values_SQ[rows].reshape(len(rows), self.n_queries)
        return found

    def by_seed(self, subsets: BySeed) -> NDArray[np.float64]:
        """The same of subsets with several seeds [R, S, Q]."""
        return np.stack([self.of(row) for row in subsets])

    def full(self, seeds: Sequence[int]) -> NDArray[np.float64]:
        """F of each query after training on all [R, Q]."""
        return self.of([full(seed) for seed in seeds])
