"""Loading a tokenizer from a folder: the one that its tokenizer.json describes."""

from __future__ import annotations

import re
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rayinfluence.corpus.tokenizer import faithful
from rayinfluence.errors import ModelError, brief
from rayinfluence.registered import code_elsewhere, not_fetched, only_code_of
from rayinfluence.storage.downloads import (
    Unusable,
    read_json_object,
    refuse_cut_json,
    refuse_stand_in,
)
from rayinfluence.storage.store import Store

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

#: The file of a folder that a tokenizer is read from.
TOKENIZER = "tokenizer.json"
#: What is read beside it.
_BESIDE = ("tokenizer_config.json", "special_tokens_map.json", "added_tokens.json")
#: Vocabularies, which are read where it is not there.
_VOCABULARIES = ("*.model", "*.tiktoken", "vocab.*", "merges.txt")
#: Texts on which tokenizers of one vocabulary come apart, if they do anywhere.
_PROBES = (
    "It was the BEST of times, it's 12345.678 of the world's 1st; don't you'll WE'VE\u2019s.",
    "  two   spaces,\ttabs\t\tand\r\n\r\n lines \n  end ",
    "def f(x):\n    if x != 3:\n        return {'a_b': [x**2, -1e-9]}  # snake_case, CamelCase\n",
    "caf\u00e9 cafe\u0301 na\u00efve \ufb01ne \u2460 \uff21\uff22 \u00bd \u2026 \u201cquoted\u201d",
    "\u0420\u0443\u0441\u0441\u043a\u0438\u0439 \u0395\u03bb\u03bb\u03b7\u03bd\u03b9\u03ba\u03ac",
    "\u4e2d\u6587\u5b57\u7b26 \u65e5\u672c\u8a9e\u306e\u30c6\u30ad\u30b9\u30c8 \ud55c\uad6d\uc5b4",
    "\u0627\u0644\u0639\u0631\u0628\u064a\u0629 \u0939\u093f\u0928\u094d\u0926\u0940 \u0e44\u0e17",
    "\U0001f600 \U0001f468\u200d\U0001f469\u200d\U0001f467 \u00a0\u2003\u200b\ufeff<html>&amp;",
)
_TIKTOKEN_LINE = re.compile(rb"[A-Za-z0-9+/]+=* \d+\s*$")


def load_tokenizer(path: str, *, trust_remote_code: bool = False) -> PreTrainedTokenizerFast:
    """Load a tokenizer that knows character offsets, and neither cuts nor pads.

    Where there is a tokenizer.json its ids are those, whatever other files say: transformers
    rebuilds some tokenizers from their class, and splits texts at whatever tokenizer_config.json
    calls special.

    Raises:
        ModelError: there is none, or it has no fast version.
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
            tokenizer = _as_transformers_does(path, trust_remote_code)
    except Exception as error:  # transformers raises many kinds, all of them about this folder
        raise ModelError(
            f"tokenizer: none can be loaded from {path}: {_why(path, error)}. Save it beside the "
            "model, or name its folder under `tokenizer`."
        ) from error
    if len(tokenizer) <= len(tokenizer.all_special_ids):
        # Where there is a config.json and no tokenizer, transformers makes an empty one.
        raise ModelError(
            f"tokenizer: the one of {path} knows no token but special ones: "
            f"{_lacking(path) or 'its files (tokenizer.json) are missing'}. Save it beside the "
            "model, or name its folder under `tokenizer`."
        )
    if not isinstance(tokenizer, PreTrainedTokenizerFast):
        raise ModelError(
            f"tokenizer: the one of {path} has no fast version (tokenizer.json), so it gives no "
            "character "
            "offsets; save it with `AutoTokenizer.from_pretrained(...).save_pretrained(...)`."
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
        names |= {file.name for pattern in _VOCABULARIES for file in folder.glob(pattern)}
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


def rebuilt_otherwise(
    path: str, tokenizer: PreTrainedTokenizerFast, trust_remote_code: bool = False
) -> str | None:
    """Say where transformers makes another tokenizer of a folder than its tokenizer.json, if so.

    Args:
        path: the folder.
        tokenizer: as :func:`load_tokenizer` loads it.
        trust_remote_code: let the folder's own Python code run.
    """
    try:
        rebuilt = _as_transformers_does(path, trust_remote_code)
    except Exception:  # code of the folder's own, or a class that cannot be built from its files
        return None
    backend = getattr(rebuilt, "backend_tokenizer", None)
    if backend is None:
        return None
    special = sorted({str(token) for token in rebuilt.added_tokens_decoder.values()})
    probes = [*_PROBES, *(f"x{token}{token} {token}y" for token in special)]
    try:
        ours = [one.ids for one in faithful(tokenizer.backend_tokenizer).encode_batch(probes)]
    except Exception:  # it has no token for what it does not know; a text that it fails on is told
        return None
    try:
        theirs = [one.ids for one in faithful(backend).encode_batch(probes)]
    except Exception as error:
        return (
            f"tokenizer: transformers makes the one of {path} a {type(rebuilt).__name__}, which "
            f"cannot tokenise ({brief(error)}). That of tokenizer.json is used."
        )
    for text, one, other in zip(probes, ours, theirs, strict=True):
        if one != other:
            return (
                f"tokenizer: transformers makes the one of {path} a {type(rebuilt).__name__} with "
                f"other tokens than its tokenizer.json: {len(other)} against {len(one)} for "
                f"{text!r}. Those of tokenizer.json are used; if the model was trained with the "
                "others, save the rebuilt one into a folder and name that under `tokenizer`."
            )
    return None


def _as_transformers_does(path: str, trust_remote_code: bool) -> Any:
    from transformers import AutoTokenizer

    about, name = Store(path), _BESIDE[0]
    code = read_json_object(about, name).get("auto_map") if about.exists(name) else None
    if trust_remote_code and (elsewhere := code_elsewhere(code, ("AutoTokenizer",))):
        raise ModelError(not_fetched(elsewhere, name))
    with only_code_of(path if trust_remote_code else None):
        return AutoTokenizer.from_pretrained(path, trust_remote_code=trust_remote_code)


def _why(path: str, error: Exception) -> str:
    """What is wrong with the files, where they tell, and else what the library says."""
    folder = Path(path)
    if (folder / TOKENIZER).is_file():
        return f"its {TOKENIZER} is damaged or of a later version ({brief(error).rstrip('.')})"
    if lacking := _lacking(path):
        return lacking
    if not any(match for pattern in _VOCABULARIES for match in folder.glob(pattern)):
        return f"there is no {TOKENIZER} in it"
    return brief(error).rstrip(".")


def _lacking(path: str) -> str | None:
    """The package without which a vocabulary file of this folder is not read, as a clause."""
    folder = Store(path)
    for name in sorted(folder.list()):
        if "/" in name or not name.endswith((".model", ".tiktoken")):
            continue
        first = folder.read(name).split(b"\n", 1)[0]
        needed = (
            {"tiktoken": "tiktoken"}
            if _TIKTOKEN_LINE.match(first)
            else {"sentencepiece": "sentencepiece", "google.protobuf": "protobuf"}
        )
        missing = [package for module, package in needed.items() if not _is_there(module)]
        if missing:
            return (
                f"{name} is read by the package {' and '.join(missing)}, which is not installed "
                f"(pip install {' '.join(missing)})"
            )
    return None


def _is_there(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except ModuleNotFoundError:  # the package that it is a part of
        return False
