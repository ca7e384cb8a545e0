"""The results that are merged, and what they must have in common for a mean to be of one thing."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

from rayinfluence.errors import ConfigError
from rayinfluence.storage.metadata import as_text
from rayinfluence.storage.results import Results, seeds_of
from rayinfluence.storage.store import Store
from rayinfluence.text import without_credentials

#: Characters of a value in a sentence.
_SHOWN = 60
#: What decides scores besides the weights, by where it is in a manifest.
_SAME = (
    "n_training_sequences",
    "model.architecture",
    "model.parameters",
    "model.modules",
    "numerics.version",
    "config.query_function",
    "config.objective",
    "config.fit.labels",
    "config.fit.blocks",
    "config.scan.rank",
    "config.scan.damping_scale",
    "config.scan.damping",
    "config.scan.solver",
)


@dataclass(frozen=True)
class Source:
    """Results of one seed.

    Attributes:
        place: the run directory, as it was named.
        store: of it.
        results: by method.
    """

    place: str
    store: Store
    results: Mapping[str, Results]

    @property
    def manifest(self) -> Mapping[str, Any]:
        """What the results are made of."""
        return next(iter(self.results.values())).manifest

    @property
    def fingerprint(self) -> str:
        """Of the results."""
        return str(self.manifest["fingerprint"])

    @property
    def keeps_all(self) -> bool:
        """Whether it has the scores of all sequences."""
        return self.manifest.get("dense_scores") is not None


def in_order(sources: Sequence[Source]) -> list[Source]:
    """Sources in an order of their own, whichever they were named in.

    Raises:
        ConfigError: they are fewer than two, or of more than seeds: the first difference.
    """
    for source in sources:
        if seeds_of(source.manifest) is not None:
            raise ConfigError(
                f"{source.place} is a mean over seeds already: name the runs that it is made of."
            )
    if len(sources) < 2:
        raise ConfigError(
            "merge: a mean over seeds has a standard error from two runs on. Name the runs of "
            "models that were trained with other seeds, too."
        )
    ordered = sorted(sources, key=lambda one: one.fingerprint)
    for one, other in combinations(ordered, 2):
        _refuse_same(one, other)
    for other in ordered[1:]:
        _refuse_apart(ordered[0], other)
    return ordered


def _refuse_same(one: Source, other: Source) -> None:
    """Refuse two of one model: their scores say nothing of seeds."""
    if _at(one.manifest, "model.digest") == _at(other.manifest, "model.digest"):
        raise ConfigError(
            f"{one.place} and {other.place} are by the same model (its weights have one digest): "
            "the spread of both says nothing of seeds. Name one of them."
        )


def _refuse_apart(one: Source, other: Source) -> None:
    """Refuse what differs in more than its seed."""
    both = f"{one.place} and {other.place}"
    if _differ(one, other, "tokenizer.digest"):
        raise ConfigError(
            f"{both} have different tokenizers, {_values(one, other, 'tokenizer.digest')}: no "
            "score of one is of a sequence of the other. Merge runs of one tokenizer."
        )
    if _differ(one, other, "corpus.fingerprint"):
        raise ConfigError(
            f"{both} are on different corpora, {_values(one, other, 'corpus.fingerprint')}: a mean "
            "is over scores of the same sequences. Give the runs one `corpus.path`."
        )
    if set(one.results) != set(other.results):
        raise ConfigError(
            f"{both} have results by different methods, {', '.join(one.results)} and "
            f"{', '.join(other.results)}. Run them with the same `scan.methods` and dampings."
        )
    for key in _SAME:
        if _differ(one, other, key):
            raise ConfigError(
                f"{both} differ in {key.removeprefix('config.')}, {_values(one, other, key)}: "
                "seeds would not be all that differs. Run them with the same settings."
            )


def _differ(one: Source, other: Source, key: str) -> bool:
    return bool(_alike(_at(one.manifest, key)) != _alike(_at(other.manifest, key)))


def _alike(value: Any) -> Any:
    """The same of lists in another order: of dampings it says who is shown first."""
    return sorted(value, key=repr) if isinstance(value, list) else value


def _values(one: Source, other: Source, key: str) -> str:
    return " and ".join(_shown(_at(of.manifest, key)) for of in (one, other))


def _at(manifest: Any, key: str) -> Any:
    """What a manifest has at a key with dots; None where it has nothing."""
    for part in key.split("."):
        manifest = (manifest or {}).get(part)
    return manifest


def _shown(value: Any) -> str:
    text = without_credentials("none" if value is None else as_text(value))
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."


def in_common(manifests: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """What manifests have in common: of sections their keys, of all else equal values."""
    return dict(_in_common(manifests))


def _in_common(manifests: Sequence[Mapping[str, Any]]) -> Iterator[tuple[str, Any]]:
    for key, value in manifests[0].items():
        values: list[Any] = [one.get(key) for one in manifests]
        if all(isinstance(one, Mapping) for one in values):
            yield key, in_common(values)
        elif all(one == value for one in values):
            yield key, value
