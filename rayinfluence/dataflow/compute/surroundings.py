"""What stands around a sequence in its document: the ends of the sequences before and after it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from rayinfluence.corpus.features import Features

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

    from rayinfluence.corpus.tokenizer import Coding

#: What tells documents apart in a shard, and where a sequence is in its own.
_PLACE = ("document_id", "document_row", "token_start", "char_start", "char_end")
#: More tokens than frame a chunk.
_FRAMES = 4


@dataclass(frozen=True)
class Around:
    """The text before and after a sequence; None where its document begins or ends there."""

    before: str | None
    after: str | None


def neighbours(ids: Sequence[int]) -> list[int]:
    """Ids of the sequences beside some, without those themselves; ascending.

    Sequences of a document follow each other in its shard. Some that are named may not exist.
    """
    ours = set(ids)
    return sorted({beside for i in ids for beside in (i - 1, i + 1) if beside >= 0} - ours)


def surroundings(
    ids: Sequence[int], rows: Sequence[pa.Table], tokenizer: Coding, n_characters: int
) -> dict[int, Around]:
    """The text before and after each of some sequences, at most so many characters.

    Args:
        ids: of the sequences.
        rows: tables with ``sequence_id``: these sequences, and what is beside them.
        tokenizer: of the corpus.
        n_characters: of either side.

    Returns:
        By id.
    """
    if isinstance(tokenizer, Features) or not n_characters:
        return dict.fromkeys(ids, Around(None, None))
    names = ["sequence_id", *_PLACE, "tokens"]
    table = pa.concat_tables(one.select(names) for one in rows)
    places = {i: place for place, i in enumerate(table["sequence_id"].to_pylist())}

    def row(i: int) -> dict[str, Any] | None:
        return None if i not in places else table.slice(places[i], 1).to_pylist()[0]

    found = {}
    for i in ids:
        one, earlier, later = row(i), row(i - 1), row(i + 1)
        assert one is not None
        before = _text_before(tokenizer, earlier, one) if earlier else ""
        after = _text_after(tokenizer, one, later) if later else ""
        found[i] = Around(before[-n_characters:] or None, after[:n_characters] or None)
    return found


def _text_before(
    tokenizer: PreTrainedTokenizerFast, earlier: Mapping[str, Any], one: Mapping[str, Any]
) -> str:
    """What a sequence adds to the document before the one after it; empty if that is another's."""
    if not _follows(earlier, one):
        return ""
    tokens, ours = _trimmed(tokenizer, earlier), _trimmed(tokenizer, one)
    first = ours[:1]
    # Beside the token that follows: alone, the last may lose white space after it, and that before.
    whole = _decoded(tokenizer, tokens[: len(tokens) - _n_shared(tokenizer, earlier, one)] + first)
    return whole[: len(whole) - len(_decoded(tokenizer, first))]


def _text_after(
    tokenizer: PreTrainedTokenizerFast, one: Mapping[str, Any], later: Mapping[str, Any]
) -> str:
    """What the sequence after one adds to the document; empty if it is another's."""
    if not _follows(one, later):
        return ""
    last = _trimmed(tokenizer, one)[-1:]
    tokens = _trimmed(tokenizer, later)[_n_shared(tokenizer, one, later) :]
    return _decoded(tokenizer, last + tokens)[len(_decoded(tokenizer, last)) :]


def _follows(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether a row is of the same document as the one before it, and further on there."""
    same = all(one[name] == other[name] for name in ("document_id", "document_row"))
    return same and other["token_start"] > one["token_start"]


def _n_shared(
    tokenizer: PreTrainedTokenizerFast, one: Mapping[str, Any], other: Mapping[str, Any]
) -> int:
    """Tokens at the end of a sequence that the one after it begins with, as chunks may overlap."""
    end, start = one["char_end"], other["char_start"]
    if end is not None and start is not None and end <= start:
        return 0
    tokens, following = _trimmed(tokenizer, one), _trimmed(tokenizer, other)
    most = one["token_start"] + len(one["tokens"]) - other["token_start"]
    for n in range(most, max(0, most - _FRAMES), -1):
        if tokens[-n:] == following[:n]:
            return n
    return 0


def _trimmed(tokenizer: PreTrainedTokenizerFast, row: Mapping[str, Any]) -> list[int]:
    """A sequence without special tokens at its ends."""
    special, tokens = set(tokenizer.all_special_ids), list(row["tokens"])
    while tokens and tokens[0] in special:
        tokens = tokens[1:]
    while tokens and tokens[-1] in special:
        tokens = tokens[:-1]
    return tokens


def _decoded(tokenizer: PreTrainedTokenizerFast, tokens: Sequence[int]) -> str:
    return str(tokenizer.backend_tokenizer.decode(list(tokens), skip_special_tokens=False))
