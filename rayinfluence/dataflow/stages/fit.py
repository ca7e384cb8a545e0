"""The fit stage: a sample that doubles until its factors are sure enough.

<run>/factors/<fingerprint>/
covariance/round-0/lane-000.safetensors   sums of what is new in a round, one object a lane
eigen/round-0/inputs/<module>.safetensors   eigenbasis of one side of one module
moments/round-0/lane-000.safetensors      sums over all of a round, one object a lane
rounds/0.safetensors                      scores of the probe set and their errors
modules/<module>.safetensors              the factors
manifest.json                             written last: the factors are whole
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from rayinfluence.corpus.splits import read_split
from rayinfluence.curvature.eigen import eigenbasis, null_directions
from rayinfluence.curvature.sums import homogeneous, tree_sum
from rayinfluence.dataflow.compute.replica import Quarantine, Replica
from rayinfluence.dataflow.jobs.checkpoint import Checkpoint
from rayinfluence.dataflow.jobs.fold import FoldJob, Lane
from rayinfluence.dataflow.jobs.probe import Probed, ProbeJob, probe_rows, read_probe
from rayinfluence.dataflow.jobs.watch import Watch, begin_or_refuse
from rayinfluence.dataflow.runners.base import Runner
from rayinfluence.dataflow.stages.factors import MANIFEST, Factors
from rayinfluence.dataflow.stages.progress import ProgressLog, StageProgress
from rayinfluence.dataflow.stages.sample import FitPlan
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
    rounds: list[Probed] = []
    for number in range(len(plan.rounds)):
        every = checkpoint_seconds
        probed = _round(
            runner, corpus, store, plan, shapes, number, rounds, every, device, progress
        )
        rounds.append(probed)
        last = _is_last(plan, number, probed)
        if probed.error is not None:
            progress.note(
                f"factors      {probed.n_sequences:,} sequences; scores of a probe set are within "
                f"{probed.error:.1%}"
            )
        if last:
            break
    lanes = plan.lanes("moments", number)
    items = [(store, plan, name, number) for name in shapes]
    small = _is_small(shapes)
    means = dict(zip(shapes, runner.tasks(assemble_factors, items, small), strict=True))
    counts, quarantine = lane_totals(store, lanes)
    singular = _singular(store, shapes, number)
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
    checkpoint_seconds: float,
    device: str,
    progress: ProgressLog,
) -> Probed:
    """Fit on one size of the sample, and estimate how far its factors are from sure."""
    settings = plan.parts["fit"]
    covariance, moments = plan.lanes("covariance", number), plan.lanes("moments", number)
    probe_key = f"rounds/{number}.safetensors"
    with progress.stage("covariance", _n_tokens(covariance)) as stage:
        job = FoldJob(corpus, store, settings["labels"], settings["blocks"], checkpoint_seconds)
        _fold_lanes(runner, job, covariance, plan.n_sequences, stage)
    found = read_probe(store, probe_key, plan.fingerprint)
    if found is not None and not _is_last(plan, number, found):
        # Its bases may have made way for those of the next round.
        return found
    with progress.stage("eigen"):
        sources = [shape for shape in shapes.values() if shape.source == shape.name]
        sides = [("inputs", shape, shape.columns) for shape in sources]
        sides += [("outputs", shape, shape.d_out) for shape in shapes.values()]
        # The widest first, so that the last to finish is a small one.
        sides.sort(key=lambda side: -side[2])
        items = [(store, plan, number, side, shape) for side, shape, _ in sides]
        if device in _DECOMPOSES:
            decomposing = runner.replicas(EigenJob(), items, lambda tokens: None)
        else:
            decomposing = runner.tasks(decompose, items, small=_is_small(shapes))
        for _ in decomposing:
            pass
    with progress.stage("moments", _n_tokens(moments)) as stage:
        bases = SharedTensors()
        for side, shape, _ in sides:
            tensors, _ = read_tensors(store, _eigen_key(number, side, shape.name))
            bases |= {f"{shape.name}/{name}": t for name, t in tensors.items() if "_basis." in name}
        job = replace(job, bases=bases)
        _fold_lanes(runner, job, moments, plan.n_sequences, stage)
    if number:
        _drop_round(store, number - 1)
    if found is not None:
        return found
    rows = probe_rows(read_split(corpus, split) for split in plan.sample)
    counts, _ = lane_totals(store, moments)
    previous = earlier[-1] if earlier else None
    probe = ProbeJob(store, tuple(moments), rows, bases, counts, previous, plan.fingerprint)
    (probed,) = runner.replicas(probe, [probe_key], lambda tokens: None)
    return probed  # type: ignore[no-any-return]


def _is_small(shapes: Mapping[str, ModuleShape]) -> bool:
    """Whether factors are decomposed and put together sooner than a process starts."""
    widths = [width for shape in shapes.values() for width in (shape.columns, shape.d_out)]
    return sum(width**3 for width in widths) <= _FEW_SECONDS_CUBED


def _is_last(plan: FitPlan, number: int, probed: Probed) -> bool:
    """Whether a round's factors are sure enough, or there is no more to be had."""
    bound = plan.parts["fit"]["error_bound"]
    sure = bound is not None and probed.error is not None and probed.error <= bound
    return sure or number == len(plan.rounds) - 1


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
Side = tuple[Store, FitPlan, int, str, ModuleShape]


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
    store, plan, number, side, shape = item
    key = _eigen_key(number, side, shape.name)
    if _has(store, key, plan.fingerprint):
        return
    lanes = plan.covariance_lanes(number)
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


def assemble_factors(item: tuple[Store, FitPlan, str, int]) -> float:
    """Put the factors of one module together and commit them.

    Returns:
        The mean of its Lambda.
    """
    store, plan, name, number = item
    (module,) = [module for module in plan.parts["modules"] if module[0] == name]
    lanes = plan.lanes("moments", number)
    counts, _ = lane_totals(store, lanes)
    sums = tree_sum(read_tensors(store, lane.key, [name])[0] for lane in lanes)
    tensors = {"moments": sums[name] / counts["n_sequences"]}
    tensors |= read_tensors(store, _eigen_key(number, "outputs", name))[0]
    if module[-1] == name:
        tensors |= read_tensors(store, _eigen_key(number, "inputs", name))[0]
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


def _singular(store: Store, shapes: Mapping[str, ModuleShape], number: int) -> dict[str, int]:
    """Directions of each covariance that are zero up to rounding, where there are any."""
    sides = [("inputs", name) for name, shape in shapes.items() if shape.source == name]
    sides += [("outputs", name) for name in shapes]
    found = {
        f"{side} of {name}": int(read_header(store, _eigen_key(number, side, name))["n_null"])
        for side, name in sides
    }
    return {name: count for name, count in found.items() if count}


def _n_tokens(lanes: Sequence[Lane]) -> int:
    return sum(lane.n_tokens for lane in lanes)


def _drop_round(store: Store, number: int) -> None:
    """Delete what only one round's bases were good for."""
    for kind in ("eigen", "moments"):
        folder = store / kind / f"round-{number}"
        for key in folder.list():
            folder.delete(key)


def _has(store: Store, key: str, value: str, field: str = "fingerprint") -> bool:
    """Whether an object is there, whole, and about what we want; a damaged one is written again."""
    try:
        return store.exists(key) and read_tensors(store, key)[1].get(field) == value
    except DamagedError:
        return False


def _eigen_key(number: int, side: str, name: str) -> str:
    return f"eigen/round-{number}/{side}/{name}.safetensors"
