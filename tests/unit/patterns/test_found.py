"""What is made of patterns: shares, entropies, sentences."""

import math
from dataclasses import replace

import pytest
from made_up_patterns import FLOWING, GROUP, PATTERNS

from rayinfluence.patterns import sentences
from rayinfluence.patterns.found import entropies, entropy
from rayinfluence.patterns.line import SKIP
from rayinfluence.patterns.refine import Pattern


def test_concentration_is_of_sizes() -> None:
    assert FLOWING.concentration() == pytest.approx((0.2 + 2.0) / 4)
    assert FLOWING.concentration(by_positions=True) == pytest.approx((0.5 + 3.5) / 4)
    nothing = replace(FLOWING, patterns=(Pattern((0, 2), (0,), 0.0, 0.0, 0.0),))
    assert nothing.concentration() is None
    assert FLOWING.strongest() == [PATTERNS[1], PATTERNS[0]]


def test_a_line_that_bends_is_told() -> None:
    assert FLOWING.integral == 2.0
    assert FLOWING.gap == 0.0
    assert not any(line.startswith("warning") for line in sentences.carried(FLOWING))
    rough = replace(FLOWING, value=2.7)
    assert rough.gap == pytest.approx(-0.2)
    (warning,) = [line for line in sentences.carried(rough) if line.startswith("warning")]
    assert "add up to +2.00, and the logits differ by +2.20" in warning
    assert "`--points`" in warning


def test_entropy_is_in_bits() -> None:
    assert entropy("aaaa") == 0
    assert entropy("abcd") == 2
    assert entropy("aaab") == pytest.approx(-0.75 * math.log2(0.75) + 0.5)


def test_entropies_are_of_each_token_over_questions() -> None:
    other = replace(PATTERNS[0], ways=(SKIP, 0))
    second = replace(FLOWING, patterns=(other, PATTERNS[1]))
    third = replace(FLOWING, patterns=(replace(other, positions=(0, 1, 2)), PATTERNS[1]))
    assert entropies([FLOWING, FLOWING]) == (0, 0)
    assert entropies([FLOWING, second]) == (0.5, 0)
    assert entropies([FLOWING, third]) == (0.5, 0.5)


def test_sentences_say_paths_and_hide_what_acts() -> None:
    rows = sentences.paths(FLOWING).rows
    assert rows[0][0] == "1 key"
    assert rows[0][4] == "head 0 to 2 [U+202E]s, skip"
    assert rows[1][4] == "skip, head 1 to 2 [U+202E]s"
    assert "\u202e" not in sentences.asked(FLOWING)
    assert sentences.ways(FLOWING).rows == (
        ("1", "+0.500", "+1.50", "25%", "1 of 2"),
        ("2", "+1.50", "+0.500", "75%", "1 of 2"),
    )


def test_averages_that_hold_the_answer_are_told() -> None:
    assert any("averages over them hold the answer" in one for one in sentences.cautions(GROUP))
    assert not list(sentences.cautions(replace(GROUP, one_answer=False)))
    assert "2 queries of 3 tokens, asked at 2: 50% are right" in sentences.alike(GROUP)
