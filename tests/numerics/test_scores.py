"""Scores: two contractions, one number; layers and tokens add up to it."""

from __future__ import annotations

from pathlib import Path

import naive
import pytest
import torch
from compare import assert_same
from harness import Fitted, all_scores, bases_of, make_bank, table
from torch import Tensor

from rayinfluence.dataflow.replica import own_labels
from rayinfluence.dataflow.stages import explain, query_gradient, score_split
from rayinfluence.influence import bank as bank_module
from rayinfluence.influence.bank import DenseQueries, LowRankQueries, materialised_scores


def naive_scores(fitted: Fitted, method: str, damping: float | None = None) -> dict[str, Tensor]:
    """<P_q, D_z> [N, Q] by module: autograd for both gradients and a dense solve between them."""
    model, names = fitted.replica.model, fitted.names
    twin = naive.trainable(model)
    queries = [
        naive.gradients(
            twin, names, naive.log_probability(twin, list(query.tokens), first=query.first_target)
        )
        for query in fitted.queries
    ]
    sequences = naive.sequence_gradients(model, names, fitted.sequences)
    scores = {}
    for name, (Q_A, Q_S) in bases_of(fitted.operator).items():
        moments = fitted.operator.factors[name].moments
        value = float(0.1 * moments.mean()) if damping is None else damping
        dense = naive.dense_operator(Q_A, Q_S, moments, value)
        solved = [
            naive.solve(dense, query[name]) if method == "ekfac" else query[name]
            for query in queries
        ]
        scores[name] = torch.tensor(
            [[float((P * D[name]).sum()) for P in solved] for D in sequences], dtype=torch.float64
        )
    return scores


@pytest.mark.parametrize("rank", [None, 2, 1000], ids=["dense", "rank 2", "full rank"])
def test_contractions_agree(fitted: Fitted, rank: int | None) -> None:
    bank = make_bank(fitted.replica, fitted.factors, fitted.queries, fitted.folder, rank=rank)
    n_compared = 0

    def step(batch, name, inputs, grads) -> None:
        nonlocal n_compared
        module = bank.modules[name]
        tokens = module.token_scores(inputs, grads)
        whole = materialised_scores(inputs, grads, module.dense_tile, len(bank))
        assert tokens.shape == (*inputs.shape[:2], len(bank))
        assert_same(tokens.sum(dim=1), whole, f"factored and materialised, {name}")
        assert_same(module.scores(inputs, grads), whole, f"chosen and materialised, {name}")
        n_compared += 1

    for batch in fitted.replica.batches(table(fitted.sequences), {}):
        fitted.replica.run(batch, own_labels, step, {})
    assert n_compared >= len(fitted.names)


@pytest.mark.parametrize("method", ["ekfac", "gradient_product"])
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
    explained = explain(fitted.replica, bank, table(fitted.sequences), pairs)
    for name, scores in expected.items():
        by_pair = torch.full_like(scores, torch.nan)
        for one in explained:
            by_pair[one.sequence_id, one.query] = one.layer_scores[name]
        assert_same(by_pair, scores, name, 1e-9)


@pytest.mark.parametrize("rank", [None, 3], ids=["dense", "rank 3"])
def test_layers_and_tokens_add_up_to_the_score(fitted: Fitted, rank: int | None) -> None:
    bank = make_bank(fitted.replica, fitted.factors, fitted.queries, fitted.folder, rank=rank)
    scores = all_scores(fitted.replica, bank, fitted.sequences)
    # Not every query of every sequence, as for survivors.
    pairs = [(q, z) for q in range(len(bank)) for z in range(len(fitted.sequences)) if (q + z) % 3]
    found = explain(fitted.replica, bank, table(fitted.sequences), pairs)
    assert sorted((one.query, one.sequence_id) for one in found) == sorted(pairs)
    for one in found:
        total = scores[one.sequence_id, one.query]
        assert one.token_scores.shape == (len(fitted.sequences[one.sequence_id]),)
        assert list(one.layer_scores) == fitted.names
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
    for name in fitted.names:
        twin.get_submodule(name).register_forward_hook(
            lambda module, args, output, name=name: (
                (
                    output.retain_grad(),
                    calls.append((name, module, args[0].detach()[0], output)),
                )[2:]
                or None
            )
        )
    naive.log_probability(twin, tokens).backward()
    P = {
        name: fitted.operator.solve(name, gradient)
        for name, gradient in query_gradient(
            fitted.replica, fitted.queries[query]
        ).gradients.items()
    }
    expected = torch.zeros(len(tokens), dtype=torch.float64)
    for name, module, inputs, output in calls:
        for t, a in enumerate(inputs):
            a = torch.cat([a, a.new_ones(1)]) if module.bias is not None else a
            expected[t] += output.grad[0, t] @ P[name] @ a
    (found,) = explain(fitted.replica, bank, table(fitted.sequences), [(query, sequence_id)])
    assert_same(torch.as_tensor(found.token_scores), expected, tolerance=1e-9)


# --- the bank ---


def synthetic(seed: int, bias: bool, n_queries: int, rank: int, n_tokens: int):
    generator = torch.Generator().manual_seed(seed)

    def random(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    d_in, d_out, n_sequences = 7, 11, 4
    low_rank = LowRankQueries(random(d_out, n_queries, rank), random(d_in + bias, n_queries, rank))
    return low_rank, random(n_sequences, n_tokens, d_in), random(n_sequences, n_tokens, d_out)


@pytest.mark.parametrize("tile", [1, 40, 200, 10**6])
@pytest.mark.parametrize("bias", [False, True])
def test_tiles_add_up(bias: bool, tile: int, monkeypatch: pytest.MonkeyPatch) -> None:
    queries, inputs, grads = synthetic(0, bias, 5, 3, 6)
    dense = DenseQueries(queries.dense_tile(0, 11))
    ones = torch.ones(4, 6, 1, dtype=torch.float64)
    a = torch.cat([inputs, ones], dim=2) if bias else inputs
    expected = torch.einsum("bto,qoj,btj->bq", grads, dense.matrix_QOJ, a)
    monkeypatch.setattr(bank_module, "_TILE_NUMBERS", tile)
    assert_same(materialised_scores(inputs, grads, queries.dense_tile, 5), expected)
    assert_same(dense.scores(inputs, grads), expected)


@pytest.mark.parametrize(
    ("shape", "factored"), [((1, 1, 2), True), ((20, 4, 50), False)], ids=["few", "many"]
)
def test_the_cheaper_contraction_is_chosen(
    shape: tuple[int, int, int], factored: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    queries, inputs, grads = synthetic(1, True, *shape)
    expected = queries.token_scores(inputs, grads).sum(dim=1)
    used = []
    original = bank_module.materialised_scores
    monkeypatch.setattr(
        bank_module, "materialised_scores", lambda *a: used.append("whole") or original(*a)
    )
    assert_same(queries.scores(inputs, grads), expected)
    assert used == ([] if factored else ["whole"])


@pytest.mark.parametrize("bias", [False, True])
def test_some_queries_score_as_among_all(bias: bool) -> None:
    low_rank, inputs, grads = synthetic(2, bias, 5, 3, 6)
    for queries in (low_rank, DenseQueries(low_rank.dense_tile(0, 11))):
        tokens = queries.token_scores(inputs, grads)
        some = queries.select([3, 0])
        assert_same(some.token_scores(inputs, grads), tokens[:, :, [3, 0]])
        assert_same(some.scores(inputs, grads), tokens.sum(dim=1)[:, [3, 0]])


def test_banks_in_one_pass_score_as_alone(fitted: Fitted) -> None:
    args = (fitted.replica, fitted.factors, fitted.queries, fitted.folder)
    banks = [make_bank(*args), make_bank(*args, rank=2), make_bank(*args, "gradient_product")]
    rows = table(fitted.sequences)
    together = score_split(fitted.replica, banks, rows, 7, [])
    for bank, partial in zip(banks, together, strict=True):
        (alone,) = score_split(fitted.replica, [bank], rows, 7, [])
        assert alone.proponents.scores_QK.tobytes() == partial.proponents.scores_QK.tobytes()
        assert alone.opponents.ids_QK.tobytes() == partial.opponents.ids_QK.tobytes()


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
            difference = low.dense_tile(0, low.left_OQR.shape[0]) - module.matrix_QOJ
            errors.append(difference.flatten(1).norm(dim=1))
            # The best that any matrix of this rank can do: the tail of the singular values.
            tail = torch.linalg.svdvals(module.matrix_QOJ)[:, width:].norm(dim=1)
            scale = module.matrix_QOJ.flatten(1).norm(dim=1)
            assert bool((errors[-1] <= tail * (1 + 1e-9) + 1e-12 * scale).all()), name
        assert bool((torch.stack(errors).diff(dim=0) <= 1e-12).all()), name
    scores = all_scores(fitted.replica, dense, fitted.sequences)
    assert_same(all_scores(fitted.replica, banks[1000], fitted.sequences), scores, tolerance=1e-9)
