"""Factors in blocks: one block is the exact form, several are eigenbases of the diagonal blocks."""

from __future__ import annotations

from pathlib import Path

import naive
import pytest
import torch
from compare import assert_same
from device import DEVICE
from harness import (
    SEED,
    Fitted,
    all_scores,
    basis_tensors,
    fit_factors,
    make_bank,
    operator_of,
    write_corpus,
)
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from rayinfluence.config import FitConfig
from rayinfluence.curvature.blocks import Basis, block_sizes
from rayinfluence.dataflow.layout import MANIFEST
from rayinfluence.dataflow.stages.factors import find_factors
from rayinfluence.dataflow.stages.sample import plan_fit
from rayinfluence.errors import DamagedError
from rayinfluence.storage.store import Store

pytestmark = pytest.mark.runs


def random(seed: int, *shape: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64).to(DEVICE)


@given(st.integers(1, 100), st.integers(1, 12))
def test_blocks_are_contiguous_and_nearly_equal(width: int, n_blocks: int) -> None:
    sizes = block_sizes(width, n_blocks)
    assert sum(sizes) == width
    assert len(sizes) == min(width, n_blocks)
    assert max(sizes) - min(sizes) <= 1
    assert min(sizes) >= 1


@pytest.mark.parametrize("sizes", [(5,), (3, 2), (2, 2, 1), (1, 1, 1, 1, 1)])
@pytest.mark.parametrize("rows", [(4,), (2, 3), ()])
def test_a_basis_in_blocks_acts_as_its_dense_matrix(
    sizes: tuple[int, ...], rows: tuple[int, ...]
) -> None:
    basis = Basis(tuple(random(size, size, size) for size in sizes))
    Q = basis.dense()
    x = random(0, *rows, 5)
    assert_same(basis.rotate(x), x @ Q, "x Q")
    assert_same(basis.rotate_back(x), x @ Q.T, "x Q^T")
    one = torch.ones(*rows, 1).to(x)
    if rows:
        shorter = x[..., :4]
        assert_same(basis.rotate_inputs(shorter), torch.cat([shorter, one], dim=-1) @ Q, "[x, 1] Q")
    again = Basis.from_tensors({**basis.to_tensors("basis"), "basis_other.0": x}, "basis")
    assert torch.equal(again.dense(), Q)


@pytest.mark.parametrize("n_blocks", [1, 2, 3])
def test_factors_are_those_of_the_diagonal_blocks(
    fitted: Fitted, n_blocks: int, tmp_path: Path
) -> None:
    """A and S are explicit sums, zero off the diagonal blocks; Lambda is whole."""
    replica, sequences, names = fitted.replica, fitted.sequences, fitted.names
    factors = fit_factors(replica, sequences, tmp_path, blocks=n_blocks)
    operator = operator_of(factors)
    drawn = naive.sampled_labels(replica.model, sequences, range(len(sequences)), SEED)
    per_sequence = naive.sequence_gradients(replica.model, names, sequences, drawn)
    for name, (A, S) in naive.covariances(replica.model, names, sequences, drawn).items():
        module = operator[name].factors
        for side, basis, values, matrix in (
            ("inputs", module.inputs_basis, module.inputs_eigenvalues, A),
            ("outputs", module.outputs_basis, module.outputs_eigenvalues, S),
        ):
            is_diagonal = side == replica.shapes[name].diagonal  # which no block can better
            sizes = block_sizes(len(matrix), 1 if is_diagonal else n_blocks)
            assert basis.sizes == sizes
            mask = torch.block_diag(*[torch.ones(s, s).to(matrix) for s in sizes])
            Q = basis.dense()
            assert_same(Q @ torch.diag(values) @ Q.T, matrix * mask, f"covariance of {name}")
            assert_same(Q.T @ Q, torch.eye(len(Q), dtype=Q.dtype), f"basis of {name}")
        bases = {name: (module.inputs_basis.dense(), module.outputs_basis.dense())}
        assert_same(module.moments, naive.moments(per_sequence, bases)[name], f"Lambda of {name}")
        dense = naive.dense_operator(*bases[name], module.moments, operator[name].damping)
        V = random(1, *module.moments.shape)
        assert_same(operator[name].inverse() @ V, naive.solve(dense, V), f"solve, {name}", 1e-9)


def test_one_block_is_the_exact_form_and_several_are_not(fitted: Fitted, tmp_path: Path) -> None:
    scores = {}
    for n_blocks in (1, 2):
        folder = tmp_path / str(n_blocks)
        factors = fit_factors(fitted.replica, fitted.sequences, folder, blocks=n_blocks)
        bank = make_bank(fitted.replica, factors, fitted.queries, folder)
        scores[n_blocks] = all_scores(fitted.replica, bank, fitted.sequences)
    exact = make_bank(fitted.replica, fitted.factors, fitted.queries, tmp_path)
    expected = all_scores(fitted.replica, exact, fitted.sequences)
    assert torch.equal(scores[1], expected)
    assert not torch.allclose(scores[2], expected, rtol=1e-3)


def test_blocks_save_memory(fitted: Fitted, tmp_path: Path) -> None:
    split = fit_factors(fitted.replica, fitted.sequences, tmp_path, blocks=2)

    def numbers(tensors: dict[str, Tensor]) -> int:
        return sum(t.numel() for name, t in tensors.items() if "_basis." in name)

    ratio = numbers(basis_tensors(split)) / numbers(basis_tensors(fitted.factors))
    assert 0.5 <= ratio < 0.52  # odd widths do not halve


@pytest.mark.parametrize("change", [{"blocks": 2}, {"labels": "data"}])
def test_a_factor_file_of_another_layout_or_fit_is_refused(
    fitted: Fitted, tmp_path: Path, change: dict
) -> None:
    args = (fitted.replica, fitted.sequences)
    ours, other = fit_factors(*args, tmp_path / "a"), fit_factors(*args, tmp_path / "b", **change)
    key = f"modules/{fitted.names[0]}.safetensors"
    ours.store.write(key, other.store.read(key))
    with pytest.raises(DamagedError, match=f"it is {other.fingerprint}/{key} and not"):
        ours.by_module()


def test_a_manifest_of_other_factors_is_refused(fitted: Fitted, tmp_path: Path) -> None:
    replica, sequences = fitted.replica, fitted.sequences
    ours = fit_factors(replica, sequences, tmp_path)
    other = fit_factors(replica, sequences, tmp_path, blocks=2)
    assert other.fingerprint != ours.fingerprint
    ours.store.write(MANIFEST, other.store.read(MANIFEST))
    corpus = write_corpus(tmp_path / "corpus", sequences)
    config = FitConfig(sequences=10**6, lanes=3, error_bound=None)
    plan = plan_fit(config, corpus, 1, replica.numerics, "model", replica.shapes)
    assert plan.fingerprint == ours.fingerprint
    with pytest.raises(DamagedError, match=r"other factors than its folder's name says: .*blocks"):
        find_factors(Store(str(tmp_path / "factors")), plan)
