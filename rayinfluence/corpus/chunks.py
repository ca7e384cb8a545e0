"""Which tokens of a document are in which sequence: its chunks, and the tokens that frame them.

All here is arithmetic of places; tokens are T, of a document.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rayinfluence.corpus.tokenizer import Encoding, encode
from rayinfluence.errors import ConfigError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

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
    def of(cls, tokenizer: PreTrainedTokenizerFast, bos: str, eos: str) -> Framing:
        """That of a tokenizer: what it puts around a text by itself, or its special tokens.

        Raises:
            ConfigError: it has none of a kind that is to stand somewhere.
        """
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
    spans: list[tuple[int, int]]
    masks: list[bool] | None


def chunks(
    encoding: Encoding,
    masks_T: Sequence[bool] | None,
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
        encoding: of the document.
        masks_T: of each of its tokens whether the loss counted it.
        context: most tokens of a sequence.
        overlap: at most ``context - framing.of_chunks - 2``.
        framing: what stands at ends.
    """
    n_added = 0 if framing.bos == AUTO else encoding.n_added
    masks = None if masks_T is None else list(masks_T[n_added:])
    document = Chunk(encoding.tokens[n_added:], 0, encoding.offsets[n_added:], masks)
    whole = _framed(document, framing, DOCUMENT)
    room = context - framing.of_chunks
    start, n_tokens = 0, len(whole.tokens)
    while start < n_tokens:
        end = min(start + room, n_tokens)
        masks = None if whole.masks is None else whole.masks[start:end]
        part = Chunk(whole.tokens[start:end], start, whole.spans[start:end], masks)
        yield _framed(part, framing, CHUNK)
        if end == n_tokens:
            return
        start = end - overlap


def _framed(chunk: Chunk, framing: Framing, when: str) -> Chunk:
    """Tokens with those that are to stand before and after them."""
    begins = framing.begins if framing.bos == when else ()
    ends = framing.ends if framing.eos == when else ()
    if begins and tuple(chunk.tokens[: len(begins)]) == begins:
        begins = ()
    if ends and tuple(chunk.tokens[-len(ends) :]) == ends:
        ends = ()
    masks = chunk.masks
    if masks is not None:
        masks = [False] * len(begins) + masks + [bool(masks) and masks[-1]] * len(ends)
    return Chunk(
        [*begins, *chunk.tokens, *ends],
        chunk.start,
        [(0, 0)] * len(begins) + chunk.spans + [(0, 0)] * len(ends),
        masks,
    )
