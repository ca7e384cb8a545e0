"""Loading a tokenizer from a folder: the one that its tokenizer.json describes."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from rayinfluence.corpus.tokenizer import faithful
from rayinfluence.corpus.tokenizer_lacking import TOKENIZER, VOCABULARIES, why_none
from rayinfluence.corpus.tokenizer_made import of_vocabulary
from rayinfluence.errors import ModelError
from rayinfluence.storage.downloads import (
    Unusable,
    read_json_object,
    refuse_cut_json,
    refuse_stand_in,
)
from rayinfluence.storage.store import Store

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

#: What is read beside tokenizer.json.
_BESIDE = ("tokenizer_config.json", "special_tokens_map.json", "added_tokens.json")


def load_tokenizer(path: str, *, trust_remote_code: bool = False) -> PreTrainedTokenizerFast:
    """Load a tokenizer that knows character offsets, and neither cuts nor pads.

    Where there is a tokenizer.json its ids are those, whatever other files say: transformers
    rebuilds some tokenizers from their class, and splits texts at whatever tokenizer_config.json
    calls special. Where there is none, it is what transformers makes of the folder's vocabulary.

    Raises:
        ModelError: there is none, or it cannot tell where in a text its tokens are.
    """
    if not Path(path).is_dir():
        # transformers would take it for a name and ask the network.
        raise ModelError(
            f"tokenizer: there is no folder {path}; name one that `save_pretrained` wrote, with "
            "tokenizer.json."
        )
    refuse_damaged(path)
    # Here, since it takes seconds to import, and most processes load no tokenizer.
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerFast

    file = Path(path) / TOKENIZER
    try:
        if file.is_file():
            tokenizer = PreTrainedTokenizerFast.from_pretrained(path)
            # As the file has it, without the tokens that were made special since.
            tokenizer._tokenizer = Tokenizer.from_file(str(file))
        else:
            tokenizer = of_vocabulary(path, trust_remote_code)
    except ModelError:
        raise
    except Exception as error:  # transformers raises many kinds, all of them about this folder
        raise ModelError(
            f"tokenizer: none can be loaded from {path}: {why_none(path, error)}"
        ) from error
    if len(tokenizer) <= len(tokenizer.all_special_ids):
        # Where there is a config.json and no tokenizer, transformers makes an empty one.
        raise ModelError(
            f"tokenizer: the one of {path} knows no token but special ones: {why_none(path)}"
        )
    # What it is must not depend on how it was used last, and must cut and pad nothing.
    backend = tokenizer.backend_tokenizer
    plain = faithful(backend)
    backend.no_truncation()
    backend.no_padding()
    if backend.post_processor is not None:
        backend.post_processor = plain.post_processor
    return tokenizer


def refuse_damaged(path: str) -> None:
    """Refuse a tokenizer of which a file is not what its name says: what a download left of it.

    Raises:
        ModelError: with the file, and what is in its place.
    """
    folder = Path(path)
    names = {name for name in (TOKENIZER, *_BESIDE) if (folder / name).is_file()}
    if TOKENIZER not in names:
        names |= {file.name for pattern in VOCABULARIES for file in folder.glob(pattern)}
    for name in sorted(names):
        try:
            if name == TOKENIZER:  # it may be large, and is parsed when it is loaded
                refuse_cut_json(Store(path), name)
            elif name.endswith(".json"):
                read_json_object(Store(path), name)
            else:
                refuse_stand_in(Store(path), name)
        except Unusable as error:
            raise ModelError(
                f"tokenizer: none can be loaded from {path}: {name} {error}."
            ) from error
