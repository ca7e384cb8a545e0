"""Spans that are looked up where they are asked for are those that the library lists."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from tokenizers import processors

from rayinfluence.corpus.spans import Spans
from rayinfluence.testing import tiny_tokenizer

TEXTS = ["", "a", "the best of times 😀\n it was", "  spaces  at ends "]


def library(text: str, special: bool) -> Any:
    backend = tiny_tokenizer().backend_tokenizer
    if special:
        named = [(token, backend.token_to_id(token)) for token in list(backend.get_vocab())[:2]]
        begin, end = named[0][0], named[1][0]
        backend.post_processor = processors.TemplateProcessing(
            single=f"{begin} $A {end}", special_tokens=named
        )
    return backend.encode(text)


@pytest.mark.parametrize("special", [False, True])
@pytest.mark.parametrize("text", TEXTS)
def test_each_by_itself_and_all_together(text: str, special: bool) -> None:
    found = library(text, special)
    spans = Spans.of(found)
    assert list(spans) == found.offsets
    assert [span for i in range(len(spans)) for span in spans.cut(i, i + 1)] == found.offsets
    real = [span for span in found.offsets if span[0] < span[1]]
    expected = (real[0][0], real[-1][1]) if real else (0, 0)
    assert spans.characters() == expected
    # The first and the last of each run are looked up by themselves.
    for i, span in enumerate(found.offsets):
        own = span if span[0] < span[1] else (0, 0)
        assert spans.cut(i, i + 1).characters() == own


@pytest.mark.parametrize("seed", range(20))
def test_cut_and_put_together_they_are_as_lists(seed: int) -> None:
    rng = np.random.default_rng(seed)
    found = library(TEXTS[2], True)
    listed = [*found.offsets, *[(0, 0)] * 3, *found.offsets]
    spans = Spans.of(found) + Spans.nowhere(3) + Spans.of(found.offsets)
    borders = sorted({0, *rng.integers(0, len(listed), 4).tolist(), len(listed)})
    pieces = [spans.cut(start, end) for start, end in pairwise(borders)]
    assert sum(map(len, pieces)) == len(spans) == len(listed)
    for piece, (start, end) in zip(pieces, pairwise(borders), strict=True):
        assert list(piece) == listed[start:end]
        assert list(piece.cut(1)) == listed[start:end][1:]
        assert list(piece.cut(0, 2)) == listed[start:end][:2]
        real = [span for span in listed[start:end] if span[0] < span[1]]
        assert piece.characters() == ((real[0][0], real[-1][1]) if real else (0, 0))
    together = sum(pieces, Spans([]))
    assert together == spans
    assert list(together) == listed
