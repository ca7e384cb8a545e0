"""``rayinfluence shapley``: what groups of sequences are worth, by training on coalitions of them.

Whatever is asked for, all estimators share utilities, and a coalition is trained on once. What that
may take at most is told before it starts, and refused where it is more than the configuration
allows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from rayinfluence.config import RunConfig
from rayinfluence.config_evaluation import EvaluationConfig, ShapleyConfig
from rayinfluence.dataflow.run import Run
from rayinfluence.dataflow.stages.progress import ProgressLog
from rayinfluence.errors import ConfigError
from rayinfluence.evaluation.asked import Answers, distinct
from rayinfluence.evaluation.farm import Farm, open_farm
from rayinfluence.evaluation.given import asked_before, given_bank, seeds_of
from rayinfluence.evaluation.shapley.beside import sums_beside
from rayinfluence.evaluation.shapley.estimators import (
    Enumeration,
    Estimator,
    Known,
    Permutations,
    SampleReuse,
    Stopping,
    everybody,
    play,
)
from rayinfluence.evaluation.shapley.game import (
    Column,
    Players,
    by_table,
    by_training,
    columns_of,
    players_of,
)
from rayinfluence.evaluation.shapley.hidden import values_by_neighbours
from rayinfluence.evaluation.shapley.semivalues import (
    BANZHAF,
    MOST_EXACT,
    SHAPLEY,
    Semivalue,
)
from rayinfluence.evaluation.shapley.sureness import group_values
from rayinfluence.guest import own_arithmetic
from rayinfluence.storage.results.valued import GroupValues, Player, Utility, Valued

#: How values were found, as they are shown.
ENUMERATION, ORDERS, COINS = "enumeration", "orders", "coins"
_KEY = "evaluation.shapley"
#: Of groups and utilities, by each kind of values: they are held, shown and written whole.
_MOST_VALUES = 1_000_000


class Asked(NamedTuple):
    """What is found of a game, and how."""

    name: str
    how: str
    estimator: Estimator


def value_groups(config: RunConfig, progress: ProgressLog | None = None) -> Valued:
    """Find what groups are worth, as the section ``evaluation.shapley`` asks for.

    Args:
        config: of the run.
        progress: told of it.

    Raises:
        ConfigError: there is no such section, it asks for what the run does not have, or for more
            trainings than it allows.
        InputError: a table of trainings that is given lacks some.
        NumericsError: a training diverged.
    """
    evaluation = config.evaluation
    if evaluation is None or evaluation.shapley is None:
        raise ConfigError(
            f"{_KEY}: the configuration has no such section, which says what the groups are and "
            "how much may be trained. docs/methods.md has one to begin with."
        )
    wanted, log = evaluation.shapley, progress or ProgressLog()
    with open_farm(config, log, wanted.validation) as farm, own_arithmetic():
        valuing = _Valuing(farm, evaluation, wanted)
        found = valuing.found()
    if wanted.neighbours is None:
        return found
    with Run(config, log) as run, own_arithmetic():  # whose model there is by now
        run.begin(needs_queries=True)
        run.tokenize()
        by_neighbours = values_by_neighbours(
            run, valuing.players, valuing.columns, wanted.neighbours
        )
    return replace(found, methods=(*found.methods, by_neighbours))


class _Valuing:
    """One such work; what is wrong with its inputs is refused when it is made.

    Args:
        farm: of the corpus.
        evaluation: how models are trained.
        wanted: what is found.
    """

    def __init__(self, farm: Farm, evaluation: EvaluationConfig, wanted: ShapleyConfig) -> None:
        self._farm, self._wanted = farm, wanted
        given, self._notes = given_bank(farm, evaluation)
        self._given = None if given is None else Answers(given)
        self._seeds = farm.seeds if given is None else seeds_of(given)
        self.players = players_of(farm, wanted)
        self.columns = columns_of(farm.queries, wanted)
        n_values = len(self.players.names) * len(self.columns)
        if n_values > _MOST_VALUES:
            raise ConfigError(
                f"{_KEY}: {len(self.players.names):,} groups have {n_values:,} values for "
                f"{len(self.columns):,} utilities, and {_MOST_VALUES:,} are kept at most. Ask for "
                "`utilities: [mean]`, or take fewer `groups`."
            )
        self._asked = asked_of(self.players, wanted, farm.draw, len(self._seeds))
        if given is None:
            refuse_budget(self._asked, self.players, wanted.most, len(self._seeds), farm.seconds)

    def found(self) -> Valued:
        """Train what is lacking, and make values of it."""
        estimators = [one.estimator for one in self._asked]
        if self._given is not None:
            utility = by_table(self._given, self._seeds, self.players, self.columns)
            known = play(estimators, utility)
        else:
            earlier = asked_before(self._farm)
            self._farm.bank([])
            self._tell_budget()
            known = play(estimators, by_training(self._farm, self.players, self.columns))
            trained = [
                self.players.subset(one, seed, index)
                for seed in self._seeds
                for index, one in enumerate(known)
            ]
            # What was asked for before stays in the table that is written.
            self._farm.bank(distinct([*trained, *earlier]))
        return self._valued(known)

    def _tell_budget(self) -> None:
        most = sum_of_most(self._asked)
        self._farm.run.progress.note(
            f"shapley      {len(self.players.names):,} groups: up to {most:,} coalitions, "
            f"{most * len(self._seeds):,} trainings"
            f"{_hours(most * len(self._seeds), self._farm.seconds)}"
        )

    def _valued(self, known: Known) -> Valued:
        farm, players = self._farm, self.players
        found = [(one, one.estimator.found(known)) for one in self._asked]
        ends = [known[one].mean(axis=0) for one in (everybody(len(players.names)), 0)]
        methods = tuple(
            GroupValues(
                one.name,
                one.how,
                estimate.n_draws,
                estimate.n_cut,
                group_values(estimate),
                None
                if one.estimator.semivalue != SHAPLEY
                else (ends[0] - ends[1] - estimate.values_RGQ.mean(axis=0).sum(axis=0)).tolist(),
            )
            for one, estimate in found
        )
        means = {one.name: estimate.values_RGQ.mean(axis=0) for one, estimate in found}
        beside = sums_beside(farm.run, players, self.columns, means)
        if not beside:
            self._notes.append(
                "No sums of scores are beside these values: the run has no results of this corpus "
                "with sums by the same groups (scan.group_by)."
            )
        return Valued(
            farm.about.recipe,
            farm.run.corpus.fingerprint,
            players.key,
            len(farm.ids_N),
            tuple(map(Player, players.names, map(len, players.members))),
            self._seeds,
            len(known),
            len(known) * len(self._seeds),
            (*self._notes, *self._remarks(methods)),
            tuple(
                Utility(one.name, one.kind, one.unit, everything, nothing, one.digest)
                for one, everything, nothing in zip(
                    self.columns, *map(np.ndarray.tolist, ends), strict=True
                )
            ),
            methods,
            beside,
        )

    def _remarks(self, methods: Sequence[GroupValues]) -> list[str]:
        """What to beware of."""
        return [
            *remarks(self.players, self.columns, len(self._seeds)),
            *(
                f"{one.name}: {one.n_cut:,} of {one.n_draws:,} orders were cut short, where all "
                f"utilities were within {self._wanted.tolerance:g} of what all groups together "
                "have: who had not joined counts as adding nothing there."
                for one in methods
                if one.n_cut
            ),
        ]


def asked_of(players: Players, wanted: ShapleyConfig, draw: int, n_seeds: int) -> list[Asked]:
    """What is found, and how.

    Args:
        players: of the game.
        wanted: values, and limits of draws.
        draw: seed of what is drawn.
        n_seeds: of training.

    Raises:
        ConfigError: there are more groups than all coalitions are enumerated of; or coalitions
            that are drawn say nothing of one.
    """
    n = len(players.names)
    by = wanted.by
    if by is None:
        fits = n <= MOST_EXACT and 2**n * n_seeds <= wanted.most
        by = "enumeration" if fits else "sampling"
    if by == "enumeration" and n > MOST_EXACT:
        raise ConfigError(
            f"{_KEY}.by: all coalitions are enumerated of up to {MOST_EXACT} groups, and there are "
            f"{n:,}: of them there would be 2^{n:,}. Take the largest few "
            f"(`groups: {MOST_EXACT}`), or leave `by` out."
        )
    found = []
    for name in wanted.values:
        semivalue = {"shapley": SHAPLEY, "banzhaf": BANZHAF}.get(
            name, Semivalue(name, wanted.alpha, wanted.beta)
        )
        shown = f"beta({wanted.alpha:g}, {wanted.beta:g})" if name == "beta" else name
        if by == "enumeration":
            found.append(Asked(shown, ENUMERATION, Enumeration(semivalue, n)))
        elif semivalue == BANZHAF:
            coins = SampleReuse(
                semivalue, players.names, Stopping(wanted.draws, wanted.error), draw
            )
            coins.refuse_one_sided()
            found.append(Asked(shown, COINS, coins))
        else:
            stopping = Stopping(wanted.permutations, wanted.error)
            orders = Permutations(semivalue, n, stopping, wanted.tolerance, draw)
            found.append(Asked(shown, ORDERS, orders))
    return found


def sum_of_most(asked: Sequence[Asked]) -> int:
    """How many coalitions all of it may take; what is asked for by random orders has the same."""
    most: dict[str, int] = {}
    for one in asked:
        most[one.how] = max(most.get(one.how, 0), one.estimator.most)
    n_players = asked[0].estimator.n_players
    return min(sum(most.values()), 1 << n_players)


def refuse_budget(
    asked: Sequence[Asked], players: Players, most: int, n_seeds: int, seconds: float | None
) -> None:
    """See that no more may be trained than is allowed.

    Args:
        asked: what is found.
        players: of the game.
        most: trainings that are allowed.
        n_seeds: of training.
        seconds: of a training, where that is known.

    Raises:
        ConfigError: more may be; what it takes, and what takes less.
    """
    n_coalitions, n = sum_of_most(asked), len(players.names)
    n_trainings = n_coalitions * n_seeds
    if n_trainings <= most:
        return
    n_draws = most // n_seeds - 2
    if all(one.how == COINS for one in asked):
        less = f"Lower `draws` to {n_draws:,}" if n_draws >= 8 else "Take fewer seeds"
    else:
        less = (
            "Ask for `values: [banzhaf]` by coins, each of whose coalitions says something of "
            f"every group (`by: sampling`, `draws: {n_draws:,}`)"
            if n_draws >= 8
            else "Take fewer seeds, or ask for `values: [banzhaf]`"
        )
    of_what = ", ".join(f"{one.name} by {one.how}" for one in asked)
    raise ConfigError(
        f"{_KEY}: {of_what}, of {n:,} groups, takes up to {n_coalitions:,} coalitions with "
        f"{n_seeds:,} seed{'s' * (n_seeds != 1)}, {n_trainings:,} trainings"
        f"{_hours(n_trainings, seconds)}, and `most` allows {most:,}. {less}, or fewer `groups` or "
        "`permutations`; or raise `most`."
    )


def remarks(players: Players, columns: Sequence[Column], n_seeds: int) -> list[str]:
    """What to beware of, whatever was found."""
    found = []
    if players.n_always:
        found.append(
            f"{players.n_always:,} sequences are of no group, and in every coalition: values are "
            "of what groups add to them."
        )
    if n_seeds == 1:
        found.append(
            "One seed of training: intervals know nothing of what another seed would do. List two "
            "or more under evaluation.seeds."
        )
    elif n_seeds == 2:
        found.append(
            "Two seeds of training: intervals over them are long (Student's quantile of one "
            "degree of freedom is 12.7)."
        )
    if len({one.unit for one in columns}) > 1:
        found.append("Utilities have different units: compare values within a column.")
    return found


def _hours(n_trainings: int, seconds: float | None) -> str:
    """What trainings take, where that is known; on parts of the corpus it is less."""
    if seconds is None:
        return ""
    return f", about {n_trainings * seconds / 3600:,.2f} machine hours at most"
