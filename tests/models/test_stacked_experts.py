"""Mixtures whose experts are stacked: each is taken apart, and attributed by its own tokens.

Their numbers are held against those of the stacked parameters with all families.
"""

from __future__ import annotations

from pathlib import Path

import naive
import pytest
import torch
from asking import OfNextTokens
from families import EXPERTS, Family
from measured import Subject, prepare
from untouched import gradients
from wide import widened

pytestmark = pytest.mark.models


@pytest.fixture(params=EXPERTS, ids=lambda family: family.kind)
def subject(request: pytest.FixtureRequest, tmp_path: Path) -> Subject:
    family: Family = request.param
    return prepare(family, tmp_path)


def test_a_model_taken_apart_says_what_it_said(subject: Subject) -> None:
    plain, ours = subject.plain, subject.replica.model
    assert not any(p.ndim == 3 and "conv" not in name for name, p in ours.named_parameters())
    assert sum(p.numel() for p in plain.parameters()) == sum(p.numel() for p in ours.parameters())
    for text in OfNextTokens().texts():
        given = torch.from_numpy(text.tokens)[None]
        with torch.no_grad():
            expected, found = plain(given).logits, ours(given).logits
        assert float((found - expected).norm() / expected.norm()) < 1e-6


def test_experts_that_a_sequence_did_not_choose_have_no_gradient_in_it(subject: Subject) -> None:
    shapes = subject.replica.shapes
    routed = [name for name in subject.names if shapes[name].routed]
    assert routed
    some = [text.tokens for text in OfNextTokens().texts()]
    plain = widened(subject.plain)
    chosen = sum(
        bool(gradient.any())
        for tokens in some
        for gradient in gradients(plain, routed, naive.log_probability(plain, tokens)).values()
    )
    assert 0 < chosen < len(routed) * len(some)
