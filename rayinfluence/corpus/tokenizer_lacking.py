"""What a folder lacks of a tokenizer, by its files, where transformers makes none of them."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

from rayinfluence.corpus.sentencepieces import TIKTOKEN_LINE
from rayinfluence.errors import brief
from rayinfluence.storage.downloads import Unusable, read_json_object
from rayinfluence.storage.store import Store

#: The file of a folder that a tokenizer is read from.
TOKENIZER = "tokenizer.json"
#: Vocabularies, which are read where it is not there.
VOCABULARIES = ("*.model", "*.tiktoken", "vocab.*", "merges.txt", "tekken.json")
#: The two files of a tokenizer of byte pairs.
_PAIRS = ("vocab.json", "merges.txt")


def holds_tokenizer(path: str) -> bool:
    """Whether a folder holds a file that a tokenizer may be read from."""
    return any(any(Path(path).glob(pattern)) for pattern in (TOKENIZER, *VOCABULARIES))


def why_none(path: str, error: Exception | None = None) -> str:
    """Why transformers makes no tokenizer of a folder, as a clause with the remedy.

    Its own errors blame packages that have nothing to do with the files that are there.

    Args:
        path: the folder.
        error: what it raised; nothing where it made one that knows no token.
    """
    folder = Path(path)
    if (folder / TOKENIZER).is_file() and error is not None:
        return f"its {TOKENIZER} is damaged or of a later version ({brief(error).rstrip('.')})"
    if missing := _package(path):
        return missing
    there = sorted({file.name for pattern in VOCABULARIES for file in folder.glob(pattern)})
    if not there:
        return f"there is no {TOKENIZER} in it"
    if isinstance(error, ImportError):
        return brief(error).rstrip(".")
    pairs = [name for name in _PAIRS if name in there]
    if len(pairs) == 1 and there == pairs:
        [lacking] = set(_PAIRS) - set(pairs)
        return (
            f"it has {pairs[0]} without {lacking}, of which together a tokenizer of byte pairs is "
            f"made, and no {TOKENIZER}; copy the file from where the model came from"
        )
    if error is None or "instantiate the backend" in str(error):
        files = " and ".join(there)
        named = next(_names(path), None)
        said = (
            f"nothing says which tokenizer reads its {files}"
            if named is None
            else f"for {named} transformers does not read its {files}"
        )
        return (
            f"there is no {TOKENIZER} in it, and {said}; name the class that does under "
            "`tokenizer_class` in tokenizer_config.json"
        )
    return brief(error).rstrip(".")


def _names(path: str) -> Iterator[str]:
    """What the configurations of a folder say of its tokenizer, the first first."""
    for name, key in (
        ("tokenizer_config.json", "tokenizer_class"),
        ("config.json", "tokenizer_class"),
        ("config.json", "model_type"),
    ):
        try:
            said = read_json_object(Store(path), name).get(key)
        except Unusable:  # it is not there, or is told by who needs it
            continue
        if isinstance(said, str) and said:
            yield f"{said} ({key} of {name})"


def _package(path: str) -> str | None:
    """The package without which a vocabulary file of this folder is not read, as a clause."""
    folder = Store(path)
    for name in sorted(folder.list()):
        if "/" in name or not name.endswith((".model", ".tiktoken")):
            continue
        first = folder.read(name).split(b"\n", 1)[0]
        needed = (
            {"tiktoken": "tiktoken"}
            if TIKTOKEN_LINE.match(first)
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
