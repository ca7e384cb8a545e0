"""What is asked of a model: one token rather than another, at a place of a text."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Question:
    """A text in tokens, and which of two tokens is right at one of its places.

    Attributes:
        query_id: what it is called by.
        tokens: of the text; of a causal model none comes after ``position``.
        texts: what each token shows.
        position: of the token from which the model says what comes next, or of the mask.
        right: the token whose logit is asked for.
        wrong: the one whose logit is subtracted.
        kept: of each token whether it stays on the whole line as it is: one that the tokenizer put
            beside the text, or the mask.
        right_text, wrong_text: as they were written.
    """

    query_id: str
    tokens: tuple[int, ...]
    texts: tuple[str, ...]
    position: int
    right: int
    wrong: int
    kept: tuple[bool, ...]
    right_text: str
    wrong_text: str
