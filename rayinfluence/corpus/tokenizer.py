"""Tokenizers: loading, what they are by digest, and the text of each token."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from rayinfluence.errors import ModelError
from rayinfluence.storage.digest import digest_bytes

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

_REPLACEMENT = "\ufffd"


def load_tokenizer(path: str, *, trust_remote_code: bool = False) -> PreTrainedTokenizerFast:
    """Load a tokenizer that knows character offsets.

    Raises:
        ModelError: there is none, or it has no fast version.
    """
    if not Path(path).is_dir():
        # transformers would take it for a name and ask the network.
        raise ModelError(
            f"tokenizer: there is no folder {path}; name one that `save_pretrained` wrote, with "
            "tokenizer.json."
        )
    # Here, since it takes seconds to import, and most processes load no tokenizer.
    from transformers import AutoTokenizer, PreTrainedTokenizerFast

    try:
        tokenizer = AutoTokenizer.from_pretrained(path, trust_remote_code=trust_remote_code)
    except Exception as error:  # transformers raises many kinds, all of them about this folder
        raise ModelError(
            f"tokenizer: none can be loaded from {path}: {error}. Save it beside the model, or "
            "name its "
            "folder under `tokenizer`."
        ) from error
    if len(tokenizer) <= len(tokenizer.all_special_ids):
        # Where there is a config.json and no tokenizer, transformers makes an empty one.
        raise ModelError(
            f"tokenizer: the one of {path} knows no token but special ones, so its files "
            "(tokenizer.json) are missing. Save it beside the model, or name its folder under "
            "`tokenizer`."
        )
    if not isinstance(tokenizer, PreTrainedTokenizerFast):
        raise ModelError(
            f"tokenizer: the one of {path} has no fast version (tokenizer.json), so it gives no "
            "character "
            "offsets; save it with `AutoTokenizer.from_pretrained(...).save_pretrained(...)`."
        )
    return tokenizer


def tokenizer_digest(tokenizer: PreTrainedTokenizerFast) -> str:
    """The digest of the tokenizer's whole definition."""
    return digest_bytes(tokenizer.backend_tokenizer.to_str().encode())


@dataclass(frozen=True)
class Encoding:
    """Token ids of a text, and the characters that each came from (none for added tokens)."""

    tokens: list[int]
    offsets: list[tuple[int, int]]


def encode(tokenizer: PreTrainedTokenizerFast, texts: Sequence[str]) -> list[Encoding]:
    """Encode texts as the model expects them, with the tokenizer's own leading token if it has one.

    Tokens that the tokenizer adds AFTER the text (an end marker) are left out: a document that is
    cut, or a completion that is asked for, does not end there.
    """
    batch = tokenizer(
        list(texts), return_offsets_mapping=True, return_attention_mask=False, verbose=False
    )
    encodings = []
    for tokens, offsets in zip(batch["input_ids"], batch["offset_mapping"], strict=True):
        end = len(tokens)
        while end > 1 and offsets[end - 1][0] == offsets[end - 1][1]:
            end -= 1
        encodings.append(Encoding(tokens[:end], [tuple(pair) for pair in offsets[:end]]))
    return encodings


def token_texts(tokenizer: PreTrainedTokenizerFast, tokens: Sequence[int]) -> list[str]:
    """The text that each token adds to those before it; joined, the text of the sequence.

    A token is decoded beside its neighbour on the left, which keeps leading spaces. Where a
    character is spread over several tokens it is given to the last of them.
    """
    backend = tokenizer.backend_tokenizer
    ids = [int(token) for token in tokens]
    lefts = backend.decode_batch([ids[max(0, i - 1) : i] for i in range(len(ids))], False)
    pairs = backend.decode_batch([ids[max(0, i - 1) : i + 1] for i in range(len(ids))], False)
    if not any(_REPLACEMENT in pair for pair in pairs):
        return [pair[len(left) :] for left, pair in zip(lefts, pairs, strict=True)]
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
