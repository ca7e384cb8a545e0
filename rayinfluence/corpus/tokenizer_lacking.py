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

#: What to do where files are damaged, and where there are none.
_AGAIN = (
    "Copy its files again from where the model came from, or download them again; or name the "
    "folder of another tokenizer under `tokenizer`."
)
_ELSEWHERE = "Save it beside the model, or name its folder under `tokenizer`."


def holds_tokenizer(path: str) -> bool:
    """Whether a folder holds a file that a tokenizer may be read from."""
    return any(any(Path(path).glob(pattern)) for pattern in (TOKENIZER, *VOCABULARIES))


def why_none(path: str, error: Exception | None = None) -> str:
    """Why transformers makes no tokenizer of a folder, as a clause, and then what to do.

    Args:
        path: the folder.
        error: what it raised; nothing where it made one that knows no token.
    """
    damaged = None if error is None else _damaged(path, error)
    if damaged is not None:
        return f"{damaged}. {_AGAIN}"
    return f"{_lacking(path, error)}. {_ELSEWHERE}"


def _damaged(path: str, error: Exception) -> str | None:
    """That files which are there, and could be read, are no tokenizer; None where they lack."""
    folder = Path(path)
    said = brief(error).rstrip(".")
    if (folder / TOKENIZER).is_file():
        return f"its {TOKENIZER} is damaged or of a later version ({said})"
    there = _vocabularies(folder)
    is_lacking = isinstance(error, ImportError) or "instantiate the backend" in str(error)
    if is_lacking or not there or _half_a_pair(there) or _package(path):
        return None
    files, verb = " and ".join(there), "are" if len(there) > 1 else "is"
    return f"its {files} {verb} damaged, or of another kind ({said})"


def _vocabularies(folder: Path) -> list[str]:
    return sorted({file.name for pattern in VOCABULARIES for file in folder.glob(pattern)})


def _half_a_pair(there: list[str]) -> bool:
    return len(there) == 1 and there[0] in _PAIRS


def _lacking(path: str, error: Exception | None) -> str:
    """What is not there, as a clause with the remedy.

    The errors of transformers blame packages that have nothing to do with the files that are there.
    """
    if missing := _package(path):
        return missing
    there = _vocabularies(Path(path))
    if not there:
        return f"there is no {TOKENIZER} in it"
    if isinstance(error, ImportError):
        return brief(error).rstrip(".")
    if _half_a_pair(there):
        [lacking] = set(_PAIRS) - set(there)
        return (
            f"it has {there[0]} without {lacking}, of which together a tokenizer of byte pairs is "
            f"made, and no {TOKENIZER}; copy the file from where the model came from"
        )
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
