"""Operations of solves: as they are counted, and as they are dealt to actors."""

from dataclasses import replace

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import GPT2Config, GPT2LMHeadModel

from rayinfluence.curvature.iterative.explicit import COLUMNS
from rayinfluence.curvature.iterative.solvers import IterativeSolver
from rayinfluence.dataflow.compute.solves_foreseen import (
    ForeseenSolves,
    is_shared,
    product_operations,
    solved_at_once,
)
from rayinfluence.model.batches import make_batch
from rayinfluence.model.curvature_products import curvature_products
from rayinfluence.model.load import freeze
from rayinfluence.model.targets import NextTokens

T, W, Q = 1_000, 5_000, 6
PCG = IterativeSolver("pcg", steps=10)
SOLVES = ForeseenSolves(
    PCG, n_banks=1, n_queries=Q, n_weights=W, n_tokens=T, n_lanes=4, device="cpu"
)


@pytest.mark.parametrize("n", [1, 3, 8])
def test_operations_of_a_product_are_those_that_are_counted(n: int) -> None:
    """Of a model of which nearly all is tracked."""
    torch.manual_seed(0)
    sizes = {"n_embd": 64, "n_layer": 4, "n_head": 2, "n_inner": 1024}
    model = freeze(GPT2LMHeadModel(GPT2Config(vocab_size=8, n_positions=16, **sizes)).eval())
    modules = {
        f"{layer}.{name}": getattr(block.mlp, name)
        for layer, block in enumerate(model.transformer.h)
        for name in ("c_fc", "c_proj")
    }
    batch = make_batch([torch.arange(16).remainder(8).numpy()] * 4, range(4), torch.device("cpu"))
    directions = [
        {name: torch.randn(one.nf, one.nx + 1) for name, one in modules.items()} for _ in range(n)
    ]
    with FlopCounterMode(display=False) as counter:
        curvature_products(model, modules, batch, NextTokens().targets(batch), directions)
    n_weights = sum(one.weight.numel() for one in modules.values())
    expected = product_operations(batch.n_tokens, n_weights, n)
    # Attention and the head are beside it, and what the first layer reads needs no gradient.
    assert counter.get_total_flops() == pytest.approx(expected, rel=0.1)


def test_blocks_share_what_directions_share() -> None:
    """Two residuals and ten steps: of six queries together, of two by two, and one by one."""
    assert SOLVES.operations(1) == 12 * (6 + 8 * 6) * T * W
    assert SOLVES.operations(3) == 12 * (6 + 8 * 2) * T * W
    assert SOLVES.operations(100) == 12 * (6 + 8) * T * W
    assert replace(SOLVES, n_banks=2).operations(3) == 2 * SOLVES.operations(3)


def test_what_does_not_fit_at_once_is_done_one_block_after_another() -> None:
    huge = replace(SOLVES, n_weights=(1 << 31) // (2 * 32))
    assert solved_at_once(huge.n_weights, "cpu") == 2
    assert huge.operations(1) == 3 * 12 * (6 + 8 * 2) * T * huge.n_weights
    assert huge.operations(2) == 2 * 12 * (6 + 8 * 2) * T * huge.n_weights


def test_what_is_made_once_is_counted_once() -> None:
    explicit = replace(SOLVES, solver=IterativeSolver("explicit", steps=0))
    together = W * (6 + 8 * COLUMNS) / COLUMNS * T * W
    assert explicit.operations(1) == pytest.approx(2 * (6 + 8 * Q) * T * W + together)
    arnoldi = replace(SOLVES, solver=IterativeSolver("arnoldi", steps=7))
    assert arnoldi.operations(1) == pytest.approx((2 * (6 + 8 * Q) + 7 * (6 + 8)) * T * W)
    lissa = replace(SOLVES, solver=IterativeSolver("lissa", steps=8, repeats=3))
    # Six products with each part for its scale, and of a query two whole ones and 24 parts.
    assert lissa.operations(1) == pytest.approx(((2 + 6) * (6 + 8 * Q) + 6 * (6 + 8)) * T * W)


def test_products_of_few_long_solves_are_shared() -> None:
    long = replace(SOLVES, n_queries=1, n_tokens=10**7, n_weights=10**6)
    told = PCG, 1, 12 * long.n_tokens, long.n_weights
    assert not is_shared(*told, 1, "cpu")
    assert is_shared(*told, 2, "cpu")
    assert long.operations(2) == long.operations(1) / 2
    assert long.operations(3) == long.operations(2)  # of four lanes one actor has two
    assert long.operations(100) == long.operations(1) / 4
