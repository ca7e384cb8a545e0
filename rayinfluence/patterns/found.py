"""What is found of questions, as values: for the terminal, for programs and for a page."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Hashable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from rayinfluence.patterns.line import SKIP
from rayinfluence.patterns.question import Question
from rayinfluence.patterns.refine import Pattern

#: Of the difference that is asked for, by how much the integral may miss it before that is said.
_GAP = 0.05


@dataclass(frozen=True)
class Flowing:
    """What flows in a question.

    Attributes:
        question: that was asked.
        value: Q of the input, the logit of what is right minus that of what is wrong.
        value_at_baseline: Q where the line begins.
        patterns: of its tokens but those that stay as they are, in their order.
        by_skip, by_heads: through each block, influence by the skip connection and by all heads;
            together they are all of it.
        skip_shares: of each block, the share of the skip connection, of sizes at each token.
    """

    question: Question
    value: float
    value_at_baseline: float
    patterns: tuple[Pattern, ...]
    by_skip: tuple[float, ...]
    by_heads: tuple[float, ...]
    skip_shares: tuple[float | None, ...]

    @property
    def integral(self) -> float:
        """The influence of all tokens, which should be the difference of values."""
        return sum(one.whole for one in self.patterns)

    @property
    def gap(self) -> float:
        """By how much the integral misses that difference: what the points of the line cost."""
        return self.integral - (self.value - self.value_at_baseline)

    @property
    def is_rough(self) -> bool:
        """Whether that is too much to be passed over."""
        return abs(self.gap) > _GAP * max(
            abs(self.value - self.value_at_baseline), max(abs(one.whole) for one in self.patterns)
        )

    def concentration(self, by_positions: bool = False) -> float | None:
        """The share of the influence of all tokens, in size, that their patterns carry.

        None where there is none. More than 1 where what flows elsewhere has the other sign.

        Args:
            by_positions: by any ways through their tokens.
        """
        total = sum(abs(one.whole) for one in self.patterns)
        carried = sum(
            math.copysign(1.0, one.whole) * (one.by_positions if by_positions else one.influence)
            for one in self.patterns
        )
        return carried / total if total else None

    def strongest(self) -> list[Pattern]:
        """Patterns in the order of their tokens' influence in size."""
        return sorted(self.patterns, key=lambda one: -abs(one.whole))

    def to_json(self) -> dict[str, Any]:
        """As the reference documents it."""
        question = self.question
        return {
            "query_id": question.query_id,
            "tokens": list(question.texts),
            "position": question.position,
            "right": question.right_text,
            "wrong": question.wrong_text,
            "value": self.value,
            "value_at_baseline": self.value_at_baseline,
            "gap": self.gap,
            "concentration": self.concentration(),
            "concentration_of_tokens": self.concentration(by_positions=True),
            "by_skip": list(self.by_skip),
            "by_heads": list(self.by_heads),
            "skip_shares": list(self.skip_shares),
            "patterns": [_pattern(one) for one in self.patterns],
        }


def _pattern(pattern: Pattern) -> dict[str, Any]:
    return {
        "token": pattern.start,
        "influence": pattern.whole,
        "through_tokens": pattern.by_positions,
        "through_ways": pattern.influence,
        "positions": list(pattern.positions),
        "ways": ["skip" if way == SKIP else way for way in pattern.ways],
    }


@dataclass(frozen=True)
class Compressed:
    """How a group of questions is answered where some nodes alone hold something of the input.

    Attributes:
        method: who says which nodes: pattern, chance, attention or conductance.
        level: tokens, which keep all ways into them, or ways.
        stand_in: what the other nodes hold: averages or zeros.
        nodes: tokens and ways that are kept, on average over questions; of the level of tokens
            these alone.
        accuracy: the share of questions of which what is right is still preferred.
        agreement: the share of which the preference is the whole model's.
    """

    method: str
    level: str
    stand_in: str
    nodes: float
    accuracy: float
    agreement: float


@dataclass(frozen=True)
class Group:
    """Questions with as many tokens, asked at the same place.

    Attributes:
        n_tokens, position: as above.
        query_ids: of the questions.
        accuracy: the share of them of which the model prefers what is right.
        one_answer: whether what is right, and wrong, is the same in all of them.
        entropy: of the patterns of each token over the questions, in bits, on average over tokens:
            0 where all are the same, log2 of the number of questions where no two are.
        entropy_of_tokens: of the patterns without their ways.
        compressed: the compression test; empty where there is one question.
    """

    n_tokens: int
    position: int
    query_ids: tuple[str, ...]
    accuracy: float
    one_answer: bool
    entropy: float
    entropy_of_tokens: float
    compressed: tuple[Compressed, ...]

    def to_json(self) -> dict[str, Any]:
        """As the reference documents it."""
        return asdict(self)


@dataclass(frozen=True)
class Found:
    """What is found of all questions of a model.

    Attributes:
        model: the model's class.
        baseline: what the line begins at, in words.
        points: of the line.
        flowing: by question.
        groups: of questions.
    """

    model: str
    baseline: str
    points: int
    flowing: tuple[Flowing, ...]
    groups: tuple[Group, ...]

    def to_json(self) -> dict[str, Any]:
        """As the reference documents it."""
        return {
            "model": self.model,
            "baseline": self.baseline,
            "points": self.points,
            "queries": [one.to_json() for one in self.flowing],
            "groups": [one.to_json() for one in self.groups],
        }


def entropy(values: Sequence[Hashable]) -> float:
    """Of how often values come, in bits (Shannon 1948)."""
    counts = Counter(values).values()
    return sum(n / len(values) * math.log2(len(values) / n) for n in counts)


def entropies(flowing: Sequence[Flowing]) -> tuple[float, float]:
    """The entropy of patterns of each token over questions, on average over tokens.

    Args:
        flowing: of questions with as many tokens, of which the same stay as they are.

    Returns:
        Of patterns with their ways, and of their tokens alone.
    """
    by_token = list(zip(*(one.patterns for one in flowing), strict=True))
    whole = [entropy([(one.positions, one.ways) for one in same]) for same in by_token]
    tokens = [entropy([one.positions for one in same]) for same in by_token]
    return sum(whole) / len(whole), sum(tokens) / len(tokens)
