"""The fit stage: covariances in lanes, eigenbases as tasks, moments in lanes, factors.

<run>/factors/<fingerprint>/covariance/lane-000.safetensors ...   sums, one object per lane
                            eigen/<module>.inputs.safetensors ... eigenbasis of one side of one
                            module moments/lane-000.safetensors ...      sums, one object per lane
                            modules/<module>.safetensors          the factors manifest.json
                            written last: the factors are whole
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from torch import Tensor

from rayinfluence.config import FitConfig, ScanConfig
from rayinfluence.corpus.corpus import Corpus, Split
from rayinfluence.corpus.shards import ROWS_PER_SHARD
from rayinfluence.curvature.eigen import eigenbasis
from rayinfluence.curvature.ekfac import EKFAC, ModuleFactors
from rayinfluence.curvature.sums import homogeneous, tree_sum
from rayinfluence.dataflow.jobs import FoldJob, Lane, lane_key
from rayinfluence.dataflow.progress import ProgressLog, StageProgress
from rayinfluence.dataflow.replica import Numerics, Quarantine
from rayinfluence.dataflow.runner import Runner
from rayinfluence.errors import CorpusError, DamagedError
from rayinfluence.model.modules import ModuleShape
from rayinfluence.storage.digest import differences, digest
from rayinfluence.storage.shared import SharedTensors
from rayinfluence.storage.store import Store, read_json
from rayinfluence.storage.tensors import read_header, read_tensors, write_tensors

MANIFEST = "manifest.json"
#: A lane gets at least this many splits where the corpus has enough row groups.
_SPLITS_PER_LANE = 4
#: More bad sequences than this share end the stage.
QUARANTINE_LIMIT = 0.01


@dataclass(frozen=True)
class FitPlan:
    """What the factors will be made of."""

    parts: dict[str, Any]
    lanes: tuple[Lane, ...]

    @property
    def fingerprint(self) -> str:
        """The name of the factors."""
        return digest(self.parts)

    @property
    def n_tokens(self) -> int:
        """Tokens that one pass goes through."""
        return sum(split.n_tokens for lane in self.lanes for split in lane.splits)


@dataclass(frozen=True)
class Factors:
    """Committed factors: where they are and what they were fitted on."""

    store: Store
    fingerprint: str
    manifest: dict[str, Any]

    @property
    def n_sequences(self) -> int:
        """Sequences that they were fitted on."""
        return int(self.manifest["n_sequences"])

    @property
    def n_tokens(self) -> int:
        """Tokens that they were fitted on."""
        return int(self.manifest["n_tokens"])

    def damping(self, config: ScanConfig) -> dict[str, float]:
        """Lambda of every module under these settings."""
        operator = EKFAC.from_tensors(
            self.tensors(), damping_scale=config.damping_scale, damping=config.damping
        )
        return operator.damping

    def tensors(self) -> SharedTensors:
        """All factors, as :meth:`EKFAC.to_tensors` names them.

        Raises:
            DamagedError: a factor file is damaged.
        """
        loaded = SharedTensors()
        for module in self.manifest["parts"]["modules"]:
            tensors, header = read_tensors(self.store, f"modules/{module[0]}.safetensors")
            if header["fingerprint"] != self.fingerprint:
                raise DamagedError(
                    f"{self.store.url}/modules/{module[0]}.safetensors belongs to other factors; "
                    "delete "
                    f"{self.store.url} and fit again."
                )
            loaded |= {f"{module[0]}/{name}": tensor for name, tensor in tensors.items()}
        return loaded


def plan_fit(
    config: FitConfig,
    corpus: Corpus,
    n_shards: int,
    numerics: Numerics,
    model_digest: str,
    shapes: Mapping[str, ModuleShape],
) -> FitPlan:
    """Deal a sample of the corpus's first shards into lanes.

    Whole splits are taken, spread evenly over the shards, until they hold ``config.sequences``;
    split i of the sample goes to lane i mod L.
    """
    groups = [group for s in corpus.manifest.shards[:n_shards] for group in s.row_groups]
    n_rows = sum(group.n_rows for group in groups)
    share = min(1.0, config.sequences / max(1, n_rows))
    sample_tokens = int(share * sum(group.n_tokens for group in groups))
    wanted = max(1, sample_tokens // (_SPLITS_PER_LANE * config.lanes))
    splits = [
        split
        for split in corpus.plan(min(wanted, numerics.split_tokens))
        if split.first_sequence_id < n_shards * ROWS_PER_SHARD
    ]
    sample = _spread(splits, config.sequences)
    lanes = tuple(
        Lane(index, chosen, digest([split.digest for split in chosen]))
        for index in range(config.lanes)
        if (chosen := tuple(sample[index :: config.lanes]))
    )
    parts = {
        "model": model_digest,
        "modules": [[s.name, s.d_in, s.d_out, s.bias] for s in shapes.values()],
        "corpus": corpus.prefix_fingerprint(n_shards),
        "n_shards": n_shards,
        "fit": config.model_dump(),
        "numerics": {
            key: value
            for key, value in asdict(numerics).items()
            if key not in ("device", "split_tokens")
        },
        "lanes": digest([lane.digest for lane in lanes]),
    }
    return FitPlan(parts, lanes)


def find_factors(root: Store, plan: FitPlan) -> Factors | None:
    """The committed factors of a plan, or None."""
    return _committed(root / plan.fingerprint, plan.fingerprint)


def shards_fitted_before(root: Store, n_shards: int) -> list[int]:
    """Numbers of shards below ``n_shards`` that committed factors were fitted on, largest first."""
    found = {manifest["parts"]["n_shards"] for manifest in _manifests(root)}
    return sorted((n for n in found if n < n_shards), reverse=True)


def why_not_reused(root: Store, plan: FitPlan) -> list[str]:
    """How the nearest of the factors that are there differ from those that the plan wants."""
    others = [differences(plan.parts, manifest["parts"]) for manifest in _manifests(root)]
    return min(others, key=len, default=[])


def fit(
    runner: Runner,
    corpus: Store,
    root: Store,
    plan: FitPlan,
    shapes: Mapping[str, ModuleShape],
    progress: ProgressLog,
) -> Factors:
    """Fit the factors of a plan, reusing whatever of it was committed before.

    Raises:
        CorpusError: more than 1 % of the sequences are bad.
        NumericsError: a covariance is not finite or cannot be decomposed.
    """
    store = root / plan.fingerprint
    labels = plan.parts["fit"]["labels"]
    with progress.stage("covariance", plan.n_tokens) as stage:
        _fold_lanes(runner, FoldJob(corpus, store, labels), plan.lanes, stage)
    sides = sorted(
        ((name, side) for name in shapes for side in ("inputs", "outputs")),
        key=lambda item: -_width(shapes[item[0]], item[1]),
    )
    with progress.stage("eigen"):
        items = [
            (store, name, side, shapes[name].bias, len(plan.lanes), plan.fingerprint)
            for name, side in sides
        ]
        for _ in runner.tasks(decompose, items):
            pass
    with progress.stage("moments", plan.n_tokens) as stage:
        bases = SharedTensors()
        for name, side in sides:
            tensors, _ = read_tensors(store, _eigen_key(name, side), ["basis"])
            bases[f"{name}/{side}_basis"] = tensors["basis"]
        _fold_lanes(runner, FoldJob(corpus, store, labels, bases), plan.lanes, stage)
        list(
            runner.tasks(
                assemble_factors, [(store, n, len(plan.lanes), plan.fingerprint) for n in shapes]
            )
        )
    counts, quarantine = _lane_totals(store, "moments", len(plan.lanes))
    manifest = {
        "parts": plan.parts,
        "n_sequences": counts["n_sequences"],
        "n_tokens": counts["n_tokens"],
        "quarantine": [list(pair) for pair in sorted(quarantine.items())],
    }
    store.write(MANIFEST, json.dumps(manifest, indent=1, sort_keys=True).encode())
    return Factors(store, plan.fingerprint, manifest)


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


def decompose(item: tuple[Store, str, str, bool, int, str]) -> None:
    """Eigendecompose one side of one module from the lanes' sums, and commit its basis."""
    store, name, side, bias, n_lanes, fingerprint = item
    if _has(store, _eigen_key(name, side), fingerprint):
        return
    counts, _ = _lane_totals(store, "covariance", n_lanes)
    if side == "outputs":
        total = _lane_sum(store, "covariance", n_lanes, [f"{name}/outputs"])[f"{name}/outputs"]
    else:
        keys = [f"{name}/inputs", f"{name}/inputs_sum", f"{name}/rows"]
        sums = _lane_sum(store, "covariance", n_lanes, keys)
        total = homogeneous(*(sums[key] for key in keys)) if bias else sums[keys[0]]
    values, vectors = eigenbasis(total / counts["n_tokens"], f"module {name}, {side}")
    dtype = read_tensors(store, lane_key("covariance", 0), [f"{name}/outputs"])[0][
        f"{name}/outputs"
    ].dtype
    tensors = {"basis": vectors.to(dtype), "eigenvalues": values}
    write_tensors(store, _eigen_key(name, side), tensors, {"fingerprint": fingerprint})


def assemble_factors(item: tuple[Store, str, int, str]) -> None:
    """Put the factors of one module together and commit them."""
    store, name, n_lanes, fingerprint = item
    counts, _ = _lane_totals(store, "moments", n_lanes)
    moments = _lane_sum(store, "moments", n_lanes, [name])[name] / counts["n_sequences"]
    inputs, _ = read_tensors(store, _eigen_key(name, "inputs"))
    outputs, _ = read_tensors(store, _eigen_key(name, "outputs"))
    factors = ModuleFactors(
        inputs_basis=inputs["basis"],
        outputs_basis=outputs["basis"],
        inputs_eigenvalues=inputs["eigenvalues"],
        outputs_eigenvalues=outputs["eigenvalues"],
        moments=moments,
    )
    write_tensors(store, f"modules/{name}.safetensors", vars(factors), {"fingerprint": fingerprint})


def _fold_lanes(runner: Runner, job: FoldJob, lanes: Sequence[Lane], stage: StageProgress) -> None:
    pending = []
    for lane in lanes:
        if _has(job.factors, lane_key(job.kind, lane.index), lane.digest, "lane"):
            stage.skip(sum(split.n_tokens for split in lane.splits))
        else:
            pending.append(lane)
    # The largest first, so that the last to finish is a small one.
    pending.sort(key=lambda lane: -sum(split.n_tokens for split in lane.splits))
    for _ in runner.replicas(job, pending, stage.advance):
        pass
    counts, quarantine = _lane_totals(job.factors, job.kind, len(lanes))
    refuse_many_bad(len(quarantine), counts["n_sequences"] + len(quarantine), quarantine)


def _lane_totals(store: Store, kind: str, n_lanes: int) -> tuple[dict[str, int], Quarantine]:
    headers = [read_header(store, lane_key(kind, index)) for index in range(n_lanes)]
    counts = {key: sum(h[key] for h in headers) for key in ("n_sequences", "n_tokens")}
    quarantine = {int(i): str(reason) for header in headers for i, reason in header["quarantine"]}
    if counts["n_sequences"] == 0:
        refuse_many_bad(len(quarantine), len(quarantine), quarantine)
        raise CorpusError("the fit's sample holds no sequence; raise `fit.sequences`.")
    return counts, quarantine


def _lane_sum(store: Store, kind: str, n_lanes: int, names: list[str]) -> dict[str, Tensor]:
    parts: list[Mapping[str, Tensor] | None] = [
        read_tensors(store, lane_key(kind, index), names)[0] for index in range(n_lanes)
    ]
    return tree_sum(parts)


def _has(store: Store, key: str, value: str, field: str = "fingerprint") -> bool:
    """Whether an object is there, whole, and about what we want; a damaged one is written again."""
    try:
        return store.exists(key) and read_tensors(store, key)[1].get(field) == value
    except DamagedError:
        return False


def _manifests(root: Store) -> list[dict[str, Any]]:
    keys = [key for key in root.list() if key.count("/") == 1 and key.endswith(MANIFEST)]
    return [read_json(root, key) for key in keys]


def _committed(store: Store, fingerprint: str) -> Factors | None:
    there = store.list()
    if MANIFEST not in there:
        return None
    manifest = read_json(store, MANIFEST)
    modules = {f"modules/{module[0]}.safetensors" for module in manifest["parts"]["modules"]}
    return Factors(store, fingerprint, manifest) if modules <= there.keys() else None


def _eigen_key(name: str, side: str) -> str:
    return f"eigen/{name}.{side}.safetensors"


def _width(shape: ModuleShape, side: str) -> int:
    return shape.columns if side == "inputs" else shape.d_out


def _spread(splits: Sequence[Split], n_sequences: int) -> list[Split]:
    """Splits at even distances, as few as hold this many sequences together, or all of them."""
    total = sum(split.n_rows for split in splits)
    count = min(len(splits), max(1, len(splits) * n_sequences // max(1, total)))
    while True:
        chosen = [splits[int((index + 0.5) * len(splits) / count)] for index in range(count)]
        if count == len(splits) or sum(split.n_rows for split in chosen) >= n_sequences:
            return chosen
        count += 1
