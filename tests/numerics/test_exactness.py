"""K-FAC and EK-FAC where they are exact, against the explicit Fisher or Hessian."""

from __future__ import annotations

import math

import naive
import pytest
import torch
from cases import token_sequences
from compare import assert_same
from device import DEVICE
from harness import Fitted, bases_of, basis_tensors, table
from torch import Tensor, nn
from torch.func import functional_call

from rayinfluence.curvature.blocks import Basis
from rayinfluence.curvature.eigen import eigenbasis
from rayinfluence.curvature.ekfac import EKFAC, ModuleFactors, kfac_factors
from rayinfluence.curvature.sums import GramSums, homogeneous, rotated_gradients
from rayinfluence.dataflow.compute.folding import Bases, LaneRows, fitting_labels, fold_moments
from rayinfluence.model.batches import unpadded
from rayinfluence.model.capture import backward
from rayinfluence.model.head import forward_logits
from rayinfluence.model.load import freeze
from rayinfluence.model.rows import Rows

pytestmark = pytest.mark.runs


def random(seed: int, *shape: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


class Sums:
    """Sums of both sides of one module."""

    def __init__(self, d_in: int, d_out: int, bias: bool) -> None:
        cpu = torch.device("cpu")
        self.bias = bias
        self.inputs = GramSums.zeros(d_in, 1, bias, torch.float64, cpu)
        self.grads = GramSums.zeros(d_out, 1, False, torch.float64, cpu)

    def add(self, inputs: Tensor, grads: Tensor, mask: Tensor) -> None:
        self.inputs.add(inputs[mask])
        self.grads.add(grads.flatten(0, 1))

    def factors(self, n_tokens: int, squares: Tensor | None = None) -> ModuleFactors:
        inputs, grads = self.inputs.to_tensors(), self.grads.to_tensors()
        total = inputs["0"]
        if self.bias:
            total = homogeneous(total, inputs["sum"], inputs["rows"])
        values_A, Q_A = eigenbasis(total / n_tokens, "inputs")
        values_S, Q_S = eigenbasis(grads["0"] / n_tokens, "outputs")
        if squares is None:
            squares = torch.zeros(len(Q_S), len(Q_A), dtype=torch.float64)
        return ModuleFactors(Basis((Q_A,)), Basis((Q_S,)), values_A, values_S, squares)


# --- K-FAC ---


@pytest.mark.parametrize("bias", [False, True])
def test_kfac_is_exact_on_a_full_product_of_single_tokens(bias: bool) -> None:
    a_N, g_N = random(0, 6, 3), random(1, 5, 2)
    inputs = a_N.repeat_interleave(len(g_N), dim=0)[:, None]  # every a with every g
    grads = g_N.repeat(len(a_N), 1)[:, None]
    mask = torch.ones(len(inputs), 1, dtype=torch.bool)
    sums = Sums(3, 2, bias)
    sums.add(inputs, grads, mask)
    module = sums.factors(n_tokens=len(inputs))

    ones = torch.ones(len(inputs), 1, 1, dtype=torch.float64)
    a = torch.cat([inputs, ones], dim=2) if bias else inputs
    D = (grads.transpose(1, 2) @ a).flatten(1)
    G = D.T @ D / len(D)
    Q_A, Q_S = module.inputs_basis.dense(), module.outputs_basis.dense()
    A = Q_A @ torch.diag(module.inputs_eigenvalues) @ Q_A.T
    S = Q_S @ torch.diag(module.outputs_eigenvalues) @ Q_S.T
    assert_same(torch.kron(S, A), G, "A kron S")

    kfac = kfac_factors(module, n_rows=len(inputs), n_sequences=len(inputs))
    rotated = torch.cat(
        list(rotated_gradients(inputs, grads, module.inputs_basis, module.outputs_basis))
    )
    assert_same(kfac.moments, rotated.square().mean(dim=0), "Lambda")
    V = random(2, *kfac.moments.shape)
    expected = naive.solve(G + 1e-3 * torch.eye(len(G), dtype=G.dtype), V)
    assert_same(EKFAC(kfac, "m", damping=1e-3).inverse() @ V, expected)


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
    sums = {"0": Sums(4, 5, True), "1": Sums(5, 3, False), "2": Sums(3, 2, True)}
    modules = {name: model.get_submodule(name) for name in sums}
    for output in range(n_outputs):
        # Errors e ~ N(0, I) have E[e e^T] = I: as many unit errors, weighted to have that mean.
        def objective(output: int = output) -> Tensor:
            return math.sqrt(n_outputs) * model(inputs)[mask][:, output].sum()

        def consume(name: str, rows: Rows) -> None:
            sums[name].add(rows.inputs_BRI, rows.grads_BRO, mask)

        backward(modules, (4, 5), objective, consume)

    for name, layer in modules.items():
        module = sums[name].factors(n_tokens * n_outputs)
        operator = EKFAC(kfac_factors(module, n_tokens, n_sequences), name, damping=0.01)

        def loss(matrix: Tensor, name: str = name, d_in: int = layer.in_features) -> Tensor:
            weights = {f"{name}.weight": matrix[:, :d_in]}
            if matrix.shape[1] > d_in:
                weights[f"{name}.bias"] = matrix[:, d_in]
            return functional_call(model, weights, inputs)[mask].square().sum() / 2

        at = naive.joined(layer, layer.weight, layer.bias)
        hessian = torch.autograd.functional.hessian(loss, at).reshape(at.numel(), at.numel())
        G = hessian / n_sequences + 0.01 * torch.eye(at.numel(), dtype=torch.float64)
        V = random(7, *at.shape)
        assert_same((operator @ V).flatten(), G @ V.flatten(), f"G V, layer {name}")
        assert_same(operator.inverse() @ V, naive.solve(G, V), f"G^-1 V, layer {name}", 1e-9)


# --- Lambda is the diagonal of the Fisher in the eigenbasis ---

SHORT = (4, 2, 3)


def enumerated_moments(fitted: Fitted, sequences: list) -> dict[str, Tensor]:
    """Lambda with a pseudo-gradient per target and label, weighted by the label's probability."""
    model, factors = fitted.replica.model, {n: one.factors for n, one in fitted.operator.items()}
    total = {n: torch.zeros_like(fitted.operator[n].factors.moments) for n in fitted.names}
    for tokens in sequences:
        tokens_T = torch.as_tensor(tokens, device=DEVICE)
        n_labels = naive.logits(model, tokens).shape[1]
        n_rows = (len(tokens) - 1) * n_labels
        positions = torch.arange(len(tokens) - 1).repeat_interleave(n_labels)
        labels = torch.arange(n_labels).repeat(len(tokens) - 1)

        where = tuple(axis.to(DEVICE) for axis in (torch.arange(n_rows), positions, labels))

        def objective(tokens_T: Tensor = tokens_T, where: tuple[Tensor, ...] = where) -> Tensor:
            logits = forward_logits(model, unpadded(tokens_T.repeat(len(where[0]), 1)))
            log_p = torch.log_softmax(logits, dim=-1)[where]
            return (log_p.detach().exp().sqrt() * log_p).sum()

        def consume(name: str, rows: Rows) -> None:
            module = factors[name]
            for rotated in rotated_gradients(
                rows.inputs_BRI, rows.grads_BRO, module.inputs_basis, module.outputs_basis
            ):
                total[name] += rotated.square().sum(dim=0) / len(sequences)

        shape = n_rows, len(tokens)
        backward(fitted.replica.modules, shape, objective, consume)
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
    bases = Bases.on(fitted.replica, basis_tensors(fitted.factors))
    chunks: dict[str, list[Tensor]] = {name: [] for name in fitted.names}
    labels = fitting_labels("sampled", seed=11)
    for chunk in range(n_chunks):
        repeated = sequences * copies
        ids = [chunk * len(repeated) + index for index in range(len(repeated))]
        rows = table(repeated, ids)
        fold = fold_moments(
            fitted.replica, LaneRows(lambda n, rows=rows: [rows][n:], labels), bases
        )
        assert fold.n_sequences == len(repeated)
        for name, total in fold.tensors.items():
            chunks[name].append(total / fold.n_sequences)
    single, grouped = 0.0, 0.0
    for name, exact in enumerated_moments(fitted, sequences).items():
        drawn = torch.stack(chunks[name])
        if not exact.any():  # an expert that no token chooses
            assert not drawn.any()
            continue
        standard_error = drawn.std(dim=0) / math.sqrt(n_chunks)
        z = (drawn.mean(dim=0) - exact) / standard_error.clamp_min(1e-12 * float(exact.max()))
        if fitted.replica.shapes[name].diagonal == "outputs":
            # A row is a token's: those that are hardly ever drawn have errors that no draw shows.
            z = z[exact > 0.01 * exact.max()]
        assert float(z.abs().max()) < 5, f"{name}: {float(z.abs().max()):.1f} standard errors"
        means = drawn.unflatten(0, (-1, 8)).mean(dim=1)
        for errors, scale in ((drawn - exact, 1), (means - exact, 8)):
            squares = scale * float(
                errors.flatten(1).square().sum(dim=1).mean() / exact.norm() ** 2
            )
            single, grouped = single + squares * (scale == 1), grouped + squares * (scale == 8)
    # A mean over eight times the draws has an eighth of the squared error.
    assert 0.6 < grouped / single < 1.6, grouped / single
