"""Tokenizers: what they are by digest, texts as tokens, and the text of each token."""

from __future__ import annotations

import codecs
import copy
import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, TypeAlias

from rayinfluence.corpus.chat import Span
from rayinfluence.corpus.features import Features
from rayinfluence.corpus.spans import Spans
from rayinfluence.errors import ModelError, brief
from rayinfluence.storage.digest import digest_bytes

if TYPE_CHECKING:
    from tokenizers import Encoding as LibraryEncoding
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerFast

    #: What makes tokens of documents: of texts, or of rows of features.
    Coding: TypeAlias = PreTrainedTokenizerFast | Features

_REPLACEMENT = "\ufffd"
#: A piece that stands for a byte, where a vocabulary falls back on bytes.
_BYTE = re.compile("<0x([0-9A-Fa-f]{2})>")
#: Characters beside those that were merged, from which a normalizer tells what to make of them.
_REACH = 8


def tokenizer_digest(tokenizer: Coding) -> str:
    """The digest of the tokenizer's whole definition."""
    if isinstance(tokenizer, Features):
        return tokenizer.digest
    return digest_bytes(tokenizer.backend_tokenizer.to_str().encode())


@dataclass(frozen=True)
class Encoding:
    """Token ids of a text, and the characters that each came from (none for added tokens).

    The characters are those of the text as it is, also where a normalizer puts others in their
    place. ``ending`` are tokens that the tokenizer adds after a whole text, and not among them;
    ``n_source`` are how many are of a source, before its target, and ``n_added`` how many the
    tokenizer has put before the text.
    """

    tokens: list[int]
    spans: Spans
    ending: list[int] = field(default_factory=list)
    n_source: int = 0
    n_added: int = 0

    @cached_property
    def offsets(self) -> list[Span]:
        """The characters of each token, all of them looked up."""
        return list(self.spans)


def faithful(backend: Tokenizer) -> Tokenizer:
    """A tokenizer that cuts nothing, pads nothing, and gives every token all its characters.

    Files may ask for either, and processors for bytes leave the spaces at a token's ends out of its
    offsets (``trim_offsets``), so that a token of spaces has none. A copy where this one does.
    """
    trims, processor = _without_trimming(backend.post_processor)
    if not trims and backend.truncation is None and backend.padding is None:
        return backend
    plain = copy.deepcopy(backend)
    plain.no_truncation()
    plain.no_padding()
    if trims:
        plain.post_processor = processor
    return plain


def encode(
    tokenizer: PreTrainedTokenizerFast, texts: Sequence[str], templated: Sequence[bool] = ()
) -> list[Encoding]:
    """Encode texts as the model expects them, with the tokenizer's own leading token if it has one.

    Tokens that the tokenizer adds AFTER the text (an end marker) stand apart: a document that is
    cut, or a completion that is asked for, does not end there. Tokens that it would add BEFORE the
    text, and with which the text begins already, stand once. A text that a chat template made has
    the special tokens that the template wrote, and no others, as training on messages had it.

    Args:
        tokenizer: that encodes.
        texts: to encode.
        templated: of each whether a chat template made it; none is where nothing is given.

    Raises:
        ModelError: it fails on a text.
    """
    backend = faithful(tokenizer.backend_tokenizer)
    of_templates = templated or [False] * len(texts)
    encoded = _by_library(backend, texts, of_templates)
    return [_encoding(one, text, backend) for one, text in zip(encoded, texts, strict=True)]


def encode_words(
    tokenizer: PreTrainedTokenizerFast, text: str, templated: bool
) -> tuple[Encoding, list[int | None]]:
    """A text's encoding, and of each token the number of the piece that it was made of.

    Pieces are what the tokenizer splits a text into first, and tokenises one by one; tokens that it
    adds before a text are of none.

    Args:
        tokenizer: that encodes.
        text: to encode.
        templated: whether it gets no token of the tokenizer's own.

    Raises:
        ModelError: it fails on the text.
    """
    backend = faithful(tokenizer.backend_tokenizer)
    [one] = _by_library(backend, [text], [templated])
    own, leading, end = _kept(one)
    return _encoding(one, text, backend), one.word_ids[:own] + one.word_ids[leading:end]


def _by_library(
    backend: Tokenizer, texts: Sequence[str], templated: Sequence[bool]
) -> list[LibraryEncoding]:
    try:
        encoded = {
            made: iter(
                backend.encode_batch(
                    [text for text, one in zip(texts, templated, strict=True) if one == made],
                    add_special_tokens=not made,
                )
            )
            for made in (False, True)
        }
    except Exception as error:  # the library's errors have no kind of their own
        raise ModelError(
            f"tokenizer: it cannot tokenise a text ({brief(error)}). Give its tokenizer.json a "
            "token for what it does not know, or name another tokenizer under `tokenizer`."
        ) from error
    return [next(encoded[made]) for made in templated]


def _kept(one: LibraryEncoding) -> tuple[int, int, int]:
    """Which tokens are kept: those before the first number, and from the second to the third."""
    added, end = one.special_tokens_mask, len(one.ids)
    while end > 1 and added[end - 1]:
        end -= 1
    leading = next((i for i in range(end) if not added[i]), end)
    own = leading - _said_again(one.ids[:leading], one.ids[leading:end])
    return own, leading, end


def _encoding(one: LibraryEncoding, text: str, backend: Tokenizer) -> Encoding:
    if backend.num_special_tokens_to_add(False) == 0:
        own, leading, end = 0, 0, len(one)
    else:
        own, leading, end = _kept(one)
    ids, spans = one.ids, Spans.of(one)
    spans = spans.cut(0, own) + spans.cut(leading, end)
    normalizer = backend.normalizer
    if normalizer is not None and normalizer.normalize_str(text) != text:
        spans = Spans.of(_with_merged(normalizer.normalize_str, text, list(spans)))
    return Encoding(ids[:own] + ids[leading:end], spans, ids[end:], n_added=own)


def with_ending(encoding: Encoding) -> Encoding:
    """With the tokens that end a whole text."""
    spans = encoding.spans + Spans.nowhere(len(encoding.ending))
    return Encoding(encoding.tokens + encoding.ending, spans)


def joined(source: Encoding, target: Encoding, border: int) -> Encoding:
    """A source and its target, which begins at a character of the text of both."""
    offsets = [(a + border, b + border) if a < b else (0, 0) for a, b in target.offsets]
    return Encoding(
        source.tokens + target.tokens,
        source.spans + Spans.of(offsets),
        n_source=len(source.tokens),
    )


def _said_again(added: Sequence[int], text: Sequence[int]) -> int:
    """How many of the tokens that are added before a text are those that it begins with."""
    most = min(len(added), len(text))
    return next((n for n in range(most, 0, -1) if added[-n:] == text[:n]), 0)


def _with_merged(
    normalized: Callable[[str], str], text: str, offsets: list[tuple[int, int]]
) -> list[tuple[int, int]]:
    """Offsets with all characters that a normalizer has made a token's of.

    Of several that become one, it is given the first or the last: that of an accent is left out.

    Args:
        normalized: what the normalizer makes of a text.
        text: what was encoded.
        offsets: of its tokens; those of added ones are empty.
    """
    starts: dict[int, int] = {}
    ends: dict[int, int] = {}
    before = (0, 0)
    for span in [*(span for span in offsets if span[0] < span[1]), (len(text), len(text))]:
        gap = text[before[1] : span[0]]
        # Spaces are left out by what splits texts into words.
        if gap and not gap.isspace():
            # An accent may be put on a letter across others that stay.
            left = text[max(0, before[1] - _REACH) : before[1]]
            right = text[span[0] : span[0] + _REACH]
            if left and not normalized(left + gap + right).startswith(normalized(left)):
                ends[before[1]] = span[0]
            elif right and not normalized(gap + right).endswith(normalized(right)):
                starts[span[0]] = before[1]
        if span[1] >= before[1]:
            before = span
    if not starts and not ends:
        return offsets
    return [
        (starts.get(start, start), ends.get(end, end)) if start < end else (start, end)
        for start, end in offsets
    ]


def _without_trimming(processor: Any) -> tuple[bool, Any]:
    """Whether a post-processor trims offsets, and one that is like it and does not."""
    if processor is None:
        return False, None
    from tokenizers import Tokenizer, models

    saved = processor.__getstate__().decode()
    kept = re.sub(r'"trim_offsets":\s*true', '"trim_offsets":false', saved)
    if kept == saved:
        return False, processor
    # The only way in for a processor's definition is that of a whole tokenizer.
    whole = json.loads(Tokenizer(models.BPE()).to_str()) | {"post_processor": json.loads(kept)}
    return True, Tokenizer.from_str(json.dumps(whole)).post_processor


def token_texts(tokenizer: Coding, tokens: Sequence[int]) -> list[str]:
    """The text that each token adds to those before it; joined, the text of the sequence.

    A token is decoded beside its neighbour on the left, which keeps leading spaces. Where a
    character is spread over several tokens it is given to the last of them; bytes that are no
    character, as where a sequence is cut within one, are shown as a replacement character.
    """
    if isinstance(tokenizer, Features):
        return tokenizer.texts(tokens)
    backend = tokenizer.backend_tokenizer
    ids = [int(token) for token in tokens]
    lefts = backend.decode_batch([ids[max(0, i - 1) : i] for i in range(len(ids))], False)
    pairs = backend.decode_batch([ids[max(0, i - 1) : i + 1] for i in range(len(ids))], False)
    if not any(_REPLACEMENT in pair for pair in pairs):
        return [pair[len(left) :] for left, pair in zip(lefts, pairs, strict=True)]
    if backend.decoder is not None and b'"ByteFallback"' in backend.decoder.__getstate__():
        added = [pair[len(left) :] for left, pair in zip(lefts, pairs, strict=True)]
        return _with_bytes([backend.id_to_token(token) for token in ids], added)
    texts: list[str] = []
    context, pending = 0, 0
    for position in range(len(ids)):
        before = backend.decode(ids[context:pending], False)
        after = backend.decode(ids[context : position + 1], False)
        if after.endswith(_REPLACEMENT) and position + 1 < len(ids):
            texts.append("")
        else:
            texts.append(after[len(before) :])
            context, pending = pending, position + 1
    return texts


def _with_bytes(pieces: Sequence[str | None], texts: Sequence[str]) -> list[str]:
    """Texts of tokens of which some stand for a byte, which have the characters that end there.

    Decoders of such pieces give up all bytes in a row for one of them that is a part of no
    character; so do not we.

    Args:
        pieces: the tokens as the vocabulary has them.
        texts: what each that is no byte adds.
    """
    characters = codecs.getincrementaldecoder("utf-8")("replace")
    shown: list[str] = []
    for piece, text in zip(pieces, texts, strict=True):
        if byte := _BYTE.fullmatch(piece or ""):
            shown.append(characters.decode(bytes.fromhex(byte[1])))
            continue
        if cut := characters.decode(b"", final=True):
            shown[-1] += cut
        shown.append(text)
    if cut := characters.decode(b"", final=True):
        shown[-1] += cut
    return shown
