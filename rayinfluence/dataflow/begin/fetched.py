"""Models and tokenizers on a hub, fetched to this machine before anything needs them.

The driver alone reads them: replicas get weights and code from it, and tasks the tokenizer. A
revision is resolved once: its commit is noted in the run directory, and who goes on there takes
that one, whatever a branch is by then.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatch
from functools import partial
from pathlib import Path

from rayinfluence.addresses import HubAddress, hub_address
from rayinfluence.config import RunConfig
from rayinfluence.corpus.tokenizer_files import refuse_damaged
from rayinfluence.corpus.tokenizer_lacking import holds_tokenizer
from rayinfluence.dataflow import layout
from rayinfluence.errors import ModelError, RayInfluenceError
from rayinfluence.model import lora_files
from rayinfluence.model.adapters import Source, source_of
from rayinfluence.model.kinds import refuse_unknown_kind
from rayinfluence.model.weight_files import (
    CONFIG,
    WEIGHTS,
    read_config,
    stored_tensors,
    weight_files,
    why_no_weights,
)
from rayinfluence.objective_kinds import KINDS, resolved_kind
from rayinfluence.storage.hub import (
    Say,
    Snapshot,
    cache,
    endpoint,
    fetch,
    find,
    missing,
    refuse_part,
    remember,
)
from rayinfluence.storage.store import Store, read_json

#: Files that describe a model, its tokenizer, and which weights are in which file.
_DESCRIBE = ("*.json", "*.jinja", "*.model", "*.tiktoken", "merges.txt", "vocab.txt")
#: Those of its code.
_CODE = "*.py"
#: Characters of a commit that tell it from others.
_SHORT = 12


@dataclass(frozen=True)
class Folder:
    """Where a model or a tokenizer is on this machine.

    Attributes:
        path: the folder.
        commit: that it was fetched at, from a hub; None where the folder was named.
    """

    path: str
    commit: str | None = None


@dataclass(frozen=True)
class Folders:
    """Where a model is, its parts and its tokenizer.

    Attributes:
        model: that was named.
        base: that was named as the base of the adapter in it; None where none was.
        source: what the model is read from.
        tokenizer: its own or another.
    """

    model: Folder
    base: Folder | None
    source: Source
    tokenizer: Folder


def fetched(config: RunConfig, say: Say, new_run: bool = False) -> Folders:
    """The folders of the model and of its tokenizer; what is on a hub is fetched.

    That is safetensors and what describes them, code where it may run, and nothing else. What can
    be refused without the weights is refused before they are fetched.

    Args:
        config: of the run.
        say: prints a line.
        new_run: take the commit that a branch is now, though the run directory has another.

    Raises:
        ModelError: the hub has no such model, does not give it, or it is none that is read.
        StorageError: the hub cannot be reached, or what came is damaged.
    """
    store = Store(config.run, config.storage.options(config.run))
    found: dict[str, Snapshot] = {}

    def folder(key: str, text: str) -> Folder:
        address = hub_address(text)
        if address is None:
            return Folder(text)
        known = _noted(store).get(str(address))
        with _named(key):
            snapshot = _found(address, None if new_run else known, say)
            get = _tokenizer if key == "tokenizer" else partial(_model, config.objective.of_model)
            # What came before this was noted may not have been compared.
            path = get(snapshot, config.trust_remote_code, say, known != snapshot.commit)
            found[str(path)] = snapshot
            if known is None or new_run:
                remember(snapshot)
        return Folder(str(path), snapshot.commit)

    model = folder("model", config.model)
    base = folder("base_model", config.base_model) if config.base_model else None
    source = source_of(model.path, base.path if base else None)
    if (Path(source.weights) / CONFIG).is_file():
        stored_tensors(source.weights)  # that they are whole
    tokenizer = _own_tokenizer(source, model, base)
    if config.tokenizer:
        tokenizer = folder("tokenizer", config.tokenizer)
    elif not holds_tokenizer(tokenizer.path) and tokenizer.path in found:
        # A hub that was asked has none; a cache may lack it.
        refuse_part(found[tokenizer.path], "its tokenizer")
    refuse_damaged(tokenizer.path)
    return Folders(model, base, source, tokenizer)


def tokenizer_folder(source: Source) -> str:
    """Where a model's own tokenizer is: an adapter may have one, and else has its base's."""
    if source.adapter is not None and holds_tokenizer(source.adapter):
        return source.adapter
    return source.weights


def _own_tokenizer(source: Source, model: Folder, base: Folder | None) -> Folder:
    folder = tokenizer_folder(source)
    named = [one for one in (model, base) if one is not None and one.path == folder]
    return named[0] if named else Folder(folder)


def note_commits(store: Store, config: RunConfig, folders: Folders) -> None:
    """Note in a run directory which commits it is used with."""
    named = (
        (config.model, folders.model),
        (config.base_model, folders.base),
        (config.tokenizer, folders.tokenizer),
    )
    found = {
        str(hub_address(text)): folder.commit
        for text, folder in named
        if text is not None and folder is not None and folder.commit is not None
    }
    if found:
        body = json.dumps({**_noted(store), **found}, indent=1, sort_keys=True)
        store.write(layout.HUB, body.encode())


def _noted(store: Store) -> Mapping[str, str]:
    return read_json(store, layout.HUB) if store.exists(layout.HUB) else {}


def _found(address: HubAddress, known: str | None, say: Say) -> Snapshot:
    """What is on the hub, at the commit that is known or else at that which the revision is."""
    snapshot = find(address, known)
    asked = snapshot.cached is None
    place = f"at {endpoint()}" if asked else f"in {cache()}; no hub gave it"
    say(f"hub          {address} is commit {snapshot.commit} {place}")
    if asked and known is not None and not address.is_commit:
        try:
            now = find(address).commit
        except ModelError:
            now = "no more"
        if now != known:
            say(
                f"warning: {address} is {now[:_SHORT]} by now, and this run directory goes on with "
                f"{snapshot.commit[:_SHORT]}, which it began with; --new-run takes the other"
            )
    return snapshot


def _described(snapshot: Snapshot, trusted: bool) -> list[str]:
    patterns = (*_DESCRIBE, _CODE) if trusted else _DESCRIBE
    return sorted(
        name
        for name in snapshot.files
        if "/" not in name and any(fnmatch(name, pattern) for pattern in patterns)
    )


def _model(kind: str, snapshot: Snapshot, trusted: bool, say: Say, check: bool) -> Path:
    address = snapshot.address
    describe = _described(snapshot, trusted)
    top = [name for name in snapshot.files if "/" not in name]
    if not describe:
        refuse_part(snapshot, f"its {CONFIG}")
        raise ModelError(f"{address} holds no {CONFIG}, so it is no model of transformers.")
    path = fetch(snapshot, describe, say, check)
    if lora_files.CONFIG in describe:
        if lora_files.peft_type(path) != lora_files.LORA:
            source_of(str(path))  # refuses it
        if lora_files.WEIGHTS not in top:
            refuse_part(snapshot, f"its {lora_files.WEIGHTS}")
            if lora_files.PICKLE in top:
                name = f"./{address.repository.rpartition('/')[2]}"
                raise ModelError(
                    f"{address} holds a LoRA adapter without {lora_files.WEIGHTS}, and its "
                    f"{lora_files.conversion(name)}, after `hf download {address.repository} "
                    f"--revision {snapshot.commit} --local-dir {name}`, and name that folder."
                )
            raise ModelError(
                f"{address} holds a LoRA adapter without {lora_files.WEIGHTS}, and other files of "
                "weights are not read: merge it with peft (`merge_and_unload()`), save the model, "
                "and name its folder."
            )
        fetch(snapshot, [lora_files.WEIGHTS], say, check)
        if CONFIG not in describe:
            return path  # its base model is elsewhere
    if CONFIG not in describe:
        refuse_part(snapshot, f"its {CONFIG}")
        raise ModelError(
            f"{address} holds no {CONFIG}, so it is no model of transformers; it holds "
            f"{', '.join(top[:3])}."
        )
    if not any(name.endswith(WEIGHTS) for name in top):
        refuse_part(snapshot, "its weights")
        why = why_no_weights(address.repository, top, snapshot.commit)
        raise ModelError(f"{address} cannot be loaded: {why}.")
    weights = weight_files(str(path), snapshot.files)
    if missing(snapshot, weights):
        described = read_config(str(path))
        found = KINDS[resolved_kind(kind, described)]
        refuse_unknown_kind(str(path), described, trusted, found)
    fetch(snapshot, weights, say, check)
    stored_tensors(str(path))  # that they are whole
    return path


def _tokenizer(snapshot: Snapshot, trusted: bool, say: Say, check: bool) -> Path:
    names = _described(snapshot, trusted)
    if not names:
        refuse_part(snapshot, "its tokenizer")
        raise ModelError(f"{snapshot.address} holds no file of a tokenizer.")
    return fetch(snapshot, names, say, check)


@contextmanager
def _named(key: str) -> Iterator[None]:
    """Errors begin with the key whose value they are about."""
    try:
        yield
    except RayInfluenceError as error:
        if str(error).startswith(f"{key}: "):
            raise
        raise type(error)(f"{key}: {error}") from error
