"""A document as people read it: its tokens, which of them count, and its sequences."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import groupby
from typing import TYPE_CHECKING, Any

from rayinfluence.corpus.metadata import as_text, plain
from rayinfluence.corpus.shards import LOSS_MASK
from rayinfluence.corpus.tokenizer import token_texts
from rayinfluence.text import visible_line

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

#: Between two tokens.
_BORDER = "│"


@dataclass(frozen=True)
class ShownToken:
    """A token: its id, the text that it adds, and whether the loss of training counted it."""

    id: int
    text: str
    counts: bool


@dataclass(frozen=True)
class ShownSequence:
    """A sequence, and where in its document it is; as in a shard."""

    token_start: int
    char_start: int
    char_end: int
    tokens: list[ShownToken]


@dataclass(frozen=True)
class ShownDocument:
    """A document with its sequences.

    Attributes:
        file: its address.
        row: its line or row there.
        document_id: its own, or file and row.
        metadata: that are kept with each sequence.
        not_kept: columns that are not, as they are not small.
        sequences: in their order.
        notes: what is to be known of them.
    """

    file: str
    row: int | None
    document_id: str
    metadata: Mapping[str, Any]
    not_kept: Sequence[str]
    sequences: Sequence[ShownSequence]
    notes: Sequence[str] = ()

    def to_json(self) -> dict[str, Any]:
        """It as JSON has it."""
        return asdict(self)

    def lines(self) -> Iterator[str]:
        """It for a terminal: tokens with borders between them, by whether they count."""
        yield f"document    {visible_line(self.document_id)}  ({self.file}:{self.row})"
        for key, value in self.metadata.items():
            yield f"metadata    {visible_line(f'{key}: {as_text(value)}')}"
        if self.not_kept:
            yield f"not kept    {visible_line(', '.join(self.not_kept))}"
        for note in self.notes:
            yield f"note        {note}"
        for number, one in enumerate(self.sequences, start=1):
            n_tokens, n_counted = len(one.tokens), sum(token.counts for token in one.tokens)
            yield ""
            yield (
                f"sequence    {number} of {len(self.sequences)}: {n_tokens} tokens from token "
                f"{one.token_start}, characters {one.char_start} to {one.char_end}; "
                f"{n_counted} count"
            )
            for counts, tokens in groupby(one.tokens, key=lambda token: token.counts):
                shown = _BORDER.join(visible_line(token.text) for token in tokens)
                yield f"  {'counts' if counts else 'given'}{' ' * (4 if counts else 5)}{shown}"


def shown_sequences(
    rows: Sequence[Mapping[str, Any]], tokenizer: PreTrainedTokenizerFast, counts_all: bool
) -> list[ShownSequence]:
    """Rows of a shard as sequences that are shown.

    Args:
        rows: of one document.
        tokenizer: of its tokens.
        counts_all: whether the loss counted all tokens, whatever the documents say.
    """
    found = []
    for row in rows:
        tokens, masks = row["tokens"], row[LOSS_MASK]
        if masks is None or counts_all:
            masks = [True] * len(tokens)
        masks = [False, *masks[1:]]  # nothing predicts the first
        texts = token_texts(tokenizer, tokens)
        shown = [ShownToken(*one) for one in zip(tokens, texts, masks, strict=True)]
        places = row["token_start"], row["char_start"], row["char_end"]
        found.append(ShownSequence(*places, shown))
    return found


def plain_metadata(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """Metadata as JSON has them."""
    return {key: plain(value) for key, value in metadata.items()}
