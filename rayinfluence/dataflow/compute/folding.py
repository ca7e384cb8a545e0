"""Folding a lane of the fit's sample into sums: covariances, then moments. No Ray, no files.

B sequence in batch, T token, I, O and J widths of a module.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cache, partial
from typing import Any

import pyarrow as pa
import torch
from torch import Tensor

from rayinfluence.curvature.blocks import Basis
from rayinfluence.curvature.products import accumulation_dtype, operand_dtype
from rayinfluence.curvature.sums import GramSums, rotate_inputs, rotated_gradients
from rayinfluence.dataflow.compute.replica import (
    Labels,
    Quarantine,
    Replica,
    Step,
    own_labels,
    sampled_labels,
)
from rayinfluence.dataflow.compute.scoring import Advance
from rayinfluence.model.batches import Batch
from rayinfluence.model.rows import Rows


@dataclass
class Fold:
    """Sums over the sequences of a lane's first splits, and how many they are."""

    tensors: dict[str, Tensor]
    n_splits: int = 0
    n_sequences: int = 0
    n_tokens: int = 0
    quarantine: Quarantine = field(default_factory=dict)

    def header(self, lane: str) -> dict[str, Any]:
        """What an object that holds it says of it; ``lane`` is the digest of the lane's splits."""
        return {
            "lane": lane,
            "n_splits": self.n_splits,
            "n_sequences": self.n_sequences,
            "n_tokens": self.n_tokens,
            "quarantine": [list(pair) for pair in sorted(self.quarantine.items())],
        }

    @classmethod
    def from_tensors(cls, tensors: dict[str, Tensor], header: Mapping[str, Any]) -> Fold:
        """What was stored."""
        counts = {key: int(header[key]) for key in ("n_splits", "n_sequences", "n_tokens")}
        quarantine = {int(index): str(reason) for index, reason in header["quarantine"]}
        return cls(tensors, **counts, quarantine=quarantine)


@dataclass(frozen=True)
class LaneRows:
    """The rows of a lane, and how far they have been folded before.

    Attributes:
        read: gives the rows of the splits from this number on, a table per split.
        labels: the same for covariances and moments.
        advance: told the number of tokens after each batch.
        found: an earlier worker's sums over the first splits.
        save: offered the sums after each split; calls what it is given if it wants them.
    """

    read: Callable[[int], Iterable[pa.Table]]
    labels: Labels
    advance: Advance = lambda tokens: None
    found: Fold | None = None
    save: Callable[[Callable[[], Fold]], None] = lambda fold: None


def fitting_labels(kind: str, seed: int) -> Labels:
    """Labels for curvature: ``sampled`` (true Fisher) or the ``data``'s own (empirical)."""
    return partial(sampled_labels, seed) if kind == "sampled" else own_labels


def fold_covariance(replica: Replica, rows: LaneRows, n_blocks: int) -> Fold:
    """Sum a a^T, a and g g^T of every tracked module over the rows of a lane.

    Modules that share their inputs share one sum.

    Returns:
        Tensors ``inputs/<source>/<block>``, with ``/sum`` [I] where there is a bias, ``/rows`` []
        where there is one or rows are routed, and ``outputs/<module>/<block>``.
    """
    dtype = accumulation_dtype(replica.numerics.torch_dtype)
    operand = operand_dtype(replica.numerics.torch_dtype, replica.device)

    def start(found: Mapping[str, Tensor]) -> tuple[Callable[[], dict[str, Tensor]], Step]:
        sums: dict[str, GramSums] = {}
        for name, shape in replica.shapes.items():
            there = replica.devices[name]
            for side, width, bias in (
                ("inputs", shape.d_in, shape.bias),
                ("outputs", shape.d_out, False),
            ):
                if side == "inputs" and shape.source != name:
                    continue
                counted = side == "inputs" and shape.routed
                sums[f"{side}/{name}"] = (
                    GramSums.of_diagonal(width, dtype, there)
                    if side == shape.diagonal
                    else GramSums.zeros(width, n_blocks, bias, dtype, there, counted)
                )
        if found:
            for side, side_sums in sums.items():
                side_sums.load(found, f"{side}/")

        def step(batch: Batch, name: str, seen: Rows) -> None:
            seen = seen.of_calls()
            if replica.shapes[name].source == name:
                sums[f"inputs/{name}"].add(seen.real_inputs(batch).to(operand))
            # Gradients are zero where it is padded, or has no row.
            sums[f"outputs/{name}"].add(seen.grads_BRO.flatten(0, 1).to(operand))

        def tensors() -> dict[str, Tensor]:
            return {
                f"{side}/{part}": tensor
                for side, side_sums in sums.items()
                for part, tensor in side_sums.to_tensors().items()
            }

        return tensors, step

    return _fold(replica, rows, start)


@dataclass(frozen=True)
class Bases:
    """Eigenbases of both sides by module, where it is; modules that share inputs share theirs."""

    inputs: Mapping[str, Basis]
    outputs: Mapping[str, Basis]

    @classmethod
    def on(cls, replica: Replica, tensors: Mapping[str, Tensor]) -> Bases:
        """Put bases where a replica's modules are, in the dtype of its products.

        Args:
            replica: the model.
            tensors: ``<source>/inputs_basis.<block>`` and ``<module>/outputs_basis.<block>``.
        """
        dtype = operand_dtype(replica.numerics.torch_dtype, replica.device)

        @cache
        def load(name: str, side: str, device: torch.device) -> Basis:
            found = Basis.from_tensors(tensors, f"{name}/{side}_basis")
            return found.to(dtype=dtype, device=device)

        return cls.of_modules(replica, load)

    @classmethod
    def of_modules(cls, replica: Replica, load: Callable[[str, str, torch.device], Basis]) -> Bases:
        """What ``load`` gives for the name of a module, a side of it, and a device."""
        shapes, devices = replica.shapes, replica.devices
        return cls(
            {name: load(shape.source, "inputs", devices[name]) for name, shape in shapes.items()},
            {name: load(name, "outputs", devices[name]) for name in shapes},
        )


def fold_moments(replica: Replica, rows: LaneRows, bases: Bases) -> Fold:
    """Sum (Q_S^T D Q_A)^2 of every tracked module over the sequences of a lane.

    Args:
        replica: the model.
        rows: of the lane.
        bases: of all modules.

    Returns:
        Tensors ``<module>`` [O, J].
    """
    dtype = accumulation_dtype(replica.numerics.torch_dtype)

    def start(found: Mapping[str, Tensor]) -> tuple[Callable[[], dict[str, Tensor]], Step]:
        sums = {
            name: found[name].to(replica.devices[name])
            if found
            else torch.zeros(shape.d_out, shape.columns, dtype=dtype, device=replica.devices[name])
            for name, shape in replica.shapes.items()
        }
        rotate = SharedRotation(replica, bases)

        def step(batch: Batch, name: str, seen: Rows) -> None:
            for rotated_BOJ in rotate(batch, name, seen):
                for rotated_OJ in rotated_BOJ:
                    sums[name].addcmul_(rotated_OJ, rotated_OJ)

        return lambda: sums, step

    return _fold(replica, rows, start)


class SharedRotation:
    """Rotates gradients of a batch; inputs that modules share are rotated once."""

    def __init__(self, replica: Replica, bases: Bases) -> None:
        self._shapes = replica.shapes
        self._bases = bases
        members = Counter(shape.source for shape in replica.shapes.values())
        self._shared = {source for source, count in members.items() if count > 1}
        self._batch: Batch | None = None
        self._kept: dict[tuple[str, torch.device], Tensor] = {}

    def __call__(self, batch: Batch, name: str, seen: Rows) -> Iterable[Tensor]:
        """Q_S^T D Q_A [b, O, J], some sequences at a time."""
        if batch is not self._batch:
            self._batch, self._kept = batch, {}
        source = self._shapes[name].source

        def rotated() -> Tensor:
            # What blocks on several devices share, as decoders the encoder's, is on each of them.
            key = source, seen.inputs_BRI.device
            if key not in self._kept:
                self._kept[key] = rotate_inputs(seen.inputs_BRI, self._bases.inputs[name])
            return self._kept[key]

        return rotated_gradients(
            seen.inputs_BRI,
            seen.grads_BRO,
            self._bases.inputs[name],
            self._bases.outputs[name],
            rotated if source in self._shared else None,
        )


def _fold(
    replica: Replica,
    rows: LaneRows,
    start: Callable[[Mapping[str, Tensor]], tuple[Callable[[], dict[str, Tensor]], Step]],
) -> Fold:
    """Fold all batches of a lane; begin again without the sequences whose gradients are not finite.

    Such a sequence is found only after it was added, and cannot be taken out of a sum that it made
    NaN. One pass finds all that a lane has, so a lane is read twice at the most. The sums so far go
    to ``rows.save`` while they are good.

    Args:
        replica: the model.
        rows: of the lane.
        start: given sums to go on from (or none), gives what returns the sums, and the step.
    """
    found, fitted = rows.found or Fold({}), replica.of_curvature
    while True:
        tensors, step = start(found.tensors)
        fold = replace(found, tensors={}, quarantine=dict(found.quarantine))
        not_finite: Quarantine = {}
        for table in rows.read(fold.n_splits):
            for batch in replica.batches(table, fold.quarantine):
                finite: list[Tensor] = []
                done = fitted.run(batch, rows.labels, _checked(step, finite), fold.quarantine)
                rows.advance(batch.n_tokens)
                if done is None:
                    continue
                fold.n_sequences += len(done.sequence_ids)
                fold.n_tokens += done.n_tokens
                # No module at all sees a batch where all are experts that it does not choose.
                whole = torch.ones(len(done.lengths_B), dtype=torch.bool, device=replica.device)
                bad_B = ~torch.stack([whole, *finite]).all(dim=0).cpu().numpy()
                for sequence_id in done.sequence_ids[bad_B]:
                    not_finite[int(sequence_id)] = "its gradient is not finite"
            fold.n_splits += 1
            if not not_finite:
                rows.save(partial(_with, fold, tensors))
        if not not_finite:
            return _with(fold, tensors)
        found = Fold({}, quarantine=fold.quarantine | not_finite)


def _with(fold: Fold, tensors: Callable[[], dict[str, Tensor]]) -> Fold:
    return replace(fold, tensors=tensors())


def _checked(step: Step, finite: list[Tensor]) -> Step:
    """A step that also notes, module by module, which sequences [B] have finite tensors."""

    def checked(batch: Batch, name: str, seen: Rows) -> None:
        finite_B = torch.isfinite(seen.inputs_BRI.sum((1, 2)) + seen.grads_BRO.sum((1, 2)))
        finite.append(finite_B.to(batch.tokens_BT.device))
        step(batch, name, seen)

    return checked
