"""Patterns of a model that is not there."""

from __future__ import annotations

from rayinfluence.patterns.found import Compressed, Flowing, Found, Group
from rayinfluence.patterns.line import SKIP
from rayinfluence.patterns.question import Question
from rayinfluence.patterns.refine import Pattern

QUESTION = Question(
    "q", (1, 2, 3), ("The", " key", "\u202es"), 2, 4, 5, (False, False, True), "a", "b"
)
PATTERNS = (
    Pattern((0, 0, 2), (SKIP, 1), -1.0, -0.5, -0.2),
    Pattern((1, 2, 2), (0, SKIP), 3.0, 3.5, 2.0),
)
FLOWING = Flowing(QUESTION, 2.5, 0.5, PATTERNS, (0.5, 1.5), (1.5, 0.5), (0.25, 0.75))
GROUP = Group(
    3, 2, ("q", "r"), 0.5, True, 1.0, 0.0, (Compressed("pattern", "ways", "zeros", 4, 0.5, 1.0),)
)
FOUND = Found("GPT2LMHeadModel", "the mean of the 48 embeddings", 50, (FLOWING,), (GROUP,))
