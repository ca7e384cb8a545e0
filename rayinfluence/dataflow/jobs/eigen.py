"""The fit's work on sums: eigenbases of their sides, and the factors of a module put together.

Picklable; no Ray. Each is one object, made of the sums of lanes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from rayinfluence.curvature.blocks import Basis
from rayinfluence.curvature.eigen import eigenbasis, null_directions, own_basis
from rayinfluence.curvature.sums import homogeneous, tree_sum
from rayinfluence.dataflow import stage_names
from rayinfluence.dataflow.compute.replica import Replica
from rayinfluence.dataflow.jobs.fold import Lane, lane_totals
from rayinfluence.dataflow.jobs.watch import Watch, begin_or_refuse
from rayinfluence.model.modules import ModuleShape
from rayinfluence.storage.shared import SharedTensors
from rayinfluence.storage.store import Store
from rayinfluence.storage.tensors import read_tensors, tensor_names, write_tensors

_CPU = torch.device("cpu")


@dataclass(frozen=True)
class Side:
    """A side of a module: ``inputs`` or ``outputs``.

    Attributes:
        store: of the fit.
        lanes: with its covariances.
        side: which.
        shape: of the module.
        key: where its eigenbasis is committed.
    """

    store: Store
    lanes: tuple[Lane, ...]
    side: str
    shape: ModuleShape
    key: str

    @property
    def width(self) -> int:
        """Of its covariance."""
        return self.shape.columns if self.side == "inputs" else self.shape.d_out


@dataclass
class EigenJob:
    """Eigendecompose sides on a replica's device; on the CPU where they do not fit there."""

    stage: ClassVar[str] = stage_names.EIGEN

    def prepare(self, replica: Replica) -> None:
        """Nothing."""

    def run(self, replica: Replica, item: Side, watch: Watch) -> None:
        """Do one side."""
        begin_or_refuse(watch, f"the eigenbasis of the {item.side} of {item.shape.name}")
        try:
            decompose(item, replica.device)
        except torch.OutOfMemoryError:
            decompose(item)


def decompose(item: Side, device: torch.device = _CPU) -> None:
    """Eigendecompose one side of one module from the lanes' sums, and commit its basis."""
    store, first, prefix = item.store, item.lanes[0].key, f"{item.side}/{item.shape.name}"
    counts, _ = lane_totals(store, item.lanes)
    names = [name for name in tensor_names(store, first) if name.startswith(f"{prefix}/")]
    if item.shape.routed:
        names = list(dict.fromkeys([*names, _rows(item.shape)]))
    sums = tree_sum(read_tensors(store, lane.key, names)[0] for lane in item.lanes)
    dtype = read_tensors(store, first, [f"{prefix}/0"])[0][f"{prefix}/0"].dtype
    on_device = {name: tensor.to(device) for name, tensor in sums.items()}
    n_rows = int(sums[_rows(item.shape)]) if item.shape.routed else counts["n_tokens"]
    tensors, n_null = decomposed(on_device, item.side, item.shape, n_rows, dtype)
    tensors = {name: tensor.cpu() for name, tensor in tensors.items()}
    header = {"n_null": n_null, "n_rows": n_rows}
    write_tensors(store, item.key, tensors, header)


def _rows(shape: ModuleShape) -> str:
    """Where the number of a routed module's rows is among its sums."""
    return f"inputs/{shape.source}/rows"


def decomposed(
    sums: Mapping[str, Tensor], side: str, shape: ModuleShape, n_rows: int, dtype: torch.dtype
) -> tuple[dict[str, Tensor], int]:
    """The eigenbasis of one side of one module, on the device of its sums.

    Args:
        sums: ``<side>/<module>/<block>`` and, of inputs with a bias, ``/sum`` and ``/rows``, as
            :func:`fold_covariance` gives them.
        side: ``inputs`` or ``outputs``.
        shape: of the module.
        n_rows: that the sums are over: tokens, or those that a router has chosen for the module.
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
        # Of none all is zero.
        made = eigenbasis if block.ndim == 2 else own_basis
        found, vectors = made(block / max(n_rows, 1), f"module {shape.name}, {side}")
        tensors[f"{side}_basis.{index}"] = vectors.to(dtype)
        values.append(found)
        if block.ndim == 2:  # that a token never occurs says nothing of the fit
            n_null += null_directions(found, dtype)
    tensors[f"{side}_eigenvalues"] = torch.cat(values)
    return tensors, n_null


def identity(item: tuple[str, int]) -> SharedTensors:
    """The identity in the place of an eigenbasis, of a side and its width; nothing is read."""
    side, width = item
    return SharedTensors(Basis.identity(width, torch.float64, _CPU).to_tensors(f"{side}_basis"))


@dataclass(frozen=True)
class Assembly:
    """What the factors of a module are put together from.

    Attributes:
        store: of the fit.
        lanes: with its moments.
        bases: where the eigenbases of its sides are; of its outputs alone where its inputs are
            another module's; none where the moments are of the weights themselves.
        module: what the factors' plan says of it; its name first.
        key: where they are committed.
    """

    store: Store
    lanes: tuple[Lane, ...]
    bases: tuple[str, ...]
    module: list[Any]
    key: str


def assemble(item: Assembly) -> None:
    """Put the factors of one module together and commit them, with the mean of Lambda."""
    store, name = item.store, item.module[0]
    counts, _ = lane_totals(store, item.lanes)
    sums = tree_sum(read_tensors(store, lane.key, [name])[0] for lane in item.lanes)
    tensors: dict[str, Tensor] = {"moments": sums[name] / counts["n_sequences"]}
    for key in item.bases:
        tensors |= read_tensors(store, key)[0]
    if not item.bases:
        dtype = read_tensors(store, item.lanes[0].key, [name])[0][name].dtype
        for side, width in zip(("outputs", "inputs"), sums[name].shape, strict=True):
            basis = Basis.identity(width, dtype, _CPU)
            if side == "outputs" or item.module[-1] == name:
                tensors |= basis.to_tensors(f"{side}_basis")
    mean = float(tensors["moments"].mean())
    write_tensors(store, item.key, tensors, {"mean_moments": mean})
