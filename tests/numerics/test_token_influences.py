"""Output- and input-token influences are the derivatives that they are said to be."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from cases import llama, token_sequences
from compare import assert_same
from device import DEVICE
from harness import Fitted, dense, explain_pairs, make_bank, naive_scores, table
from test_rescoring import check_rows, found_by
from torch import Tensor, nn
from torch.func import functional_call, grad, jvp
from torch.nn.attention import SDPBackend, sdpa_kernel

from rayinfluence.dataflow.compute.replica import Numerics, Replica
from rayinfluence.dataflow.compute.token_influences import pairs_token_influences, refuse_other_sums
from rayinfluence.errors import ModelError, NumericsError
from rayinfluence.influence.bank import DenseQueries, QueryBank
from rayinfluence.model.layers import layer_of
from rayinfluence.model.modules import track
from rayinfluence.testing import tiny_gpt2, tiny_llama, tiny_opt

pytestmark = pytest.mark.runs

#: Sequences of different lengths, which stand side by side.
SEQUENCES = (0, 2, 3, 4, 6)
KINDS = ("output", "input", "embedding")


@pytest.fixture(autouse=True)
def _embeds(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Models that are none of transformers do not say which of their modules embeds tokens."""
    if "fitted" in request.fixturenames:
        model = request.getfixturevalue("fitted").replica.model
        if not hasattr(model, "get_input_embeddings"):
            monkeypatch.setattr(model, "get_input_embeddings", lambda: model.embed, raising=False)


def bank_of(fitted: Fitted, folder: Path) -> QueryBank:
    return dense(make_bank(fitted.replica, fitted.factors, fitted.queries, folder))


def directions_of(bank: QueryBank, query: int) -> dict[str, Tensor]:
    return {name: module.matrix_QOJ[query] for name, module in bank.modules.items()}


def found_of(replica: Replica, bank: QueryBank, query: int) -> dict[int, np.ndarray]:
    """Influences [3, T] by sequence."""
    sequences = token_sequences()
    pairs = {z: (z, query) for z in SEQUENCES}
    return pairs_token_influences(replica, bank, table(sequences), pairs)


def steps(model: nn.Module, directions: dict[str, Tensor]) -> dict[str, Tensor]:
    """What is added to each parameter of tracked modules by a step of one along a direction."""
    found = {}
    for name, direction_OJ in directions.items():
        module = model.get_submodule(name)
        step = torch.zeros_like(module.weight)
        d_in = layer_of(module).widths(module)[0]
        layer_of(module).matrix(step).copy_(direction_OJ[:, :d_in])
        found[f"{name}.weight"] = step
        if direction_OJ.shape[1] > d_in:
            found[f"{name}.bias"] = direction_OJ[:, -1].clone()
    return found


def log_ps(model: nn.Module, tokens: np.ndarray, **of_model: Tensor) -> Tensor:
    """Log p of each token after the first, as plain transformers gives it."""
    ids = torch.from_numpy(tokens).long().to(DEVICE)
    output = model(**of_model) if of_model else model(ids[None])
    logits = output.logits if hasattr(output, "logits") else output
    return logits[0, :-1].log_softmax(-1).gather(1, ids[1:, None])[:, 0]


def exact(model: nn.Module, directions: dict[str, Tensor], tokens: np.ndarray) -> np.ndarray:
    """Forward derivatives along the direction: of each log p, and of each d/deps log p.

    And how long that of each d/de log p is.
    """
    moves = steps(model, directions)
    named = dict(model.named_parameters(remove_duplicate=False))
    weights = {name: named[name] for name in moves}
    embedding = model.get_input_embeddings()

    def values(weights: dict[str, Tensor], eps_T: Tensor, moved_TD: Tensor) -> Tensor:
        scale = lambda _module, _args, output: output * (1 + eps_T)[:, None] + moved_TD  # noqa: E731
        handle = embedding.register_forward_hook(scale)
        try:
            ids = torch.from_numpy(tokens).long().to(DEVICE)[None]
            output = functional_call(model, weights, (ids,))
            logits = output.logits if hasattr(output, "logits") else output
            return logits[0, :-1].log_softmax(-1).gather(1, ids[0, 1:, None])[:, 0]
        finally:
            handle.remove()

    zeros_T = torch.zeros(len(tokens), dtype=torch.float64, device=DEVICE)
    zeros_TD = zeros_T[:, None] * embedding.weight.detach()[:1]
    both = grad(lambda *told: values(*told).sum(), argnums=(1, 2))
    with sdpa_kernel(SDPBackend.MATH):
        here = lambda weights: values(weights, zeros_T, zeros_TD)  # noqa: E731
        _, output_n = jvp(here, (weights,), (moves,))
        _, (input_T, moved_TD) = jvp(
            lambda weights: both(weights, zeros_T, zeros_TD), (weights,), (moves,)
        )
    last = output_n.new_zeros(1)
    rows = torch.cat([output_n, last]), input_T, moved_TD.norm(dim=1)
    return torch.stack(rows).detach().cpu().numpy()


def test_they_are_the_exact_derivatives_along_the_direction(fitted: Fitted, tmp_path: Path) -> None:
    """Of the weights of tracked modules and their biases, and of no others."""
    bank = bank_of(fitted, tmp_path)
    for query in range(len(bank)):
        found = found_of(fitted.replica, bank, query)
        for z, one in found.items():
            directions = directions_of(bank, query)
            expected = exact(fitted.replica.model, directions, token_sequences()[z])
            for kind, ours, theirs in zip(KINDS, one, expected, strict=True):
                assert_same(torch.from_numpy(ours), torch.from_numpy(theirs), kind, 1e-8)


def test_output_token_influences_add_up_to_the_score(fitted: Fitted, tmp_path: Path) -> None:
    """Which is that of autograd and a dense solve; and nothing is predicted at the end."""
    bank = bank_of(fitted, tmp_path)
    naive_NQ = torch.stack(list(naive_scores(fitted, "ekfac").values())).sum(dim=0)
    for query in range(len(bank)):
        for z, (output_T, input_T, _) in found_of(fitted.replica, bank, query).items():
            assert len(output_T) == len(input_T) == len(token_sequences()[z])
            assert output_T[-1] == 0
            assert_same(output_T.sum(), naive_NQ[z, query], "sum", 1e-9, float(naive_NQ.max()))


def test_they_are_of_the_objective_of_training(fitted: Fitted, tmp_path: Path) -> None:
    """Under a mean a token counts one over the number of those that are predicted."""
    bank = bank_of(fitted, tmp_path)
    numerics = replace(fitted.replica.numerics, reduction="mean")
    means = Replica(fitted.replica.model, fitted.replica.modules, numerics)
    pairs = [(0, z) for z in SEQUENCES]
    scores = explain_pairs(means, bank, token_sequences(), pairs)
    sums = found_of(fitted.replica, bank, 0)
    for z, one in found_of(means, bank, 0).items():
        n = len(token_sequences()[z]) - 1
        assert_same(torch.from_numpy(one), torch.from_numpy(sums[z] / n), "mean", 1e-9)
        assert_same(one[0].sum(), scores[0, z].score, "score", 1e-9, float(np.abs(one).max()))


SHAPES = pytest.mark.parametrize(
    ("make", "wide", "patterns"),
    [
        (tiny_gpt2, tiny_gpt2, ["*.mlp.*"]),
        # Norms of transformers' Llama are in float32 whatever the dtype is; ``wide`` has its own.
        (tiny_llama, llama, ["*.mlp.*", "*.q_proj"]),
    ],
    ids=["gpt2", "llama"],
)


def made(
    make: Callable[..., nn.Module], patterns: list[str], **more: object
) -> tuple[Replica, QueryBank]:
    """A model and a direction of random numbers."""
    model = make(**more).to(DEVICE)
    dtype = next(model.parameters()).dtype
    numerics = Numerics(str(dtype).removeprefix("torch."), DEVICE.type, 20, 2**17, "eager", 0)
    replica = Replica(model, track(model, patterns), numerics)
    generator = torch.Generator().manual_seed(0)
    wide = torch.promote_types(dtype, torch.float32)
    modules = {
        name: DenseQueries(
            torch.randn(1, shape.d_out, shape.columns, generator=generator, dtype=torch.float64)
            .to(wide)
            .to(DEVICE),
            shape.d_in,
        )
        for name, shape in replica.shapes.items()
    }
    return replica, QueryBank(["a"], modules)


@SHAPES
def test_moving_the_weights_by_hand_gives_the_same(
    make: Callable[..., nn.Module], wide: Callable[[], nn.Module], patterns: list[str]
) -> None:
    """A little along the direction and back, and each embedding scaled by itself.

    The model is plain transformers: nothing of ours is asked but where a weight lies.
    """
    replica, bank = made(wide, patterns)
    tokens, alpha, eps = token_sequences()[0], 1e-5, 1e-3
    moves = steps(replica.model, directions_of(bank, 0))

    def moved(sign: float) -> nn.Module:
        other = copy.deepcopy(replica.model)
        for name, step in moves.items():
            other.get_parameter(name).data += sign * alpha * step
        return other

    with torch.no_grad():
        ahead, back = moved(1), moved(-1)
        output_n = (log_ps(ahead, tokens) - log_ps(back, tokens)) / (2 * alpha)
        ids = torch.from_numpy(tokens).long().to(DEVICE)
        input_T = []
        for t in range(len(tokens)):
            total = 0.0
            for model, along in ((ahead, 1), (back, -1)):
                for scale in (1, -1):
                    embeds = model.get_input_embeddings()(ids)[None].clone()
                    embeds[0, t] *= 1 + scale * eps
                    total += (
                        along * scale * float(log_ps(model, tokens, inputs_embeds=embeds).sum())
                    )
            input_T.append(total / (4 * alpha * eps))
    output_T, ours_T, _ = found_of(replica, bank, 0)[0]
    assert_same(torch.from_numpy(output_T[:-1]), output_n, "output", 1e-6)
    assert_same(torch.from_numpy(ours_T), torch.tensor(input_T), "input", 1e-4)


@SHAPES
@pytest.mark.parametrize(
    ("dtype", "tolerances"),
    [(torch.float32, (1e-5, 1e-5, 1e-5)), (torch.bfloat16, (0.1, 0.2, 0.3))],
    ids=["float32", "bfloat16"],
)
def test_in_less_precision_they_are_still_right(
    make: Callable[..., nn.Module],
    wide: Callable[[], nn.Module],
    patterns: list[str],
    dtype: torch.dtype,
    tolerances: tuple[float, float, float],
) -> None:
    """Beside the exact ones at the very same weights; fused attention has no second derivative."""
    replica, bank = made(make, patterns, dtype=dtype, attention="sdpa")
    model, named = wide().to(DEVICE), dict(replica.model.named_parameters())
    for name, weight in model.named_parameters():
        weight.data = named[name].data.double()
    directions = {name: one.double() for name, one in directions_of(bank, 0).items()}
    for z, one in found_of(replica, bank, 0).items():
        expected = exact(model, directions, token_sequences()[z])
        for ours, theirs, tolerance in zip(one, expected, tolerances, strict=True):
            assert np.linalg.norm(ours - theirs) < tolerance * np.linalg.norm(theirs)


def test_what_stands_beside_a_sequence_changes_nothing(
    fitted: Fitted, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bank = bank_of(fitted, tmp_path)
    monkeypatch.setattr("rayinfluence.dataflow.compute.token_influences._SHARE", 1)
    wide = replace(fitted.replica.numerics, batch_tokens=160)
    beside = Replica(fitted.replica.model, fitted.replica.modules, wide)
    alone_too = replace(wide, batch_tokens=1)
    alone = Replica(fitted.replica.model, fitted.replica.modules, alone_too)
    told: list[int] = []
    pairs = {z: (z, 1) for z in SEQUENCES}
    together = pairs_token_influences(beside, bank, table(token_sequences()), pairs, told.append)
    assert len(told) < len(SEQUENCES)
    assert sum(told) == sum(len(token_sequences()[z]) for z in SEQUENCES)
    for z, one in found_of(alone, bank, 1).items():
        assert_same(torch.from_numpy(together[z]), torch.from_numpy(one), "beside", 1e-9)


def test_the_model_is_left_as_it_was_found_whatever_happens(fitted: Fitted, tmp_path: Path) -> None:
    replica, bank = fitted.replica, bank_of(fitted, tmp_path)

    def state() -> list[object]:
        hooks = [
            (len(m._forward_hooks), len(m._forward_pre_hooks)) for m in replica.model.modules()
        ]
        about = [
            (w.data_ptr(), w._version, w.requires_grad, w.grad) for w in replica.model.parameters()
        ]
        return [hooks, about, torch.is_grad_enabled(), torch.backends.cuda.flash_sdp_enabled()]

    before = state()
    bits = [weight.clone() for weight in replica.model.parameters()]
    found_of(replica, bank, 0)

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    last = replica.modules[list(replica.modules)[-1]]
    handle = last.register_forward_hook(interrupt)
    try:
        with pytest.raises(KeyboardInterrupt):
            found_of(replica, bank, 0)
    finally:
        handle.remove()
    assert state() == before
    for weight, expected in zip(replica.model.parameters(), bits, strict=True):
        assert torch.equal(weight, expected)


def test_numbers_that_overflow_are_refused() -> None:
    replica, bank = made(tiny_gpt2, ["*.mlp.*"])
    name = next(iter(bank.modules))
    bank.modules[name].matrix_QOJ[:] = torch.inf
    with pytest.raises(NumericsError, match=r"sequence 0 .*second derivatives.*leave"):
        found_of(replica, bank, 0)


def test_sums_that_are_not_the_score_are_refused() -> None:
    found = {1: np.array([[2.0, -1.5, 0.0], [1.0, 1.0, 1.0]])}
    refuse_other_sums(found, np.array([9.0, 0.5]))
    refuse_other_sums(found, np.array([9.0, 0.6]))
    with pytest.raises(NumericsError, match=r"add up to 0.5, .* score is 4: .*Leave"):
        refuse_other_sums(found, np.array([9.0, 4.0]))
    with pytest.raises(NumericsError, match="add up to 0, "):
        refuse_other_sums({0: np.zeros((2, 3))}, np.array([1e-9]))
    refuse_other_sums({0: np.zeros((2, 3))}, np.zeros(1))


def test_without_an_embedding_they_are_refused() -> None:
    replica, bank = made(tiny_gpt2, ["*.mlp.*"])
    replica.model.get_input_embeddings = lambda: None
    with pytest.raises(ModelError, match=r"GPT2LMHeadModel does not say .*leave the key out"):
        found_of(replica, bank, 0)
    # One that gives something else than a vector per token.
    replica.model.get_input_embeddings = lambda: replica.model.lm_head
    with pytest.raises(ModelError, match=r"Linear.*one vector per token"):
        found_of(*made_on_rows(), 0)


def made_on_rows() -> tuple[Replica, QueryBank]:
    """OPT, whose MLPs get the tokens of all sequences in one row, named as what embeds."""
    replica, bank = made(tiny_opt, ["*.fc1"])
    replica.model.get_input_embeddings = lambda: replica.model.model.decoder.layers[0].fc1
    return replica, bank


@pytest.mark.parametrize("n", [1, 3])
def test_the_first_of_each_direction_have_them(fitted: Fitted, tmp_path: Path, n: int) -> None:
    """By their ranks at full rank, which those of a scan at rank 1 are not; and no others."""
    scanned, merged = found_by(fitted, tmp_path, "ekfac", 1, 5, 2, n)
    rows = check_rows(fitted, scanned, merged)
    bank = bank_of(fitted, tmp_path / "bank")
    places = {query.query.query_id: place for place, query in enumerate(fitted.queries)}
    for row in rows:
        columns = ("output_token_influences", "input_token_influences", "embedding_influences")
        ours = [row[column] for column in columns]
        if row["rank"] > n:
            assert ours == [None] * len(columns)
            continue
        query, z = places[row["query_id"]], row["sequence_id"]
        pair = {0: (z, query)}
        expected = pairs_token_influences(fitted.replica, bank, table(fitted.sequences), pair)[0]
        assert_same(torch.tensor(ours), torch.from_numpy(expected), "row", 1e-5)
        assert row["token_scores"] is None or row["rank"] <= 2 + n


def test_scores_and_ranks_are_the_same_bits_with_them(fitted: Fitted, tmp_path: Path) -> None:
    with_them, _ = found_by(fitted, tmp_path / "with", "ekfac", 1, 5, 2, 2)
    without, _ = found_by(fitted, tmp_path / "without", "ekfac", 1, 5, 2)
    same = ["query_id", "sequence_id", "rank", "score", "scan_score", "layer_scores"]
    assert with_them.table().select(same).equals(without.table().select(same))


def test_a_method_of_unit_lengths_has_none(fitted: Fitted, tmp_path: Path) -> None:
    scanned, merged = found_by(fitted, tmp_path, "cosine", 1, 5, 2, 2)
    for row in check_rows(fitted, scanned, merged):
        assert row["output_token_influences"] is row["input_token_influences"] is None
