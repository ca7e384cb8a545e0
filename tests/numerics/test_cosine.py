"""Norms of sequences' gradients, both ways, and the cosines that are made of them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from compare import assert_same
from device import DEVICE
from harness import Fitted, all_scores, encoded, explain_pairs, make_bank, naive_scores, table

from rayinfluence.dataflow.compute.replica import own_labels
from rayinfluence.dataflow.compute.scoring import score_split
from rayinfluence.influence import tiles
from rayinfluence.influence.bank import DenseQueries
from rayinfluence.influence.contraction import Contraction
from rayinfluence.influence.squares import Squares, per_length
from rayinfluence.influence.tiles import Part


def made_up(shapes: list[tuple[int, int]], d_in: int = 5, d_out: int = 4) -> list[Part]:
    """Inputs and output gradients of some batches of (sequences, tokens), the last token padded."""
    generator = torch.Generator().manual_seed(0)
    parts = []
    for n, length in shapes:
        inputs, grads = (
            torch.randn(n, length, width, generator=generator, dtype=torch.float64)
            for width in (d_in, d_out)
        )
        grads[:, -1] = 0
        parts.append((inputs.to(DEVICE), grads.to(DEVICE)))
    return parts


def squares_of(parts: list[Part], bias: bool) -> torch.Tensor:
    """From the gradients, whole."""
    found = []
    for inputs, grads in parts:
        columns = [inputs, inputs.new_ones(*inputs.shape[:2], int(bias))]
        D = torch.einsum("bto,btj->boj", grads, torch.cat(columns, dim=2))
        found.append(D.square().sum(dim=(1, 2)))
    return torch.cat(found)


@pytest.mark.parametrize("by_tokens", [False, True])
@pytest.mark.parametrize("tile", [1, 40, 200, 10**6])
@pytest.mark.parametrize("bias", [False, True])
def test_both_ways_give_the_norms(
    bias: bool, tile: int, by_tokens: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    parts = made_up([(4, 6), (1, 2), (3, 9)])
    queries = DenseQueries(torch.ones(2, 4, 5 + bias, dtype=torch.float64, device=DEVICE), 5)
    (alone,) = Contraction().scores(parts, [queries])
    monkeypatch.setitem(tiles.TILE_NUMBERS, DEVICE.type, tile)
    monkeypatch.setattr(Squares, "by_tokens", staticmethod(lambda parts: by_tokens))
    for banks in ([], [queries], [queries, queries]):
        squares = Squares(parts, bias)
        scores = Contraction().scores(parts, banks, squares)
        assert_same(squares.sums_n, squares_of(parts, bias), f"{len(banks)} banks")
        for found in scores:
            assert_same(found, alone, "scores beside the norms")


def test_shapes_alone_choose_the_way() -> None:
    """Short sequences of wide modules go token by token, and long ones through their gradient."""
    short, long = ([torch.zeros(2, n, width) for width in (64, 48)] for n in (8, 200))
    assert Squares.by_tokens([tuple(short)])
    assert not Squares.by_tokens([tuple(long)])


def test_lengths_that_are_none() -> None:
    """What has no gradient is like nothing; what overflows has no score."""
    scale = per_length(np.array([4.0, 0.0, np.inf, np.nan]))
    assert scale[:2].tolist() == [0.5, 0.0]
    assert np.isnan(scale[2:]).all()


@pytest.mark.parametrize("by_tokens", [False, True])
def test_cosines_are_those_of_autograd_either_way(
    fitted: Fitted, by_tokens: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    bank = make_bank(fitted.replica, fitted.factors, fitted.queries, fitted.folder, "cosine")
    monkeypatch.setattr(Squares, "by_tokens", staticmethod(lambda parts: by_tokens))
    expected = torch.stack(list(naive_scores(fitted, "cosine").values())).sum(dim=0)
    assert float(expected.abs().max()) < 1
    assert_same(all_scores(fitted.replica, bank, fitted.sequences), expected, tolerance=1e-10)


def test_a_cut_query_keeps_its_whole_norm(fitted: Fitted, tmp_path: Path) -> None:
    """The scan's scores are those of what a low rank keeps over the norm of all of it."""
    args = (fitted.replica, fitted.factors, fitted.queries, tmp_path)
    cosines = all_scores(fitted.replica, make_bank(*args, "cosine", rank=1), fitted.sequences)
    cut = all_scores(fitted.replica, make_bank(*args, "gradient_product", rank=1), fitted.sequences)
    whole = all_scores(fitted.replica, make_bank(*args, "gradient_product"), fitted.sequences)
    exact = all_scores(fitted.replica, make_bank(*args, "cosine"), fitted.sequences)
    # The product of both norms, which a cut of the query does not change.
    assert_same(cut / cosines, whole / exact, "norms", 1e-8)


def test_a_query_that_is_a_sequence_has_the_cosine_1(fitted: Fitted, tmp_path: Path) -> None:
    queries = [encoded(tokens) for tokens in fitted.sequences]
    bank = make_bank(fitted.replica, fitted.factors, queries, tmp_path, "cosine")
    scores = all_scores(fitted.replica, bank, fitted.sequences)
    assert_same(scores.diagonal(), torch.ones(len(queries), dtype=torch.float64), "to itself")
    pairs = [(index, index) for index in range(len(queries))]
    for one in explain_pairs(fitted.replica, bank, fitted.sequences, pairs).values():
        assert_same(sum(one.layer_scores.values()), 1.0, "layers")
        assert_same(one.token_scores.sum(), 1.0, "tokens")


def test_a_sequence_that_a_model_does_not_learn_from_is_like_nothing(
    fitted: Fitted, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A gradient of zero has a score of zero, and is not quarantined."""
    bank = make_bank(fitted.replica, fitted.factors, fitted.queries, fitted.folder, "cosine")
    run = fitted.replica.run

    def nothing(batch, labels, step, quarantine):
        def cut(batch, name, rows):
            rows.grads_BRO[batch.sequence_ids == 3] = 0
            step(batch, name, rows)

        return run(batch, own_labels, cut, quarantine)

    monkeypatch.setattr(fitted.replica, "run", nothing)
    (scored,) = score_split(fitted.replica, [bank], table(fitted.sequences))
    scores = dict(zip(scored.ids_N.tolist(), scored.scores_NQ, strict=True))
    assert scores[3].tolist() == [0.0] * len(bank)
    assert all(scores[index].all() for index in scores if index != 3)
    assert not scored.quarantine


@pytest.mark.parametrize("length", [3, 200])
def test_norms_have_the_same_bits_whatever_bank_is_beside(length: int) -> None:
    """The way does not change with what else is made of D_z."""
    parts = [(inputs.float(), grads.float()) for inputs, grads in made_up([(4, length)], 40, 30)]
    assert Squares.by_tokens(parts) == (length == 3)
    queries = DenseQueries(torch.ones(2, 30, 41, device=DEVICE), 40)
    alone, beside = Squares(parts, True), Squares(parts, True)
    Contraction().scores(parts, [], alone)
    Contraction().scores(parts, [queries], beside)
    assert torch.equal(alone.sums_n, beside.sums_n)
