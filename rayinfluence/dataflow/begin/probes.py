"""Probes: texts that are scored though they are in no corpus, and what of a run they ask about.

All of it is read, and what is wrong refused, before torch is imported.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import yaml

from rayinfluence.addresses import expanded, why_no_address
from rayinfluence.config import RunConfig
from rayinfluence.dataflow.begin.early import silent
from rayinfluence.dataflow.begin.features import refuse_rows
from rayinfluence.dataflow.begin.fetched import Folders, fetched
from rayinfluence.errors import ConfigError, InputError, brief
from rayinfluence.objective_kinds import CAUSAL, CLASSIFICATION, KINDS, SEQ2SEQ
from rayinfluence.storage.hub import Say
from rayinfluence.storage.results import Results
from rayinfluence.storage.store import Store
from rayinfluence.yamls import RepeatedKey, read_yaml

T = TypeVar("T")
#: A text, or its prompt and completion under these keys.
Text = str | Mapping[str, str]
#: Texts, or texts by the partition that they belong to.
Texts = Sequence[Text] | Mapping[str, Sequence[Text]]

#: What a file of probes looks like.
_WANTED = (
    "A file of probes has `partitions`, with a list of texts, or of {prompt, completion}, under "
    "the name of each, and may have `queries`, with the ids of those that they are scored for."
)
_KEYS = ("partitions", "queries")
_PARTS = ("prompt", "completion")
#: What a text says of which kinds of models, by its two parts.
_SAID_BY = {
    CLASSIFICATION: "the text as prompt and its class as completion",
    SEQ2SEQ: "the source as prompt and its target as completion",
}
#: Ids in a message.
_NAMED = 3


@dataclass(frozen=True)
class Probe:
    """A text that is scored though it is in no corpus.

    Attributes:
        name: tells it from the others, to people.
        text: as it was given, a completion after its prompt.
        partition: what it is one of several of; None where texts came without.
        completion_start: its first character of the completion; None where it has no such part.
    """

    name: str
    text: str
    partition: str | None = None
    completion_start: int | None = None


@dataclass(frozen=True)
class Probing:
    """What is asked, and of which run.

    Attributes:
        config: of the run.
        store: its directory.
        results: of one method.
        folders: of the model and its tokenizer.
        queries: ids of those that probes are scored for, each once.
        probes: the texts.
    """

    config: RunConfig
    store: Store
    results: Results
    folders: Folders
    queries: tuple[str, ...]
    probes: tuple[Probe, ...]

    @classmethod
    def of(
        cls,
        config: RunConfig,
        probes: Sequence[Probe],
        queries: Sequence[str] = (),
        method: str | None = None,
        say: Say = silent,
    ) -> Probing:
        """Find the results of a run, and the model that they are of.

        Args:
            config: of the run; of its corpus nothing is read.
            probes: the texts.
            queries: ids; none are all of the results.
            method: of those that the run has; its first by default.
            say: prints a line about what is fetched from a hub.

        Raises:
            InputError: there is no text, or one alone where its class or its source is needed.
            ConfigError: the results have no such query.
            StorageError: there are no results, or none by this method.
            ModelError: there is no such model or tokenizer.
        """
        if not probes:
            raise InputError("there is no text to score: give one or more.")
        refuse_rows(config, "probe")
        store = Store(config.run, config.storage.options(config.run))
        results = Results.load(store, method)
        if results.meaning.of_itself:
            raise ConfigError(
                f"{results.method} scores each sequence for itself, and has no queries that a text "
                "could be scored with. Name another method of the run with --method."
            )
        kind = (results.manifest.get("numerics") or {}).get("objective", CAUSAL)
        alone = next((one for one in probes if one.completion_start is None), None)
        if kind in _SAID_BY and alone is not None:
            raise InputError(
                f"{alone.name!r} is a text alone, and {store.url} is of a {KINDS[kind].model}: "
                f"give {_SAID_BY[kind]} (under `partitions` of a --file, or in Python)."
            )
        known = results.queries
        if unknown := [query for query in queries if query not in known]:
            some = ", ".join(map(repr, list(known)[:_NAMED]))
            more = f" and {len(known) - _NAMED:,} more" if len(known) > _NAMED else ""
            raise ConfigError(
                f"{store.url} has no results of a query {unknown[0]!r}; it has {some}{more}. Ask "
                "for one of these, or add yours to the run's queries and run it again."
            )
        asked = tuple(dict.fromkeys(queries or known))
        return cls(config, store, results, fetched(config, say), asked, tuple(probes))


def probes_of(texts: Texts) -> list[Probe]:
    """Probes of texts, which are named after their partitions and their places there.

    Raises:
        InputError: one of them is no text, or empty.
    """
    if isinstance(texts, str):
        raise InputError("texts: one string, where a list of texts is asked for; put it in one.")
    if not isinstance(texts, Mapping):
        return _named("text", texts, None)
    return [
        probe for partition, some in texts.items() for probe in _named(partition, some, partition)
    ]


def read_probes(path: str, config: RunConfig) -> tuple[list[Probe], list[str]]:
    """Read a file of probes, and the ids of the queries that it names.

    Args:
        path: the YAML file; may be s3://.
        config: of the run, whose storage it may be in.

    Raises:
        ConfigError: there is no such file.
        InputError: it is none, and what is wrong in it.
    """
    return read_as(_probes, path, config, "--file", _WANTED)


def read_as(kind: Callable[[Any], T], path: str, config: RunConfig, option: str, wanted: str) -> T:
    """Read a YAML file that an option names.

    Args:
        kind: what is made of its values.
        path: of it; may be s3://.
        config: of the run, whose storage it may be in.
        option: such as ``--file``, for messages.
        wanted: a sentence on what such a file has.

    Raises:
        ConfigError: there is no such file.
        InputError: it is no YAML, or none of the kind; the message names the file.
    """
    if why := why_no_address(path):
        raise ConfigError(f"{option}: {why}")
    path = expanded(path)
    file = Store(path, config.storage.options(path))
    if file.is_local and Path(path).is_dir():
        raise ConfigError(f"{option}: {path} is a folder; name the file in it.")
    if not file.exists(""):
        raise ConfigError(f"{option}: there is no file {path}.")
    try:
        values = read_yaml(file.read("").decode("utf-8-sig"))
    except RepeatedKey as error:
        raise InputError(f"{path}: {error}") from error
    except (ValueError, RecursionError, yaml.YAMLError) as error:
        raise InputError(f"{path} cannot be read as YAML: {brief(error)}. {wanted}") from error
    try:
        return kind(values)
    except InputError as error:
        raise InputError(f"{path}: {error}") from error


def _probes(values: Any) -> tuple[list[Probe], list[str]]:
    if not isinstance(values, dict) or "partitions" not in values:
        raise InputError(f"it has no `partitions`. {_WANTED}")
    if unknown := [key for key in values if key not in _KEYS]:
        raise InputError(f"it has the key {unknown[0]!r}, which means nothing here. {_WANTED}")
    partitions, queries = values["partitions"], values.get("queries", [])
    if not isinstance(partitions, dict) or not partitions:
        raise InputError(f"its `partitions` are no names with lists of texts. {_WANTED}")
    for name in partitions:
        if not isinstance(name, str) or not name.strip():
            raise InputError(f"the name of a partition is {_said(name)}; put it in quotes.")
    queries = queries if isinstance(queries, list) else [queries]
    for query in queries:
        if not isinstance(query, str):
            raise InputError(f"one of its `queries` is {_said(query)}; put the id in quotes.")
    return probes_of(partitions), queries


def _named(what: str, texts: object, partition: str | None) -> list[Probe]:
    """Some texts with their names.

    Raises:
        InputError: they are no texts.
    """
    if not isinstance(texts, Sequence) or isinstance(texts, str | bytes):
        raise InputError(f"{what!r}: a list of one or more texts is asked for, not {_said(texts)}.")
    if not texts:
        raise InputError(f"{what!r}: a list of one or more texts is asked for, and it is empty.")
    probes = []
    for number, text in enumerate(texts, start=1):
        name = f"{what} {number}"
        prompt, said = _parts(name, text)
        for part in (prompt, said):
            _refuse_no_text(name, part)
        if not said.strip():
            raise InputError(f"{name!r} is empty; write a text, or take it out.")
        start = len(prompt) if isinstance(text, Mapping) else None
        probes.append(Probe(name, prompt + said, partition, start))
    return probes


def _parts(name: str, text: Any) -> tuple[Any, Any]:
    """The prompt of a text, empty where it has no parts, and what follows."""
    if not isinstance(text, Mapping):
        return "", text
    if set(text) != set(_PARTS):
        keys = ", ".join(map(repr, text)) or "none"
        raise InputError(
            f"{name!r} is a mapping, and a text in two parts has the keys prompt and completion; "
            f"this has {keys}. One that is a text alone is to be put in quotes."
        )
    return text["prompt"], text["completion"]


def _refuse_no_text(name: str, text: object) -> None:
    if not isinstance(text, str):
        raise InputError(f"{name!r} is {_said(text)}, and no text; put it in quotes.")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        half = f"\\u{ord(text[error.start]):04x}"
        raise InputError(f"{name!r} is no text: it has {half}, half a character.") from error


def _said(value: object) -> str:
    """A value that stands where another should, as YAML would have it."""
    kinds = {dict: "a mapping", list: "a list", type(None): "nothing", str: f"{value!r}"}
    return kinds.get(type(value), f"{value!r}, which YAML reads as {type(value).__name__}")
