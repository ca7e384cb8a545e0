"""The compression test: what is kept, what stands in for the rest, and other choices of nodes."""

import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch
from other_kinds import CLS, MASK, SEP, bert

from rayinfluence.model.load import freeze
from rayinfluence.patterns.anatomy import anatomy_of
from rayinfluence.patterns.baselines import (
    attention_of,
    attention_paths,
    by_chance,
    by_conductance,
)
from rayinfluence.patterns.compression import (
    Kept,
    averages,
    compressed_values,
    values,
)
from rayinfluence.patterns.line import SKIP, Line, Shares
from rayinfluence.patterns.question import Question

MODEL = freeze(bert())
ANATOMY = anatomy_of(MODEL)
FIRST = Question(
    "a", (CLS, 1, MASK, 7, SEP), ("",) * 5, 2, 3, 4, (True, False) * 2 + (True,), "", ""
)
GROUP = [FIRST, replace(FIRST, tokens=(CLS, 9, MASK, 20, SEP), right=4, wrong=3)]
L, T, H = 2, 5, 2
NOTHING = Kept(np.zeros((L, T), bool), np.zeros((L, T, H), bool), np.zeros((L, T), bool))
PATHS = [((1, 1, 2), (SKIP, 1)), ((3, 2, 2), (0, SKIP))]


def hidden_of(question: Question) -> list[torch.Tensor]:
    """Before the first block and behind each, by transformers itself."""
    tokens = torch.tensor([question.tokens])
    with torch.no_grad():
        return [one[0] for one in MODEL(input_ids=tokens, output_hidden_states=True).hidden_states]


def test_values_are_of_the_tokens() -> None:
    for one, value in zip(GROUP, values(MODEL, GROUP), strict=True):
        with torch.no_grad():
            logits = MODEL(input_ids=torch.tensor([one.tokens])).logits[0, 2]
        assert value == pytest.approx(float(logits[one.right] - logits[one.wrong]), abs=1e-12)


def test_averages_are_over_questions_by_place() -> None:
    found = averages(MODEL, ANATOMY, GROUP)
    each = [hidden_of(one) for one in GROUP]
    for depth, (average, *both) in enumerate(zip(found.hidden, *each, strict=True)):
        assert torch.allclose(average, (both[0] + both[1]) / 2), depth
    assert [tuple(one.shape) for one in found.heads] == [(T, 12)] * L
    assert all(not one.any() for one in (*found.zeros().hidden, *found.zeros().heads))


def test_all_that_is_kept_is_the_model() -> None:
    stand_ins = averages(MODEL, ANATOMY, GROUP).zeros()
    kept = [Kept(*(~one for one in vars(NOTHING).values()))] * 2
    found = compressed_values(MODEL, ANATOMY, GROUP, kept, stand_ins)
    assert found == pytest.approx(values(MODEL, GROUP), abs=1e-12)


def test_nothing_that_is_kept_is_the_average() -> None:
    """All behind the last block stands in, and both questions have the same."""
    stand_ins = averages(MODEL, ANATOMY, GROUP)
    found = compressed_values(MODEL, ANATOMY, GROUP, [NOTHING] * 2, stand_ins)
    with torch.no_grad():
        logits = MODEL.cls(stand_ins.hidden[-1][None])[0, 2]
    expected = float(logits[3] - logits[4])
    assert found == pytest.approx([expected, -expected], abs=1e-12)


def test_what_is_not_kept_does_not_see_the_input() -> None:
    """By hand: block by block, with the stand-ins in their places."""
    kept = Kept.of_paths(PATHS, T, H)
    stand_ins = averages(MODEL, ANATOMY, GROUP)
    found = compressed_values(MODEL, ANATOMY, GROUP[:1], [kept], stand_ins)
    hidden = hidden_of(FIRST)[0]
    with torch.no_grad():
        for block, layer in enumerate(MODEL.bert.encoder.layer):
            heads = layer.attention.self(hidden[None])[0][0].unflatten(1, (H, -1)).clone()
            other = stand_ins.heads[block].unflatten(1, (H, -1))
            past = hidden.clone()
            for token, head in itertools.product(range(T), range(H)):
                if not kept.heads_LTH[block, token, head]:
                    heads[token, head] = other[token, head]
            for token in range(T):
                if not kept.skips_LT[block, token]:
                    past[token] = stand_ins.hidden[block][token]
            output = layer.attention.output
            middle = output.LayerNorm(output.dense(heads.flatten(1)) + past)
            hidden = layer.feed_forward_chunk(middle)
            for token in range(T):
                if not kept.positions_LT[block, token]:
                    hidden[token] = stand_ins.hidden[block + 1][token]
        logits = MODEL.cls(hidden[None])[0, 2]
    assert found[0] == pytest.approx(float(logits[3] - logits[4]), abs=1e-12)
    assert found[0] != pytest.approx(values(MODEL, GROUP)[0], abs=1e-3)


def test_nodes_of_paths_are_counted() -> None:
    kept = Kept.of_paths(PATHS, T, H)
    assert kept.n_positions_L.tolist() == [2, 1]
    assert kept.n_ways_L.tolist() == [2, 2]
    assert kept.positions_LT.nonzero() == (pytest.approx([0, 0, 1]), pytest.approx([1, 2, 2]))
    whole = kept.with_all_ways()
    assert whole.n_ways_L.tolist() == [2 * (1 + H), 1 + H]
    assert np.array_equal(whole.positions_LT, kept.positions_LT)


def test_others_keep_as_many_nodes() -> None:
    like = Kept.of_paths(PATHS, T, H)
    line = Line(MODEL, ANATOMY, FIRST, MODEL.get_input_embeddings().weight[MASK], 6)
    drawn = [by_chance(like, FIRST, False, np.random.default_rng(seed)) for seed in range(30)]
    for other in (*drawn, by_conductance(like, FIRST, line.shares)):
        assert other.n_positions_L.tolist() == [2, 1]
        assert other.n_ways_L.tolist() == [2, 2]
        assert other.positions_LT[1, 2]
    assert {tuple(one.positions_LT[0].nonzero()[0]) for one in drawn} == set(
        itertools.combinations(range(T), 2)
    )
    causal = [by_chance(like, FIRST, True, np.random.default_rng(seed)) for seed in range(30)]
    assert not any(one.positions_LT[:, 3:].any() for one in causal)


def test_conductance_takes_the_largest_in_size() -> None:
    like = Kept.of_paths(PATHS, T, H)
    heads = np.zeros((L, T, H))
    heads[0, 3, 1], heads[0, 0, 0], heads[1, 2] = 2.0, 9.0, (-3.0, 1.0)
    shares = Shares(
        np.array([[0.0] * 5, [0.1, -5, 0.2, 4, 0.3], [0, 0, 1, 0, 0]]),
        heads,
        np.array([[0.0, -1.5, 0, 0, 0], [0, 0, 2.0, 0, 0]]),
    )
    found = by_conductance(like, FIRST, shares)
    assert found.positions_LT[0].nonzero()[0].tolist() == [1, 3]
    assert np.argwhere(found.heads_LTH).tolist() == [[0, 3, 1], [1, 2, 0]]
    assert np.argwhere(found.skips_LT).tolist() == [[0, 1], [1, 2]]


def test_attention_paths_are_the_heaviest_of_all() -> None:
    attention = attention_of(MODEL, FIRST)
    assert attention.shape == (L, H, T, T)
    assert attention.sum(-1) == pytest.approx(np.ones((L, H, T)))
    mixed = (attention.mean(1) + np.eye(T)) / 2
    for start, (positions, ways) in zip((1, 3), attention_paths(attention, 2, (1, 3)), strict=True):
        weights = {middle: mixed[0, middle, start] * mixed[1, 2, middle] for middle in range(T)}
        assert positions == (start, max(weights, key=lambda one: weights[one]), 2)
        for block, way in enumerate(ways):
            here, there = positions[block], positions[block + 1]
            assert way == (SKIP if here == there else attention[block, :, there, here].argmax())
