"""Training as a game: groups of sequences are players, and a coalition is what is trained on.

G group, N sequence, S coalition, R seed, Q query, U utility.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rayinfluence.config_evaluation import ShapleyConfig
from rayinfluence.corpus.queries import EncodedQuery
from rayinfluence.errors import ConfigError, InputError
from rayinfluence.evaluation.asked import Answers
from rayinfluence.evaluation.farm import Farm
from rayinfluence.evaluation.largest_groups import largest_groups
from rayinfluence.evaluation.shapley.estimators import Coalition
from rayinfluence.evaluation.subsets import Subset, coalition, full
from rayinfluence.evaluation.validation import VALIDATION


@dataclass(frozen=True)
class Players:
    """Groups of sequences.

    Attributes:
        key: of the metadata that they have in common; None where each sequence is one.
        names: of the groups [G].
        members: ids of the sequences of each.
        n_always: sequences of no group, which are in all coalitions.
    """

    key: str | None
    names: tuple[str, ...]
    members: tuple[tuple[int, ...], ...]
    n_always: int

    @property
    def called(self) -> str:
        """What a player is, in messages."""
        return "sequence" if self.key is None else f"value of {self.key!r}"

    def subset(self, one: Coalition, seed: int, index: int = 0) -> Subset:
        """What is trained on where some groups are in."""
        out = [i for at, ids in enumerate(self.members) if not one >> at & 1 for i in ids]
        return coalition(out, index, seed) if out else full(seed)


def players_of(farm: Farm, wanted: ShapleyConfig) -> Players:
    """The groups that a configuration asks for, the largest first.

    Raises:
        ConfigError: documents have no such key, or fewer than two values of it.
    """
    if wanted.key is None:
        found = {str(one): [one] for one in farm.ids_N[: wanted.groups].tolist()}
    else:
        found = largest_groups(
            farm,
            wanted.key,
            wanted.groups,
            "evaluation.shapley.key",
            "what groups are worth is asked of two at least",
        )
    members = tuple(map(tuple, found.values()))
    n_always = len(farm.ids_N) - sum(map(len, members))
    return Players(wanted.key, tuple(found), members, n_always)


@dataclass(frozen=True)
class Column:
    """A utility: what it is called, of which kind it is, its unit, and f of which queries it is.

    Where it is of one of the run's queries, with the digest of that.
    """

    name: str
    kind: str
    unit: str
    queries: tuple[int, ...]
    digest: str | None = None


def columns_of(queries: Sequence[EncodedQuery], wanted: ShapleyConfig) -> list[Column]:
    """The utilities that are asked for, in order.

    Args:
        queries: that each model is asked, maybe with that of the validation file at the end.
        wanted: which utilities.

    Raises:
        ConfigError: the mean is asked for of queries in several units.
    """
    ids = [query.query.query_id for query in queries]
    own = range(len(queries) - (wanted.validation is not None))
    found: list[Column] = []
    for kind in wanted.utilities:
        if kind == "queries":
            found += [
                Column(ids[place], kind, queries[place].unit, (place,), queries[place].digest)
                for place in own
            ]
        elif kind == "mean":
            units = list(dict.fromkeys(queries[place].unit for place in own))
            if len(units) > 1:
                raise ConfigError(
                    f"evaluation.shapley.utilities: queries are in {' and '.join(units)}, which "
                    "have no mean. Ask for each of them (`queries`)."
                )
            found.append(Column(f"mean of {len(own)} queries", kind, units[0], tuple(own)))
        else:
            found.append(Column(VALIDATION, kind, queries[-1].unit, (len(queries) - 1,)))
    return found


def utilities_of(values_RSQ: NDArray[np.float64], columns: Sequence[Column]) -> NDArray[np.float64]:
    """Utilities of coalitions by seed [S, R, U]: means of f over the queries of each."""
    found = [values_RSQ[..., list(one.queries)].mean(axis=-1) for one in columns]
    return np.stack(found, axis=-1).swapaxes(0, 1)


def by_training(
    farm: Farm, players: Players, columns: Sequence[Column]
) -> Callable[[list[Coalition]], NDArray[np.float64]]:
    """Utilities of coalitions by what the farm trains, as far as it is not done."""

    def utility(some: list[Coalition]) -> NDArray[np.float64]:
        subsets = [players.subset(one, seed) for seed in farm.seeds for one in some]
        values_TQ = farm.values(subsets)
        return utilities_of(values_TQ.reshape(len(farm.seeds), len(some), -1), columns)

    return utility


def by_table(
    answers: Answers, seeds: Sequence[int], players: Players, columns: Sequence[Column]
) -> Callable[[list[Coalition]], NDArray[np.float64]]:
    """Utilities of coalitions by a table of trainings that is given.

    Raises (when called):
        InputError: it lacks some of them.
    """

    def utility(some: list[Coalition]) -> NDArray[np.float64]:
        subsets = [[players.subset(one, seed) for one in some] for seed in seeds]
        lacking = sum(not answers.has([one]) for row in subsets for one in row)
        if lacking:
            raise InputError(
                f"evaluation.bank: the table lacks {lacking:,} of {len(some) * len(seeds):,} "
                "trainings on coalitions of these groups. Leave the key out to have models "
                "trained here, or ask for values whose coalitions it has."
            )
        return utilities_of(answers.by_seed(subsets), columns)

    return utility
