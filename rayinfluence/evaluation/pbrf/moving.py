"""What of a model moves away from its start, how it is held there, and in which coordinates.

A displacement D is searched for in coordinates u with D = R u: any linear map does, as the place of
a minimum does not depend on it, and one that makes all curvatures alike takes the fewest steps. For
a tracked module it is Q_S (u / sqrt(Lambda + lambda)) Q_A^T, by its EK-FAC.

O output width, J input width (with the bias column).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Protocol

import torch
from torch import Tensor, nn

from rayinfluence.curvature.ekfac import EKFAC, ModuleFactors
from rayinfluence.model.layers import layer_of


class Moving(Protocol):
    """Some weights that move together, with one damping."""

    @property
    def damping(self) -> float:
        """Lambda of (lambda / 2) |D|^2."""

    @property
    def shape(self) -> torch.Size:
        """Of u, and of D."""

    @property
    def weights(self) -> Sequence[nn.Parameter]:
        """Theirs."""

    def displacement(self, coordinates: Tensor) -> Tensor:
        """D = R u."""

    def pulled(self, gradient: Tensor) -> Tensor:
        """R^T of a gradient in D: that in u."""

    def put(self, displacement: Tensor) -> None:
        """Set the weights to where they start, and D."""

    def gradient(self) -> Tensor:
        """What has been accumulated in the weights' ``grad``, as D is shaped."""


class MovingModule:
    """The weight and the bias of a tracked module, in its eigenbasis.

    Args:
        module: of the model that moves.
        solver: its EK-FAC, which says lambda as well.
    """

    def __init__(self, module: nn.Module, solver: EKFAC) -> None:
        self._matrix = layer_of(module).matrix
        weight, bias = module.weight, getattr(module, "bias", None)
        assert isinstance(weight, nn.Parameter)
        self._weight, self._bias = weight, bias
        tensors = {name: t.to(weight) for name, t in solver.factors.to_tensors().items()}
        self._factors, self.damping = ModuleFactors.from_tensors(tensors), solver.damping
        damped_OJ = solver.factors.moments + solver.damping
        self._scale_OJ = torch.where(damped_OJ == 0, 0.0, damped_OJ.rsqrt()).to(weight.dtype)
        self._start_OJ = self._joined(weight.detach(), None if bias is None else bias.detach())
        self.shape = self._start_OJ.shape

    @property
    def weights(self) -> Sequence[nn.Parameter]:
        """One or two."""
        return [self._weight] if self._bias is None else [self._weight, self._bias]

    def displacement(self, coordinates: Tensor) -> Tensor:
        """Q_S (u / sqrt(Lambda + lambda)) Q_A^T [O, J]."""
        return self._factors.rotate_back(coordinates * self._scale_OJ)

    def pulled(self, gradient: Tensor) -> Tensor:
        """(Q_S^T V Q_A) / sqrt(Lambda + lambda) [O, J]."""
        return self._factors.rotate(gradient) * self._scale_OJ

    def put(self, displacement: Tensor) -> None:
        """Set both."""
        moved_OJ = self._start_OJ + displacement
        with torch.no_grad():
            weight_OI = self._matrix(self._weight)
            weight_OI.copy_(moved_OJ[:, : weight_OI.shape[1]])
            if self._bias is not None:
                self._bias.copy_(moved_OJ[:, -1])

    def gradient(self) -> Tensor:
        """[O, J]; zero where nothing was reached, as of an expert that no token chose."""
        found = [
            torch.zeros_like(one) if one.grad is None else one.grad.clone() for one in self.weights
        ]
        return self._joined(found[0], None if self._bias is None else found[1])

    def _joined(self, weight: Tensor, bias: Tensor | None) -> Tensor:
        weight_OI = self._matrix(weight)
        if bias is None:
            return weight_OI.clone()
        return torch.cat([weight_OI, bias[:, None]], dim=1)


class MovingWeight:
    """One weight by itself, as it is: for models of which nothing is known.

    Args:
        weight: of the model that moves.
        damping: lambda, above zero.
    """

    def __init__(self, weight: nn.Parameter, damping: float) -> None:
        self.weights, self.damping = [weight], damping
        self._start = weight.detach().clone()
        self.shape = weight.shape

    def displacement(self, coordinates: Tensor) -> Tensor:
        """U itself."""
        return coordinates

    def pulled(self, gradient: Tensor) -> Tensor:
        """The gradient itself."""
        return gradient

    def put(self, displacement: Tensor) -> None:
        """Set it."""
        with torch.no_grad():
            self.weights[0].copy_(self._start + displacement)

    def gradient(self) -> Tensor:
        """As it is; zero where nothing was reached."""
        (weight,) = self.weights
        return torch.zeros_like(weight) if weight.grad is None else weight.grad.clone()


def all_weights(model: nn.Module, damping: float) -> list[Moving]:
    """Every weight of a model, each of those that share one once."""
    return [MovingWeight(weight, damping) for weight in model.parameters()]


def tracked_weights(modules: Mapping[str, nn.Module], solvers: Mapping[str, EKFAC]) -> list[Moving]:
    """Those of tracked modules, each held by its own lambda."""
    return [MovingModule(module, solvers[name]) for name, module in modules.items()]


def require_gradients(moving: Iterable[Moving], wanted: bool) -> None:
    """Switch gradients of the weights on, from zero, or off."""
    for one in moving:
        for weight in one.weights:
            weight.requires_grad_(wanted)
            weight.grad = None
