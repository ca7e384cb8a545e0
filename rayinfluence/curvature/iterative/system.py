"""What a solve is about, where it stands, and what it wants to know next."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, Protocol

from torch import Tensor

from rayinfluence.curvature.iterative.vectors import Vectors

#: C, which steps are taken in: I, EK-FAC's M, or I times a size of each module.
Metric = Literal["identity", "ekfac", "sizes"]


@dataclass(frozen=True)
class System:
    """G + lambda I beside EK-FAC's approximation M of it.

    Attributes:
        damping: lambda of each module that takes part. EK-FAC has the same, so that solvers
            compare; zero for those that are not damped.
        forward: M v.
        inverse: M^-1 v.
        n_parts: into how many parts the sample that G is a mean over is cut.
        seed: of the order of parts, and of random vectors.
        sizes: of each module the root of the mean of Lambda: of an entry of a gradient.
    """

    damping: Mapping[str, float]
    forward: Callable[[Vectors], dict[str, Tensor]]
    inverse: Callable[[Vectors], dict[str, Tensor]]
    n_parts: int = 1
    seed: int = 0
    sizes: Mapping[str, float] = field(default_factory=dict)

    def damped(self, vector: Vectors, product: Vectors) -> dict[str, Tensor]:
        """(G + lambda I) v, from v and G v."""
        return {
            name: product[name].to(one).add(one, alpha=self.damping[name])
            for name, one in vector.items()
        }

    def times_metric(self, metric: Metric, vector: Vectors) -> dict[str, Tensor]:
        """C v."""
        if metric == "ekfac":
            return self.forward(vector)
        if metric == "sizes":
            return {name: one * self.sizes[name] for name, one in vector.items()}
        return dict(vector)

    def over_metric(self, metric: Metric, vector: Vectors) -> dict[str, Tensor]:
        """C^-1 v."""
        if metric == "ekfac":
            return self.inverse(vector)
        if metric == "sizes":
            return {name: one / self.sizes[name] for name, one in vector.items()}
        return dict(vector)


@dataclass(frozen=True)
class Wanted:
    """Products G v that a solve goes on with.

    Attributes:
        directions: the vectors v.
        part: the part of the sample whose mean stands for G; None is all of it.
    """

    directions: Sequence[Vectors]
    part: int | None = None


@dataclass(frozen=True)
class State:
    """Where a solve stands; all of it can be stored.

    Attributes:
        tensors: vectors as ``<name>/<module>``, and what else a solver keeps.
        numbers: scalars, by name.
        history: |v - (G + lambda I) x| / |v| over the whole sample, as far as it was measured: of
            EK-FAC's solution first.
        phase: the number of the solver's phase.
        steps: of the solver so far.
        passes: over the sample so far, parts counted as parts.
        turns: how often products were asked for and came.
    """

    tensors: Mapping[str, Tensor] = field(default_factory=dict)
    numbers: Mapping[str, float] = field(default_factory=dict)
    history: tuple[float, ...] = ()
    phase: int = 0
    steps: int = 0
    passes: float = 0.0
    turns: int = 0

    def vector(self, name: str) -> dict[str, Tensor]:
        """A vector by its name."""
        begin = f"{name}/"
        return {k.removeprefix(begin): t for k, t in self.tensors.items() if k.startswith(begin)}

    def vectors(self, **named: Vectors) -> State:
        """The same with some vectors put in their places; as they would be read from a store.

        So what follows has the same bits whether or not they were stored meanwhile.
        """
        new = {
            f"{name}/{key}": t.contiguous() for name, of in named.items() for key, t in of.items()
        }
        return replace(self, tensors={**self.tensors, **new})

    def counted(self, **named: float) -> State:
        """The same with some numbers put in their places."""
        return replace(self, numbers={**self.numbers, **named})

    def without(self, *names: str) -> State:
        """The same without vectors that nothing needs any more."""
        dropped = tuple(f"{name}/" for name in names)
        kept = {key: t for key, t in self.tensors.items() if not key.startswith(dropped)}
        return replace(self, tensors=kept)

    def header(self) -> dict[str, Any]:
        """What beside tensors an object that holds it has to say."""
        return {
            "numbers": dict(self.numbers),
            "history": list(self.history),
            "phase": self.phase,
            "steps": self.steps,
            "passes": self.passes,
            "turns": self.turns,
        }

    @classmethod
    def stored(cls, tensors: Mapping[str, Tensor], header: Mapping[str, Any]) -> State:
        """What was stored."""
        return cls(
            tensors,
            header["numbers"],
            tuple(header["history"]),
            int(header["phase"]),
            int(header["steps"]),
            float(header["passes"]),
            int(header["turns"]),
        )


class Phase(Protocol):
    """A part of a solve, which begins where the last one ended."""

    def begin(self, system: System, state: State) -> State:
        """What it begins with."""

    def wanted(self, system: System, state: State) -> Wanted | None:
        """The products that it goes on with; None at its end."""

    def advance(self, system: System, state: State, products: Sequence[Vectors]) -> State:
        """What follows from them."""


def begin(system: System, phases: Sequence[Phase], state: State) -> State:
    """The state in which a solve wants something for the first time, or is done."""
    return _settled(system, phases, phases[0].begin(system, state))


def wanted(system: System, phases: Sequence[Phase], state: State) -> Wanted | None:
    """The products that a solve goes on with; None where it is done."""
    if state.phase == len(phases):
        return None
    return phases[state.phase].wanted(system, state)


def advance(
    system: System, phases: Sequence[Phase], state: State, products: Sequence[Vectors]
) -> State:
    """What follows from the products that were wanted."""
    asked = wanted(system, phases, state)
    assert asked is not None
    passes = len(asked.directions) / (1 if asked.part is None else system.n_parts)
    state = phases[state.phase].advance(system, state, products)
    counted = replace(state, passes=state.passes + passes, turns=state.turns + 1)
    return _settled(system, phases, counted)


def _settled(system: System, phases: Sequence[Phase], state: State) -> State:
    while state.phase < len(phases) and phases[state.phase].wanted(system, state) is None:
        state = replace(state, phase=state.phase + 1)
        if state.phase < len(phases):
            state = phases[state.phase].begin(system, state)
    return state
