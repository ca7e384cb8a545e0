"""Scores: two contractions, one number; layers and tokens add up to it."""

from __future__ import annotations

from pathlib import Path

import naive
import pytest
import torch
from compare import assert_same
from device import DEVICE
from harness import Fitted, all_scores, explain_pairs, make_bank, naive_scores, table
from torch import Tensor, nn

from rayinfluence.dataflow.compute import scoring as stages
from rayinfluence.dataflow.compute.grouping import SplitGroups
from rayinfluence.dataflow.compute.replica import own_labels
from rayinfluence.dataflow.compute.scoring import query_gradient, score_split
from rayinfluence.influence import tiles
from rayinfluence.influence.bank import DenseQueries, LowRankQueries
from rayinfluence.influence.contraction import Contraction, Work
from rayinfluence.influence.tiles import Part


def whole(queries: DenseQueries | LowRankQueries) -> Tensor:
    """P_q [Q, O, J]."""
    if isinstance(queries, DenseQueries):
        return queries.matrix_QOJ
    return torch.einsum("oqr,jqr->qoj", queries.left_OQR, queries.right_JQR)


def naive_contraction(parts: list[Part], queries: DenseQueries | LowRankQueries) -> Tensor:
    """<P_q, sum_t g_t a_t^T> [n, Q]."""
    matrix_QOJ = whole(queries)
    found = []
    for inputs, grads in parts:
        ones = inputs.new_ones(*inputs.shape[:2], matrix_QOJ.shape[2] - inputs.shape[2])
        a = torch.cat([inputs, ones], dim=2)
        found.append(torch.einsum("bto,qoj,btj->bq", grads, matrix_QOJ, a))
    return torch.cat(found)


@pytest.mark.parametrize("rank", [None, 2, 1000], ids=["dense", "rank 2", "full rank"])
def test_contractions_agree(
    fitted: Fitted, rank: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    bank = make_bank(fitted.replica, fitted.factors, fitted.queries, fitted.folder, rank=rank)
    held: dict[str, list[Part]] = {name: [] for name in fitted.names}
    for batch in fitted.replica.batches(table(fitted.sequences), {}):
        fitted.replica.run(
            batch,
            own_labels,
            lambda _batch, name, rows: held[name].append((rows.inputs_BRI, rows.grads_BRO)),
            {},
        )
    for name, parts in held.items():
        assert len(parts) > 1
        module = bank.modules[name]
        expected = naive_contraction(parts, module)
        for inputs, grads in parts:
            assert module.token_scores(inputs, grads).shape == (*inputs.shape[:2], len(bank))
        for factored in (False,) if rank is None else (False, True):
            monkeypatch.setattr(Work, "is_factored", factored)
            (scores,) = Contraction().scores(parts, [module])
            assert_same(scores, expected, f"factored {factored}, {name}")
        monkeypatch.undo()
        (scores,) = Contraction().scores(parts, [module])
        assert_same(scores, expected, f"chosen, {name}")


@pytest.mark.parametrize("method", ["ekfac", "gradient_product", "cosine"])
@pytest.mark.parametrize("damping", [None, 0.05])
@pytest.mark.parametrize("rank", [None, 1000], ids=["dense", "full rank"])
def test_scores_equal_autograd_and_a_dense_solve(
    fitted: Fitted, rank: int | None, damping: float | None, method: str
) -> None:
    bank = make_bank(
        fitted.replica, fitted.factors, fitted.queries, fitted.folder, method, rank, damping
    )
    expected = naive_scores(fitted, method, damping)
    found = all_scores(fitted.replica, bank, fitted.sequences)
    assert_same(found, torch.stack(list(expected.values())).sum(dim=0), tolerance=1e-9)
    pairs = [(q, z) for q in range(len(bank)) for z in range(len(fitted.sequences))]
    explained = explain_pairs(fitted.replica, bank, fitted.sequences, pairs)
    for name, scores in expected.items():
        by_pair = torch.full_like(scores, torch.nan)
        for (query, sequence), one in explained.items():
            by_pair[sequence, query] = one.layer_scores[name]
        assert_same(by_pair, scores, name, 1e-9)


@pytest.mark.parametrize("rank", [None, 3], ids=["dense", "rank 3"])
def test_layers_and_tokens_add_up_to_the_score(fitted: Fitted, rank: int | None) -> None:
    bank = make_bank(fitted.replica, fitted.factors, fitted.queries, fitted.folder, rank=rank)
    scores = all_scores(fitted.replica, bank, fitted.sequences)
    # Not every query of every sequence, as for survivors.
    pairs = [(q, z) for q in range(len(bank)) for z in range(len(fitted.sequences)) if (q + z) % 3]
    found = explain_pairs(fitted.replica, bank, fitted.sequences, pairs)
    assert sorted(found) == sorted(pairs)
    for (query, sequence), one in found.items():
        total = scores[sequence, query]
        assert one.token_scores.shape == (len(fitted.sequences[sequence]),)
        assert list(one.layer_scores) == fitted.names
        assert_same(one.score, total, f"score of {one}", 1e-9)
        assert_same(one.token_scores.sum(), total, f"tokens of {one}", 1e-9)
        assert_same(sum(one.layer_scores.values()), total, f"layers of {one}", 1e-9)
        # No gradient is taken at the last token: nothing is predicted there.
        assert one.token_scores[-1] == 0.0


def test_token_scores_belong_to_their_tokens(fitted: Fitted) -> None:
    """g_t^T P_q a_t from vectors that autograd recorded, summed over modules and calls."""
    bank = make_bank(fitted.replica, fitted.factors, fitted.queries, fitted.folder)
    twin, sequence_id, query = naive.trainable(fitted.replica.model), 4, 1
    tokens = fitted.sequences[sequence_id]
    calls = []

    def note(name: str, module: nn.Module, args: tuple[Tensor, ...], output: object) -> None:
        product = naive.product(output)
        product.retain_grad()
        calls.append((name, module, args, product))

    for name in fitted.names:
        twin.get_submodule(name).register_forward_hook(
            lambda module, args, output, name=name: note(name, module, args, output)
        )
    looked_up: list[Tensor] = []

    def keep(output: Tensor) -> None:
        output.retain_grad()
        looked_up.append(output)

    if "lm_head" in fitted.names:  # the case whose head has the weight of the embedding
        twin.get_input_embeddings().register_forward_hook(lambda *call: keep(call[2]))
    naive.log_probability(twin, tokens).backward()
    P = {
        name: whole(bank.modules[name])[query]
        for name in query_gradient(fitted.replica, fitted.queries[query]).tokens
    }
    expected = torch.zeros(len(tokens), dtype=torch.float64, device=DEVICE)
    for name, module, (inputs, *places), output in calls:
        rows = naive.rows(module, inputs.detach(), output.grad, len(tokens))
        # Of an expert, the tokens that chose it.
        of_rows = places[0].tolist() if places else range(len(tokens))
        for t, a, g in zip(of_rows, *rows, strict=True):
            a = torch.cat([a, a.new_ones(1)]) if naive.bias(module) is not None else a
            expected[t] += g @ P[name] @ a
    for embedded in looked_up:
        assert embedded.grad is not None
        expected += (embedded.grad[0] * P["lm_head"][torch.as_tensor(tokens)]).sum(dim=1)
    pair = query, sequence_id
    found = explain_pairs(fitted.replica, bank, fitted.sequences, [pair])[pair]
    assert_same(torch.as_tensor(found.token_scores), expected, tolerance=1e-9)


# --- the bank ---


D_IN, D_OUT = 7, 11


def synthetic(
    seed: int, bias: bool, n_queries: int, rank: int, shapes: list[tuple[int, int]]
) -> tuple[LowRankQueries, list[Part]]:
    """Queries, and a window of batches of (sequences, tokens)."""
    generator = torch.Generator().manual_seed(seed)

    def random(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64).to(DEVICE)

    left, right = random(D_OUT, n_queries, rank), random(D_IN + bias, n_queries, rank)
    parts = [(random(*shape, D_IN), random(*shape, D_OUT)) for shape in shapes]
    return LowRankQueries(left, right, D_IN), parts


@pytest.mark.parametrize("factored", [False, True])
@pytest.mark.parametrize("tile", [1, 40, 200, 10**6])
@pytest.mark.parametrize("bias", [False, True])
def test_tiles_add_up(
    bias: bool, tile: int, factored: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    queries, parts = synthetic(0, bias, 5, 3, [(4, 6), (1, 2), (3, 9)])
    dense = DenseQueries(whole(queries), D_IN)
    expected = naive_contraction(parts, queries)
    monkeypatch.setitem(tiles.TILE_NUMBERS, DEVICE.type, tile)
    monkeypatch.setattr(Work, "is_factored", factored)
    contracted = Contraction()
    for _ in range(2):  # the second time in memory that has been used
        (scores,) = contracted.scores(parts, [queries])
        assert_same(scores, expected)
        if not factored:
            (scores,) = contracted.scores(parts, [dense])
            assert_same(scores, expected)


def work(n_sequences: int, length: int, n_queries: int, rank: int | None = 32) -> Work:
    return Work(n_sequences, n_sequences * length, 256, 1024, n_queries, rank, 4, "cpu")


def test_the_cheaper_contraction_is_chosen() -> None:
    # Short sequences against few queries meet in the rank; long ones are worth a gradient.
    assert work(400, 5, 1).is_factored
    assert work(400, 5, 10).is_factored
    assert not work(64, 256, 10).is_factored
    assert not work(64, 256, 256).is_factored
    # A window of one short sequence is not worth rebuilding P_q.
    assert work(1, 16, 64).is_factored
    assert not work(1, 16, 64, rank=None).is_factored


def test_bytes_count_in_the_choice(monkeypatch: pytest.MonkeyPatch) -> None:
    """By operations alone the gradient would be made; moving it costs more than it saves."""
    assert work(64, 256, 7).is_factored
    monkeypatch.setitem(tiles.FLOPS_PER_BYTE, "cpu", 0)
    assert not work(64, 256, 7).is_factored


@pytest.mark.parametrize("method", ["ekfac", "cosine"])
@pytest.mark.parametrize(
    ("capacity", "most"),
    [(0, 10**6), (20, 10**6), (10**6, 3), (10**6, 10**6)],
    ids=["each", "some", "of few sequences", "all"],
)
def test_windows_do_not_change_scores(
    fitted: Fitted, capacity: int, most: int, method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    args = (fitted.replica, fitted.factors, fitted.queries, fitted.folder)
    bank = make_bank(*args, method, rank=2)
    expected = all_scores(fitted.replica, bank, fitted.sequences)
    widths = sum(
        # The head of the tied case has a row of what is embedded beside each of its own.
        (s.d_out + (s.d_in if s.source == name else 0)) * (1 + (name == "lm_head"))
        for name, s in fitted.replica.shapes.items()
    )
    monkeypatch.setitem(stages.WINDOW_BYTES, DEVICE.type, capacity * widths * 8)
    monkeypatch.setitem(stages.WINDOW_SEQUENCES, DEVICE.type, most)
    sizes = []
    original = Contraction.scores
    monkeypatch.setattr(
        Contraction,
        "scores",
        lambda self, parts, *rest: sizes.append(len(parts)) or original(self, parts, *rest),
    )
    assert_same(all_scores(fitted.replica, bank, fitted.sequences), expected)
    n_batches = len(list(fitted.replica.batches(table(fitted.sequences), {})))
    if capacity == 0:
        assert max(sizes) == 1
    elif capacity == most:
        assert max(sizes) == n_batches
    else:
        assert 1 < max(sizes) < n_batches


def test_banks_in_one_pass_score_as_alone(fitted: Fitted) -> None:
    args = (fitted.replica, fitted.factors, fitted.queries, fitted.folder)
    banks = [make_bank(*args), make_bank(*args, rank=2), make_bank(*args, "gradient_product")]
    banks += [make_bank(*args, "cosine"), make_bank(*args, "cosine", rank=1)]
    # One whose scores are not finite spoils no other.
    overflowing = make_bank(*args, "gradient_product")
    for module in overflowing.modules.values():
        module.matrix_QOJ.mul_(1e308).mul_(1e308)
    banks.append(overflowing)
    rows = table(fitted.sequences)
    together = [
        one.partial(SplitGroups(rows), 7) for one in score_split(fitted.replica, banks, rows)
    ]
    for bank, partial in zip(banks, together, strict=True):
        (scored,) = score_split(fitted.replica, [bank], rows)
        alone = scored.partial(SplitGroups(rows), 7)
        assert alone.proponents.scores_QK.tobytes() == partial.proponents.scores_QK.tobytes()
        assert alone.opponents.ids_QK.tobytes() == partial.opponents.ids_QK.tobytes()
        assert alone.quarantine == partial.quarantine
    assert len(together[-1].quarantine) == len(fitted.sequences)
    assert together[0].n_sequences == len(fitted.sequences)


def test_scores_approach_the_dense_ones_with_rank(fitted: Fitted, tmp_path: Path) -> None:
    args = (fitted.replica, fitted.factors, fitted.queries, tmp_path)
    dense = make_bank(*args)
    ranks = (1, 2, 4, 8, 1000)
    banks = {rank: make_bank(*args, rank=rank) for rank in ranks}
    for name, module in dense.modules.items():
        errors = []
        for rank in ranks:
            low = banks[rank].modules[name]
            width = min(rank, *module.matrix_QOJ.shape[1:])
            assert low.left_OQR.shape[2] == width
            difference = whole(low) - module.matrix_QOJ
            errors.append(difference.flatten(1).norm(dim=1))
            # The best that any matrix of this rank can do: the tail of the singular values.
            tail = torch.linalg.svdvals(module.matrix_QOJ)[:, width:].norm(dim=1)
            scale = module.matrix_QOJ.flatten(1).norm(dim=1)
            assert bool((errors[-1] <= tail * (1 + 1e-9) + 1e-12 * scale).all()), name
        assert bool((torch.stack(errors).diff(dim=0) <= 1e-12).all()), name
    scores = all_scores(fitted.replica, dense, fitted.sequences)
    assert_same(all_scores(fitted.replica, banks[1000], fitted.sequences), scores, tolerance=1e-9)
