"""The objectives that stand between leaving a sequence out and its influence.

With the weights theta, where they start theta_s, sequences i of a basis and one sequence m:

    mean over i of d_i(theta)  +  epsilon L(z_m, theta)  +  sum (lambda / 2) |theta - theta_s|^2

d_i is the loss L(z_i, theta), or the divergence of what the model says of z_i from what it said at
the start. That is the proximal Bregman objective: its Hessian at the start is the Gauss-Newton
matrix and lambda, and its minimum moves by -epsilon (G + lambda I)^-1 grad L(z_m). Bae et al. 2022,
equations 9 and 10; Grosse et al. 2023, section 2.1.

N target, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import pyarrow as pa
import torch
from torch import Tensor

from rayinfluence.dataflow.compute.replica import Replica
from rayinfluence.errors import NumericsError
from rayinfluence.evaluation.pbrf.divergence import divergences
from rayinfluence.evaluation.pbrf.moving import Moving
from rayinfluence.model.batches import Batch
from rayinfluence.model.head import forward_logits, target_logits
from rayinfluence.model.losses import log_probabilities
from rayinfluence.model.targets import Targets

#: Of what the model said at the start, where all of it is kept; else it is said again.
_KEPT_BYTES = 1 << 30

#: What is summed over the basis.
Term = Literal["loss", "divergence"]


@dataclass(frozen=True)
class Part:
    """A batch of the basis: its targets, and what is said there at the start [N, V], or None."""

    batch: Batch
    targets: Targets
    start_NV: Tensor | None


def logits_of(replica: Replica, batch: Batch, targets: Targets) -> Tensor:
    """What a model says at the targets of a batch [N, V]."""
    return target_logits(forward_logits(replica.model, targets.given(batch)), targets)


def batches_of(replica: Replica, table: pa.Table) -> Iterator[tuple[Batch, Targets]]:
    """The batches of some rows.

    Raises:
        NumericsError: a row cannot be scored.
    """
    bad: dict[int, str] = {}
    found = list(replica.batches(table, bad))
    if bad:
        sequence_id, reason = next(iter(bad.items()))
        raise NumericsError(f"sequence {sequence_id} cannot be moved towards: {reason}.")
    for batch in found:
        yield batch, replica.trained_on.targets(batch)


class Basis:
    """The sequences that hold predictions where they start.

    Args:
        start: the model as it starts, which nothing moves.
        table: the rows.
    """

    def __init__(self, start: Replica, table: pa.Table) -> None:
        self._start = start
        self.n_sequences = len(table)
        self.parts: list[Part] = []
        n_bytes = 0
        for batch, targets in batches_of(start, table):
            said = None
            if n_bytes <= _KEPT_BYTES:
                said = self._said(batch, targets)
                n_bytes += said.nbytes
            self.parts.append(Part(batch, targets, said))

    def start_of(self, part: Part) -> Tensor:
        """What is said at the start of a batch [N, V]."""
        return self._said(part.batch, part.targets) if part.start_NV is None else part.start_NV

    def _said(self, batch: Batch, targets: Targets) -> Tensor:
        with torch.no_grad():
            return logits_of(self._start, batch, targets)


@dataclass(frozen=True)
class Objective:
    """One objective of one sequence, as a function of coordinates.

    Attributes:
        replica: the model that moves.
        basis: what it is held by.
        moving: its weights that move.
        others: batches of the sequence m, or of none.
        epsilon: what its loss is multiplied with: -1/N takes it out, 1/N sees it once more.
        term: what is summed over the basis.
        proximal: whether theta is held where it starts.
    """

    replica: Replica
    basis: Basis
    moving: Sequence[Moving]
    others: Sequence[tuple[Batch, Targets]]
    epsilon: float
    term: Term = "divergence"
    proximal: bool = True

    def put(self, coordinates: Tensor) -> list[Tensor]:
        """Move the weights there; returns the displacements."""
        sizes = [one.shape.numel() for one in self.moving]
        parts = coordinates.detach().split(sizes)
        moved = [
            one.displacement(part.view(one.shape))
            for one, part in zip(self.moving, parts, strict=True)
        ]
        for one, displacement in zip(self.moving, moved, strict=True):
            one.put(displacement)
        return moved

    def at(self, coordinates: Tensor) -> tuple[float, Tensor]:
        """The objective, in nats, and its gradient in the coordinates, both [D]."""
        moved = self.put(coordinates)
        for one in self.moving:
            for weight in one.weights:
                weight.grad = None
        value = 0.0
        for part in self.basis.parts:
            logits_NV = logits_of(self.replica, part.batch, part.targets)
            values_N = (
                divergences(logits_NV, self.basis.start_of(part), part.targets.labels_N)
                if self.term == "divergence"
                else -log_probabilities(logits_NV, part.targets.labels_N)
            )
            value += _back(part.targets, values_N, 1 / self.basis.n_sequences)
        for batch, targets in self.others:
            logits_NV = logits_of(self.replica, batch, targets)
            losses_N = -log_probabilities(logits_NV, targets.labels_N)
            value += _back(targets, losses_N, self.epsilon)
        gradients = []
        for one, displacement in zip(self.moving, moved, strict=True):
            gradient, damping = one.gradient(), one.damping if self.proximal else 0.0
            value += 0.5 * damping * float(displacement.square().sum())
            gradients.append(one.pulled(gradient + damping * displacement).flatten())
        return value, torch.cat(gradients)


def _back(targets: Targets, values_N: Tensor, share: float) -> float:
    """Run backward from a share of what a batch's sequences add up to; that number."""
    total = targets.by_sequence(values_N).sum() * share
    torch.autograd.backward(total)
    return float(total.detach())
