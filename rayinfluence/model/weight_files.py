"""The files that a model is loaded from: which they are, and whether each is whole.

Nothing here needs torch: what a download left broken is said before that is imported.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from fnmatch import filter as matching
from pathlib import Path
from typing import Any

from rayinfluence.errors import ModelError
from rayinfluence.storage.downloads import StoredTensor, Unusable, read_header, read_json_object
from rayinfluence.storage.store import Store

CONFIG = "config.json"
#: What names of files of weights that are read end in.
WEIGHTS = ".safetensors"
WHOLE = "model.safetensors"
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


def weight_files(path: str, there: Collection[str] | None = None) -> list[str]:
    """Names of the files that a model is loaded from; others may lie beside them.

    Args:
        path: its folder, with config.json and, if it has one, the index.
        there: names of the files that the model has, where its weights have yet to be fetched;
            None for those in the folder.

    Raises:
        ModelError: there is none, there are two sets, or the index does not say which.
    """
    folder = Path(path)
    names = {file.name for file in folder.iterdir() if file.exists()} if there is None else there
    # A configuration may name its file, which is then taken before all others.
    named = read_config(path).get("transformers_weights")
    if not named and {WHOLE, _INDEX} <= {*names}:
        raise ModelError(
            f"model: {path} holds two sets of weights, {WHOLE} and {_INDEX}, and it cannot be "
            "told which is the model's. Remove the one that is not."
        )
    first = named or (_INDEX if _INDEX in names else WHOLE)
    if not named and first not in names:
        links = [name for name in (WHOLE, _INDEX) if (folder / name).is_symlink()]
        why = f"{links[0]} is a link to nothing; download it again" if links else None
        raise ModelError(f"model: {path} cannot be loaded: {why or why_no_weights(path, names)}.")
    places = _weight_map(path, str(first))
    if places is None:
        return [str(first)]
    files = sorted(set(places.values()))
    absent = [
        name for name in files if not ((folder / name).exists() if there is None else name in there)
    ]
    if absent:
        raise ModelError(
            f"model: {path} cannot be loaded: {first} names {len(files)} files, and "
            f"{len(absent)} of them {'is' if len(absent) == 1 else 'are'} not there, such as "
            f"{absent[0]}. Download what is missing too."
        )
    return files


def holds_any_weights(path: str) -> bool:
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


def holds_weights(folder: Path) -> bool:
    """Whether a model can be read from a folder: its configuration and weights are there."""
    return (folder / CONFIG).is_file() and any((folder / n).exists() for n in (WHOLE, _INDEX))


@contextmanager
def _named(path: str, name: str) -> Iterator[None]:
    try:
        yield
    except Unusable as error:
        raise ModelError(f"model: {path} cannot be loaded: {name} {error}.") from error


def why_no_weights(source: str, names: Collection[str], revision: str | None = None) -> str:
    """Why there are no weights to load, by what is there instead, and what converts it.

    Args:
        source: what transformers loads it from: a folder, or a repository of a hub.
        names: of the files that are there.
        revision: of the repository.
    """
    names = sorted(names)
    if shards := matching(names, "model-*-of-*.safetensors"):
        return (
            f"it holds weights in pieces, such as {shards[0]}, and neither {WHOLE} nor "
            f"{_INDEX}, which says what is in which; download that too"
        )
    if pickles := _matching(names, _PICKLES):
        return (
            f"there is no {WHOLE} in it, and {pickles[0]} is a pickle, which is not opened as it "
            "may run code. If you trust its author, convert it and name the new folder: "
            f"`{conversion(source, revision)}`"
        )
    if others := _matching(names, _OTHERS):
        return (
            f"there is no {WHOLE} in it, and {others[0]} is not what is read: save the model as "
            "safetensors (`save_pretrained` of transformers)"
        )
    begun = "".join(
        f" ({name} is: its download has not ended)"
        for name in matching(names, "model*.safetensors.*")
    )
    remedy = (
        "name a repository with weights as safetensors"
        if revision
        else "download its weights too, or name a folder that `save_pretrained` wrote"
    )
    return f"there is no {WHOLE} in it{begun}; {remedy}"


def conversion(source: str, revision: str | None = None) -> str:
    """A command that saves a model and its tokenizer as safetensors, beside the working directory.

    Args:
        source: a folder, or a repository of a hub.
        revision: of the repository.
    """
    of = f", revision={revision!r}" if revision else ""
    return (
        f'python -c "import transformers as t; [k.from_pretrained({source!r}{of})'
        f".save_pretrained({converted(source)!r}) for k in (t.AutoModelForCausalLM, "
        't.AutoTokenizer)]"'
    )


def converted(source: str) -> str:
    """The folder that what is made of a model is saved in."""
    return f"{Path(source).name}-converted"


def _matching(names: Collection[str], patterns: Collection[str]) -> list[str]:
    return [name for pattern in patterns for name in matching(names, pattern)]
