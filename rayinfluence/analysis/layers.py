"""At which depth of a model the influence of first hits comes about, by class of query.

Q query, H hit, B band of neighbouring blocks.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rayinfluence.analysis.asked import LEAST, Gate, Verdict, notes_of, over_queries
from rayinfluence.analysis.findings import LOCALISED, SPREAD
from rayinfluence.analysis.layer_values import Layers, OfClass
from rayinfluence.analysis.restricted import THIRDS
from rayinfluence.analysis.thirds import middle_is_least_literal, overlaps_by_third
from rayinfluence.errors import InputError
from rayinfluence.influence.blocks import OTHERS, bands, by_block, depths
from rayinfluence.storage.metadata import as_text
from rayinfluence.storage.results import Results

#: First proponents of each query that are looked at.
HITS = 20
#: The class of all queries, where no key is named, and of those without the key.
ALL, WITHOUT = "all queries", "without the key"
_SHUFFLES = 2000
#: Fewer bands have no middle; fewer queries of a class say nothing of it.
_FEWEST_BANDS, _FEWEST_QUERIES = 3, 5


#: Of a query, scores by module of sequences that are no hits of it.
Pairs = Mapping[str, Sequence[Mapping[str, float]]]


def analyse_layers(
    results: Results, by: str | None = None, least: float = LEAST, pairs: Pairs | None = None
) -> Layers:
    """Shares by depth of the first hits of all known queries.

    Args:
        results: of one method that has scores by layer.
        by: the metadata key of queries whose values are classes; None makes one class of all.
        least: log-probability per token of a known query, in nats.
        pairs: of queries, scores of hits of other queries, which are the control of what a query's
            and the model's gradients do by themselves.

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
        found = _depths(hits, blocks, runs)
        if found is not None:
            shares[query_id], centres[query_id] = found
    if not shares:
        raise InputError(f"layers: no known query has a hit with scores by layer ({gate.sentence})")
    shares_QB = np.array(list(shares.values()))
    centres_Q = np.array([one.mean() for one in centres.values()])
    labels = [_label(results, one, by) for one in shares]
    beside = _Beside.of(pairs or {}, list(shares), blocks, runs)
    classes = _classes(shares_QB, centres_Q, labels, beside)
    asked = list(shares)
    thirds = overlaps_by_third(results, asked, labels) if len(blocks) >= len(THIRDS) else ()
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
        beside.most,
        classes,
        thirds,
        {query_id: tuple(one.tolist()) for query_id, one in centres.items()},
        (_spread(classes[0]), _localised(classes), middle_is_least_literal(thirds)),
        (
            *notes_of(results, gate),
            *_notes(results, OTHERS in names, by, bool(len(energy_B)), beside.most),
        ),
    )


@dataclass(frozen=True)
class _Beside:
    """Depths of shuffled pairs, NaN of queries that have none: shares [Q, B] and centres [Q]."""

    most: int
    shares_QB: NDArray[np.float64]
    centres_Q: NDArray[np.float64]

    @classmethod
    def of(
        cls, pairs: Pairs, queries: Sequence[str], blocks: Sequence[str], runs: Sequence[range]
    ) -> _Beside:
        shares_QB = np.full((len(queries), len(runs)), np.nan)
        centres_Q = np.full(len(queries), np.nan)
        for place, query_id in enumerate(queries):
            found = _depths([_sums(one) for one in pairs.get(query_id, ())], blocks, runs)
            if found is not None:
                shares_QB[place], centres_Q[place] = found[0], found[1].mean()
        return cls(max(map(len, pairs.values()), default=0), shares_QB, centres_Q)


def _depths(
    hits: Sequence[Mapping[str, float]], blocks: Sequence[str], runs: Sequence[range]
) -> tuple[NDArray[np.float64], NDArray[np.float64]] | None:
    """Mean shares of bands [B] and the centre of each [H]; None where none has a score."""
    scores_HB = np.array(
        [[sum(hit.get(blocks[b], 0.0) for b in run) for run in runs] for hit in hits]
    ).reshape(len(hits), len(runs))
    shares_HB, centres_H = depths(scores_HB)
    kept = np.isfinite(centres_H)
    return (shares_HB[kept].mean(axis=0), centres_H[kept]) if kept.any() else None


def _sums(layer_scores: Mapping[str, float]) -> dict[str, float]:
    """Scores by block."""
    return {name: sum(of.values()) for name, of in by_block(layer_scores).items()}


def _by_block(results: Results, query_id: str) -> list[dict[str, float]]:
    """Scores by block of a query's first proponents."""
    rows = results.rows(query_id).select(["rank", "direction", "layer_scores"]).to_pylist()
    first = [row for row in rows if row["direction"] == "proponent" and row["rank"] <= HITS]
    return [_sums(dict(row["layer_scores"])) for row in first if row["layer_scores"]]


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
    shares_QB: NDArray[np.float64],
    centres_Q: NDArray[np.float64],
    labels: Sequence[str],
    beside: _Beside,
) -> tuple[OfClass, ...]:
    """All queries, and each class beside classes that are dealt at random.

    The control is about labels: it says whether classes differ by more than queries do. Whether
    hits are deeper than other sequences is what shuffled pairs say.
    """
    every_Q = np.ones(len(labels), np.bool_)
    found = [_of_class(ALL, shares_QB, centres_Q, every_Q, beside)]
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
        found.append(_of_class(name, shares_QB, centres_Q, chosen, beside, ends, p))
    return tuple(found)


def _of_class(
    name: str,
    shares_QB: NDArray[np.float64],
    centres_Q: NDArray[np.float64],
    chosen_Q: NDArray[np.bool_],
    beside: _Beside,
    shuffled: tuple[tuple[float, float], ...] = (),
    p: float | None = None,
) -> OfClass:
    shares, pairs = (
        tuple(over_queries(share_Q) for share_Q in one_QB[chosen_Q].T)
        for one_QB in (shares_QB, beside.shares_QB)
    )
    return OfClass(
        name,
        int(chosen_Q.sum()),
        shares,
        over_queries(centres_Q[chosen_Q]),
        shuffled,
        p,
        pairs if beside.most else (),
        over_queries((centres_Q - beside.centres_Q)[chosen_Q]),
    )


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


def _notes(
    results: Results, has_others: bool, by: str | None, has_energy: bool, n_pairs: int
) -> list[str]:
    said = [
        f"Of the first {HITS} proponents of each query; a hit's share of a band is the size of its "
        "score there over the sum of these sizes, and all hits of a query weigh alike."
    ]
    if has_others:
        said.append("Scores of modules that are in no block are left out.")
    said.append(
        "Shuffled labels: those of queries are dealt at random, which says whether classes differ "
        "by more than queries do."
        if by is not None
        else "One class has no control: `--by KEY` compares classes of queries."
    )
    said.append(
        f"Shuffled pairs: each query beside up to {n_pairs:,} hits of others. Where its hits are "
        "as deep as those, depth is of its gradient and of damping, and not of what hits say."
        if n_pairs
        else "Sequences that are no hits have no scores by layer, so whether hits differ from them "
        "is not known: `--pairs N` scores each query with hits of others."
    )
    if not has_energy:
        said.append(
            "Shares over gradient energy are not known: that takes a method with factors, damping "
            "relative to the mean of Lambda, and results that name the sizes of modules."
        )
    return said


def _spread(all_of_them: OfClass) -> Verdict:
    finding = SPREAD
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
    finding = LOCALISED
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
