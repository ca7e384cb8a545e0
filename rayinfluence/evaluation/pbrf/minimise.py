"""The minimum of an objective near where it starts: L-BFGS, whole batches, float64.

D coordinate.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from rayinfluence.errors import NumericsError

#: Value and gradient [D] at coordinates [D].
ValueAndGradient = Callable[[Tensor], tuple[float, Tensor]]
#: Pairs of steps and changes of the gradient that L-BFGS keeps.
_HISTORY = 50
#: Iterations between two looks at the gradient.
_BETWEEN = 10


@dataclass(frozen=True)
class Minimum:
    """Where an objective is smallest, and how surely.

    Attributes:
        coordinates_D: there.
        evaluations: of the objective with its gradient.
        gradient: its norm there over that at the start, in these coordinates.
        value: the objective there, less that at the start.
    """

    coordinates_D: Tensor
    evaluations: int
    gradient: float
    value: float


def minimised(
    at: ValueAndGradient, start_D: Tensor, tolerance: float, most_evaluations: int
) -> Minimum:
    """Go down from a start until the gradient is small enough, or enough was tried.

    Coordinates and values are scaled so that the first gradient has length 1, whatever epsilon is.
    Deterministic: nothing is drawn.

    Args:
        at: the objective.
        start_D: where to begin.
        tolerance: the gradient's norm over the first one's, at which it is done.
        most_evaluations: after which it is not; a few more are made.

    Raises:
        NumericsError: the objective or its gradient is not finite where it is asked.
    """
    first, gradient_D = at(start_D)
    unit = float(gradient_D.norm())
    if not math.isfinite(first) or not math.isfinite(unit):
        raise NumericsError("the objective is not finite where it starts.")
    if unit == 0.0:
        return Minimum(start_D, 1, 0.0, 0.0)
    scaled_D = torch.zeros_like(start_D).requires_grad_(True)
    evaluations = 1
    optimiser = torch.optim.LBFGS(
        [scaled_D],
        max_iter=_BETWEEN,
        max_eval=4 * _BETWEEN,
        history_size=_HISTORY,
        tolerance_grad=0.0,
        tolerance_change=0.0,
        line_search_fn="strong_wolfe",
    )

    seen = torch.zeros_like(start_D), (0.0, gradient_D / unit)

    def look() -> tuple[float, Tensor]:
        nonlocal evaluations, seen
        if not torch.equal(seen[0], scaled_D.detach()):  # a step begins where the last one ended
            evaluations += 1
            value, gradient_D = at(start_D + unit * scaled_D.detach())
            seen = scaled_D.detach().clone(), ((value - first) / unit**2, gradient_D / unit)
        return seen[1]

    def closure() -> Tensor:
        value, gradient_D = look()
        scaled_D.grad = gradient_D
        return torch.tensor(value, dtype=torch.float64)

    while True:
        before_D = scaled_D.detach().clone()
        optimiser.step(closure)
        value, gradient_D = look()
        norm = float(gradient_D.norm())
        if not math.isfinite(value) or not math.isfinite(norm):
            raise NumericsError("the objective is not finite any more on its way down.")
        stays = torch.equal(scaled_D.detach(), before_D)  # rounding allows no more
        if norm <= tolerance or evaluations >= most_evaluations or stays:
            there_D = start_D + unit * scaled_D.detach()
            return Minimum(there_D, evaluations, norm, value * unit**2)
