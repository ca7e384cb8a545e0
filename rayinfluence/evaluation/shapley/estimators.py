"""Estimators of values, which ask for utilities of coalitions and are told them.

An estimator is a function of what is known: `lacking` says which coalitions it has to know next,
and is empty once `found` can be asked. Nothing else is kept, so that who is interrupted goes on
with what is known, and several estimators share utilities. What is drawn follows from (seed of the
draw, number of the draw) alone.

G player (group), S coalition, P permutation or draw, R seed of training, Q utility.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from rayinfluence.errors import ConfigError, NumericsError
from rayinfluence.evaluation.shapley.semivalues import Semivalue, exact
from rayinfluence.evaluation.subsets import groups_out, order_of

#: Players that are in, as bits.
Coalition = int
#: Utilities of coalitions, by seed [R, Q].
Known = Mapping[Coalition, NDArray[np.float64]]


class Estimate(NamedTuple):
    """Values, and how far draws may have moved them.

    Attributes:
        values_RGQ: by seed, in the unit of the utilities.
        error_GQ: standard error that draws give the mean over seeds; 0 where nothing is drawn.
        freedom_GQ: degrees of freedom of that; 0 where nothing is drawn.
        n_draws: permutations or coalitions that were drawn; 0 where all are enumerated.
        n_cut: permutations that were cut short.
    """

    values_RGQ: NDArray[np.float64]
    error_GQ: NDArray[np.float64]
    freedom_GQ: NDArray[np.float64]
    n_draws: int = 0
    n_cut: int = 0


class Estimator(Protocol):
    """Finds values of players."""

    @property
    def semivalue(self) -> Semivalue:
        """Which values."""

    @property
    def n_players(self) -> int:
        """G."""

    @property
    def most(self) -> int:
        """How many coalitions it may come to know, at most."""

    def lacking(self, known: Known) -> list[Coalition]:
        """What it has to know next, each once; empty where it knows enough."""

    def found(self, known: Known) -> Estimate:
        """The values; of what :meth:`lacking` has no more of."""


def everybody(n_players: int) -> Coalition:
    """The coalition of all players."""
    return (1 << n_players) - 1


@dataclass(frozen=True)
class Enumeration:
    """All coalitions."""

    semivalue: Semivalue
    n_players: int

    @property
    def most(self) -> int:
        """2^G."""
        return 1 << self.n_players

    def lacking(self, known: Known) -> list[Coalition]:
        """All that are not known."""
        return [one for one in range(1 << self.n_players) if one not in known]

    def found(self, known: Known) -> Estimate:
        """Exact values."""
        utilities_SRQ = np.stack([known[one] for one in range(1 << self.n_players)])
        values_RGQ = exact(self.semivalue, self.n_players, utilities_SRQ)
        none_GQ = np.zeros(values_RGQ.shape[1:])
        return Estimate(values_RGQ, none_GQ, none_GQ)


@dataclass(frozen=True)
class Stopping:
    """How many draws: enough for the errors that are wanted.

    Attributes:
        most: draws at most.
        error: the largest standard error that is wanted, as a share of |v(all) - v(none)|, of each
            utility; 0 stops nowhere before the end.
        least: draws before errors are looked at.
        step: draws between two looks.
    """

    most: int
    error: float
    least: int = 16
    step: int = 8

    def is_look(self, n: int) -> bool:
        """Whether errors are looked at after so many draws."""
        return self.least <= n < self.most and (n - self.least) % self.step == 0

    def enough(self, error_GQ: NDArray[np.float64], span_Q: NDArray[np.float64]) -> bool:
        """Whether errors are as small as is wanted."""
        return self.error > 0 and bool((error_GQ <= self.error * np.abs(span_Q)).all())


@dataclass(frozen=True)
class Permutations:
    """What players add in random orders: TMC-Shapley (Ghorbani & Zou 2019), and any Beta value.

    Players join in a random order; each adds v(with it) - v(before). Over all orders the mean is
    Shapley's value, and that of G p(s) times what is added to s others any semivalue's. An order is
    cut short where all utilities are within `tolerance` of v(all): who has not joined yet adds 0.

    Attributes:
        semivalue: which values.
        n_players: G.
        stopping: how many orders.
        tolerance: a share of |v(all) - v(none)|; 0 cuts nothing short.
        draw: seed of what is drawn.
    """

    semivalue: Semivalue
    n_players: int
    stopping: Stopping
    tolerance: float
    draw: int

    @property
    def most(self) -> int:
        """Each order has G - 1 coalitions of its own."""
        return min(1 << self.n_players, self.stopping.most * (self.n_players - 1) + 2)

    def lacking(self, known: Known) -> list[Coalition]:
        """The next coalition of each order that is under way."""
        return self._walk(known)[1]

    def found(self, known: Known) -> Estimate:
        """Means over orders."""
        return self._walk(known)[0]

    def _walk(self, known: Known) -> tuple[Estimate, list[Coalition]]:
        """All orders as far as they are known, and what is not."""
        ends = [one for one in (everybody(self.n_players), 0) if one not in known]
        if ends:
            return _nothing(), ends
        added_PRGQ: list[NDArray[np.float64]] = []
        lacking: dict[Coalition, None] = {}
        n_cut = 0
        span_Q = _span(known, self.n_players)
        for number in range(self.stopping.most):
            if self.stopping.is_look(number):
                if lacking:
                    break
                if self.stopping.enough(_error(added_PRGQ), span_Q):
                    break
            found_RGQ, wanted, cut = self._order(known, number, span_Q)
            n_cut += cut
            if wanted is None:
                added_PRGQ.append(found_RGQ)
            else:
                lacking[wanted] = None
        if lacking:
            return _nothing(), list(lacking)
        values_RGQ = np.mean(added_PRGQ, axis=0)
        n = len(added_PRGQ)
        freedom_GQ = np.full(values_RGQ.shape[1:], n - 1.0)
        return Estimate(values_RGQ, _error(added_PRGQ), freedom_GQ, n, n_cut), []

    def _order(
        self, known: Known, number: int, span_Q: NDArray[np.float64]
    ) -> tuple[NDArray[np.float64], Coalition | None, bool]:
        """What players add in an order [R, G, Q]; the coalition that is not known; if it is cut."""
        weights = self.n_players * self.semivalue.shares(self.n_players)
        whole_RQ, before_RQ = known[everybody(self.n_players)], known[0]
        n_seeds, n_utilities = whole_RQ.shape
        found_RGQ = np.zeros((n_seeds, self.n_players, n_utilities))
        coalition: Coalition = 0
        for size, player in enumerate(_order_of(self.n_players, self.draw, number)):
            left_Q = (whole_RQ - before_RQ).mean(axis=0)
            if size and (np.abs(left_Q) < self.tolerance * np.abs(span_Q)).all():
                return found_RGQ, None, True
            coalition |= 1 << player
            if coalition not in known:
                return found_RGQ, coalition, False
            found_RGQ[:, player] = weights[size] * (known[coalition] - before_RQ)
            before_RQ = known[coalition]
        return found_RGQ, None, False


@dataclass(frozen=True)
class SampleReuse:
    """Banzhaf values by maximum sample reuse (Wang & Jia 2023).

    Each player is in a coalition with probability 1/2, whatever the others are. A player's value is
    the mean utility of coalitions that have it, less that of those that have not: each coalition
    says something of every player.

    Attributes:
        semivalue: Banzhaf's.
        names: of the players; whether one is in depends on its name, and not on which others there
            are.
        stopping: how many coalitions.
        draw: seed of what is drawn.
    """

    semivalue: Semivalue
    names: tuple[str, ...]
    stopping: Stopping
    draw: int

    @property
    def n_players(self) -> int:
        """G."""
        return len(self.names)

    @property
    def most(self) -> int:
        """The draws, and all and none of the players."""
        return min(1 << self.n_players, self.stopping.most + 2)

    def lacking(self, known: Known) -> list[Coalition]:
        """Of the draws up to the next look at errors."""
        ends = [one for one in (everybody(self.n_players), 0) if one not in known]
        drawn = self._drawn(known)
        return list(dict.fromkeys([*ends, *(one for one in drawn if one not in known)]))

    def found(self, known: Known) -> Estimate:
        """Differences of means, with Welch's standard errors."""
        drawn = self._drawn(known)
        return _differences(drawn, known, self.n_players)

    def _drawn(self, known: Known) -> list[Coalition]:
        """The draws as far as they are wanted: up to where errors are small, or not known."""
        drawn: list[Coalition] = []
        for number in range(self.stopping.most):
            if self.stopping.is_look(number):
                if any(one not in known for one in drawn) or 0 not in known:
                    break
                error_GQ = _differences(drawn, known, self.n_players).error_GQ
                if self.stopping.enough(error_GQ, _span(known, self.n_players)):
                    break
            drawn.append(self.coalition(number))
        return drawn

    def coalition(self, number: int) -> Coalition:
        """The players that a draw has."""
        return _by_coins(self.names, number, self.draw)

    def refuse_one_sided(self) -> None:
        """See that each player is in some of the first draws and out of some, two at least.

        Raises:
            ConfigError: one is not, and nothing can be said of it.
        """
        n = min(self.stopping.least, self.stopping.most)
        drawn = [self.coalition(number) for number in range(n)]
        for place, name in enumerate(self.names):
            n_in = sum(one >> place & 1 for one in drawn)
            if not 2 <= n_in <= n - 2:
                raise ConfigError(
                    f"evaluation.shapley.draws: of the first {n} coalitions that are drawn "
                    f"{n_in} have {name!r}, and its value is a difference of two means. Draw "
                    "more, or set another `seed`."
                )


def play(
    estimators: Sequence[Estimator],
    utility: Callable[[list[Coalition]], NDArray[np.float64]],
    known: Known | None = None,
) -> dict[Coalition, NDArray[np.float64]]:
    """Ask for utilities until all estimators know enough.

    Args:
        estimators: of the same game.
        utility: of some coalitions, by seed [S, R, Q]; none is asked for twice.
        known: utilities that are known before.

    Raises:
        NumericsError: a utility is not finite.
    """
    found = dict(known or {})
    while lacking := list(dict.fromkeys(one for of in estimators for one in of.lacking(found))):
        utilities_SRQ = utility(lacking)
        for one, utility_RQ in zip(lacking, utilities_SRQ, strict=True):
            if not np.isfinite(utility_RQ).all():
                n_in, n = one.bit_count(), estimators[0].n_players
                raise NumericsError(
                    f"shapley: the utility of a coalition of {n_in} of {n} players is not finite, "
                    "and no value can be made of it. See what a model says that was trained on "
                    "that part alone; a lower learning rate may keep it from diverging."
                )
            found[one] = utility_RQ
    return found


# Asked for again whenever more is known; a digest is made for each of them.
_order_of = lru_cache(maxsize=1 << 14)(order_of)


@lru_cache(maxsize=1 << 14)
def _by_coins(names: tuple[str, ...], number: int, draw: int) -> Coalition:
    """The players that a draw has."""
    out = set(groups_out(names, number, draw))
    return sum(1 << place for place, name in enumerate(names) if name not in out)


def _nothing() -> Estimate:
    return Estimate(np.zeros((0, 0, 0)), np.zeros((0, 0)), np.zeros((0, 0)))


def _span(known: Known, n_players: int) -> NDArray[np.float64]:
    """v(all) - v(none) of each utility [Q], the mean over seeds."""
    span_Q: NDArray[np.float64] = (known[everybody(n_players)] - known[0]).mean(axis=0)
    return span_Q


def _error(added_PRGQ: Sequence[NDArray[np.float64]]) -> NDArray[np.float64]:
    """Standard errors of means over orders, of the mean over seeds; infinite of a single one."""
    means_PGQ = np.mean(added_PRGQ, axis=1)
    if len(means_PGQ) < 2:
        return np.full(means_PGQ.shape[1:], np.inf)
    error_GQ: NDArray[np.float64] = means_PGQ.std(axis=0, ddof=1) / np.sqrt(len(means_PGQ))
    return error_GQ


def _differences(drawn: Sequence[Coalition], known: Known, n_players: int) -> Estimate:
    """Mean utilities with each player less those without [R, G, Q], and their errors.

    Variances of the two means add up, and degrees of freedom are Welch's (1947).
    """
    utilities_PRQ = np.stack([known[one] for one in drawn])
    n_utilities = utilities_PRQ.shape[2]
    values, errors, freedoms = [], [], []
    for player in range(n_players):
        has_P = np.array([one >> player & 1 == 1 for one in drawn])
        sides = utilities_PRQ[has_P], utilities_PRQ[~has_P]
        values.append(sides[0].mean(axis=0) - sides[1].mean(axis=0))
        if min(map(len, sides)) < 2:  # too early to look
            errors.append(np.full(n_utilities, np.inf))
            freedoms.append(np.ones(n_utilities))
            continue
        squares = [side.mean(axis=1).var(axis=0, ddof=1) / len(side) for side in sides]
        errors.append(np.sqrt(squares[0] + squares[1]))
        freedoms.append(_welch(squares, [len(side) - 1 for side in sides]))
    return Estimate(np.stack(values, axis=1), np.stack(errors), np.stack(freedoms), len(drawn))


def _welch(squares: Sequence[NDArray[np.float64]], freedoms: Sequence[int]) -> NDArray[np.float64]:
    """Degrees of freedom of a sum of two squared errors [Q]; where both are 0, of the fewer."""
    total_Q = squares[0] + squares[1]
    safe_Q = np.where(total_Q > 0, total_Q, 1.0)
    parts = [(one / safe_Q) ** 2 / n for one, n in zip(squares, freedoms, strict=True)]
    return np.where(total_Q > 0, 1 / np.where(total_Q > 0, parts[0] + parts[1], 1), min(freedoms))
