"""Refining queries: products of curvature over a fixed sample, and the system that they are of.

The sample is dealt into lanes. A product is the sum of the lanes' own in one fixed tree, over the
number of sequences, so that it has the same bits whoever made which lane's; a part of the sample,
as stochastic solvers take it, is a lane. No Ray, no files.

O output width, J input width, with the bias column.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from rayinfluence.curvature.ekfac import EKFAC
from rayinfluence.curvature.iterative.system import State, System
from rayinfluence.curvature.iterative.vectors import Vectors
from rayinfluence.curvature.products import accumulation_dtype
from rayinfluence.curvature.solver import Identity, Inverse
from rayinfluence.curvature.sums import tree_sum
from rayinfluence.dataflow.compute.replica import Quarantine, Replica
from rayinfluence.dataflow.compute.scoring import QueryGradient
from rayinfluence.errors import NumericsError
from rayinfluence.model.batches import Batch
from rayinfluence.model.curvature_products import Curvature

Advance = Callable[[int], None]
#: Of the sample, at most; and sequences of a lane, at least.
_MOST_LANES, _LEAST_OF_A_LANE = 16, 32
#: Batches have this share of the tokens of others: what a second backward pass goes through is
#: kept, and logits of all of their targets.
_SHARE = 4


def lane_count(n_sequences: int) -> int:
    """How many lanes a sample has."""
    return max(1, min(_MOST_LANES, n_sequences // _LEAST_OF_A_LANE))


def dealt(table: pa.Table, n_lanes: int, seed: int) -> list[pa.Table]:
    """The rows of each lane: a sample at random of the sample."""
    order = np.random.Generator(np.random.Philox(key=[seed, len(table)])).permutation(len(table))
    return [table.take(pa.array(np.sort(order[lane::n_lanes]))) for lane in range(n_lanes)]


class Refining:
    """A model, EK-FAC of it and a sample: all that solves need.

    Args:
        replica: the model.
        operators: EK-FAC of all modules, on their devices. Those that no fitted sequence had a
            gradient in have no lambda, and take no part.
        lanes: the rows of each.
        curvature: which.
        is_damped: whether lambda is added to it.
    """

    def __init__(
        self,
        replica: Replica,
        operators: Mapping[str, EKFAC],
        lanes: Sequence[pa.Table],
        curvature: Curvature,
        is_damped: bool = True,
    ) -> None:
        smaller = copy.copy(replica)
        tokens = max(1, replica.numerics.batch_tokens // _SHARE)
        smaller.numerics = replace(replica.numerics, batch_tokens=tokens)
        self._replica = smaller
        self._curvature = curvature
        self._dtype = accumulation_dtype(replica.numerics.torch_dtype)
        #: Lambda of all modules.
        self.damping = {name: one.damping for name, one in operators.items()}
        self._sizes = {
            name: math.sqrt(float(one.factors.moments.mean())) for name, one in operators.items()
        }
        # What has neither a lambda nor, undamped, a size of its own is left out.
        self._operators = {
            name: one
            for name, one in operators.items()
            if one.damping > 0 and (is_damped or self._sizes[name] > 0)
        }
        self._inverses: dict[str, Inverse] = {}
        self._lanes = lanes
        self._is_damped = is_damped
        self._batches: dict[int, list[Batch]] = {}

    @cached_property
    def system(self) -> System:
        """G + lambda I, or G."""
        operators = self._operators.items()
        return System(
            {name: one.damping if self._is_damped else 0.0 for name, one in operators},
            self._forward,
            self._inverse,
            len(self._lanes),
            self._replica.numerics.seed,
            {name: self._sizes[name] for name in self._operators},
        )

    def zeros(self) -> dict[str, Tensor]:
        """A vector of the modules that take part, which says of which shapes."""
        return {
            name: torch.zeros(
                *self._operators[name].factors.moments.shape,
                dtype=self._dtype,
                device=self._replica.devices[name],
            )
            for name in self._operators
        }

    def gradient(self, found: QueryGradient) -> dict[str, Tensor]:
        """Grad f_q of the modules that take part."""
        shapes = self._replica.shapes
        return {
            name: Identity(shapes[name].bias).of_tokens(*found.tokens[name])["dense"]
            for name in self._operators
        }

    def whole(self, solution: Vectors) -> dict[str, Tensor]:
        """A solution with zeros for modules that took no part."""
        shapes, devices = self._replica.shapes, self._replica.devices
        return {
            name: solution[name]
            if name in solution
            else torch.zeros(shape.d_out, shape.columns, dtype=self._dtype, device=devices[name])
            for name, shape in shapes.items()
        }

    def here(self, state: State) -> State:
        """A state that was stored, its vectors where their modules are."""
        devices = self._replica.devices
        return replace(
            state,
            tensors={
                key: tensor.to(devices.get(key.partition("/")[2], tensor.device))
                for key, tensor in state.tensors.items()
            },
        )

    def on_device(self, name: str, tensor: Tensor) -> Tensor:
        """A tensor of a module, where that is."""
        return tensor.to(self._replica.devices[name])

    def lanes_of(self, part: int | None) -> range:
        """The lanes of a part of the sample, or of all of it."""
        return range(len(self._lanes)) if part is None else range(part, part + 1)

    def lane_sums(
        self, lane: int, directions: Sequence[Vectors], advance: Advance
    ) -> dict[str, Tensor]:
        """Sums over the sequences of a lane: ``<direction>/<module>`` [O, J], and ``n``.

        Raises:
            NumericsError: a product is not finite.
        """
        sums = {
            f"{place}/{name}": torch.zeros_like(one)
            for place, vector in enumerate(directions)
            for name, one in vector.items()
        }
        n = 0
        for batch in self._of_lane(lane):
            found = self._replica.curvature_products(batch, directions, self._curvature)
            for place, product in enumerate(found):
                for name, one in product.items():
                    sums[f"{place}/{name}"] += one
            n += len(batch.lengths_B)
            advance(batch.n_tokens * len(directions))
        if not all(bool(torch.isfinite(one).all()) for one in sums.values()):
            raise NumericsError(
                "a product of curvature with a gradient is not finite in the sample "
                "that products are made of; set `dtype: float64`, or leave out what solves with it "
                "(scan.solver, or the method koh_liang)."
            )
        return {**sums, "n": torch.tensor(n, dtype=torch.int64)}

    def products(self, lanes: Iterable[Mapping[str, Tensor]], n: int) -> list[Vectors]:
        """G v of n directions, from the sums of lanes in their order."""
        total = tree_sum(lanes)
        # What has no sequence has no curvature.
        count = max(1.0, float(total.pop("n")))
        found: list[dict[str, Tensor]] = [{} for _ in range(n)]
        for key, tensor in total.items():
            place, _, name = key.partition("/")
            there = self._replica.devices[name]
            found[int(place)][name] = (tensor / count).to(dtype=self._dtype, device=there)
        return list(found)

    def _of_lane(self, lane: int) -> list[Batch]:
        if lane not in self._batches:
            bad: Quarantine = {}
            self._batches[lane] = list(self._replica.batches(self._lanes[lane], bad))
        return self._batches[lane]

    def _forward(self, vector: Vectors) -> dict[str, Tensor]:
        return {name: self._operators[name] @ one for name, one in vector.items()}

    def _inverse(self, vector: Vectors) -> dict[str, Tensor]:
        for name in vector:
            if name not in self._inverses:
                self._inverses[name] = self._operators[name].inverse()
        return {name: self._inverses[name] @ one for name, one in vector.items()}


def lost_share(whole: Vectors, cut: Mapping[str, Tensor]) -> float:
    """The share of a query's norm that its cut to low rank loses.

    Args:
        whole: the query.
        cut: ``<module>/left`` [O, R] and ``<module>/right`` [J, R].
    """
    lost, total = 0.0, 0.0
    for name, one in whole.items():
        rest = one.double() - cut[f"{name}/left"].double() @ cut[f"{name}/right"].double().T
        lost += float(rest.square().sum())
        total += float(one.double().square().sum())
    return float(np.sqrt(lost / total)) if total else 0.0
