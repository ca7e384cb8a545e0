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
_WHOLE_AGAIN = "Save or download the whole model again, into an empty folder."
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
    places = _weight_map(path, str(first))
    if places is None:
        return [str(first)]
    files = sorted(set(places.values()))
    absent = [name for name in files if not (folder / name).exists()]
    if absent:
        raise ModelError(
            f"model: {path} cannot be loaded: {first} names {len(files)} files, and "
            f"{len(absent)} of them {'is' if len(absent) == 1 else 'are'} not there, such as "
            f"{absent[0]}. Download what is missing too."
        )
    return files


def holds_weights(path: str) -> bool:
    """Whether a folder has weights of any kind, or what a download has left of them."""
    patterns = (*_PICKLES, *_OTHERS, "*.safetensors.*")
    return any(True for pattern in patterns for _ in Path(path).glob(pattern))


def stored_tensors(path: str) -> dict[str, StoredTensor]:
    """What the files of a model hold, from their headers.

    Raises:
        ModelError: one is not there, is cut short, or is something else, or a tensor stands in two
            of them, or in another than the index says.
    """
    tensors: dict[str, StoredTensor] = {}
    found: dict[str, str] = {}
    for name in weight_files(path):
        with _named(path, name):
            header = read_header(Store(path), name)
        # Which of two would be loaded is a matter of the order in which files are opened.
        if twice := sorted(header.keys() & tensors.keys()):
            raise ModelError(
                f"model: {path} holds {_tensors(twice)} in {found[twice[0]]} and in {name}, and it "
                f"cannot be told which is the model's. {_WHOLE_AGAIN}"
            )
        tensors |= header
        found |= dict.fromkeys(header, name)
    _refuse_elsewhere(path, found)
    return tensors


def _refuse_elsewhere(path: str, found: dict[str, str]) -> None:
    """Refuse tensors that are in another file than the index says: files of two models, mixed."""
    index = str(read_config(path).get("transformers_weights") or _INDEX)
    places = _weight_map(path, index) if (Path(path) / index).exists() else None
    other = sorted(n for n, place in (places or {}).items() if found.get(n, place) != place)
    if places and other:
        raise ModelError(
            f"model: {index} of {path} says that {_tensors(other)} is in {places[other[0]]}, and "
            f"it is in {found[other[0]]}. {_WHOLE_AGAIN}"
        )


def _weight_map(path: str, index: str) -> dict[str, str] | None:
    """Which file each tensor is in, as an index says; None for a file that is no index."""
    if not index.endswith(".index.json"):
        return None
    with _named(path, index):
        places = read_json_object(Store(path), index).get("weight_map")
        if not isinstance(places, dict) or not places:
            raise Unusable("names no file (weight_map); download it again")
    return {str(name): str(place) for name, place in places.items()}


def _tensors(names: list[str]) -> str:
    """The first of some tensors, and how many more there are."""
    return names[0] + (f" (and {len(names) - 1:,} more)" if len(names) > 1 else "")


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
