"""The operator against the dense matrix that it stands for."""

from __future__ import annotations

from functools import partial

import naive
import pytest
import torch
from compare import assert_same
from device import DEVICE
from harness import SEED, Fitted
from torch import Tensor

from rayinfluence.curvature.blocks import Basis
from rayinfluence.curvature.eigen import eigenbasis
from rayinfluence.curvature.ekfac import EKFAC, ModuleFactors
from rayinfluence.curvature.solver import Solver
from rayinfluence.errors import NumericsError
from rayinfluence.influence.lowrank import low_rank
from rayinfluence.methods.method import Curvature
from rayinfluence.methods.method import Fitted as FittedModule
from rayinfluence.methods.registry import GRADIENT_METHODS

#: Keyword arguments, and the lambda that they mean given Lambda.
DAMPINGS = [
    ({"damping_scale": 0.1, "damping": None}, lambda moments: 0.1 * moments.mean()),
    ({"damping_scale": 0.7, "damping": None}, lambda moments: 0.7 * moments.mean()),
    ({"damping_scale": 0.1, "damping": 0.003}, lambda moments: 0.003),
]
damped = pytest.mark.parametrize(
    ("damping", "value"), DAMPINGS, ids=["scale 0.1", "scale 0.7", "absolute"]
)


def factors_of(fitted: Fitted) -> dict[str, ModuleFactors]:
    return {name: one.factors for name, one in fitted.operator.items()}


def gradient(module: ModuleFactors, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(module.moments.shape, generator=generator, dtype=torch.float64).to(DEVICE)


def solvers_of(fitted: Fitted, method: str, damping: dict) -> dict[str, Solver]:
    factors, bias = fitted.factors, fitted.factors.bias
    solvers = {}
    for name, one in fitted.operator.items():
        counts = factors.n_routed.get(name, factors.n_tokens), factors.n_sequences
        curvature = Curvature(one.factors, *counts, **damping)
        solvers[name] = GRADIENT_METHODS[method].solver(FittedModule(name, bias[name], curvature))
    return solvers


@damped
def test_ekfac_solve_is_the_dense_inverse(fitted: Fitted, damping: dict, value) -> None:
    operators = solvers_of(fitted, "ekfac", damping)
    for name, module in factors_of(fitted).items():
        Q_A, Q_S = module.inputs_basis.dense(), module.outputs_basis.dense()
        dense = naive.dense_operator(Q_A, Q_S, module.moments, float(value(module.moments)))
        V = gradient(module)
        assert_same(operators[name].inverse() @ V, naive.solve(dense, V), f"solve, {name}", 1e-9)
        assert_same((operators[name] @ V).flatten(), dense @ V.flatten(), f"apply, {name}")


@damped
def test_apply_inverts_solve(fitted: Fitted, damping: dict, value) -> None:
    operators = solvers_of(fitted, "ekfac", damping)
    for name, module in factors_of(fitted).items():
        V = gradient(module)
        assert_same(operators[name] @ (operators[name].inverse() @ V), V, name)
        assert_same(operators[name].inverse() @ (operators[name] @ V), V, name)
        assert operators[name].damping == pytest.approx(float(value(module.moments)), rel=1e-14)


@damped
def test_kfac_is_the_kronecker_product_of_the_covariances(
    fitted: Fitted, damping: dict, value
) -> None:
    """(A kron S) T + lambda I, T rows per sequence, from covariances by explicit loops."""
    operators = solvers_of(fitted, "kfac", damping)
    sequences = fitted.sequences
    labels = naive.sampled_labels(fitted.replica.model, sequences, range(len(sequences)), SEED)
    n_rows = naive.rows_seen(fitted.replica.model, fitted.names, sequences)
    covariances = naive.covariances(fitted.replica.model, fitted.names, sequences, labels)
    for name, (A, S) in covariances.items():
        G = torch.kron(S, A) * n_rows[name] / len(sequences)
        # The mean of the eigenvalues of G is the mean of its diagonal.
        G += float(value(G.diagonal())) * torch.eye(len(G)).to(G)
        V = gradient(fitted.operator[name].factors)
        assert_same(operators[name].inverse() @ V, naive.solve(G, V), name, 1e-9)


@pytest.mark.parametrize("method", ["ekfac", "kfac", "gradient_product"])
@pytest.mark.parametrize("n_tokens", [1, 6, 40])
def test_a_gradient_given_by_its_tokens_is_solved_alike(
    fitted: Fitted, method: str, n_tokens: int
) -> None:
    """Dense, and in full rank; the rotations are chosen by the number of tokens."""
    generator = torch.Generator().manual_seed(0)
    methods = solvers_of(fitted, method, {"damping_scale": 0.1, "damping": None})
    for name, shape in fitted.replica.shapes.items():
        inputs, grads = (
            torch.randn(n_tokens, width, generator=generator, dtype=torch.float64).to(DEVICE)
            for width in (shape.d_in, shape.d_out)
        )
        ones = torch.ones(n_tokens, int(shape.bias)).to(inputs)
        D = grads.T @ torch.cat([inputs, ones], dim=1)
        expected = methods[name].inverse() @ D
        dense = methods[name].inverse().of_tokens(inputs, grads)["dense"]
        assert_same(dense, expected, f"dense, {name}")
        cut = methods[name].inverse().of_tokens(inputs, grads, partial(low_rank, rank=1000, seed=0))
        assert_same(cut["left"] @ cut["right"].T, expected, f"full rank, {name}", 1e-9)


def test_factors_survive_the_round_trip_to_tensors(fitted: Fitted) -> None:
    for name, module in factors_of(fitted).items():
        again = EKFAC(ModuleFactors.from_tensors(module.to_tensors()), name)
        V = gradient(module)
        assert torch.equal(again.inverse() @ V, fitted.operator[name].inverse() @ V)


def test_large_damping_is_a_scaled_gradient_product(fitted: Fitted) -> None:
    operators = solvers_of(fitted, "ekfac", {"damping_scale": 0.1, "damping": 1e12})
    for name, module in factors_of(fitted).items():
        V = gradient(module)
        assert_same(1e12 * (operators[name].inverse() @ V), V, name, 1e-6)


# --- refusals ---


def module_factors(moments: Tensor) -> ModuleFactors:
    d_out, columns = moments.shape
    return ModuleFactors(
        Basis((torch.eye(columns).double(),)),
        Basis((torch.eye(d_out).double(),)),
        torch.ones(columns),
        torch.ones(d_out),
        moments,
    )


def test_a_module_that_no_sequence_had_a_gradient_in_is_left_out_of_scores() -> None:
    nothing = module_factors(torch.zeros(2, 3, dtype=torch.float64))
    V = torch.randn(2, 3, dtype=torch.float64)
    for value in (EKFAC(nothing, "m").inverse() @ V, EKFAC(nothing, "m") @ V):
        assert torch.equal(value, torch.zeros_like(V))
    # Whoever sets an absolute lambda has it.
    assert_same(EKFAC(nothing, "m", damping=0.5).inverse() @ V, 2 * V)


@pytest.mark.parametrize("damping", [0.0, -0.5, float("nan")])
def test_a_damping_that_is_not_above_zero_is_refused(damping: float) -> None:
    with pytest.raises(NumericsError, match=r"damping of module m is .* has to be above zero"):
        EKFAC(module_factors(torch.ones(2, 3, dtype=torch.float64)), "m", damping=damping)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize(
    "part",
    ["moments", "inputs_basis.0", "outputs_basis.0", "inputs_eigenvalues", "outputs_eigenvalues"],
)
def test_a_factor_that_is_not_finite_names_its_module(part: str, value: float) -> None:
    tensors = module_factors(torch.ones(2, 3, dtype=torch.float64)).to_tensors()
    tensors[part] = tensors[part].clone()
    tensors[part].flatten()[1] = value
    message = f"factors of module m hold NaN or infinity in {part}"
    with pytest.raises(NumericsError, match=message):
        EKFAC(ModuleFactors.from_tensors(tensors), "m", damping=1.0)


def test_factors_of_other_shapes_are_refused() -> None:
    wide, narrow = Basis((torch.eye(4),)), Basis((torch.eye(2),))
    with pytest.raises(NumericsError, match=r"inputs_basis must be 3 wide.*got 4"):
        ModuleFactors(wide, narrow, torch.ones(3), torch.ones(2), torch.ones(2, 3))


def test_a_singular_covariance_has_an_eigenbasis() -> None:
    a = torch.tensor([[1.0, 2.0, 3.0]], dtype=torch.float64)
    values, vectors = eigenbasis(a.T @ a, "m")
    assert bool((values >= 0).all())
    assert_same(vectors @ torch.diag(values) @ vectors.T, a.T @ a)


def test_a_covariance_that_is_not_finite_is_refused() -> None:
    with pytest.raises(NumericsError, match="covariance of m holds NaN or infinity"):
        eigenbasis(torch.full((2, 2), torch.nan), "m")


@pytest.mark.parametrize("failures", [1, 2])
def test_an_eigensolver_that_fails_is_tried_with_jitter(
    failures: int, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    original, calls = torch.linalg.eigh, []

    def eigh(matrix: Tensor):
        calls.append(matrix)
        if len(calls) <= failures:
            raise RuntimeError("did not converge")
        return original(matrix)

    monkeypatch.setattr(torch.linalg, "eigh", eigh)
    matrix = torch.diag(torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64))
    if failures == 2:
        with pytest.raises(NumericsError, match="covariance of m cannot be decomposed"):
            eigenbasis(matrix, "m")
    else:
        values, _ = eigenbasis(matrix, "m")
        assert_same(values, torch.tensor([1.0, 2.0, 3.0]), tolerance=1e-9)
    assert "retrying with jitter" in caplog.text
