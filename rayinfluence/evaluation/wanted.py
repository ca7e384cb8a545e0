"""What an evaluation wants to know, as subsets to be trained on; and what became of them.

N sequence, Q query, R seed, G group, K added sequence.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rayinfluence.config_evaluation import GroupsConfig
from rayinfluence.evaluation.asked import Answers, BySeed, distinct, with_seeds
from rayinfluence.evaluation.claims import Claims
from rayinfluence.evaluation.farm import Farm
from rayinfluence.evaluation.largest_groups import largest_groups
from rayinfluence.evaluation.leave_out import effects
from rayinfluence.evaluation.referees import Outcomes
from rayinfluence.evaluation.removal import losses
from rayinfluence.evaluation.subsets import HALF, Subset, added, additions, full, without


@dataclass(frozen=True)
class GroupsWanted:
    """Groups that are left out: the key of their metadata, their names, and without each."""

    key: str
    names: tuple[str, ...]
    subsets: BySeed


def groups_wanted(
    farm: Farm, wanted: GroupsConfig | None, seeds: Sequence[int]
) -> GroupsWanted | None:
    """The largest groups of a corpus, left out with each seed; None where none are wanted.

    Raises:
        ConfigError: documents have no such key, or fewer than two values of it.
    """
    if wanted is None:
        return None
    found = largest_groups(
        farm,
        wanted.key,
        wanted.most,
        "evaluation.groups.key",
        "groups that are left out are compared with each other",
    )
    subsets = [without(ids, number, seeds[0]) for number, ids in enumerate(found.values())]
    return GroupsWanted(wanted.key, tuple(found), with_seeds(subsets, seeds))


def added_wanted(
    farm: Farm, n: int, scores_NQ: NDArray[np.float32], seeds: Sequence[int]
) -> BySeed:
    """All sequences and one of them once more, with each seed.

    Half of them are drawn at random; half are the first of queries in turn, of which predictions
    are large.

    Args:
        farm: of the run.
        n: how many, at most all.
        scores_NQ: of a method that predicts changes.
        seeds: of training.
    """
    n = min(n, len(farm.ids_N))
    chosen = [one.added[0] for one in additions(farm.ids_N, n - n // 2, farm.draw, seeds[0])]
    for one in _in_turn(scores_NQ, n):
        if len(chosen) == n:
            break
        sequence_id = int(farm.ids_N[one])
        if sequence_id not in chosen:
            chosen.append(sequence_id)
    subsets = [added([one], number, seeds[0]) for number, one in enumerate(chosen)]
    return with_seeds(subsets, seeds)


def _in_turn(scores_NQ: NDArray[np.float32], n: int) -> Iterator[int]:
    """Places of the first sequence of each query, then of the second, and so on."""
    columns = np.nan_to_num(scores_NQ, nan=-np.inf)
    order_nQ = np.argsort(-columns, axis=0, kind="stable")[: 2 * n]
    yield from dict.fromkeys(order_nQ.ravel().tolist())


@dataclass(frozen=True)
class Trainings:
    """All subsets of an evaluation.

    Attributes:
        seeds: of training.
        protocols: subsets of linear datamodeling scores, by name.
        groups: that are left out.
        added: sequences that are seen once more.
    """

    seeds: tuple[int, ...]
    protocols: Mapping[str, BySeed]
    groups: GroupsWanted | None
    added: BySeed | None

    def subsets(self, said: Sequence[Claims]) -> list[Subset]:
        """Each of them once.

        Args:
            said: by contenders, whose first sequences are left out.
        """
        rows = [row for of in self.protocols.values() for row in of]
        rows += [*(self.groups.subsets if self.groups else ()), *(self.added or ())]
        rows += [row for one in said for query in one.removed for row in self.removed(one, query)]
        found = [subset for row in rows for subset in row]
        return distinct(found)

    def n_there(self, answers: Answers, said: Sequence[Claims]) -> int:
        """How many trainings figures are of, those on all sequences among them.

        A table that was not made here may lack some that were wanted.
        """
        wanted = distinct([*map(full, self.seeds), *self.subsets(said)])
        return sum(answers.has([subset]) for subset in wanted)

    def removed(self, said: Claims, query: int) -> BySeed:
        """Without what a contender puts first for a query, with each seed."""
        return with_seeds([without(said.removed[query], 0, self.seeds[0])], self.seeds)

    def outcomes(self, answers: Answers) -> Outcomes:
        """What became of models, whatever the contender."""
        full_RQ = answers.full(self.seeds)
        groups, changes_KQ = None, None
        if self.groups is not None:
            groups = effects(full_RQ, answers.by_seed(self.groups.subsets))
        if self.added is not None:
            changes_KQ = (answers.by_seed(self.added) - full_RQ[:, None]).mean(axis=0)
        by_name = {name: answers.by_seed(subsets) for name, subsets in self.protocols.items()}
        folds = {
            # A half is drawn with what it lacks.
            name: [one.index // 2 if one.design == HALF else one.index for one in subsets[0]]
            for name, subsets in self.protocols.items()
        }
        return Outcomes(by_name, groups, changes_KQ, folds)

    def losses(self, answers: Answers, said: Claims) -> NDArray[np.float64]:
        """Rise of the loss of each query [Q] without what a contender puts first; else NaN."""
        full_RQ = answers.full(self.seeds)
        found_Q = np.full(full_RQ.shape[1], np.nan)
        for query in said.removed:
            subsets = self.removed(said, query)
            if all(map(answers.has, subsets)):
                without_RQ = answers.by_seed(subsets)[:, 0]
                found_Q[query] = losses(full_RQ, without_RQ)[query]
        return found_Q

    def told_by(self, answers: Answers, said: Sequence[Claims]) -> tuple[Trainings, list[str]]:
        """What of this a table has that was not made here, and what it has not, in sentences."""
        notes, groups, some = [], self.groups, self.added
        first = [row for one in said for query in one.removed for row in self.removed(one, query)]
        if not all(map(answers.has, first)):
            notes.append(
                "The table lacks trainings without what some methods put first: their QLD is of "
                "fewer queries, or none."
            )
        if groups is not None and not all(map(answers.has, groups.subsets)):
            notes.append("The table has no trainings without each group: nothing is said of them.")
            groups = None
        if some is not None and not all(map(answers.has, some)):
            notes.append("The table has no trainings with these copies: nothing is said of sizes.")
            some = None
        return Trainings(self.seeds, self.protocols, groups, some), notes
