"""The files that a model is loaded from: which they are, and whether each is whole.

Nothing here needs torch: what a download left broken is said before that is imported.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rayinfluence.errors import ModelError
from rayinfluence.storage.downloads import StoredTensor, Unusable, read_header, read_json_object
from rayinfluence.storage.store import Store

CONFIG = "config.json"
_WHOLE = "model.safetensors"
_INDEX = "model.safetensors.index.json"
_PICKLES = ("pytorch_model*.bin", "model*.bin", "*.pth", "model*.pt", "consolidated*.pt", "*.ckpt")
_OTHERS = ("*.gguf", "*.npz", "*.h5", "*.msgpack", "*.safetensors")


def read_config(path: str) -> dict[str, Any]:
    """The config.json of a model's folder.

    Raises:
        ModelError: it is not JSON, or what a download left in its place.
    """
    with _named(path, CONFIG):
        return read_json_object(Store(path), CONFIG)


def weight_files(path: str) -> list[str]:
    """Names of the files that a model is loaded from; others may lie beside them.

    Raises:
        ModelError: there is none, there are two sets, or the index does not say which.
    """
    folder = Path(path)
    # A configuration may name its file, which is then taken before all others.
    named = read_config(path).get("transformers_weights")
    if not named and all((folder / name).is_file() for name in (_WHOLE, _INDEX)):
        raise ModelError(
            f"model: {path} holds two sets of weights, {_WHOLE} and {_INDEX}, and it cannot be "
            "told which is the model's. Remove the one that is not."
        )
    first = named or (_INDEX if (folder / _INDEX).exists() else _WHOLE)
    if not named and not (folder / first).exists():
        raise ModelError(f"model: {path} cannot be loaded: {_no_weights(folder)}.")
    if not str(first).endswith(".index.json"):
        return [str(first)]
    with _named(path, first):
        index = read_json_object(Store(path), first).get("weight_map")
        if not isinstance(index, dict) or not index:
            raise Unusable("names no file (weight_map); download it again")
    files = sorted({str(name) for name in index.values()})
    absent = [name for name in files if not (folder / name).exists()]
    if absent:
        raise ModelError(
            f"model: {path} cannot be loaded: {first} names {len(files)} files, and "
            f"{len(absent)} of them {'is' if len(absent) == 1 else 'are'} not there, such as "
            f"{absent[0]}. Download what is missing too."
        )
    return files


def stored_tensors(path: str) -> dict[str, StoredTensor]:
    """What the files of a model hold, from their headers.

    Raises:
        ModelError: one is not there, is cut short, or is something else.
    """
    tensors: dict[str, StoredTensor] = {}
    for name in weight_files(path):
        with _named(path, name):
            tensors |= read_header(Store(path), name)
    return tensors


def unlisted(path: str) -> list[str]:
    """Shards of the model in a folder that its index does not name."""
    there = {file.name for file in Path(path).glob("model-*-of-*.safetensors")}
    return sorted(there - set(weight_files(path)))


@contextmanager
def _named(path: str, name: str) -> Iterator[None]:
    try:
        yield
    except Unusable as error:
        raise ModelError(f"model: {path} cannot be loaded: {name} {error}.") from error


def _no_weights(folder: Path) -> str:
    """Why there are no weights to load, by what is there instead."""
    for name in (_WHOLE, _INDEX):
        if (folder / name).is_symlink():
            return f"{name} is a link to nothing; download it again"
    if shards := sorted(folder.glob("model-*-of-*.safetensors")):
        return (
            f"it holds weights in pieces, such as {shards[0].name}, and neither {_WHOLE} nor "
            f"{_INDEX}, which says what is in which; download that too"
        )
    for patterns, what in (
        (_PICKLES, "is a pickle, which is not opened as it may run code: save it as safetensors"),
        (_OTHERS, "is not what is read: save the model as safetensors"),
    ):
        if found := [file.name for pattern in patterns for file in sorted(folder.glob(pattern))]:
            return (
                f"there is no {_WHOLE} in it, and {found[0]} {what} "
                "(`AutoModelForCausalLM.from_pretrained(...).save_pretrained(...)`)"
            )
    begun = "".join(
        f" ({file.name} is: its download has not ended)"
        for file in folder.glob("model*.safetensors.*")
    )
    return f"there is no {_WHOLE} in it{begun}"
