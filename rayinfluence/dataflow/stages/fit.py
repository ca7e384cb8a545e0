"""The fit stage: a sample that doubles until its factors are sure enough.

<run>/factors/<fingerprint>/
covariance/round-0/lane-000.safetensors   sums of what is new in a round, one object a lane
eigen/round-0/inputs/<module>.safetensors   eigenbasis of one side of one module
moments/round-0/lane-000.safetensors      sums over all of a round, one object a lane
rounds/0.safetensors                      scores of the probe set, and how far they may err
eigen/part-1/, moments/part-1/, rounds/1-part.safetensors
                                          the same of what is new in a round, alone
modules/<module>.safetensors              the factors
manifest.json                             written last: the factors are whole
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import ClassVar

import pyarrow as pa
import torch
from torch import Tensor

from rayinfluence.corpus.splits import read_rows
from rayinfluence.curvature.eigen import eigenbasis, null_directions
from rayinfluence.curvature.sums import homogeneous, tree_sum
from rayinfluence.dataflow.compute.replica import Quarantine, Replica
from rayinfluence.dataflow.compute.stopping import Probed, is_sure, untested
from rayinfluence.dataflow.jobs.checkpoint import Checkpoint
from rayinfluence.dataflow.jobs.fold import FoldJob, Lane
from rayinfluence.dataflow.jobs.probe import ProbeJob, probe_rows, read_probe
from rayinfluence.dataflow.jobs.watch import Watch, begin_or_refuse
from rayinfluence.dataflow.runners.base import Runner
from rayinfluence.dataflow.stages.factors import MANIFEST, Factors
from rayinfluence.dataflow.stages.progress import ProgressLog, StageProgress
from rayinfluence.dataflow.stages.sample import FitPlan, Piece
from rayinfluence.errors import CorpusError, DamagedError
from rayinfluence.model.modules import ModuleShape
from rayinfluence.storage.shared import SharedTensors
from rayinfluence.storage.store import Store
from rayinfluence.storage.tensors import read_header, read_tensors, tensor_names, write_tensors

_CPU = torch.device("cpu")
#: Kinds of device that decompose much sooner than a core: an H200 in a hundredth of its time.
_DECOMPOSES = frozenset({"cuda"})
#: Widths cubed, summed, whose eigendecompositions take some 4 s: 4e-10 s each on a core.
_FEW_SECONDS_CUBED = 10**10
#: More bad sequences than this share end the stage.
QUARANTINE_LIMIT = 0.01


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
        NumericsError: a covariance is not finite or cannot be decomposed.
    """
    store = root / plan.fingerprint
    rows = cache(
        lambda: probe_rows(read_rows(corpus, split, ids) for split, ids in plan.probe_rows())
    )
    rounds: list[Probed] = []
    for number in range(len(plan.rounds)):
        every = checkpoint_seconds
        probed = _round(
            runner, corpus, store, plan, shapes, number, rounds, rows, every, device, progress
        )
        rounds.append(probed)
        if probed.error is not None:
            progress.note(
                f"factors      {probed.n_sequences:,} sequences; scores of a probe set are within "
                f"{probed.error:.1%}"
            )
        if _is_last(plan, rounds):
            break
    whole = Piece(number)
    lanes = plan.moment_lanes(whole)
    items = [(store, plan, name, whole) for name in shapes]
    small = _is_small(shapes)
    means = dict(zip(shapes, runner.tasks(assemble_factors, items, small), strict=True))
    counts, quarantine = lane_totals(store, lanes)
    singular = _singular(store, shapes, whole)
    if singular:
        name, n_null = max(singular.items(), key=lambda pair: pair[1])
        progress.note(
            f"factors      {len(singular)} covariances are singular up to rounding, most of all "
            f"{name} ({n_null} directions): mostly damping decides there. More sequences may help."
        )
    manifest = {
        "parts": plan.parts,
        "n_sequences": counts["n_sequences"],
        "n_tokens": counts["n_tokens"],
        "quarantine": [list(pair) for pair in sorted(quarantine.items())],
        "mean_moments": means,
        "rounds": [probed.report for probed in rounds],
        "singular": singular,
    }
    store.write(MANIFEST, json.dumps(manifest, indent=1, sort_keys=True).encode())
    return Factors(store, plan.fingerprint, manifest)


def _round(
    runner: Runner,
    corpus: Store,
    store: Store,
    plan: FitPlan,
    shapes: Mapping[str, ModuleShape],
    number: int,
    earlier: Sequence[Probed],
    rows: Callable[[], pa.Table],
    checkpoint_seconds: float,
    device: str,
    progress: ProgressLog,
) -> Probed:
    """Fit on one size of the sample, and estimate how far its factors are from sure."""
    settings = plan.parts["fit"]
    new = plan.new_lanes(number)
    with progress.stage("covariance", _n_tokens(new)) as stage:
        job = FoldJob(corpus, store, settings["labels"], settings["blocks"], checkpoint_seconds)
        _fold_lanes(runner, job, new, plan.n_sequences, stage)
    alone: Probed | None = None
    for piece in plan.pieces(number):
        probed = read_probe(store, piece.probe_key, plan.fingerprint)
        if probed is None or (not piece.alone and _is_last(plan, [*earlier, probed])):
            bases = _fit_piece(runner, job, plan, piece, shapes, device, progress)
        if probed is None:
            lanes = plan.moment_lanes(piece)
            counts, _ = lane_totals(store, lanes)
            if not plan.held_out:
                return untested(counts)
            probe = ProbeJob(
                store, tuple(lanes), rows(), bases, counts, plan.fingerprint, piece.alone
            )
            probe = replace(probe, before=earlier[-1] if earlier else None, new=alone)
            (probed,) = runner.replicas(probe, [piece.probe_key], lambda tokens: None)
        if piece.alone:
            alone = probed
            _drop(store, piece)
    if number:
        _drop(store, Piece(number - 1))
    assert probed is not None
    return probed


def _fit_piece(
    runner: Runner,
    fold: FoldJob,
    plan: FitPlan,
    piece: Piece,
    shapes: Mapping[str, ModuleShape],
    device: str,
    progress: ProgressLog,
) -> SharedTensors:
    """Bases and moments of a piece whose covariances are there; its bases."""
    store, moments = fold.factors, plan.moment_lanes(piece)
    with progress.stage("eigen"):
        sources = [shape for shape in shapes.values() if shape.source == shape.name]
        sides = [("inputs", shape, shape.columns) for shape in sources]
        sides += [("outputs", shape, shape.d_out) for shape in shapes.values()]
        # The widest first, so that the last to finish is a small one.
        sides.sort(key=lambda side: -side[2])
        items = [(store, plan, piece, side, shape) for side, shape, _ in sides]
        if device in _DECOMPOSES:
            decomposing = runner.replicas(EigenJob(), items, lambda tokens: None)
        else:
            decomposing = runner.tasks(decompose, items, small=_is_small(shapes))
        for _ in decomposing:
            pass
    with progress.stage("moments", _n_tokens(moments)) as stage:
        bases = SharedTensors()
        for side, shape, _ in sides:
            tensors, _ = read_tensors(store, _eigen_key(piece, side, shape.name))
            bases |= {f"{shape.name}/{name}": t for name, t in tensors.items() if "_basis." in name}
        _fold_lanes(runner, replace(fold, bases=bases), moments, plan.n_sequences, stage)
    return bases


def _is_small(shapes: Mapping[str, ModuleShape]) -> bool:
    """Whether factors are decomposed and put together sooner than a process starts."""
    widths = [width for shape in shapes.values() for width in (shape.columns, shape.d_out)]
    return sum(width**3 for width in widths) <= _FEW_SECONDS_CUBED


def _is_last(plan: FitPlan, rounds: Sequence[Probed]) -> bool:
    """Whether a round's factors are sure enough, or there is no more to be had."""
    bound = plan.parts["fit"]["error_bound"]
    return is_sure([one.error for one in rounds], bound) or len(rounds) == len(plan.rounds)


def refuse_many_bad(n_bad: int, n_all: int, quarantine: Quarantine) -> None:
    """End the stage when more than 1 % of the sequences were quarantined.

    Raises:
        CorpusError: with the first reason as an example.
    """
    if n_bad > QUARANTINE_LIMIT * n_all:
        sequence_id, reason = next(iter(sorted(quarantine.items())))
        raise CorpusError(
            f"{n_bad} of {n_all} sequences cannot be used, more than {QUARANTINE_LIMIT:.0%}; the "
            "first is "
            f"sequence {sequence_id}: {reason}. Check that the corpus was tokenised for this model."
        )


#: A side of a module, with where its sums are.
Side = tuple[Store, FitPlan, Piece, str, ModuleShape]


@dataclass
class EigenJob:
    """Eigendecompose sides on a replica's device; on the CPU where they do not fit there."""

    stage: ClassVar[str] = "eigen"

    def prepare(self, replica: Replica) -> None:
        """Nothing."""

    def run(self, replica: Replica, item: Side, watch: Watch) -> None:
        """Do one side."""
        begin_or_refuse(watch, f"the eigenbasis of the {item[3]} of {item[4].name}")
        try:
            decompose(item, replica.device)
        except torch.OutOfMemoryError:
            decompose(item)


def decompose(item: Side, device: torch.device = _CPU) -> None:
    """Eigendecompose one side of one module from the lanes' sums, and commit its basis."""
    store, plan, piece, side, shape = item
    key = _eigen_key(piece, side, shape.name)
    if _has(store, key, plan.fingerprint):
        return
    lanes = plan.covariance_lanes(piece)
    counts, _ = lane_totals(store, lanes)
    prefix = f"{side}/{shape.name}"
    names = [name for name in tensor_names(store, lanes[0].key) if name.startswith(f"{prefix}/")]
    sums = tree_sum(read_tensors(store, lane.key, names)[0] for lane in lanes)
    first = f"{prefix}/0"
    dtype = read_tensors(store, lanes[0].key, [first])[0][first].dtype
    on_device = {name: tensor.to(device) for name, tensor in sums.items()}
    tensors, n_null = decomposed(on_device, side, shape, counts["n_tokens"], dtype)
    tensors = {name: tensor.cpu() for name, tensor in tensors.items()}
    write_tensors(store, key, tensors, {"fingerprint": plan.fingerprint, "n_null": n_null})


def decomposed(
    sums: Mapping[str, Tensor], side: str, shape: ModuleShape, n_tokens: int, dtype: torch.dtype
) -> tuple[dict[str, Tensor], int]:
    """The eigenbasis of one side of one module, on the device of its sums.

    Args:
        sums: ``<side>/<module>/<block>`` and, of inputs with a bias, ``/sum`` and ``/rows``, as
            :func:`fold_covariance` gives them.
        side: ``inputs`` or ``outputs``.
        shape: of the module.
        n_tokens: that the sums are over.
        dtype: of the basis; eigenvalues are in float64.

    Returns:
        ``<side>_basis.<block>`` and ``<side>_eigenvalues``; how many directions are zero up to the
        rounding of sums in ``dtype``.
    """
    prefix = f"{side}/{shape.name}"
    blocks: list[Tensor] = []
    while (name := f"{prefix}/{len(blocks)}") in sums:
        blocks.append(sums[name])
    if side == "inputs" and shape.bias:
        width = len(blocks[-1])
        total = sums[f"{prefix}/sum"]
        blocks[-1] = homogeneous(blocks[-1], total[len(total) - width :], sums[f"{prefix}/rows"])
    tensors: dict[str, Tensor] = {}
    values, n_null = [], 0
    for index, block in enumerate(blocks):
        found, vectors = eigenbasis(block / n_tokens, f"module {shape.name}, {side}")
        tensors[f"{side}_basis.{index}"] = vectors.to(dtype)
        values.append(found)
        n_null += null_directions(found, dtype)
    tensors[f"{side}_eigenvalues"] = torch.cat(values)
    return tensors, n_null


def assemble_factors(item: tuple[Store, FitPlan, str, Piece]) -> float:
    """Put the factors of one module together and commit them.

    Returns:
        The mean of its Lambda.
    """
    store, plan, name, piece = item
    (module,) = [module for module in plan.parts["modules"] if module[0] == name]
    lanes = plan.moment_lanes(piece)
    counts, _ = lane_totals(store, lanes)
    sums = tree_sum(read_tensors(store, lane.key, [name])[0] for lane in lanes)
    tensors = {"moments": sums[name] / counts["n_sequences"]}
    tensors |= read_tensors(store, _eigen_key(piece, "outputs", name))[0]
    if module[-1] == name:
        tensors |= read_tensors(store, _eigen_key(piece, "inputs", name))[0]
    header = {"fingerprint": plan.fingerprint, "module": module}
    write_tensors(store, f"modules/{name}.safetensors", tensors, header)
    return float(tensors["moments"].mean())


def lane_totals(store: Store, lanes: Sequence[Lane]) -> tuple[dict[str, int], Quarantine]:
    """Sequences and tokens of some lanes, and what they left out.

    Raises:
        CorpusError: nothing is left.
    """
    headers = [read_header(store, lane.key) for lane in lanes]
    counts = {key: sum(h[key] for h in headers) for key in ("n_sequences", "n_tokens")}
    quarantine = {int(i): str(reason) for header in headers for i, reason in header["quarantine"]}
    if counts["n_sequences"] == 0:
        refuse_many_bad(len(quarantine), len(quarantine), quarantine)
        raise CorpusError("the fit's sample holds no sequence; raise `fit.sequences`.")
    return counts, quarantine


def _fold_lanes(
    runner: Runner, job: FoldJob, lanes: Sequence[Lane], n_sample: int, stage: StageProgress
) -> None:
    pending = []
    for lane in lanes:
        if _has(job.factors, lane.key, lane.digest, "lane"):
            stage.skip(lane.n_tokens)
        else:
            pending.append(lane)
            stage.skip(sum(s.n_tokens for s in lane.splits[: _kept(job, lane)]))
    # The largest first, so that the last to finish is a small one.
    pending.sort(key=lambda lane: -lane.n_tokens)
    for _ in runner.replicas(job, pending, stage.advance):
        pass
    _, quarantine = lane_totals(job.factors, lanes)
    refuse_many_bad(len(quarantine), n_sample, quarantine)


def _kept(job: FoldJob, lane: Lane) -> int:
    """How many of a lane's splits are in the sums that an earlier worker left."""
    found = Checkpoint(job.factors, lane.key, lane.digest, job.checkpoint_seconds).read()
    return found.n_splits if found else 0


def _singular(store: Store, shapes: Mapping[str, ModuleShape], piece: Piece) -> dict[str, int]:
    """Directions of each covariance that are zero up to rounding, where there are any."""
    sides = [("inputs", name) for name, shape in shapes.items() if shape.source == name]
    sides += [("outputs", name) for name in shapes]
    found = {
        f"{side} of {name}": int(read_header(store, _eigen_key(piece, side, name))["n_null"])
        for side, name in sides
    }
    return {name: count for name, count in found.items() if count}


def _n_tokens(lanes: Sequence[Lane]) -> int:
    return sum(lane.n_tokens for lane in lanes)


def _drop(store: Store, piece: Piece) -> None:
    """Delete what only one piece's bases were good for."""
    for kind in ("eigen", "moments"):
        folder = store / kind / piece.name
        for key in folder.list():
            folder.delete(key)


def _has(store: Store, key: str, value: str, field: str = "fingerprint") -> bool:
    """Whether an object is there and about what we want, by its header.

    Its tensors are checked where they are read; see :func:`without_damage`.
    """
    try:
        return store.exists(key) and read_header(store, key).get(field) == value
    except DamagedError:
        return False


def _eigen_key(piece: Piece, side: str, name: str) -> str:
    return f"eigen/{piece.name}/{side}/{name}.safetensors"
