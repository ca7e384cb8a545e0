"""Values of players of a game, from the utilities of all coalitions.

A coalition is a set of players, as the bits of an integer: bit g says whether player g is in. A
game gives each coalition S a utility v(S), and a semivalue is a mean of what a player adds,

    value_g = sum over S without g of   w(|S|) (v(S with g) - v(S)),
    sum over s of   C(G - 1, s) w(s) = 1

Which mean it is, the share p(s) = C(G - 1, s) w(s) of each size s says:

* Shapley (1953): all sizes alike, p(s) = 1 / G. The only one whose values always add up to
  v(all) - v(none).
* Banzhaf (1965; Wang & Jia 2023): all coalitions alike, w(s) = 2^-(G - 1).
* Beta(alpha, beta) (Kwon & Zou 2022): p is that of a beta-binomial law whose mean is
  (G - 1) beta / (alpha + beta). A larger alpha puts weight on SMALL coalitions, a larger beta on
  large ones; (1, 1) is Shapley's. With alpha = 1 and beta without bound it is leaving one out.

G player (group), S coalition, R seed of training, Q utility.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import comb, exp, lgamma

import numpy as np
from numpy.typing import NDArray

#: Of players, that all coalitions are enumerated of: 1,024 coalitions.
MOST_EXACT = 10


@dataclass(frozen=True)
class Semivalue:
    """Which mean of what a player adds.

    Attributes:
        name: shapley, banzhaf or beta.
        alpha, beta: of beta alone; above 0.
    """

    name: str
    alpha: float = 1.0
    beta: float = 1.0

    def shares(self, n_players: int) -> NDArray[np.float64]:
        """The share of each size of coalition that a player joins, 0 to G - 1; they add up to 1."""
        n = n_players - 1
        if self.name == "banzhaf":
            found = [comb(n, s) / 2**n for s in range(n + 1)]
        elif self.name == "beta":
            whole = _log_beta(self.alpha, self.beta)
            found = [
                exp(_log_comb(n, s) + _log_beta(s + self.beta, n - s + self.alpha) - whole)
                for s in range(n + 1)
            ]
        else:
            found = [1 / n_players] * n_players
        return np.array(found)


SHAPLEY, BANZHAF = Semivalue("shapley"), Semivalue("banzhaf")


def exact(
    semivalue: Semivalue, n_players: int, utilities_SRQ: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Values of all players [R, G, Q], in the unit of the utilities.

    Args:
        semivalue: which.
        n_players: G.
        utilities_SRQ: of all 2^G coalitions, by the number that their bits are.

    Raises:
        ValueError: there are other than 2^G.
    """
    if len(utilities_SRQ) != 2**n_players:
        raise ValueError(f"{len(utilities_SRQ)} utilities are not of all 2^{n_players} coalitions")
    coalitions_S = np.arange(2**n_players)
    sizes_S = np.array([one.bit_count() for one in range(2**n_players)])
    shares = semivalue.shares(n_players)
    weights = shares / [comb(n_players - 1, size) for size in range(n_players)]
    found = []
    for player in range(n_players):
        without = coalitions_S[coalitions_S >> player & 1 == 0]
        added_SRQ = utilities_SRQ[without | 1 << player] - utilities_SRQ[without]
        found.append(np.tensordot(weights[sizes_S[without]], added_SRQ, axes=1))
    return np.stack(found, axis=1)


def _log_comb(n: int, k: int) -> float:
    return lgamma(n + 1) - lgamma(k + 1) - lgamma(n - k + 1)


def _log_beta(a: float, b: float) -> float:
    return lgamma(a) + lgamma(b) - lgamma(a + b)
