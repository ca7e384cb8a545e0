"""The fit: a sample that doubles until its factors are sure enough.

Factors of EK-FAC, or the diagonal of the Fisher matrix: the moments alone, between identities.

The factors are whole when their manifest is there, which is written last.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import cache

import pyarrow as pa

from rayinfluence.corpus.splits import read_rows
from rayinfluence.dataflow import stage_names
from rayinfluence.dataflow.compute.replica import Quarantine
from rayinfluence.dataflow.compute.stopping import HeldOutScores, is_sure, untested
from rayinfluence.dataflow.jobs.fold import Lane, lane_totals
from rayinfluence.dataflow.jobs.held_out import HeldOutJob, held_out_rows, read_held_out
from rayinfluence.dataflow.layout import MANIFEST, module_key
from rayinfluence.dataflow.runners.base import Runner
from rayinfluence.dataflow.stages.factors import Factors
from rayinfluence.dataflow.stages.fitting import Fitting
from rayinfluence.dataflow.stages.progress import ProgressLog
from rayinfluence.dataflow.stages.sample import FitPlan, Piece
from rayinfluence.errors import NumericsError
from rayinfluence.model.modules import ModuleShape
from rayinfluence.model.reach import listed
from rayinfluence.storage.digest import sealed
from rayinfluence.storage.store import Store
from rayinfluence.storage.tensors import read_header


def fit(
    runner: Runner,
    corpus: Store,
    root: Store,
    plan: FitPlan,
    shapes: Mapping[str, ModuleShape],
    progress: ProgressLog,
    checkpoint_seconds: float = 60,
    device: str = "cpu",
) -> Factors:
    """Fit the factors of a plan, reusing whatever of it was committed before.

    ``device`` is that of the replicas; what it decides is where bases are made.

    Raises:
        CorpusError: more than 1 % of the sequences are bad.
        NumericsError: a covariance is not finite or cannot be decomposed, or all are zero.
    """
    store = root / plan.fingerprint
    fitting = Fitting(runner, corpus, store, plan, shapes, progress, checkpoint_seconds, device)
    rows = cache(
        lambda: held_out_rows(read_rows(corpus, split, ids) for split, ids in plan.held_out_rows())
    )
    rounds: list[HeldOutScores] = []
    for number in range(len(plan.rounds)):
        tested = _round(fitting, number, rounds, rows)
        rounds.append(tested)
        if tested.error is not None:
            progress.note(
                f"factors      {tested.n_sequences:,} sequences; scores of a held-out set are "
                f"within {tested.error:.1%}"
            )
        if _is_last(plan, rounds):
            break
    whole = Piece(number)
    fitting.factors(whole)
    counts, quarantine = _totals(store, plan.moment_lanes(whole))
    manifest = {
        "parts": plan.parts,
        "n_sequences": counts["n_sequences"],
        "n_tokens": counts["n_tokens"],
        "n_routed": _n_routed(fitting, whole),
        "quarantine": [list(pair) for pair in sorted(quarantine.items())],
        "mean_moments": {
            name: read_header(store, module_key(name))["mean_moments"] for name in shapes
        },
        "rounds": [tested.report for tested in rounds],
    }
    factors = Factors(store, plan.fingerprint, manifest)
    manifest["singular"] = _singular(fitting, whole, factors.unfitted)
    is_all = plan.is_all and number + 1 == len(plan.rounds)
    for line in _lacking(factors, shapes, is_all):
        progress.note(line)
    store.write(MANIFEST, json.dumps(sealed(manifest), indent=1, sort_keys=True).encode())
    return factors


def _lacking(factors: Factors, shapes: Mapping[str, ModuleShape], is_all: bool) -> list[str]:
    """What the sample says too little of, in lines.

    Args:
        factors: of the last round.
        shapes: of their modules.
        is_all: whether the sample is all of the corpus.

    Raises:
        NumericsError: it says nothing of any module.
    """
    lines = []
    if unfitted := factors.unfitted:
        n_sequences, some = factors.n_sequences, listed(unfitted)
        if len(unfitted) == len(shapes):
            raise NumericsError(
                f"none of the {len(shapes)} tracked layers has a gradient in any of the "
                f"{n_sequences:,} sequences that were fitted: {some}. Name other layers under "
                "`modules`, or another model."
            )
        share = sum(unfitted.values()) / sum(shape.n_parameters for shape in shapes.values())
        lines.append(
            f"factors      {len(unfitted)} of {len(shapes)} layers ({share:.1%} of what is "
            f"tracked) have no gradient in any of the {n_sequences:,} sequences that were fitted, "
            f"and no curvature: {some}. Unless `scan.damping` is set scores leave them out"
            + ("; the whole corpus was fitted." if is_all else "; more sequences may reach them.")
        )
    if singular := factors.manifest["singular"]:
        name, n_null = max(singular.items(), key=lambda pair: pair[1])
        lines.append(
            f"factors      covariances that are singular up to rounding: {len(singular)}, most of "
            f"all {name} (directions: {n_null}); mostly damping decides there. "
            + (
                "The whole corpus was fitted: only one with more sequences may help."
                if is_all
                else "More sequences may help."
            )
        )
    return lines


def _round(
    fitting: Fitting, number: int, earlier: Sequence[HeldOutScores], rows: Callable[[], pa.Table]
) -> HeldOutScores:
    """Fit on one size of the sample, and estimate how far its factors are from sure."""
    plan, store = fitting.plan, fitting.store
    fitting.covariances(number)
    alone: HeldOutScores | None = None
    for piece in plan.pieces(number):
        tested = read_held_out(store, piece.held_out_key)
        if tested is None or (not piece.alone and _is_last(plan, [*earlier, tested])):
            fitting.bases(piece)
            fitting.moments(piece)
        if tested is None:
            lanes = plan.moment_lanes(piece)
            counts, _ = _totals(store, lanes)
            if not plan.held_out:
                return untested(counts)
            job = HeldOutJob(
                store,
                tuple(lanes),
                rows(),
                fitting.shared(piece, list(fitting.shapes)),
                counts,
                piece.alone,
                before=earlier[-1] if earlier else None,
                new=alone,
            )
            (tested,) = fitting.runner.replicas(job, [piece.held_out_key], lambda tokens: None)
        if piece.alone:
            alone = tested
            _drop(store, piece)
    if number:
        _drop(store, Piece(number - 1))
    assert tested is not None
    return tested


def _is_last(plan: FitPlan, rounds: Sequence[HeldOutScores]) -> bool:
    """Whether a round's factors are sure enough, or there is no more to be had."""
    bound = plan.parts["fit"]["error_bound"]
    return is_sure([one.error for one in rounds], bound) or len(rounds) == len(plan.rounds)


def _totals(store: Store, lanes: Sequence[Lane]) -> tuple[dict[str, int], Quarantine]:
    """Sequences and tokens of lanes: of the group of modules that has the least."""
    by_group: dict[tuple[str, ...], list[Lane]] = {}
    for lane in lanes:
        by_group.setdefault(lane.modules, []).append(lane)
    found = [lane_totals(store, group) for group in by_group.values()]
    least = min((counts for counts, _ in found), key=lambda counts: counts["n_sequences"])
    return least, {i: reason for _, quarantine in found for i, reason in quarantine.items()}


def _n_routed(fitting: Fitting, piece: Piece) -> dict[str, int]:
    """Of modules that get some of the tokens, how many rows each got, as covariances know."""
    if fitting.plan.kind == "diagonal":
        return {}
    return {
        side.shape.name: int(read_header(side.store, side.key)["n_rows"])
        for side in fitting.sides(piece)
        if side.side == "outputs" and side.shape.routed
    }


def _singular(fitting: Fitting, piece: Piece, unfitted: Collection[str]) -> dict[str, int]:
    """Directions of each covariance that are zero up to rounding, where there are any.

    Not of modules that were not fitted at all; of a diagonal there are no covariances.
    """
    if fitting.plan.kind == "diagonal":
        return {}
    found = {
        f"{side.side} of {side.shape.name}": int(read_header(side.store, side.key)["n_null"])
        for side in fitting.sides(piece)
        if side.shape.name not in unfitted
    }
    return {name: count for name, count in found.items() if count}


def _drop(store: Store, piece: Piece) -> None:
    """Delete what only one piece's bases were good for."""
    for stage in (stage_names.EIGEN, stage_names.MOMENTS):
        folder = store / stage / piece.name
        for key in folder.list():
            folder.delete(key)
