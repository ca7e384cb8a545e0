"""What says that a scan is of a part of the corpus, read and refused before work begins."""

from __future__ import annotations

from collections.abc import Container

from rayinfluence.config import RunConfig
from rayinfluence.config_rows import IdsConfig
from rayinfluence.corpus.conditions import Condition
from rayinfluence.corpus.corpus import Corpus
from rayinfluence.dataflow.begin.unknown_keys import unknown_key
from rayinfluence.errors import ConfigError, StorageError
from rayinfluence.storage.results import MANIFEST, Results, read_results_manifest
from rayinfluence.storage.store import Store

#: Which are selected, and which of those are not.
Conditions = tuple[Condition | None, Condition | None]


def conditions_of(config: RunConfig) -> Conditions:
    """The conditions of a configuration, `corpus.select` and `corpus.exclude`.

    Raises:
        ConfigError: one is no condition on metadata, or a list of ids is not there.
    """
    select = _condition(config, "corpus.select", config.corpus.select)
    return select, _condition(config, "corpus.exclude", config.corpus.exclude)


def _condition(config: RunConfig, place: str, wanted: str | IdsConfig | None) -> Condition | None:
    if wanted is None:
        return None
    if isinstance(wanted, str):
        return Condition.on_metadata(place, wanted)
    return Condition.of_file(place, Store(wanted.ids, config.storage.options(wanted.ids)))


def lacking_keys(conditions: Conditions, known: Container[str]) -> list[tuple[str, str]]:
    """The keys that conditions ask for and no document has, each with the condition's place."""
    return [
        (condition.place, key)
        for condition in conditions
        if condition is not None and condition.predicate is not None
        for key in condition.predicate.keys
        # Of a key with dots the first part may be an object with the others.
        if key not in known and key.partition(".")[0] not in known
    ]


def refuse_unknown_conditions(conditions: Conditions, corpus: Corpus) -> None:
    """Refuse conditions on keys that no document has.

    Raises:
        ConfigError: with the keys that there are.
    """
    known = corpus.manifest.metadata_keys
    for place, key in [] if known is None else lacking_keys(conditions, known):
        whose = f"no document in the corpus at {corpus.store.url}"
        raise ConfigError(unknown_key(key, known or {}, whose, place))


def earlier_run(config: RunConfig) -> tuple[Store, str] | None:
    """The run, and which of its methods, whose survivors are to be the candidates, if any.

    Raises:
        ConfigError: it has no results, or none of that method, or is the run itself.
    """
    wanted = config.scan.candidates
    if wanted is None or wanted.run is None:
        return None
    store = Store(wanted.run, config.storage.options(wanted.run))
    if store.url == Store(config.run, config.storage.options(config.run)).url:
        raise ConfigError(
            f"scan.candidates.run: {wanted.run} is this run's own directory; name another run's, "
            "or the method."
        )
    if not store.exists(MANIFEST):
        raise ConfigError(
            f"scan.candidates.run: {wanted.run} has no results yet; name the directory of a run "
            "that is done."
        )
    try:
        there = list(read_results_manifest(store)["methods"])
    except StorageError as error:
        raise ConfigError(f"scan.candidates.run: {error}") from error
    if wanted.method is not None and wanted.method not in there:
        raise ConfigError(
            f"scan.candidates.method: {wanted.run} has no results by {wanted.method}; it has "
            f"{', '.join(there)}."
        )
    return store, wanted.method or there[0]


def earlier_results(config: RunConfig, corpus: Corpus) -> Results | None:
    """The results whose survivors are to be the candidates, if any.

    Raises:
        ConfigError: there are none, or they are of another corpus.
    """
    found = earlier_run(config)
    if found is None:
        return None
    store, method = found
    theirs = read_results_manifest(store)["corpus"]
    if theirs["fingerprint"] != corpus.fingerprint:
        raise ConfigError(
            f"scan.candidates.run: the results in {store.url} are of another corpus (that of "
            f"{theirs['url']} as it was then) than the one at {corpus.store.url}, so that their "
            "sequences have other ids. Name a run on this corpus."
        )
    return Results.load(store, method)
