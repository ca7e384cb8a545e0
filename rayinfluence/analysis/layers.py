"""At which depth of a model the influence of first hits comes about, by class of query.

Q query, H hit, B band of neighbouring blocks.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rayinfluence.analysis.asked import LEAST, Gate, Verdict, notes_of, over_queries
from rayinfluence.errors import InputError
from rayinfluence.influence.blocks import OTHERS, bands, by_block, depths
from rayinfluence.storage.metadata import as_text
from rayinfluence.storage.results import Results
from rayinfluence.storage.results.evaluated import Interval

#: First proponents of each query that are looked at.
HITS = 20
#: The class of all queries, where no key is named, and of those without the key.
ALL, WITHOUT = "all queries", "without the key"
_SHUFFLES = 2000
#: Fewer bands have no middle; fewer queries of a class say nothing of it.
_FEWEST_BANDS, _FEWEST_QUERIES = 3, 5


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
    """

    name: str
    n_queries: int
    shares: tuple[Interval | None, ...]
    centre: Interval | None
    shuffled: tuple[tuple[float, float], ...]
    p: float | None


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
        classes: all queries first.
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
    classes: tuple[OfClass, ...]
    centres: Mapping[str, tuple[float, ...]]
    verdicts: tuple[Verdict, ...]
    notes: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """As plain values; the reference has the keys."""
        return {"what": "layers", **asdict(self)}


def analyse_layers(results: Results, by: str | None = None, least: float = LEAST) -> Layers:
    """Shares by depth of the first hits of all known queries.

    Args:
        results: of one method that has scores by layer.
        by: the metadata key of queries whose values are classes; None makes one class of all.
        least: log-probability per token of a known query, in nats.

    Raises:
        InputError: there are no scores by layer in two blocks, or no query has the key.
    """
    gate = Gate.of(results, least)
    scores = {one: _by_block(results, one) for one in gate.known}
    names = sorted({name for hits in scores.values() for hit in hits for name in hit}, key=_number)
    blocks = [name for name in names if name != OTHERS]
    if len(blocks) < 2:
        raise InputError(
            f"layers: {results.method} has scores of {len(blocks)} blocks for known queries, and "
            "depth is of two at least. Methods by texts have none."
        )
    if by is not None and not any(by in results.queries[one]["metadata"] for one in gate.known):
        there = sorted({key for one in gate.known for key in results.queries[one]["metadata"]})
        raise InputError(
            f"--by {by}: no known query has it in its metadata; they have "
            f"{', '.join(there) or 'none'}."
        )
    runs = bands(len(blocks))
    shares, centres = {}, {}
    for query_id, hits in scores.items():
        scores_HB = np.array(
            [[sum(hit.get(blocks[b], 0.0) for b in run) for run in runs] for hit in hits]
        ).reshape(len(hits), len(runs))
        shares_HB, centres_H = depths(scores_HB)
        kept = np.isfinite(centres_H)
        if kept.any():
            shares[query_id] = shares_HB[kept].mean(axis=0)
            centres[query_id] = centres_H[kept]
    if not shares:
        raise InputError(f"layers: no known query has a hit with scores by layer ({gate.sentence})")
    shares_QB = np.array(list(shares.values()))
    centres_Q = np.array([one.mean() for one in centres.values()])
    labels = [_label(results, one, by) for one in shares]
    classes = _classes(shares_QB, centres_Q, labels)
    energy_B = _energy(results, blocks, runs)
    over = shares_QB.mean(axis=0) / energy_B if len(energy_B) else energy_B
    return Layers(
        results.method,
        str(results.manifest.get("fingerprint") or ""),
        by,
        tuple(_named(blocks, run) for run in runs),
        HITS,
        gate,
        tuple(energy_B.tolist()),
        tuple((over / over.sum()).tolist()) if len(over) else (),
        classes,
        {query_id: tuple(found.tolist()) for query_id, found in centres.items()},
        (_spread(classes[0]), _localised(classes)),
        (*notes_of(results, gate), *_notes(results, OTHERS in names, by, bool(len(energy_B)))),
    )


def _by_block(results: Results, query_id: str) -> list[dict[str, float]]:
    """Scores by block of a query's first proponents."""
    rows = results.rows(query_id).select(["rank", "direction", "layer_scores"]).to_pylist()
    first = [row for row in rows if row["direction"] == "proponent" and row["rank"] <= HITS]
    return [
        {name: sum(of.values()) for name, of in by_block(dict(row["layer_scores"])).items()}
        for row in first
        if row["layer_scores"]
    ]


def _number(name: str) -> tuple[int, int]:
    number = name.removeprefix("block ")
    return (0, int(number)) if number.isdecimal() else (1, 0)


def _named(blocks: Sequence[str], run: range) -> str:
    first, last = (blocks[b].removeprefix("block ") for b in (run[0], run[-1]))
    return first if first == last else f"{first}-{last}"


def _label(results: Results, query_id: str, by: str | None) -> str:
    if by is None:
        return ALL
    metadata = results.queries[query_id]["metadata"]
    return as_text(metadata[by]) if by in metadata else WITHOUT


def _classes(
    shares_QB: NDArray[np.float64], centres_Q: NDArray[np.float64], labels: Sequence[str]
) -> tuple[OfClass, ...]:
    """All queries, and each class beside classes that are dealt at random.

    The control is about labels: it says whether classes differ by more than queries do. Whether
    hits are deeper than other sequences it does not say, as those have no scores by layer.
    """
    found = [_of_class(ALL, shares_QB, centres_Q)]
    names = sorted(set(labels))
    if len(names) < 2:
        return tuple(found)
    generator = np.random.Generator(np.random.Philox(0))
    orders = [generator.permutation(len(labels)) for _ in range(_SHUFFLES)]
    middle = centres_Q.mean()
    for name in names:
        chosen = np.array([label == name for label in labels])
        dealt = [chosen[order] for order in orders]
        bands_SB = np.array([shares_QB[some].mean(axis=0) for some in dealt])
        apart = np.array([abs(centres_Q[some].mean() - middle) for some in dealt])
        ours = abs(centres_Q[chosen].mean() - middle)
        # The labels as they are count as one of the ways to deal them.
        p = (1 + int((apart >= ours - 1e-12).sum())) / (1 + _SHUFFLES)
        low, high = np.quantile(bands_SB, (0.025, 0.975), axis=0)
        ends = tuple(zip(low.tolist(), high.tolist(), strict=True))
        found.append(_of_class(name, shares_QB[chosen], centres_Q[chosen], ends, p))
    return tuple(found)


def _of_class(
    name: str,
    shares_QB: NDArray[np.float64],
    centres_Q: NDArray[np.float64],
    shuffled: tuple[tuple[float, float], ...] = (),
    p: float | None = None,
) -> OfClass:
    shares = tuple(over_queries(share_Q) for share_Q in shares_QB.T)
    return OfClass(name, len(shares_QB), shares, over_queries(centres_Q), shuffled, p)


def _energy(results: Results, blocks: Sequence[str], runs: Sequence[range]) -> NDArray[np.float64]:
    """Each band's share of the mean squared norm of sequences' gradients; empty if not known.

    With damping relative to the mean of Lambda, a module's damping times the number of its weights
    is the sum of Lambda, which is that norm, times one number for all modules.
    """
    manifest = results.manifest
    scan = (manifest.get("config") or {}).get("scan") or {}
    damping = (manifest["methods"].get(results.method) or {}).get("damping")
    sizes = (manifest.get("model") or {}).get("parameters_by_module")
    if not damping or not sizes or scan.get("damping") is not None:
        return np.zeros(0)
    sums = {
        name: sum(of.values())
        for name, of in by_block({one: damping[one] * sizes[one] for one in sizes}).items()
    }
    energy_B = np.array([sum(sums.get(blocks[b], 0.0) for b in run) for run in runs])
    return energy_B / energy_B.sum() if (energy_B > 0).all() else np.zeros(0)


def _notes(results: Results, has_others: bool, by: str | None, has_energy: bool) -> list[str]:
    said = [
        f"Of the first {HITS} proponents of each query; a hit's share of a band is the size of its "
        "score there over the sum of these sizes, and all hits of a query weigh alike."
    ]
    if has_others:
        said.append("Scores of modules that are in no block are left out.")
    said.append(
        "The control deals the labels of queries at random: it says whether classes differ by more "
        "than queries do. Sequences that are no hits have no scores by layer, so whether hits "
        "differ from them is not known."
        if by is not None
        else "One class has no control: `--by KEY` compares classes of queries."
    )
    if not has_energy:
        said.append(
            "Shares over gradient energy are not known: that takes a method with factors, damping "
            "relative to the mean of Lambda, and results that name the sizes of modules."
        )
    return said


def _spread(all_of_them: OfClass) -> Verdict:
    finding = "influence is spread over layers on average"
    shares = [one.mean for one in all_of_them.shares if one is not None]
    if len(shares) < _FEWEST_BANDS:
        return Verdict(
            finding, "not asked", f"{len(shares)} blocks of the model have no middle between them."
        )
    even = 1 / len(shares)
    why = f"A band has {min(shares):.0%} to {max(shares):.0%}; even shares would be {even:.0%}."
    if max(shares) <= 1.5 * even and min(shares) >= 0.5 * even:
        return Verdict(finding, "reproduces", why)
    return Verdict(finding, "partly" if max(shares) <= 2 * even else "does not at this size", why)


def _localised(classes: Sequence[OfClass]) -> Verdict:
    finding = "classes of queries are at depths of their own"
    tested = [
        (one, one.p) for one in classes if one.p is not None and one.n_queries >= _FEWEST_QUERIES
    ]
    if len(tested) < 2:
        return Verdict(
            finding,
            "not asked",
            f"It takes two classes of {_FEWEST_QUERIES} known queries each; name a key with --by.",
        )
    one, p = min(tested, key=lambda pair: pair[1])
    centre = 0.0 if one.centre is None else one.centre.mean
    why = (
        f"Of {len(tested)} classes, {one.name} stands out most: its centre of mass is at "
        f"{centre:.2f}, p = {p:.2g} by shuffled labels."
    )
    if p * len(tested) <= 0.05:
        return Verdict(finding, "reproduces", why)
    return Verdict(finding, "partly" if p <= 0.05 else "does not at this size", why)
