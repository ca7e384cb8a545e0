"""K-FAC and EK-FAC where they are exact, against the explicit Fisher or Hessian."""

from __future__ import annotations

import math

import naive
import pytest
import torch
from cases import token_sequences
from compare import assert_same
from harness import Fitted, bases_of, table
from torch import Tensor, nn
from torch.func import functional_call

from rayinfluence.curvature.eigen import eigenbasis
from rayinfluence.curvature.ekfac import EKFAC, ModuleFactors, kfac_factors
from rayinfluence.curvature.sums import CovarianceSums, homogeneous, rotated_gradients
from rayinfluence.dataflow.stages import fitting_labels, fold_moments
from rayinfluence.model.capture import backward
from rayinfluence.model.load import freeze
from rayinfluence.model.losses import forward_logits


def random(seed: int, *shape: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def factors_of(
    sums: CovarianceSums, bias: bool, n_tokens: int, squares: Tensor | None = None
) -> ModuleFactors:
    total = homogeneous(sums.inputs_II, sums.inputs_I, sums.n_rows) if bias else sums.inputs_II
    values_A, Q_A = eigenbasis(total / n_tokens, "inputs")
    values_S, Q_S = eigenbasis(sums.grads_OO / n_tokens, "outputs")
    if squares is None:
        squares = torch.zeros(len(Q_S), len(Q_A), dtype=torch.float64)
    return ModuleFactors(Q_A, Q_S, values_A, values_S, squares)


def zeros(d_in: int, d_out: int) -> CovarianceSums:
    return CovarianceSums.zeros(d_in, d_out, torch.float64, torch.device("cpu"))


# --- K-FAC ---


@pytest.mark.parametrize("bias", [False, True])
def test_kfac_is_exact_on_a_full_product_of_single_tokens(bias: bool) -> None:
    a_N, g_N = random(0, 6, 3), random(1, 5, 2)
    inputs = a_N.repeat_interleave(len(g_N), dim=0)[:, None]  # every a with every g
    grads = g_N.repeat(len(a_N), 1)[:, None]
    mask = torch.ones(len(inputs), 1, dtype=torch.bool)
    sums = zeros(3, 2)
    sums.add(inputs, grads, mask)
    module = factors_of(sums, bias, n_tokens=len(inputs))

    ones = torch.ones(len(inputs), 1, 1, dtype=torch.float64)
    a = torch.cat([inputs, ones], dim=2) if bias else inputs
    D = (grads.transpose(1, 2) @ a).flatten(1)
    G = D.T @ D / len(D)
    Q_A, Q_S = module.inputs_basis, module.outputs_basis
    A = Q_A @ torch.diag(module.inputs_eigenvalues) @ Q_A.T
    S = Q_S @ torch.diag(module.outputs_eigenvalues) @ Q_S.T
    assert_same(torch.kron(S, A), G, "A kron S")

    kfac = kfac_factors(module, n_tokens=len(inputs), n_sequences=len(inputs))
    rotated = torch.stack(rotated_gradients(inputs, grads, Q_A, Q_S))
    assert_same(kfac.moments, rotated.square().mean(dim=0), "Lambda")
    V = random(2, *kfac.moments.shape)
    expected = naive.solve(G + 1e-3 * torch.eye(len(G), dtype=G.dtype), V)
    assert_same(EKFAC({"m": kfac}, damping=1e-3).solve("m", V), expected)


def test_kfac_is_exact_for_a_deep_linear_net_with_squared_error() -> None:
    """Sequences of several tokens, so the factor n_tokens / n_sequences counts.

    The output is linear in each layer's weight, and its Jacobian is the same at every token, so the
    Hessian of 1/2 ||f - y||^2 summed over a sequence's tokens is T A kron S, for whatever y.
    """
    model = freeze(nn.Sequential(nn.Linear(4, 5), nn.Linear(5, 3, bias=False), nn.Linear(3, 2)))
    for index, weight in enumerate(model.parameters()):
        weight.data = random(index, *weight.shape)
    inputs, lengths = random(9, 4, 5, 4), torch.tensor([5, 1, 3, 2])
    n_sequences, n_tokens, n_outputs = 4, 11, 2
    mask = torch.arange(5)[None, :] < lengths[:, None]
    sums = {"0": zeros(4, 5), "1": zeros(5, 3), "2": zeros(3, 2)}
    modules = {name: model.get_submodule(name) for name in sums}
    for output in range(n_outputs):
        # Errors e ~ N(0, I) have E[e e^T] = I: as many unit errors, weighted to have that mean.
        def objective(output: int = output) -> Tensor:
            return math.sqrt(n_outputs) * model(inputs)[mask][:, output].sum()

        backward(modules, objective, lambda name, a, g: sums[name].add(a, g, mask))

    for name, layer in modules.items():
        module = factors_of(sums[name], layer.bias is not None, n_tokens * n_outputs)
        operator = EKFAC({name: kfac_factors(module, n_tokens, n_sequences)}, damping=0.01)

        def loss(matrix: Tensor, name: str = name, d_in: int = layer.in_features) -> Tensor:
            weights = {f"{name}.weight": matrix[:, :d_in]}
            if matrix.shape[1] > d_in:
                weights[f"{name}.bias"] = matrix[:, d_in]
            return functional_call(model, weights, inputs)[mask].square().sum() / 2

        at = naive.joined(layer, layer.weight, layer.bias)
        hessian = torch.autograd.functional.hessian(loss, at).reshape(at.numel(), at.numel())
        G = hessian / n_sequences + 0.01 * torch.eye(at.numel(), dtype=torch.float64)
        V = random(7, *at.shape)
        assert_same(operator.apply(name, V).flatten(), G @ V.flatten(), f"G V, layer {name}")
        assert_same(operator.solve(name, V), naive.solve(G, V), f"G^-1 V, layer {name}", 1e-9)


# --- Lambda is the diagonal of the Fisher in the eigenbasis ---

SHORT = (4, 2, 3)


def enumerated_moments(fitted: Fitted, sequences: list) -> dict[str, Tensor]:
    """Lambda with a pseudo-gradient per target and label, weighted by the label's probability."""
    model, bases = fitted.replica.model, bases_of(fitted.operator)
    total = {n: torch.zeros_like(fitted.operator.factors[n].moments) for n in fitted.names}
    for tokens in sequences:
        tokens_T = torch.as_tensor(tokens)
        n_labels = naive.logits(model, tokens).shape[1]
        n_rows = (len(tokens) - 1) * n_labels
        positions = torch.arange(len(tokens) - 1).repeat_interleave(n_labels)
        labels = torch.arange(n_labels).repeat(len(tokens) - 1)

        rows = (torch.arange(n_rows), positions, labels)

        def objective(tokens_T: Tensor = tokens_T, rows: tuple[Tensor, ...] = rows) -> Tensor:
            logits = forward_logits(model, tokens_T.repeat(len(rows[0]), 1))
            log_p = torch.log_softmax(logits, dim=-1)[rows]
            return (log_p.detach().exp().sqrt() * log_p).sum()

        def consume(name: str, inputs: Tensor, grads: Tensor) -> None:
            for rotated in rotated_gradients(inputs, grads, *bases[name]):
                total[name].addcmul_(rotated, rotated, value=1 / len(sequences))

        backward(fitted.replica.modules, objective, consume)
    return total


def test_lambda_is_the_diagonal_of_the_fisher(fitted: Fitted) -> None:
    sequences = token_sequences(5, SHORT)
    fisher = naive.fisher(fitted.replica.model, fitted.names, sequences)
    bases = bases_of(fitted.operator)
    for name, Lambda in enumerated_moments(fitted, sequences).items():
        Q = torch.kron(bases[name][1], bases[name][0])
        assert_same(Lambda.flatten(), ((fisher[name] @ Q) * Q).sum(dim=0), name)


def test_sampled_lambda_converges_to_the_fisher(fitted: Fitted) -> None:
    """Of many draws: within 5 standard errors everywhere, and at the rate of a mean."""
    sequences = token_sequences(5, SHORT)
    n_chunks, copies = 160, 4
    keys = {}
    for name, (Q_A, Q_S) in bases_of(fitted.operator).items():
        keys |= {f"{name}/inputs_basis": Q_A, f"{name}/outputs_basis": Q_S}
    chunks: dict[str, list[Tensor]] = {name: [] for name in fitted.names}
    labels = fitting_labels("sampled", seed=11)
    for chunk in range(n_chunks):
        repeated = sequences * copies
        ids = [chunk * len(repeated) + index for index in range(len(repeated))]
        rows = table(repeated, ids)
        fold = fold_moments(fitted.replica, lambda rows=rows: [rows], labels, keys, lambda n: None)
        assert fold.n_sequences == len(repeated)
        for name, total in fold.tensors.items():
            chunks[name].append(total / fold.n_sequences)
    single, grouped = 0.0, 0.0
    for name, exact in enumerated_moments(fitted, sequences).items():
        drawn = torch.stack(chunks[name])
        standard_error = drawn.std(dim=0) / math.sqrt(n_chunks)
        z = (drawn.mean(dim=0) - exact) / standard_error.clamp_min(1e-12 * float(exact.max()))
        assert float(z.abs().max()) < 5, f"{name}: {float(z.abs().max()):.1f} standard errors"
        means = drawn.unflatten(0, (-1, 8)).mean(dim=1)
        for errors, scale in ((drawn - exact, 1), (means - exact, 8)):
            squares = scale * float(
                errors.flatten(1).square().sum(dim=1).mean() / exact.norm() ** 2
            )
            single, grouped = single + squares * (scale == 1), grouped + squares * (scale == 8)
    # A mean over eight times the draws has an eighth of the squared error.
    assert 0.6 < grouped / single < 1.6, grouped / single
