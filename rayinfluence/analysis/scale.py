"""What changes with the size of a model: the same queries to the same corpus, run by run.

R run, Q query that all of the models know, B draw of queries, N sequence.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from rayinfluence.analysis.asked import LEAST, Gate
from rayinfluence.analysis.likeness import Ratios, ratios_of
from rayinfluence.analysis.scale_values import Figure, Model, Scale, Sized
from rayinfluence.analysis.scale_verdicts import verdicts
from rayinfluence.errors import InputError
from rayinfluence.influence.intervals import draws, percentiles
from rayinfluence.storage.results import seeds_of
from rayinfluence.storage.results.evaluated import Interval


def analyse_scale(runs: Sequence[Sized], by: str | None = None, least: float = LEAST) -> Scale:
    """Compare runs of models of several sizes, and of several seeds of each.

    Args:
        runs: two or more.
        by: a metadata key of queries and sequences; sequences with a query's value are its own.
        least: log-probability per token of a known query, in nats.

    Raises:
        InputError: there is one run, or one of merged seeds; runs are not of the same corpus,
            tokenizer and queries; one model stands twice; no query is known to all; or none of
            those has the key.
    """
    _refuse(runs)
    runs = sorted(runs, key=lambda one: one.parameters)
    gates = [Gate.of(one.results, least) for one in runs]
    known = [q for q in gates[0].known if all(q in gate.known for gate in gates)]
    if not known:
        counts = ", ".join(f"{len(gate.known):,}" for gate in gates)
        raise InputError(
            f"scale: no query is known to all of the models (they know {counts} of "
            f"{len(runs[0].results.queries):,}). What influences say of what a model does not know "
            "is no evidence; train longer, ask what all know, or set --least."
        )
    if by is not None and not any(by in runs[0].results.queries[q]["metadata"] for q in known):
        there = sorted({key for q in known for key in runs[0].results.queries[q]["metadata"]})
        raise InputError(
            f"--by {by}: no query that all models know has it in its metadata; they have "
            f"{', '.join(there) or 'none'}."
        )
    sizes = sorted({one.parameters for one in runs})
    places = [[r for r, one in enumerate(runs) if one.parameters == size] for size in sizes]
    figures = tuple(_figure(one, places) for one in ratios_of(runs, known, by))
    return Scale(
        runs[0].results.method,
        tuple(
            Model(
                one.place,
                str(one.results.manifest.get("fingerprint") or ""),
                one.parameters,
                len(gate.known),
            )
            for one, gate in zip(runs, gates, strict=True)
        ),
        tuple(sizes),
        least,
        tuple(known),
        by,
        figures,
        verdicts(figures, [len(some) for some in places]),
        _notes(runs, known, least, places, by),
    )


def _refuse(runs: Sequence[Sized]) -> None:
    """Refuse runs that differ in more than their models."""
    if len(runs) < 2:
        raise InputError("scale: name two runs or more, of models of different sizes.")
    if merged := [one.place for one in runs if seeds_of(one.results.manifest) is not None]:
        raise InputError(
            f"scale: {merged[0]} has means over seeds, which were merged. Name the runs: those of "
            "one size are its seeds here."
        )
    first = runs[0]
    for other in runs[1:]:
        both = f"scale: {first.place} and {other.place}"
        ours, theirs = first.results.manifest, other.results.manifest
        if ours["tokenizer"]["digest"] != theirs["tokenizer"]["digest"]:
            raise InputError(f"{both} have different tokenizers, so tokens in common mean nothing.")
        if ours["corpus"]["fingerprint"] != theirs["corpus"]["fingerprint"]:
            raise InputError(
                f"{both} are of different corpora, so what differs may be the corpus and not the "
                "size. Run both on the same documents."
            )
        one, two = (
            {name: query.get("digest") for name, query in run.results.queries.items()}
            for run in (first, other)
        )
        if one != two:
            alone = sorted({*one.items()} ^ {*two.items()}, key=str)[0][0]
            raise InputError(
                f"{both} were asked different queries: {alone!r} is not the same in both. Ask both "
                "the same file of queries."
            )
    digests: dict[str, str] = {}
    for run in runs:
        before = digests.setdefault(run.results.manifest["model"]["digest"], run.place)
        if before != run.place or sum(run.place == one.place for one in runs) > 1:
            raise InputError(
                f"scale: {before} and {run.place} are of one model, which would count twice."
            )


def _figure(ratios: Ratios, places: Sequence[Sequence[int]]) -> Figure:
    """One figure of all runs, sizes, and of what changes between the outer ones.

    All are ratios of sums over queries that were measured in all runs; queries are drawn with what
    all runs have of them, so a change between sizes is of the same queries.
    """
    n_runs = len(ratios.above_RQ)
    kept = np.isfinite(ratios.above_RQ).all(axis=0) & np.isfinite(ratios.below_RQ).all(axis=0)
    above_RQ, below_RQ = ratios.above_RQ[:, kept], ratios.below_RQ[:, kept]
    n = int(kept.sum())
    beside = None
    if ratios.beside_Q is not None and np.isfinite(ratios.beside_Q).any():
        values_Q = ratios.beside_Q[np.isfinite(ratios.beside_Q)]
        drawn_B = draws(values_Q[None], 0)[0] / len(values_Q)
        beside = Interval(float(values_Q.mean()), *percentiles(drawn_B), len(values_Q))
    if n < 2 or (below_RQ.sum(axis=1) <= 0).any():
        nothing = (None,) * n_runs
        return Figure(ratios.name, nothing, (None,) * len(places), None, False, beside)
    values_R = above_RQ.sum(axis=1) / below_RQ.sum(axis=1)
    drawn = draws(np.concatenate([above_RQ, below_RQ]), 0)
    usable_B = (drawn[n_runs:] > 0).all(axis=0)
    drawn_RB = drawn[:n_runs, usable_B] / drawn[n_runs:, usable_B]
    means = [values_R[some].mean() for some in places]
    drawn_SB = np.array([drawn_RB[some].mean(axis=0) for some in places])
    smallest, largest = values_R[places[0]], values_R[places[-1]]
    several = len(places) > 1
    return Figure(
        ratios.name,
        tuple(_interval(values_R[r], drawn_RB[r], n) for r in range(n_runs)),
        tuple(_interval(*both, n) for both in zip(means, drawn_SB, strict=True)),
        _interval(means[-1] - means[0], drawn_SB[-1] - drawn_SB[0], n) if several else None,
        several and bool(smallest.max() < largest.min() or smallest.min() > largest.max()),
        beside,
    )


def _interval(value: float, drawn_B: NDArray[np.float64], n: int) -> Interval:
    if not len(drawn_B):
        return Interval(float(value), None, None, n)
    return Interval(float(value), *percentiles(drawn_B), n)


def _notes(
    runs: Sequence[Sized],
    known: Sequence[str],
    least: float,
    places: Sequence[Sequence[int]],
    by: str | None,
) -> tuple[str, ...]:
    n = len(runs[0].results.queries)
    said = [
        f"{len(known):,} of {n:,} queries are known to all models (at least {least:.2f} nats per "
        "token), and figures are of those: queries that a small model knows are easy ones.",
        "In brackets: 95 % of figures over queries drawn with replacement, the same in all runs. "
        "Seeds are not drawn: runs of a size say how far they differ.",
    ]
    if single := [runs[some[0]].parameters for some in places if len(some) == 1]:
        told = ", ".join(f"{one:,}" for one in single)
        said.append(f"One run is of {told} parameters each: nothing says how seeds differ there.")
    if by is None:
        said.append("Without --by KEY nothing says which sequences are a query's own.")
    if not all(run.scored for run in runs):
        said.append("Without --probes FILE nothing was asked of other words or another subject.")
    incomplete = [run.place for run in runs if not run.results.complete]
    said += [f"{place} lacks splits of the corpus." for place in incomplete]
    return tuple(said)
