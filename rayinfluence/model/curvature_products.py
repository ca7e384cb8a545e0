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
    # Fused attention has no second derivative.
    with torch.enable_grad(), sdpa_kernel(SDPBackend.MATH), _trained(modules) as weights:
        logits_NV = wide(target_logits(forward_logits(model, targets.given(batch)), targets))
        if not logits_NV.requires_grad:  # none but experts are tracked, and no token chose one
            return [weights.none() for _ in directions]
        if curvature == "hessian":
            return _hessian(logits_NV, targets, weights, directions)
        return _gauss_newton(logits_NV, targets, weights, directions)


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
    logits_NV: Tensor, targets: Targets, weights: _Weights, directions: Sequence[Vectors]
) -> list[dict[str, Tensor]]:
    # The gradient of <u, logits> is linear in u, so that its derivative in u along P is J P.
    u_NV = torch.zeros_like(logits_NV).requires_grad_()
    linear = torch.autograd.grad(
        logits_NV, weights.tensors, u_NV, create_graph=True, allow_unused=True
    )
    is_number = targets.labels_N.is_floating_point()
    p_NV = torch.softmax(logits_NV.detach(), dim=-1)
    found = []
    for direction in directions:
        gradients, moves = weights.along(linear, direction)
        (moved_NV,) = torch.autograd.grad(
            gradients, u_NV, moves, retain_graph=True, materialize_grads=True
        )
        if not is_number:
            moved_NV = p_NV * (moved_NV - (p_NV * moved_NV).sum(dim=-1, keepdim=True))
        if targets.weights_N is not None:
            moved_NV = moved_NV * targets.weights_N[:, None].to(moved_NV.dtype)
        products = torch.autograd.grad(
            logits_NV, weights.tensors, moved_NV, retain_graph=True, allow_unused=True
        )
        found.append(weights.joined(products))
    return found


def _hessian(
    logits_NV: Tensor, targets: Targets, weights: _Weights, directions: Sequence[Vectors]
) -> list[dict[str, Tensor]]:
    loss = -targets.by_sequence(log_probabilities(logits_NV, targets.labels_N)).sum()
    linear = torch.autograd.grad(loss, weights.tensors, create_graph=True, allow_unused=True)
    found = []
    for direction in directions:
        gradients, moves = weights.along(linear, direction)
        products = torch.autograd.grad(
            gradients, weights.tensors, moves, retain_graph=True, allow_unused=True
        )
        found.append(weights.joined(products))
    return found


@contextmanager
def _trained(modules: Mapping[str, nn.Module]) -> Iterator[_Weights]:
    """Weights require gradients meanwhile."""
    weights = _Weights(modules)
    for weight in weights.tensors:
        weight.requires_grad_(True)
    try:
        yield weights
    finally:
        for weight in weights.tensors:
            weight.requires_grad_(False)
