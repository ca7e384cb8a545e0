"""Long texts, encoded in pieces where the ids are those of the text as a whole.

A tokenizer splits a text into words first, from left to right, and makes tokens of each word by
itself. So a text can be cut between two words, if what splits it sees the same after the cut as it
did with what is before. Both are looked at: a piece is encoded with some characters of the next one
after it, and the next one has to begin with the same tokens. What splits texts is taken to look no
further than these characters. A tokenizer that makes one word of everything gets a text whole.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import islice
from typing import TYPE_CHECKING

from rayinfluence.corpus.spans import Spans
from rayinfluence.corpus.tokenizer import Encoding, encode_words

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

#: Texts of more characters come in pieces; an encoding takes some 300 bytes a token.
LONGEST = 2**20
_PIECE = 2**18
#: Characters after a piece that are encoded with it. Cuts are looked for in the first half.
_OVERLAP = 2**12
#: Places that are tried.
_CUTS = 16


def encoded_in_pieces(
    tokenizer: PreTrainedTokenizerFast, text: str, templated: bool
) -> Iterator[Encoding]:
    """The tokens of a text, one piece after the other; what ends the text comes with the last.

    From a piece on after which no cut is found the text is encoded as one.

    Args:
        tokenizer: that encodes.
        text: to encode.
        templated: whether a chat template made it; see :func:`encode`.

    Raises:
        ModelError: the tokenizer fails on the text.
    """
    size, start = _PIECE + _OVERLAP, 0
    encoding, words = encode_words(tokenizer, text[:size], templated)
    ending = encoding.ending
    while start + size < len(text):
        for token in islice(_between_words(encoding, words), _CUTS):
            cut = encoding.offsets[token][0]
            following = encode_words(tokenizer, text[start + cut : start + cut + size], True)
            if _goes_on(encoding, token, following[0]):
                tokens, spans = encoding.tokens[:token], encoding.spans.cut(0, token)
                yield _moved(replace(encoding, tokens=tokens, spans=spans, ending=[]), start)
                start += cut
                encoding, words = following
                break
        else:
            encoding, _ = encode_words(tokenizer, text[start:], templated or start > 0)
            break
    yield replace(_moved(encoding, start), ending=ending)


def _between_words(encoding: Encoding, words: list[int | None]) -> Iterator[int]:
    """Tokens after a piece with which a word begins where the one before ends."""
    for token in range(len(words) - 1, 0, -1):
        if encoding.offsets[token][0] < _PIECE:
            break
    else:
        return
    for place in range(token + 1, len(words)):
        (_, end), (begin, _) = encoding.offsets[place - 1], encoding.offsets[place]
        if begin > _PIECE + _OVERLAP // 2:
            return
        both = words[place - 1], words[place]
        if None not in both and both[0] != both[1] and end <= begin:
            yield place


def _goes_on(encoding: Encoding, token: int, following: Encoding) -> bool:
    """Whether a text from a token on has the tokens that it has with what is before it."""
    cut = encoding.offsets[token][0]
    # What is near the end of a piece may be other than in the whole.
    seen = [
        (ids, (start - cut, end - cut))
        for ids, (start, end) in zip(encoding.tokens[token:], encoding.offsets[token:], strict=True)
        if end <= _PIECE + 3 * _OVERLAP // 4
    ]
    return bool(seen) and seen == list(
        islice(zip(following.tokens, following.offsets, strict=True), len(seen))
    )


def _moved(encoding: Encoding, start: int) -> Encoding:
    offsets = [(a + start, b + start) if a < b else (a, b) for a, b in encoding.offsets]
    return replace(encoding, spans=Spans.of(offsets))
