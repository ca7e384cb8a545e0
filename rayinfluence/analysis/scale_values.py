"""What is compared over sizes of models, and what is found, as values."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from rayinfluence.analysis.asked import Verdict
from rayinfluence.analysis.order_values import Scored
from rayinfluence.storage.results import Results
from rayinfluence.storage.results.evaluated import Interval


@dataclass(frozen=True)
class Sized:
    """A run that is compared.

    Attributes:
        place: where it is, for messages.
        results: of the method that is looked at.
        by_texts: of BM25; None where the run has none.
        scored: texts of no corpus by parts, scored with its queries; may be none.
    """

    place: str
    results: Results
    by_texts: Results | None = None
    scored: Sequence[Scored] = ()

    @property
    def parameters(self) -> int:
        """Of its model."""
        return int(self.results.manifest["model"]["parameters"])


@dataclass(frozen=True)
class Model:
    """What is told of a run.

    Attributes:
        place: of it.
        fingerprint: of its results.
        parameters: of its model.
        n_known: queries that the model knows.
    """

    place: str
    fingerprint: str
    parameters: int
    n_known: int


@dataclass(frozen=True)
class Figure:
    """One figure over runs.

    Attributes:
        name: what it is.
        runs: of each run, in their order, over queries.
        sizes: of each size, the mean of its runs.
        change: the largest size less the smallest; None where it was not measured of both.
        apart: whether all runs of the largest size lie on one side of all of the smallest.
        beside: the same of BM25, which knows no model; None where there is none such.
    """

    name: str
    runs: tuple[Interval | None, ...]
    sizes: tuple[Interval | None, ...]
    change: Interval | None
    apart: bool
    beside: Interval | None


@dataclass(frozen=True)
class Scale:
    """What the analysis says.

    Attributes:
        method: whose scores they are.
        models: a run each, smallest first.
        sizes: parameters of models, ascending.
        least: log-probability per token of a known query, in nats.
        queries: ids of those that all models know.
        by: the metadata key that says which sequences are a query's own; None without.
        figures: over those queries.
        verdicts: by finding.
        notes: on all figures.
    """

    method: str
    models: tuple[Model, ...]
    sizes: tuple[int, ...]
    least: float
    queries: tuple[str, ...]
    by: str | None
    figures: tuple[Figure, ...]
    verdicts: tuple[Verdict, ...]
    notes: tuple[str, ...]

    @property
    def fingerprint(self) -> str:
        """Of the first run's results."""
        return self.models[0].fingerprint

    def to_json(self) -> dict[str, Any]:
        """As plain values; the reference has the keys."""
        return {"what": "scale", **asdict(self)}
