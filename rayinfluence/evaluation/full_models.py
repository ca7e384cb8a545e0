"""Models that were trained on all of the corpus, put where runs find them."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from fnmatch import fnmatch
from pathlib import Path

import torch
from torch import Tensor

from rayinfluence.addresses import hub_address
from rayinfluence.dataflow.run import Run
from rayinfluence.evaluation.retraining import Retraining
from rayinfluence.evaluation.subsets import Subset
from rayinfluence.guest import as_found
from rayinfluence.model.identity import model_digest, model_identity
from rayinfluence.model.load import load_model
from rayinfluence.model.weight_files import CONFIG
from rayinfluence.storage.store import Store
from rayinfluence.storage.tensors import read_tensors, tensor_bytes

#: Files of a tokenizer, in the folder of a model.
_OF_TOKENIZERS = (
    "tokenizer*",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.*",
    "merges.txt",
    "*.model",
    "*.jinja",
    "*.tiktoken",
)
#: What of a model is written before its config.json, without which it is none; and halves of files.
_LEFT = ("generation_config.json", "model*.safetensors*", ".*")


def put_full_models(
    run: Run, retraining: Retraining, fulls: Sequence[Subset], warn: Callable[[str], None]
) -> None:
    """Put the full model of each seed into a folder: the first where the run's model is, if free.

    The others are beside it, and so is the first where the run has a model of another origin. What
    is there stays.

    Args:
        run: whose configuration says where.
        retraining: which has trained them.
        fulls: the subsets of all sequences, one for each seed.
        warn: told where something else is.

    Raises:
        DamagedError: a model is not what was written.
    """
    model = run.config.model
    if hub_address(model) is not None:
        warn(
            f"model: {model} is on a hub, and models that the recipe makes of all of the corpus "
            f"stay in {retraining.store.url}. Scores are of the former."
        )
        return
    for number, subset in enumerate(fulls):
        beside = f"{model}-seed-{subset.seed}"
        files, _ = read_tensors(retraining.store, retraining.model_key(subset))
        named = run.inputs.folders.base
        base = None if named is None else named.path
        if number == 0 and _is_or_becomes(Path(model), files, run, base):
            continue
        if number == 0:
            warn(
                f"model: {model} is not the model that the recipe makes of this corpus with seed "
                f"{subset.seed}, by its weights: scores are of the former, and what they are "
                f"compared with is of the recipe, whose model is in {beside}. To have scores of "
                "that, name it under `model`."
            )
        if not _is_or_becomes(Path(beside), files, run):
            warn(
                f"{beside} holds another model than the one that the recipe makes of all of the "
                f"corpus with seed {subset.seed}; it stays, and that one is only in "
                f"{retraining.store.url}. Move it away to have the other there."
            )


def is_taken(folder: Path) -> bool:
    """Whether there is anything at a place but a tokenizer, and what a killed writer has left."""
    if not folder.is_dir():
        return folder.exists()
    ours = (*_OF_TOKENIZERS, *_LEFT)
    names = (path.name for path in folder.iterdir())
    return any(not any(fnmatch(name, pattern) for pattern in ours) for name in names)


def _is_or_becomes(
    folder: Path, files: Mapping[str, Tensor], run: Run, base: str | None = None
) -> bool:
    """Whether a folder holds this model, after it was put there if there was none.

    Args:
        folder: where.
        files: of the model.
        run: whose tokenizer it gets.
        base: the folder of the base, where an adapter is in the folder.
    """
    if not is_taken(folder):
        _write(folder, files, Path(run.inputs.folders.tokenizer.path))
        return True
    with _unpacked(files) as unpacked:
        return _digest(folder, run, base) == _digest(unpacked, run)


def _digest(folder: Path, run: Run, base: str | None = None) -> str:
    numerics = run.numerics
    with as_found():
        model = load_model(
            str(folder),
            torch.float32,
            base_model=base,
            attention=numerics.attention,
            trust_remote_code=run.config.trust_remote_code,
            kind=numerics.objective,
        )
    return model_digest(model_identity(model))


@contextmanager
def _unpacked(files: Mapping[str, Tensor]) -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="rayinfluence-") as folder:
        _write(Path(folder), files, None)
        yield Path(folder)


def _write(folder: Path, files: Mapping[str, Tensor], tokenizer: Path | None) -> None:
    """Write a model's files; config.json comes last, as without it there is no model."""
    target = Store(str(folder))
    if tokenizer is not None:
        source = Store(str(tokenizer))
        for name in source.list():
            if any(fnmatch(name, pattern) for pattern in _OF_TOKENIZERS):
                target.write(name, source.read(name))
    for name in sorted(files, key=lambda name: (name == CONFIG, name)):
        target.write(name, tensor_bytes(files[name]))
