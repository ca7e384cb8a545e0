"""What a command is pointed at: a run directory, or the configuration of a run. Both will do."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from rayinfluence.addresses import expanded, hub_address, why_no_address, why_no_model
from rayinfluence.config import Kind, RunConfig
from rayinfluence.config_places import RunnerConfig, StorageConfig
from rayinfluence.corpus.ordinals import entry_key
from rayinfluence.dataflow.layout import CONFIG, CORPUS
from rayinfluence.dataflow.status import holds_a_run
from rayinfluence.errors import ConfigError, DamagedError
from rayinfluence.storage.store import Store, read_json

_ALWAYS = ("run", "model", "storage")


@dataclass(frozen=True)
class RunPlace:
    """A run directory, where its shards are, and how long a run is silent at most.

    Attributes:
        storage: how addresses are reached of which nothing else is said.
    """

    store: Store
    corpus: Store
    stall_seconds: float
    storage: StorageConfig

    def beside(self, folder: str) -> Store:
        """A folder of what is made of the run, reached as the run is.

        Args:
            folder: a path or an address that is known to be one.
        """
        return Store(expanded(folder), self.storage.options(expanded(folder)))


def run_place(
    place: str, endpoint_url: str | None = None, settings: Sequence[str] = ()
) -> RunPlace:
    """The run directory that a path or an address means.

    Args:
        place: a run directory, or the YAML file of a run; a run that a file describes may not have
            begun.
        endpoint_url: of an S3-compatible server, over what configuration and environment say.
        settings: keys that are set over those of a YAML file, such as ``run=elsewhere``.

    Raises:
        ConfigError: it is neither, or a directory, of which nothing is set.
    """
    place = _address(place)
    if _is_file(place):
        config = RunConfig.load(place, settings)
        storage = _pointed_at(endpoint_url) if endpoint_url else config.storage
        store, path = Store(config.run, storage.options(config.run)), config.corpus.path
        stall_seconds = config.runner.stall_seconds
    else:
        if settings:
            raise ConfigError(
                f"--set {settings[0]}: {place} is looked into as it is; name the YAML file of the "
                "run to set something over it."
            )
        store = _directory(place, endpoint_url)
        values = read_json(store, CONFIG) if store.exists(CONFIG) else {}
        storage, path = storage_of(endpoint_url), values.get("corpus", {}).get("path")
        default = RunnerConfig().stall_seconds
        stall_seconds = values.get("runner", {}).get("stall_seconds", default)
        if storage.endpoint_url is None and values:
            # Not all of it: what an earlier version has written may have other keys.
            known = {key: value for key, value in values.items() if key in _ALWAYS}
            storage = RunConfig.parse(known, f"{store.url}/{CONFIG}").storage
    corpus = Store(path, storage.options(path)) if path else store / CORPUS
    return RunPlace(store, corpus, stall_seconds, storage)


def corpus_place(place: str) -> tuple[Store, bool]:
    """Where the corpus is that a path or an address means, and whether it is a run's.

    Args:
        place: the folder of a corpus, a run directory, or the YAML file of a run.

    Raises:
        ConfigError: it is none of them.
    """
    path = _address(place)
    if not _is_file(path):
        store = Store(path, storage_of(None, path).options(path))
        if is_a_corpus(place):
            return store, False
        if why := why_no_run(store):
            raise ConfigError(
                f"{why} Here its YAML file will do too, and so will the folder of a corpus, which "
                f"has a {entry_key(0)}."
            )
    return run_place(place).corpus, True


def is_a_corpus(place: str) -> bool:
    """Whether a path or an address is the folder of a tokenised corpus."""
    path = expanded(place)
    if not (Path(path).is_dir() or path.startswith("s3://")) or "*" in path:
        return False
    return Store(path, storage_of(None, path).options(path)).exists(entry_key(0))


def run_config(place: str, strict: bool = False, settings: Sequence[str] = ()) -> RunConfig:
    """The configuration in a YAML file, or the one that a run directory was last used with.

    Args:
        place: of the file or the directory.
        strict: whether no row and no file of documents may be left out.
        settings: keys that are set over it, such as ``scan.top=50``.

    Raises:
        ConfigError: there is none, or it is wrong.
    """
    config = _run_config(_address(place), settings)
    if not strict:
        return config
    corpus = config.corpus.model_copy(update={"bad_rows": 0, "bad_files": 0})
    return config.model_copy(update={"corpus": corpus})


def _run_config(place: str, settings: Sequence[str]) -> RunConfig:
    if not (_is_address(place) or Path(place).exists() or Path(place).suffix):
        raise ConfigError(
            f"{place} does not exist. Name the run directory, which a configuration gives as "
            "`run`, or the YAML file of the run."
        )
    if _is_file(place) or not (_is_address(place) or Path(place).exists()):
        return RunConfig.load(place, settings)
    store = _directory(place, None)
    if not store.exists(CONFIG):
        raise ConfigError(
            f"{store.url} does not hold the configuration of its run ({CONFIG}); name its YAML "
            "file. Results of `merge` and of leave-one-out have none: name a run that they are of."
        )
    # It may have been moved since.
    values = {**read_json(store, CONFIG), "run": store.url}
    return RunConfig.parse(values, f"{store.url}/{CONFIG}", settings)


def model_config(
    place: str, modules: Sequence[str] | None = None, settings: Sequence[str] = ()
) -> RunConfig:
    """The configuration of a run, for its model; of a model's folder, with all else by default.

    Args:
        place: a model's folder, its address on a hub, or the YAML file or directory of a run.
        modules: what is tracked instead: ``mlp``, ``attention`` or ``all``, or patterns of names.
        settings: keys that are set over the configuration, such as ``dtype=bfloat16``.

    Raises:
        ConfigError: it is a wrong configuration, or no folder.
    """
    if hub_address(place) is not None:
        values: dict[str, Any] = {"run": "inspect", "model": place}
        values |= {"modules": _wanted(modules)} if modules else {}
        return RunConfig.parse(values, place, settings)
    if why := why_no_model(place):
        raise ConfigError(why)
    path = _address(place)
    is_run = _is_address(path) or _is_file(path) or why_no_run(Store(path)) is None
    # What is no run is said to be no model, and nothing is written there.
    values = run_config(path).model_dump() if is_run else {"run": path, "model": path}
    if modules:
        values["modules"] = _wanted(modules)
    return RunConfig.parse(values, "--modules" if modules else place, settings)


def _wanted(modules: Sequence[str]) -> str | list[str]:
    by_part = len(modules) == 1 and modules[0] in get_args(Kind)
    return modules[0] if by_part else list(modules)


def why_no_run(store: Store) -> str | None:
    """Why an address is no run directory, in sentences; None where it is one.

    Raises:
        DamagedError: it is one, and its configuration cannot be read.
    """
    wanted = (
        "Name the folder that a configuration gives as `run`; a run writes there from its first "
        "seconds on."
    )
    if store.is_local and Path(store.url).is_file():
        return f"{store.url} is a file, and no run directory. {wanted}"
    if not store.exists(CONFIG):
        if holds_a_run(store):
            return None
        if not store.exists(""):
            return f"{store.url} does not exist. {wanted}"
        return f"{store.url} is no run directory: a run leaves a {CONFIG} there. {wanted}"
    if is_of_a_run(store):
        return None
    return f"{store.url} is no run directory: its {CONFIG} is not that of a run. {wanted}"


def is_of_a_run(store: Store) -> bool:
    """Whether the configuration that is there is one that a run has left.

    Raises:
        DamagedError: it cannot be read, and the rest is of a run.
    """
    try:
        values = read_json(store, CONFIG)
    except DamagedError:
        if holds_a_run(store):
            raise
        return False
    return {"run", "model"} <= values.keys() and isinstance(values.get("corpus"), dict)


def _directory(place: str, endpoint_url: str | None) -> Store:
    """A run directory, as the environment reaches it.

    Raises:
        ConfigError: it is none.
    """
    store = Store(place, storage_of(endpoint_url, place).options(place))
    if why := why_no_run(store):
        raise ConfigError(f"{why} On the command line its YAML file will do too.")
    return store


def storage_of(endpoint_url: str | None, place: str = "-") -> StorageConfig:
    """How an address is reached that no configuration speaks of: as the environment says."""
    if endpoint_url is not None:
        return _pointed_at(endpoint_url, place)
    found = os.environ.get("AWS_ENDPOINT_URL") or None
    return _pointed_at(found, place, "AWS_ENDPOINT_URL" if found else "the address")


def _pointed_at(
    endpoint_url: str | None, place: str = "-", said: str = "--endpoint-url"
) -> StorageConfig:
    # What has an endpoint of its own seldom has host names for its buckets, and AWS takes both.
    storage = {"endpoint_url": endpoint_url, "path_style": endpoint_url is not None}
    values = {"run": place, "model": "-", "storage": storage}
    return RunConfig.parse(values, said).storage


def _address(place: str) -> str:
    if why := why_no_address(place):
        raise ConfigError(why)
    return expanded(place)


def _is_file(place: str) -> bool:
    return not _is_address(place) and Path(place).is_file()


def _is_address(place: str) -> bool:
    return "://" in place
