"""Which tokens of a document are in which sequence: its chunks, and the tokens that frame them.

All here is arithmetic of places; tokens are T, of a document.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rayinfluence.corpus.features import Features
from rayinfluence.corpus.spans import Spans
from rayinfluence.corpus.tokenizer import Encoding, encode
from rayinfluence.errors import ConfigError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

    from rayinfluence.corpus.tokenizer import Coding

AUTO, NEVER, DOCUMENT, CHUNK = "auto", "never", "document", "chunk"


@dataclass(frozen=True)
class Framing:
    """The tokens that stand at the ends of documents and of chunks.

    Attributes:
        bos: when what begins a text stands: auto, never, document or chunk. ``auto`` leaves before
            a document what the tokenizer puts there.
        eos: when what ends one does; ``auto`` is never.
        begins: what begins a text; none where it is not put anywhere.
        ends: what ends one.
    """

    bos: str = AUTO
    eos: str = AUTO
    begins: tuple[int, ...] = ()
    ends: tuple[int, ...] = ()

    @classmethod
    def of(cls, tokenizer: Coding, bos: str, eos: str) -> Framing:
        """That of a tokenizer: what it puts around a text by itself, or its special tokens.

        Raises:
            ConfigError: it has none of a kind that is to stand somewhere.
        """
        if isinstance(tokenizer, Features):
            return cls()
        before, after = habits(tokenizer)
        found = {}
        for name, when, own in (("bos", bos, before), ("eos", eos, after)):
            token = getattr(tokenizer, f"{name}_token_id")
            found[name] = own or (() if token is None else (token,))
            if when not in (DOCUMENT, CHUNK):
                found[name] = ()
            elif not found[name]:
                raise ConfigError(
                    f"corpus.{name}: {when}, and the tokenizer has no {name}_token. Name it in its "
                    f"tokenizer_config.json, or set corpus.{name} to never or auto."
                )
        return cls(bos, eos, found["bos"], found["eos"])

    @property
    def of_chunks(self) -> int:
        """How many tokens of each chunk are none of the document."""
        return len(self.begins) * (self.bos == CHUNK) + len(self.ends) * (self.eos == CHUNK)


def habits(tokenizer: PreTrainedTokenizerFast) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The tokens that a tokenizer puts before and after a text by itself."""
    [found] = encode(tokenizer, ["a"])
    return tuple(found.tokens[: found.n_added]), tuple(found.ending)


@dataclass(frozen=True)
class Chunk:
    """A sequence of a document.

    Attributes:
        tokens: with those that frame it.
        start: of the document's tokens, the first that is in it.
        spans: the characters of each token; empty ones of what is no text.
        masks: of each token whether the loss counted it; None where the document does not say.
    """

    tokens: list[int]
    start: int
    spans: Spans
    masks: list[bool] | None


def chunks(
    parts: Iterable[tuple[Encoding, Sequence[bool] | None]],
    context: int,
    overlap: int = 0,
    framing: Framing = Framing(),
) -> Iterator[Chunk]:
    """Cut a document into sequences of at most ``context`` tokens.

    A chunk begins ``overlap`` tokens before the end of the one before, and counts as it stands
    there: as in training on such chunks, a token that is in two of them counts twice. A token that
    ends a text counts as the one before it does, and one that begins it does not, as nothing
    predicts it. Neither stands twice where the text has it already.

    Args:
        parts: of the document, one after the other; each with which of its tokens the loss counted.
        context: most tokens of a sequence.
        overlap: at most ``context - framing.of_chunks - 2``.
        framing: what stands at ends.
    """
    begins = framing.begins if framing.bos == DOCUMENT else ()
    ends = framing.ends if framing.eos == DOCUMENT else ()
    room = context - framing.of_chunks
    left, is_begun = Chunk([], 0, Spans([]), None), False
    for encoding, masks in parts:
        n_added = 0 if framing.bos == AUTO else encoding.n_added
        left = _joined(left, encoding, masks, n_added)
        # By the tokens at the document's ends it is told whether it has these already.
        if not is_begun and len(left.tokens) >= len(begins) + len(ends):
            left, is_begun = _framed(left, begins), True
        n_whole = max(0, -((room + len(ends) - len(left.tokens)) // (room - overlap)))
        if is_begun and n_whole:
            for place in range(n_whole):
                yield _of_chunk(left, place * (room - overlap), room, framing)
            left = _run(left, n_whole * (room - overlap))
    left = _framed(left, () if is_begun else begins, ends)
    place = 0
    while place < len(left.tokens):
        yield _of_chunk(left, place, room, framing)
        if place + room >= len(left.tokens):
            return
        place += room - overlap


def _joined(left: Chunk, part: Encoding, masks: Sequence[bool] | None, n_added: int) -> Chunk:
    """A document as far as it is left, and the part of it after that, but for its first tokens."""
    return Chunk(
        left.tokens + part.tokens[n_added:],
        left.start,
        left.spans + part.spans.cut(n_added),
        None if masks is None else [*(left.masks or ()), *masks[n_added:]],
    )


def _run(left: Chunk, place: int, end: int | None = None) -> Chunk:
    """Some tokens of a document."""
    masks = None if left.masks is None else left.masks[place:end]
    return Chunk(left.tokens[place:end], left.start + place, left.spans.cut(place, end), masks)


def _of_chunk(left: Chunk, place: int, room: int, framing: Framing) -> Chunk:
    """A chunk of a document, with what frames each chunk."""
    begins = framing.begins if framing.bos == CHUNK else ()
    ends = framing.ends if framing.eos == CHUNK else ()
    return _framed(_run(left, place, place + room), begins, ends)


def _framed(chunk: Chunk, begins: tuple[int, ...], ends: tuple[int, ...] = ()) -> Chunk:
    """Tokens with those that are to stand before and after them."""
    if begins and tuple(chunk.tokens[: len(begins)]) == begins:
        begins = ()
    if ends and tuple(chunk.tokens[-len(ends) :]) == ends:
        ends = ()
    if not begins and not ends:
        return chunk
    masks = chunk.masks
    if masks is not None:
        masks = [False] * len(begins) + masks + [bool(masks) and masks[-1]] * len(ends)
    return Chunk(
        [*begins, *chunk.tokens, *ends],
        chunk.start,
        Spans.nowhere(len(begins)) + chunk.spans + Spans.nowhere(len(ends)),
        masks,
    )
