"""What a run is given, and what it writes, are kept apart.

Inputs may lie in the run directory, and the run directory among inputs, as long as no run reads as
documents what it has written, and nothing that it writes or cleans is an input.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from rayinfluence.config import RunConfig
from rayinfluence.config_rows import IdsConfig
from rayinfluence.corpus.files import Found
from rayinfluence.corpus.shards import shard_key
from rayinfluence.dataflow.kinds import FOLDERS, IN_CORPUS, is_written
from rayinfluence.dataflow.layout import BANKS, CONFIG, CORPUS, RESULTS
from rayinfluence.dataflow.places import is_of_a_run
from rayinfluence.errors import ConfigError, DamagedError
from rayinfluence.storage.finding import fits, has_magic
from rayinfluence.storage.results import method_tables, scores_key, table_key
from rayinfluence.storage.store import Store

#: An address in parts; two that mean the same place are equal.
Parts = tuple[str, ...]

#: Inputs that are folders.
_FOLDERS = ("model", "base_model", "tokenizer")
#: Stands for any fingerprint.
_SOME = "0" * 32


def refuse_written_over(config: RunConfig) -> None:
    """Refuse a run that would write over its inputs, or over a folder of somebody else's.

    Raises:
        ConfigError: which of them, and where else to put it.
    """
    run = _parts(config.run)
    for key, place in (("run", config.run), ("corpus.path", config.corpus.path)):
        if place and "://" not in place and Path(place).is_file():
            raise ConfigError(f"{key}: {place} is a file; name a folder, which need not be there.")
    inputs = {
        "queries": config.queries,
        "model": config.model,
        "base_model": config.base_model,
        "tokenizer": config.tokenizer,
        **{
            f"corpus.{key}.ids": wanted.ids
            for key in ("select", "exclude")
            if isinstance(wanted := getattr(config.corpus, key), IdsConfig)
        },
    }
    for key, place in inputs.items():
        if not place:
            continue
        parts = _parts(place)
        if key in _FOLDERS and parts in (run, (*run, RESULTS)):
            raise ConfigError(
                f"{key}: the run writes JSON files of its own into {place}, such as over the "
                f"{CONFIG} of a model. Give `run` a folder of its own."
            )
        if _is_written(parts, config):
            raise ConfigError(
                f"{key}: {place} is among what the run writes into {config.run}, and deletes when "
                "it is cleaned. Put it elsewhere; a folder with a name of its own in the run "
                "directory will do."
            )
    below = _below(_parts(config.corpus.path), run) if config.corpus.path else None
    # Its objects would pass for others.
    if below and (is_written("/".join(below)) or below[0] in FOLDERS - {CORPUS}):
        raise ConfigError(
            f"corpus.path: {config.corpus.path} is among what the run writes into {config.run}. "
            "Leave it out to have the shards in the run directory, or name a folder elsewhere."
        )
    _refuse_foreign(Store(config.run, config.storage.options(config.run)))


def refuse_own_documents(config: RunConfig, documents: Found) -> None:
    """Refuse addresses of documents that take in what the run writes, now or later.

    Raises:
        ConfigError: which address, and what it takes in.
    """
    for pattern in config.corpus.documents:
        for what, table in _tables(config):
            if _takes_in(pattern, table):
                raise ConfigError(
                    f"corpus.documents: {pattern} takes in {what}, which the run writes: the next "
                    "run would read them as documents. Put `run` (and `corpus.path`) elsewhere, "
                    "or name the documents more closely."
                )
    folders: dict[str, Parts] = {}
    for file in documents.files:
        folder, _, name = file.url.rpartition("/")
        if file.is_local and os.path.islink(file.url):  # noqa: PTH114 - as many as there are files
            parts = _parts(file.url)
        else:
            if folder not in folders:
                folders[folder] = _parts(folder)
            parts = (*folders[folder], name)
        if _is_written(parts, config):
            raise ConfigError(
                f"corpus.documents: {file.url} is among what the run writes into {config.run}, or "
                "leads there. Put the documents elsewhere; a folder with a name of its own in the "
                "run directory will do."
            )


def _refuse_foreign(store: Store) -> None:
    # A damaged one that a run has left is written anew.
    with contextlib.suppress(DamagedError):
        if store.exists(CONFIG) and not is_of_a_run(store):
            raise ConfigError(
                f"run: there is a {CONFIG} in {store.url} that is not of a run, such as a model's, "
                "and the run would write over it. Give `run` a folder of its own."
            )


def _is_written(parts: Parts, config: RunConfig) -> bool:
    """Whether a run writes or deletes what is at a place, or a folder that it is in."""
    below = _below(parts, _parts(config.run))
    if below and is_written("/".join(below)):
        return True
    corpus = _below(parts, _parts(config.corpus.path)) if config.corpus.path else None
    return bool(corpus and corpus[0] in IN_CORPUS)


def _tables(config: RunConfig) -> list[tuple[str, Parts]]:
    """Parquet files that the run writes, one of each kind, with what they are."""
    place = config.corpus.path or f"{config.run}/{CORPUS}"
    run, banks = _parts(config.run), f"{config.run}/{BANKS}"
    results = f"the results in {config.run}/{RESULTS}"
    return [
        (f"the shards in {place}", (*_parts(place), *shard_key(_SOME).split("/"))),
        (f"all scores in {banks}", (*_parts(banks), _SOME, *scores_key(_SOME).split("/"))),
        *(
            (results, (*run, *table_key(_SOME, name).split("/")))
            for scored in config.scan.scored
            for name in method_tables(scored.name)
        ),
    ]


def _takes_in(pattern: str, path: Parts) -> bool:
    """Whether a folder or a glob would name a file, if it were there."""
    parts = _parts(pattern)
    below = _below(path, parts)
    if below is not None:
        return not any(part.startswith(".") for part in below)
    first = next((index for index, part in enumerate(parts) if has_magic(part)), None)
    local = "://" not in pattern
    if first is None or (local and any(part.startswith(".") for part in path[first:])):
        return False
    return fits(path, parts, local)


def _below(parts: Parts, folder: Parts) -> Parts | None:
    """A place as seen from a folder that it is in; None where it is not."""
    return parts[len(folder) :] if parts[: len(folder)] == folder else None


def _parts(place: str) -> Parts:
    """An address in parts, with links followed; what is not there yet may be named."""
    if "://" in place:
        return tuple(part for part in place.split("/") if part)
    return Path(place).resolve().parts
