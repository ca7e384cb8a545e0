"""What is said of depth: values that a terminal, a page and JSON show."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from rayinfluence.analysis.asked import Gate, Verdict
from rayinfluence.analysis.thirds import OfThird
from rayinfluence.storage.results.evaluated import Interval


@dataclass(frozen=True)
class OfClass:
    """Of the queries of one class.

    Attributes:
        name: the value of the metadata key.
        n_queries: known ones with hits.
        shares: of each band, the mean over queries of its share in the sizes of hits' scores.
        centre: of mass, from 0 at the first band to 1 at the last.
        shuffled: of each band, between which shares 95 % of classes are that are made by dealing
            the same labels to the queries at random; empty where there is one class.
        p: how often such a class has a centre as far from that of all queries; None likewise.
        pairs: of each band, the mean share of its queries beside hits of others (shuffled pairs);
            empty where those were not scored.
        beyond_pairs: how much deeper the centre of its hits is than that of those pairs; None
            likewise.
    """

    name: str
    n_queries: int
    shares: tuple[Interval | None, ...]
    centre: Interval | None
    shuffled: tuple[tuple[float, float], ...]
    p: float | None
    pairs: tuple[Interval | None, ...]
    beyond_pairs: Interval | None


@dataclass(frozen=True)
class Layers:
    """What the analysis says.

    Attributes:
        method: whose scores they are.
        fingerprint: of the results.
        by: the metadata key of queries; None where all are one class.
        bands: names of the bands of blocks, in the order of depth.
        n_hits: that are looked at.
        gate: which queries it is of.
        energy: of each band, its share of the gradients' energy; empty where that is not known.
        over_energy: shares of all queries over those, scaled to add up to 1; empty likewise.
        n_pairs: hits of others that a query was scored with, at most; 0 where none were.
        classes: all queries first.
        thirds: how literal first hits are by a third of the blocks; empty of fewer than three.
        centres: of each hit, by query.
        verdicts: by finding.
        notes: on all figures.
    """

    method: str
    fingerprint: str
    by: str | None
    bands: tuple[str, ...]
    n_hits: int
    gate: Gate
    energy: tuple[float, ...]
    over_energy: tuple[float, ...]
    n_pairs: int
    classes: tuple[OfClass, ...]
    thirds: tuple[OfThird, ...]
    centres: Mapping[str, tuple[float, ...]]
    verdicts: tuple[Verdict, ...]
    notes: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """As plain values; the reference has the keys."""
        return {"what": "layers", **asdict(self)}
