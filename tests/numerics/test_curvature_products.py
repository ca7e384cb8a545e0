"""Products of curvature against autograd's explicit matrices, in float64."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import naive
import numpy as np
import pytest
import torch
from cases import PARAMETERS, Case, token_sequences
from harness import make_replica
from torch import Tensor, nn

from rayinfluence.dataflow.compute.replica import Replica
from rayinfluence.model.batches import Batch, make_batch
from rayinfluence.model.curvature_products import curvature_products
from rayinfluence.model.targets import NextTokens

LENGTHS = (5, 2, 4)


def directions(replica: Replica, n: int = 2) -> list[dict[str, Tensor]]:
    generator = torch.Generator().manual_seed(1)
    return [
        {
            name: torch.randn(shape.d_out, shape.columns, generator=generator, dtype=torch.float64)
            for name, shape in replica.shapes.items()
        }
        for _ in range(n)
    ]


def batch_of(replica: Replica) -> Batch:
    sequences = token_sequences(2, LENGTHS)
    return make_batch(sequences, range(len(sequences)), replica.device)


def flat(vector: dict[str, Tensor]) -> Tensor:
    return torch.cat([one.flatten(-2) for one in vector.values()], dim=-1)


def jacobian(twin: nn.Module, names: Sequence[str], tokens: np.ndarray) -> tuple[Tensor, Tensor]:
    """d logits / d weights [N, V, D] of a sequence's targets, and the probabilities [N, V]."""
    logits_NV = naive.logits(twin, tokens)[:-1]
    n, v = logits_NV.shape
    rows = naive.gradients(twin, names, logits_NV, torch.eye(n * v).double().unflatten(1, (n, v)))
    return flat(rows).unflatten(0, (n, v)), logits_NV.detach().softmax(dim=-1)


def explicit_gauss_newton(replica: Replica, weights: Sequence[float]) -> Tensor:
    """[D, D]: the sum over sequences, each with a weight, of J^T (diag(p) - p p^T) J."""
    twin, total = naive.trainable(replica.model), torch.zeros(())
    for tokens, weight in zip(token_sequences(2, LENGTHS), weights, strict=True):
        for J_VD, p_V in zip(*jacobian(twin, list(replica.modules), tokens), strict=True):
            total = total + weight * J_VD.T @ (torch.diag(p_V) - torch.outer(p_V, p_V)) @ J_VD
    return total


@pytest.mark.parametrize("case", PARAMETERS)
def test_gauss_newton_products_are_those_of_the_explicit_matrix(case: Case) -> None:
    replica = make_replica(case)
    batch, some = batch_of(replica), directions(replica)
    targets = NextTokens().targets(batch)
    matrix_DD = explicit_gauss_newton(replica, [1.0] * len(LENGTHS))
    found = curvature_products(replica.model, replica.modules, batch, targets, some)
    for product, direction in zip(found, some, strict=True):
        expected_D = matrix_DD @ flat(direction)
        assert (flat(product) - expected_D).norm() <= 1e-10 * expected_D.norm()
    assert not any(weight.requires_grad for weight in replica.model.parameters())


def test_weights_of_targets_are_weights_of_their_curvature() -> None:
    replica = make_replica(PARAMETERS[0].values[0])
    batch, some = batch_of(replica), directions(replica, 1)
    targets = NextTokens().targets(batch)
    weights_N = 1 / torch.from_numpy(targets.counts_B).double()[targets.sequences_N]
    targets = replace(targets, weights_N=weights_N)
    matrix_DD = explicit_gauss_newton(replica, [1 / (length - 1) for length in LENGTHS])
    (product,) = curvature_products(replica.model, replica.modules, batch, targets, some)
    expected_D = matrix_DD @ flat(some[0])
    assert (flat(product) - expected_D).norm() <= 1e-10 * expected_D.norm()


@pytest.mark.parametrize("case", PARAMETERS)
def test_hessian_products_are_differences_of_gradients(case: Case) -> None:
    """Of the loss, as all weights move along the direction and back."""
    replica = make_replica(case)
    batch, (direction,) = batch_of(replica), directions(replica, 1)
    targets, names = NextTokens().targets(batch), list(replica.modules)
    step = 1e-5

    def gradient(scale: float) -> Tensor:
        moved = naive.trainable(replica.model)
        for name in names:
            module, P = moved.get_submodule(name), direction[name]
            matrix = naive.joined(module, module.weight, naive.bias(module))
            # The derivative of <matrix, P> in what is stored is P as it is stored.
            parts = [part for part in (module.weight, naive.bias(module)) if part is not None]
            stored = torch.autograd.grad((matrix * P).sum(), parts)
            for part, change in zip(parts, stored, strict=True):
                part.data += scale * change
        total = sum(naive.log_probability(moved, one) for one in token_sequences(2, LENGTHS))
        return -flat(naive.gradients(moved, names, total))

    expected_D = (gradient(step) - gradient(-step)) / (2 * step)
    (product,) = curvature_products(
        replica.model, replica.modules, batch, targets, [direction], "hessian"
    )
    assert (flat(product) - expected_D).norm() <= 1e-6 * expected_D.norm()
    assert not any(weight.requires_grad for weight in replica.model.parameters())


def test_the_hessian_is_autograd_s() -> None:
    """All of it, of a model small enough to differentiate twice entry by entry."""
    replica = make_replica(Case("mlp", lambda: PARAMETERS[2].values[0].model(), ("plain",)))
    batch = batch_of(replica)
    targets = NextTokens().targets(batch)
    (shape,) = replica.shapes.values()
    twin = naive.trainable(replica.model)
    total = -sum(naive.log_probability(twin, one) for one in token_sequences(2, LENGTHS))
    (gradient_OI,) = torch.autograd.grad(total, twin.plain.weight, create_graph=True)
    expected_DD = torch.stack(
        [
            torch.autograd.grad(one, twin.plain.weight, retain_graph=True)[0].flatten()
            for one in gradient_OI.flatten()
        ]
    )
    size = shape.d_out * shape.columns
    units = [{"plain": one.reshape(shape.d_out, -1)} for one in torch.eye(size).double()]
    found = curvature_products(replica.model, replica.modules, batch, targets, units, "hessian")
    found_DD = torch.stack([one["plain"].flatten() for one in found])
    assert (found_DD - expected_DD).norm() <= 1e-12 * expected_DD.norm()
