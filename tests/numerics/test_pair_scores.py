"""Scores by pairs of tokens add up to scores by token and to those of each part, by autograd."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import naive
import numpy as np
import pytest
import torch
from harness import Fitted, bases_of, explain_pairs, make_bank, operands, table
from test_what_is_asked import FORMS, ONE, TWO, asked

from rayinfluence.corpus.queries import EncodedAnswer, EncodedQuery
from rayinfluence.corpus.query_forms import Kind
from rayinfluence.dataflow.compute.completion_parts import part_ends
from rayinfluence.dataflow.compute.pair_scores import Asked, PairScores, pair_scores

SOME = [0, 2, 3]


def found_by(
    fitted: Fitted, query: EncodedQuery, ends: tuple[int, ...], *methods: str
) -> list[PairScores]:
    """By method, of some rows."""
    wanted = []
    for method in methods:
        of_method = operands(fitted.factors, fitted.folder, method)
        wanted.append(
            Asked(
                lambda name, one=of_method: one.solver(fitted.replica, name),
                of_method.normalised,
                np.array(SOME),
            )
        )
    rows = table([fitted.sequences[i] for i in SOME], SOME)
    return pair_scores(fitted.replica, query, ends, wanted, rows)


def of_kind(kind: Kind, query: EncodedQuery) -> EncodedQuery:
    return replace(query, query=replace(query.query, kind=kind))


def close(found: np.ndarray, expected: np.ndarray, what: str) -> None:
    scale = max(float(np.abs(expected).max()), 1e-30)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-10 * scale, err_msg=what)


@pytest.mark.parametrize("method", ["ekfac", "kfac", "gradient_product", "cosine"])
def test_over_parts_they_are_the_scores_by_token(
    fitted: Fitted, method: str, tmp_path: Path
) -> None:
    query = asked(EncodedAnswer(ONE, 3))
    ends = part_ends(query, 32)
    assert ends == (1, 2, 3, 4)
    bank = make_bank(fitted.replica, fitted.factors, [query], tmp_path, method)
    told = explain_pairs(fitted.replica, bank, fitted.sequences, [(0, i) for i in SOME])
    (found,) = found_by(fitted, query, ends, method)
    assert list(found) == SOME
    for sequence, scores_CT in found.items():
        assert scores_CT.shape == (4, len(fitted.sequences[sequence]))
        close(scores_CT.sum(axis=0), told[0, sequence].token_scores, "over parts")
        close(scores_CT.sum(), told[0, sequence].score, "over both")


@pytest.mark.parametrize("method", ["ekfac", "gradient_product"])
def test_over_tokens_they_are_the_score_of_each_part_by_autograd(
    fitted: Fitted, method: str
) -> None:
    query, names = asked(EncodedAnswer(ONE, 3)), fitted.names
    twin = naive.trainable(fitted.replica.model)
    of_sequences = naive.sequence_gradients(fitted.replica.model, names, fitted.sequences)
    expected = np.zeros((4, len(fitted.sequences)))
    for part, token in enumerate(range(3, len(ONE))):
        log_p = torch.log_softmax(naive.logits(twin, ONE), dim=-1)[token - 1, ONE[token]]
        of_part = naive.gradients(twin, names, log_p)
        for name, (Q_A, Q_S) in bases_of(fitted.operator).items():
            moments, P = fitted.operator[name].factors.moments, of_part[name]
            if method == "ekfac":
                dense = naive.dense_operator(Q_A, Q_S, moments, float(0.1 * moments.mean()))
                P = naive.solve(dense, P)
            for sequence, of_sequence in enumerate(of_sequences):
                expected[part, sequence] += float((P * of_sequence[name]).sum())
    (found,) = found_by(fitted, query, (1, 2, 3, 4), method)
    for sequence, scores_CT in found.items():
        close(scores_CT.sum(axis=1), expected[:, sequence], "over tokens")


@pytest.mark.parametrize(
    "form", ["mean", "mean of spans", "logit", "margin", "mean margin of spans"]
)
def test_each_is_the_score_by_token_of_its_part_alone(
    fitted: Fitted, form: str, tmp_path: Path
) -> None:
    """Which another query asks for, whose other tokens do not count."""
    query = FORMS[form][0]
    (answer,) = query.answers
    shares = answer.shares or (1.0,) * 4
    ends = part_ends(query, 32)
    assert ends is not None
    alone = [
        replace(query, answers=(replace(answer, shares=tuple(of_part)),))
        for start, end in zip((0, *ends), ends, strict=False)
        if any(of_part := [s if start <= place < end else 0.0 for place, s in enumerate(shares)])
    ]
    assert len(alone) == len(ends) == sum(share > 0 for share in shares)
    bank = make_bank(fitted.replica, fitted.factors, alone, tmp_path)
    pairs = [(part, sequence) for part in range(len(ends)) for sequence in SOME]
    told = explain_pairs(fitted.replica, bank, fitted.sequences, pairs)
    (found,) = found_by(fitted, query, ends, "ekfac")
    for part, sequence in pairs:
        close(found[sequence][part], told[part, sequence].token_scores, f"part {part}")


def test_of_a_contrast_what_is_left_is_the_other_completion_s(
    fitted: Fitted, tmp_path: Path
) -> None:
    contrast, other = of_kind("contrast", FORMS["contrast"][0]), asked(EncodedAnswer(TWO, 3, -1.0))
    ends = part_ends(contrast, 32)
    assert ends == (1, 2, 3, 4)
    bank = make_bank(fitted.replica, fitted.factors, [contrast, other], tmp_path)
    pairs = [(query, sequence) for query in (0, 1) for sequence in SOME]
    told = explain_pairs(fitted.replica, bank, fitted.sequences, pairs)
    (found,) = found_by(fitted, contrast, ends, "ekfac")
    for sequence, scores_CT in found.items():
        both, theirs = (told[query, sequence].token_scores for query in (0, 1))
        close(scores_CT.sum(axis=0) + theirs, both, "both sides")


def test_fewer_parts_are_sums_of_more(fitted: Fitted) -> None:
    query = asked(EncodedAnswer(ONE, 3))
    assert part_ends(query, 2) == (2, 4)
    (fine,), (coarse,) = (found_by(fitted, query, e, "ekfac") for e in ((1, 2, 3, 4), (2, 4)))
    for sequence in SOME:
        expected = np.add.reduceat(fine[sequence], [0, 2], axis=0)
        close(coarse[sequence], expected, "parts")


def test_methods_and_windows_beside_each_other_change_nothing(
    fitted: Fitted, monkeypatch: pytest.MonkeyPatch
) -> None:
    query, ends = asked(EncodedAnswer(ONE, 3)), (1, 2, 3, 4)
    (alone,) = found_by(fitted, query, ends, "ekfac")
    together = found_by(fitted, query, ends, "cosine", "ekfac")
    for sequence in SOME:
        np.testing.assert_array_equal(together[1][sequence], alone[sequence])
    kind = fitted.replica.device.type
    monkeypatch.setattr("rayinfluence.dataflow.compute.scoring.WINDOW_SEQUENCES", {kind: 1})
    for whole, cut in zip(together, found_by(fitted, query, ends, "cosine", "ekfac"), strict=True):
        for sequence in SOME:
            close(cut[sequence], whole[sequence], "windows")


def test_completions_are_cut_by_the_tokens_that_count() -> None:
    long = EncodedAnswer(tuple(range(1, 72)), 1)
    plain = asked(long)
    assert part_ends(plain, 32) is not None
    ends = part_ends(plain, 32)
    assert ends is not None
    sizes = np.diff((0, *ends))
    assert len(ends) == 32
    assert ends[-1] == 70
    assert set(sizes.tolist()) == {2, 3}
    spans = asked(EncodedAnswer(ONE, 1, shares=(0.0, 1.0, 0.0, 1.0, 1.0, 0.0)))
    assert part_ends(spans, 32) == (2, 4, 6)
    assert part_ends(spans, 2) == (2, 6)


def test_what_is_no_sum_over_a_completion_s_tokens_has_no_parts() -> None:
    assert part_ends(asked(EncodedAnswer(ONE, len(ONE) - 1)), 32) is None
    assert part_ends(of_kind("set", FORMS["set"][0]), 32) is None
    contrast = of_kind("contrast", FORMS["contrast"][0])
    first, second = contrast.answers
    one_token = replace(contrast, answers=(replace(first, first_target=len(ONE) - 1), second))
    assert part_ends(one_token, 32) == (1,)
