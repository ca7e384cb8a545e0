"""Every form of a query has autograd's gradient, and scores that add up as what is asked does."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import naive
import numpy as np
import pytest
import torch
from cases import CASES, Case, token_sequences
from compare import assert_same
from harness import Fitted, all_scores, encoded, explain_pairs, make_bank, make_replica
from torch import Tensor, nn

from rayinfluence.corpus.queries import EncodedAnswer, EncodedQuery
from rayinfluence.corpus.query_forms import Answer, Query
from rayinfluence.dataflow.compute.scoring import query_gradient
from rayinfluence.errors import ConfigError
from rayinfluence.named_function import NamedFunction

ONE, TWO, THREE = (
    tuple(int(token) for token in tokens) for tokens in token_sequences(1, (7, 6, 4))
)
MODULE = "functions_that_are_asked_for"


def asked(*answers: EncodedAnswer, function: NamedFunction | None = None) -> EncodedQuery:
    texts = tuple(Answer("", "x", answer.weight) for answer in answers)
    return EncodedQuery(Query("q", texts), answers, function)


def log_ps(model: nn.Module, tokens: tuple[int, ...], first: int) -> list[Tensor]:
    """Of each token from the first that counts."""
    table = torch.log_softmax(naive.logits(model, tokens), dim=-1)
    return [table[t - 1, tokens[t]] for t in range(first, len(tokens))]


def mean(model: nn.Module) -> Tensor:
    return torch.stack(log_ps(model, ONE, 3)).mean()


def some_tokens(model: nn.Module) -> Tensor:
    found = log_ps(model, ONE, 3)
    return found[1] + found[3]


def mean_of_some(model: nn.Module) -> Tensor:
    return some_tokens(model) / 2


def contrast(model: nn.Module) -> Tensor:
    return sum(log_ps(model, ONE, 3)) - sum(log_ps(model, TWO, 3))


def weighted(model: nn.Module) -> Tensor:
    return (
        2.5 * sum(log_ps(model, ONE, 1))
        - 0.5 * sum(log_ps(model, TWO, 4))
        + 1e-3 * sum(log_ps(model, THREE, 2))
    )


def contrast_of_means(model: nn.Module) -> Tensor:
    return mean(model) - torch.stack(log_ps(model, TWO, 2)).mean()


def logits_of(model: nn.Module, tokens: tuple[int, ...], first: int) -> Tensor:
    table = naive.logits(model, tokens)
    return sum(table[t - 1, tokens[t]] for t in range(first, len(tokens)))


def logit(model: nn.Module) -> Tensor:
    return logits_of(model, ONE, 3)


def logit_rather_than(model: nn.Module) -> Tensor:
    return logits_of(model, ONE, 3) - logits_of(model, TWO, 3)


def odds(model: nn.Module) -> list[Tensor]:
    """log p - log(1 - p), where 1 - p is the sum of the others'."""
    table = torch.softmax(naive.logits(model, ONE), dim=-1)
    found = []
    for t in range(3, len(ONE)):
        others = torch.cat([table[t - 1, : ONE[t]], table[t - 1, ONE[t] + 1 :]])
        found.append(table[t - 1, ONE[t]].log() - others.sum().log())
    return found


def margin(model: nn.Module) -> Tensor:
    return torch.stack(odds(model)).sum()


def mean_margin_of_some(model: nn.Module) -> Tensor:
    found = odds(model)
    return (found[1] + found[3]) / 2


FORMS: dict[str, tuple[EncodedQuery, Callable[[nn.Module], Tensor]]] = {
    "mean": (asked(EncodedAnswer(ONE, 3, shares=(0.25,) * 4)), mean),
    "spans": (asked(EncodedAnswer(ONE, 3, shares=(0.0, 1.0, 0.0, 1.0))), some_tokens),
    "mean of spans": (asked(EncodedAnswer(ONE, 3, shares=(0.0, 0.5, 0.0, 0.5))), mean_of_some),
    "contrast": (asked(EncodedAnswer(ONE, 3), EncodedAnswer(TWO, 3, -1.0)), contrast),
    "set": (
        asked(
            EncodedAnswer(ONE, 1, 2.5), EncodedAnswer(TWO, 4, -0.5), EncodedAnswer(THREE, 2, 1e-3)
        ),
        weighted,
    ),
    "logit": (asked(EncodedAnswer(ONE, 3, measurement="logit")), logit),
    "logit rather than another": (
        asked(
            EncodedAnswer(ONE, 3, measurement="logit"),
            EncodedAnswer(TWO, 3, -1.0, measurement="logit"),
        ),
        logit_rather_than,
    ),
    "margin": (asked(EncodedAnswer(ONE, 3, measurement="margin")), margin),
    "mean margin of spans": (
        asked(EncodedAnswer(ONE, 3, shares=(0.0, 0.5, 0.0, 0.5), measurement="margin")),
        mean_margin_of_some,
    ),
    "contrast of means": (
        asked(EncodedAnswer(ONE, 3, 1.0, (0.25,) * 4), EncodedAnswer(TWO, 2, -1.0, (0.25,) * 4)),
        contrast_of_means,
    ),
}


def recovered(inputs_TI: Tensor, grads_TO: Tensor, bias: bool) -> Tensor:
    """D = sum_t g_t a_t^T [O, J], over the rows of all answers."""
    gradient = grads_TO.T @ inputs_TI
    return torch.cat([gradient, grads_TO.sum(dim=0)[:, None]], dim=1) if bias else gradient


def assert_autograd_s(case: Case, query: EncodedQuery, f: Callable[[nn.Module], Tensor]) -> None:
    replica = make_replica(case)
    twin = naive.trainable(replica.model)
    value = f(twin)
    found = query_gradient(replica, query)
    assert found.value == pytest.approx(float(value.detach()), rel=1e-12)
    assert len(found.log_probabilities) == sum(len(one.completion) for one in query.answers)
    for name, gradient in naive.gradients(twin, list(replica.modules), value).items():
        D = recovered(*found.tokens[name], replica.shapes[name].bias)
        assert_same(D, gradient, name)


@pytest.mark.parametrize("form", FORMS)
def test_the_gradient_of_every_form_is_autograd_s(case: Case, form: str) -> None:
    assert_autograd_s(case, *FORMS[form])


@pytest.fixture
def function(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., NamedFunction]:
    """Writes a module with a function, and finds it."""
    made = iter(range(99))

    def write(body: str) -> NamedFunction:
        name = f"{MODULE}_{tmp_path.name}_{next(made)}"
        source = f"import torch\n\ndef f(logits, tokens, first):\n    {body}\n"
        (tmp_path / f"{name}.py").write_text(source)
        return NamedFunction.of("query_function", f"{name}:f")

    monkeypatch.syspath_prepend(str(tmp_path))
    return write


def test_the_gradient_of_a_function_of_one_s_own_is_autograd_s(
    case: Case, function: Callable[..., NamedFunction]
) -> None:
    """A margin of logits at the last token, and the same for one text against another."""
    margin = function("return logits[-2, tokens[-1]] - logits[first - 1].logsumexp(0) ** 2")

    def f(model: nn.Module, tokens: tuple[int, ...], first: int) -> Tensor:
        logits = naive.logits(model, tokens)
        return logits[-2, tokens[-1]] - logits[first - 1].logsumexp(0) ** 2

    one, two = EncodedAnswer(ONE, 3), EncodedAnswer(TWO, 2, -1.0)
    assert_autograd_s(case, asked(one, function=margin), lambda model: f(model, ONE, 3))
    assert_autograd_s(
        case,
        asked(one, two, function=margin),
        lambda model: f(model, ONE, 3) - f(model, TWO, 2),
    )


@pytest.mark.parametrize("method", ["ekfac", "gradient_product"])
def test_scores_add_up_as_what_is_asked_does(fitted: Fitted, method: str, tmp_path: Path) -> None:
    """At full rank: a contrast is the difference of its two sides, a set the weighted sum."""
    one, two, three = EncodedAnswer(ONE, 3), EncodedAnswer(TWO, 3), EncodedAnswer(THREE, 2)
    against = replace(two, weight=-1.0)
    several = [
        replace(a, weight=w) for a, w in zip((one, two, three), (2.5, -0.5, 3.0), strict=True)
    ]
    queries = [asked(a) for a in (one, two, three)]
    queries += [asked(one, against), asked(*several), asked(replace(one, shares=(0.25,) * 4))]
    bank = make_bank(fitted.replica, fitted.factors, queries, tmp_path, method)
    scores = all_scores(fitted.replica, bank, fitted.sequences)
    a, b, c, difference, total, average = scores.T
    assert_same(difference, a - b, "contrast")
    assert_same(total, 2.5 * a - 0.5 * b + 3.0 * c, "set")
    assert_same(average, a / 4, "mean")
    # The second pass, by token and layer, asks for the same.
    pairs = [(query, sequence) for query in (0, 1, 3, 4) for sequence in range(3)]
    found = explain_pairs(fitted.replica, bank, fitted.sequences, pairs)
    for sequence in range(3):
        assert found[3, sequence].score == pytest.approx(float(difference[sequence]), rel=1e-9)
        assert found[4, sequence].score == pytest.approx(float(total[sequence]), rel=1e-9)
        sides = [found[query, sequence].token_scores for query in (0, 1)]
        expected = sides[0] - sides[1]
        scale = max(np.abs(side).max() for side in sides)
        np.testing.assert_allclose(
            found[3, sequence].token_scores, expected, rtol=0, atol=1e-11 * scale
        )


def test_a_cosine_is_of_the_whole_difference(fitted: Fitted, tmp_path: Path) -> None:
    """Its length is that of the difference, and not of the sides."""
    query = asked(EncodedAnswer(ONE, 3), EncodedAnswer(TWO, 3, -1.0))
    names = fitted.names
    twin = naive.trainable(fitted.replica.model)
    of_query = naive.gradients(twin, names, contrast(twin))
    of_sequences = naive.sequence_gradients(fitted.replica.model, names, fitted.sequences)

    def product(left: dict[str, Tensor], right: dict[str, Tensor]) -> float:
        return sum(float((left[name] * right[name]).sum()) for name in names)

    norm = product(of_query, of_query) ** 0.5
    expected = [product(of_query, of) / norm / product(of, of) ** 0.5 for of in of_sequences]
    bank = make_bank(fitted.replica, fitted.factors, [query], tmp_path, "cosine")
    found = all_scores(fitted.replica, bank, fitted.sequences)[:, 0]
    np.testing.assert_allclose(found.numpy(), expected, rtol=0, atol=1e-12)


def test_plain_queries_are_known_as_they_were() -> None:
    """Banks of earlier versions stay valid."""
    assert encoded(np.array([1, 2, 3]), 2).digest == "24c27cdcec538e3b75659011275b2f53"


def test_what_counts_otherwise_is_another_query(function: Callable[..., NamedFunction]) -> None:
    one, two = EncodedAnswer(ONE, 3), EncodedAnswer(TWO, 3)
    first, second = function("return logits.sum()"), function("return logits.sum() + 0")
    queries = [
        asked(one),
        asked(replace(one, shares=(0.25,) * 4)),
        asked(replace(one, weight=2.0)),
        asked(one, replace(two, weight=-1.0)),
        asked(one, two),
        asked(replace(one, measurement="logit")),
        asked(replace(one, measurement="margin")),
        asked(one, function=first),
        asked(one, function=second),
    ]
    assert len({query.digest for query in queries}) == len(queries)


@pytest.mark.parametrize(
    ("body", "why"),
    [
        ("return logits.detach().sum()", r"has no gradient in the logits, as after `\.detach\(\)`"),
        ("return logits.sum(dim=1)", r"gives a Tensor of shape \[7\], and a tensor of no axes"),
        ("return 1.0", r"gives a float, and a tensor of no axes"),
        ("return logits[99].sum()", r"f fails: IndexError: index 99 is out of bounds"),
        ("return logits.sum() * torch.rand(())", r"and then .* of the same logits"),
    ],
)
def test_a_function_that_cannot_be_asked_for_is_told(
    function: Callable[..., NamedFunction], body: str, why: str
) -> None:
    with pytest.raises(ConfigError, match=f"query_function: .*{why}"):
        query_gradient(
            make_replica(CASES[0]), asked(EncodedAnswer(ONE, 3), function=function(body))
        )
