"""What a model is trained on: which sequences are dropped, and which are seen once more.

What is drawn is a function of (seed of the draw, design, index) alone, by a Philox stream of its
own: more subsets of a design can be asked for at any time, and those before stay what they are.

N sequence of the corpus.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from rayinfluence.evaluation.removal import n_removed
from rayinfluence.storage.digest import digest

#: How subsets are called by what is special about them.
FULL, HALF, DROP, ADD, WITHOUT, GROUPS = "full", "half", "drop", "add", "without", "groups"
#: What orders of groups are drawn under.
ORDER = "order"


@dataclass(frozen=True)
class Subset:
    """What one model is trained on.

    Attributes:
        design: one of the names above.
        seed: of the training.
        dropped: ids of the sequences of weight 0, ascending.
        added: ids of sequences that are seen once more, one for each time, ascending.
        share: of the sequences, that is dropped; None where the design has none.
        index: which of its design, share and seed.
    """

    design: str
    seed: int
    dropped: tuple[int, ...] = ()
    added: tuple[int, ...] = ()
    share: float | None = None
    index: int = 0

    @property
    def digest(self) -> str:
        """Of what decides the weights of the model: the same whichever design it is of."""
        return digest([self.seed, self.dropped, self.added])

    @property
    def is_full(self) -> bool:
        """Whether each sequence is seen as often as any other."""
        return not self.dropped and not self.added

    def weights(self, ids_N: NDArray[np.int64]) -> NDArray[np.float32]:
        """How often each sequence is seen [N]: 0, 1, or more.

        Args:
            ids_N: of all sequences, ascending.

        Raises:
            ValueError: it names others.
        """
        other = np.setdiff1d(np.array([*self.dropped, *self.added], dtype=np.int64), ids_N)
        if len(other):
            raise ValueError(f"{len(other)} ids are of no sequence, such as {other[0]}")
        weights_N = np.ones(len(ids_N), dtype=np.float32)
        weights_N[np.searchsorted(ids_N, self.dropped)] = 0
        np.add.at(weights_N, np.searchsorted(ids_N, self.added), 1)
        return weights_N

    def of_seed(self, seed: int) -> Subset:
        """The same sequences, in a training with another seed."""
        return replace(self, seed=seed)

    def renamed(self, ids: Mapping[int, int]) -> Subset:
        """The same sequences where they have other ids, in the same order."""
        dropped, added = (tuple(ids[one] for one in some) for some in (self.dropped, self.added))
        return replace(self, dropped=dropped, added=added)


def full(seed: int) -> Subset:
    """All sequences."""
    return Subset(FULL, seed)


def halves(ids_N: NDArray[np.int64], n: int, draw: int, seed: int) -> list[Subset]:
    """Random halves of the sequences, in pairs of which each has what the other has not.

    Args:
        ids_N: of all sequences, ascending.
        n: how many; of an odd number the last has no partner.
        draw: seed of what is drawn.
        seed: of the training.
    """
    found = []
    for index in range(n):
        order_N = _order(ids_N, draw, HALF, index // 2)
        half = len(ids_N) // 2
        dropped = order_N[half:] if index % 2 == 0 else order_N[:half]
        found.append(Subset(HALF, seed, _ascending(dropped), share=0.5, index=index))
    return found


def drops(ids_N: NDArray[np.int64], share: float, n: int, draw: int, seed: int) -> list[Subset]:
    """Subsets that lack a share of the sequences at random: one at least, and not all.

    Args:
        ids_N: of all sequences, ascending.
        share: of them.
        n: how many.
        draw: seed of what is drawn.
        seed: of the training.
    """
    n_dropped = n_removed(share, len(ids_N))
    return [
        Subset(
            DROP,
            seed,
            _ascending(_order(ids_N, draw, DROP, index, share)[:n_dropped]),
            share=share,
            index=index,
        )
        for index in range(n)
    ]


def additions(ids_N: NDArray[np.int64], n: int, draw: int, seed: int) -> list[Subset]:
    """All sequences and one of them, at random, once more: n different ones.

    Args:
        ids_N: of all sequences, ascending.
        n: how many, at most all.
        draw: seed of what is drawn.
        seed: of the training.
    """
    chosen = _order(ids_N, draw, ADD, 0)[:n].tolist()
    return [Subset(ADD, seed, added=(one,), index=index) for index, one in enumerate(chosen)]


def added(ids: Sequence[int], index: int, seed: int) -> Subset:
    """All sequences, and some that somebody has chosen once more."""
    return Subset(ADD, seed, added=_ascending(ids), index=index)


def without(ids: Sequence[int], index: int, seed: int) -> Subset:
    """All but some that somebody has chosen: a sequence, a group, what a method puts first."""
    return Subset(WITHOUT, seed, _ascending(ids), index=index)


def group_draws(groups: Mapping[str, Sequence[int]], n: int, draw: int, seed: int) -> list[Subset]:
    """Subsets in which each group is with probability 1/2, whatever the others are.

    Whether a group is in does not depend on which others there are. Sequences of no group are in
    all of them.

    Args:
        groups: the ids of sequences, by what they have in common.
        n: how many.
        draw: seed of what is drawn.
        seed: of the training.
    """
    found = []
    for index in range(n):
        dropped = [one for name in groups_out(groups, index, draw) for one in groups[name]]
        found.append(Subset(GROUPS, seed, _ascending(dropped), index=index))
    return found


def groups_out(names: Iterable[str], index: int, draw: int) -> list[str]:
    """Which groups a draw leaves out: each with probability 1/2, whatever the others are.

    Args:
        names: of the groups.
        index: which draw.
        draw: seed of what is drawn.
    """
    return [name for name in names if _draws(draw, GROUPS, index, name, n=1)[0] >> 63]


def coalition(ids: Sequence[int], index: int, seed: int) -> Subset:
    """All but the sequences of the groups that are out of a coalition."""
    return Subset(GROUPS, seed, _ascending(ids), index=index)


def order_of(n: int, draw: int, index: int) -> list[int]:
    """A random order of n groups, by their numbers.

    Args:
        n: how many.
        draw: seed of what is drawn.
        index: which order.
    """
    order: list[int] = np.argsort(_draws(draw, ORDER, index, n=n), kind="stable").tolist()
    return order


def _order(
    ids_N: NDArray[np.int64], draw: int, design: str, index: int, share: float | None = None
) -> NDArray[np.int64]:
    """The sequences in a random order."""
    keys_N = _draws(draw, design, index, share, n=len(ids_N))
    ordered: NDArray[np.int64] = ids_N[np.argsort(keys_N, kind="stable")]
    return ordered


def _draws(draw: int, design: str, index: int, *more: object, n: int) -> NDArray[np.uint64]:
    """Random numbers as the stream has them, which no release of numpy may change."""
    key = int(digest([draw, design, index, *more]), 16)
    drawn: NDArray[np.uint64] = np.random.Philox(key=key).random_raw(n)
    return drawn


def _ascending(ids: Sequence[int] | NDArray[np.int64]) -> tuple[int, ...]:
    return tuple(sorted(int(one) for one in ids))
