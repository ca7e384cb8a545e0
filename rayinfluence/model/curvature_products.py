"""Products of curvature with vectors of the tracked weights: Gauss-Newton matrix and Hessian.

Of the loss L = -sum over targets of w_n log p(y_n), summed over the sequences of a batch:

    G P = sum_n w_n J_n^T H_n J_n P,   J_n the derivative of the logits at target n, and H_n that of
                                       its softmax, diag(p) - p p^T; of a number 1
    H P = d/dalpha of dL/dW, as all weights move by alpha P

G is what Lambda estimates: where labels are drawn from the model, it is the expected square of a
sequence's gradient (Grosse et al. 2023, section 2.2.2; Schraudolph 2002 for such products). The
derivative along P is a second backward pass through the first one (Pearlmutter 1994 for H): what
several directions share, the forward and the first backward pass, is done once for all of them.

B sequence in batch, N target, V vocabulary, O output width, I input width, J = I + 1 where there is
a bias.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from rayinfluence.model.batches import Batch
from rayinfluence.model.head import forward_logits, target_logits
from rayinfluence.model.layers import layer_of
from rayinfluence.model.losses import log_probabilities, wide
from rayinfluence.model.targets import Targets

Curvature = Literal["gauss_newton", "hessian"]
CURVATURES: tuple[Curvature, ...] = get_args(Curvature)
#: [O, J] by module.
Vectors = Mapping[str, Tensor]


def curvature_products(
    model: nn.Module,
    modules: Mapping[str, nn.Module],
    batch: Batch,
    targets: Targets,
    directions: Sequence[Vectors],
    curvature: Curvature = "gauss_newton",
) -> list[dict[str, Tensor]]:
    """Products of a batch's curvature with some directions.

    Args:
        model: the model; none of its parameters requires a gradient.
        modules: the tracked ones that take part.
        batch: sequences.
        targets: of the batch, with the weights that the objective of training has.
        directions: P [O, J] by module.
        curvature: which.

    Returns:
        Of each direction [O, J] by module, summed over the batch, in the dtype of the weights.
    """
    with linearised(model, modules, batch, targets) as linear:
        if curvature == "hessian":
            return _hessian(linear, targets, directions)
        return _gauss_newton(linear, targets, directions)


@contextmanager
def linearised(
    model: nn.Module, modules: Mapping[str, nn.Module], batch: Batch, targets: Targets
) -> Iterator[Linearised]:
    """A model's logits at the targets of a batch, as a function of the weights of some modules.

    Args:
        model: the model; none of its parameters requires a gradient, but for these meanwhile.
        modules: as above.
        batch: sequences.
        targets: of the batch.
    """
    weights = _Weights(modules)
    for weight in weights.tensors:
        weight.requires_grad_(True)
    try:
        # Fused attention has no second derivative.
        with torch.enable_grad(), sdpa_kernel(SDPBackend.MATH):
            logits = target_logits(forward_logits(model, targets.given(batch)), targets)
            yield Linearised(wide(logits), weights)
    finally:
        for weight in weights.tensors:
            weight.requires_grad_(False)


class Linearised:
    """Logits [N, V], and their derivative J in some weights."""

    def __init__(self, logits_NV: Tensor, weights: _Weights) -> None:
        self.logits_NV, self.weights = logits_NV, weights
        self._u_NV: Tensor | None = None
        self._linear: Sequence[Tensor | None] = ()

    @property
    def is_reached(self) -> bool:
        """Whether they depend on a weight; not where all are experts, and no token chose one."""
        return self.logits_NV.requires_grad

    def along(self, direction: Vectors) -> Tensor:
        """J P [N, V]."""
        if self._u_NV is None:
            # The gradient of <u, logits> is linear in u: its derivative in u along P is J P.
            self._u_NV = torch.zeros_like(self.logits_NV).requires_grad_()
            self._linear = torch.autograd.grad(
                self.logits_NV,
                self.weights.tensors,
                self._u_NV,
                create_graph=True,
                allow_unused=True,
            )
        gradients, moves = self.weights.along(self._linear, direction)
        if not gradients:  # all of it is code that cannot be differentiated
            return torch.zeros_like(self._u_NV)
        (moved_NV,) = torch.autograd.grad(
            gradients, self._u_NV, moves, retain_graph=True, materialize_grads=True
        )
        return moved_NV

    def back(self, cotangent_NV: Tensor) -> dict[str, Tensor]:
        """J^T of it, [O, J] by module."""
        found = torch.autograd.grad(
            self.logits_NV,
            self.weights.tensors,
            cotangent_NV,
            retain_graph=True,
            allow_unused=True,
        )
        return self.weights.joined(found)


class _Weights:
    """Weights and biases of some modules, and what autograd has for them as [O, J] by module."""

    def __init__(self, modules: Mapping[str, nn.Module]) -> None:
        self._modules = modules
        self.places = [
            (name, part)
            for name, module in modules.items()
            for part in ("weight", "bias")
            if module._parameters.get(part) is not None
        ]
        self.tensors = [modules[name].get_parameter(part) for name, part in self.places]

    def along(
        self, gradients: Sequence[Tensor | None], direction: Vectors
    ) -> tuple[list[Tensor], list[Tensor]]:
        """Gradients that are there, and what of a direction belongs to each."""
        kept, moved = [], []
        for (name, part), gradient in zip(self.places, gradients, strict=True):
            if gradient is None or not gradient.requires_grad:
                continue
            if part == "bias":
                kept.append(gradient)
                moved.append(direction[name][:, -1].to(gradient))
            else:
                kept.append(layer_of(self._modules[name]).matrix(gradient))
                moved.append(direction[name][:, : kept[-1].shape[1]].to(gradient))
        return kept, moved

    def joined(self, gradients: Sequence[Tensor | None]) -> dict[str, Tensor]:
        """[O, J] by module, the bias in the last column."""
        columns: dict[str, list[Tensor]] = {name: [] for name in self._modules}
        for (name, part), weight, gradient in zip(
            self.places, self.tensors, gradients, strict=True
        ):
            found = torch.zeros_like(weight) if gradient is None else gradient
            columns[name].append(
                found[:, None] if part == "bias" else layer_of(self._modules[name]).matrix(found)
            )
        return {name: torch.cat(parts, dim=1).detach() for name, parts in columns.items()}

    def none(self) -> dict[str, Tensor]:
        """Zeros."""
        return self.joined([None] * len(self.tensors))


def _gauss_newton(
    linear: Linearised, targets: Targets, directions: Sequence[Vectors]
) -> list[dict[str, Tensor]]:
    if not linear.is_reached:
        return [linear.weights.none() for _ in directions]
    is_number = targets.labels_N.is_floating_point()
    p_NV = torch.softmax(linear.logits_NV.detach(), dim=-1)
    found = []
    for direction in directions:
        moved_NV = linear.along(direction)
        if not is_number:
            moved_NV = p_NV * (moved_NV - (p_NV * moved_NV).sum(dim=-1, keepdim=True))
        if targets.weights_N is not None:
            moved_NV = moved_NV * targets.weights_N[:, None].to(moved_NV.dtype)
        found.append(linear.back(moved_NV))
    return found


def _hessian(
    linear: Linearised, targets: Targets, directions: Sequence[Vectors]
) -> list[dict[str, Tensor]]:
    weights = linear.weights
    if not linear.is_reached:
        return [weights.none() for _ in directions]
    log_ps_N = log_probabilities(linear.logits_NV, targets.labels_N)
    loss = -targets.by_sequence(log_ps_N).sum()
    first = torch.autograd.grad(loss, weights.tensors, create_graph=True, allow_unused=True)
    found = []
    for direction in directions:
        gradients, moves = weights.along(first, direction)
        products = torch.autograd.grad(
            gradients, weights.tensors, moves, retain_graph=True, allow_unused=True
        )
        found.append(weights.joined(products))
    return found
