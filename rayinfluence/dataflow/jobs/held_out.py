"""The held-out set: sequences that the fit leaves out of its sums, scored against each other.

With the factors of every round, and with those of what is new in it alone; what the scores say of
the factors' error is in ``compute/stopping.py``. L lane, Q query and Z sequence of the set, O and J
widths of a module.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import pyarrow as pa
import pyarrow.compute as pc
import torch
from torch import Tensor

from rayinfluence.corpus.shards import LABEL, LOSS_MASK, SCHEMA
from rayinfluence.curvature.blocks import Basis
from rayinfluence.curvature.ekfac import damped_inverse, module_damping
from rayinfluence.curvature.jackknife import jackknife_error, leave_one_out
from rayinfluence.curvature.products import operand_dtype, product
from rayinfluence.curvature.sums import rotate_inputs
from rayinfluence.dataflow import stage_names
from rayinfluence.dataflow.compute.replica import Quarantine, Replica, own_labels
from rayinfluence.dataflow.compute.stopping import FIGURES, HeldOutScores, figures
from rayinfluence.dataflow.jobs.fold import Lane, lanes_by_module
from rayinfluence.dataflow.jobs.handles import Handle
from rayinfluence.dataflow.jobs.watch import Watch, begin_or_refuse
from rayinfluence.errors import DamagedError
from rayinfluence.model.batches import Batch
from rayinfluence.model.rows import Rows
from rayinfluence.storage.shared import SharedTensors
from rayinfluence.storage.store import Store
from rayinfluence.storage.tensors import read_header, read_tensors, write_tensors

#: One in so many rows of the held-out set is a query.
_EVERY = 5
#: Sequences are cut to this, so that what all modules see of them fits in memory.
_TOKENS = 64
#: That of the paper, whatever the scan's will be.
_DAMPING_SCALE = 0.1
#: Numbers of rotated gradients that exist at a time.
_TILE_NUMBERS = 1 << 22
_ROW = pa.schema(
    [pa.field("sequence_id", pa.int64())]
    + [SCHEMA.field(name) for name in ("tokens", LOSS_MASK, LABEL)]
)


def held_out_rows(tables: Iterable[pa.Table]) -> pa.Table:
    """Rows of the held-out set, cut short, with what says of them what counts."""
    rows = [
        _cut({name: row.get(name) for name in _ROW.names})
        for table in tables
        for row in table.select([n for n in _ROW.names if n in table.column_names]).to_pylist()
        if row["tokens"] is not None
    ]
    return pa.Table.from_pylist(rows, schema=_ROW)


def _cut(row: dict[str, Any]) -> dict[str, Any]:
    """A row's first tokens; as many as have some that count, where not all do."""
    mask = row[LOSS_MASK]
    begin = mask.index(True) if mask and True in mask else 0
    end = max(_TOKENS, begin + _TOKENS // 2)
    return {**row, "tokens": row["tokens"][:end], LOSS_MASK: mask and mask[:end]}


@dataclass
class HeldOutJob:
    """Score the held-out set with a piece's factors, and a round's with those of all lanes but one.

    ``alone``: the piece is what is new in a round, and is only scored. ``before`` is the round
    before, and ``new`` what is new in this one.
    """

    store: Store
    lanes: tuple[Lane, ...]
    rows: pa.Table
    bases: Mapping[str, Handle[SharedTensors]]
    counts: dict[str, int]
    alone: bool = False
    before: HeldOutScores | None = None
    new: HeldOutScores | None = None
    stage: ClassVar[str] = stage_names.HELD_OUT

    def prepare(self, replica: Replica) -> None:
        """Nothing that outlives the one item."""

    def run(self, replica: Replica, item: str, watch: Watch) -> HeldOutScores:
        """Score the set, and commit what was found under the key ``item``."""
        begin_or_refuse(watch, f"the held-out set, for {item}")
        sequences = _capture(replica, self.rows)
        watch.advance(pc.sum(pc.list_value_length(self.rows["tokens"])).as_py() or 0)
        # Each of both kinds is from all over the sample.
        queries = sequences[::_EVERY]
        sequences = queries + [one for i, one in enumerate(sequences) if i % _EVERY]
        n_lanes = len({lane.splits for lane in self.lanes})
        several = not self.alone and n_lanes > 1
        totals: list[Tensor | float] = [0.0] * (1 + n_lanes * several)
        moments_errors = []
        lanes = lanes_by_module(self.lanes)
        for name in replica.shapes:
            counts = [int(read_header(self.store, ours.key)["n_sequences"]) for ours in lanes[name]]
            sums = [read_tensors(self.store, ours.key, [name])[0][name] for ours in lanes[name]]
            whole = torch.stack([part.double() for part in sums]).sum(dim=0) / sum(counts)
            variants = [whole]
            if several:
                variants += leave_one_out(sums, counts)
                if bool(whole.any()):  # what no sequence reached has no error
                    moments_errors.append(jackknife_error(whole, variants[1:]))
            inverses = [
                damped_inverse(moments, module_damping(moments, _DAMPING_SCALE, None))
                for moments in variants
            ]
            source, there = replica.shapes[name].source, replica.devices[name]
            bases = (
                self._basis(replica, f"inputs/{source}", there),
                self._basis(replica, f"outputs/{name}", there),
            )
            found = _scores(bases, name, sequences, len(queries), inverses)
            totals = [total + part for total, part in zip(totals, found, strict=True)]
        scores, *without_lane = [torch.as_tensor(total).cpu() for total in totals]
        report: dict[str, Any] = {**self.counts, **dict.fromkeys(FIGURES)}
        if several:
            report["moments"] = max(moments_errors, default=None)
            report["jackknife"] = jackknife_error(scores, without_lane)
            if self.before is not None and self.new is not None:
                report |= figures(scores, self.before, self.new, report["jackknife"])
        # A held-out set without any influence has no relative error.
        report |= {k: None for k in FIGURES if report[k] and not math.isfinite(report[k])}
        write_tensors(self.store, item, {"scores": scores}, {"report": report})
        return HeldOutScores(scores, report)

    def _basis(self, replica: Replica, place: str, device: torch.device) -> Basis:
        """One side of one module, on the device while that module is scored."""
        basis = Basis.from_tensors(self.bases[place].get(), f"{place.partition('/')[0]}_basis")
        dtype = operand_dtype(replica.numerics.torch_dtype, replica.device)
        return basis.to(dtype=dtype, device=device)


def read_held_out(store: Store, key: str) -> HeldOutScores | None:
    """A round's scores of it, or None where it is missing or damaged."""
    try:
        if not store.exists(key):
            return None
        tensors, header = read_tensors(store, key)
    except DamagedError:
        return None
    return HeldOutScores(tensors["scores"], header["report"])


#: By module, the inputs [T, I] and output gradients [T, O] of one sequence.
_Captured = dict[str, tuple[Tensor, Tensor]]


def _capture(replica: Replica, rows: pa.Table) -> list[_Captured]:
    """What every module sees of every sequence of the set that is finite, under its own labels."""
    captured: dict[int, _Captured] = {}

    def hold(batch: Batch, name: str, seen: Rows) -> None:
        for row, (sequence_id, length) in enumerate(
            zip(batch.sequence_ids.tolist(), batch.lengths_B.tolist(), strict=True)
        ):
            inputs, grads = seen.of_sequence(row, length)
            captured.setdefault(sequence_id, {})[name] = (
                inputs.flatten(0, 1).clone(),
                grads.flatten(0, 1).clone(),
            )

    quarantine: Quarantine = {}
    for batch in replica.batches(rows, quarantine):
        replica.run(batch, own_labels, hold, quarantine)
    return [
        captured[sequence_id]
        for sequence_id in sorted(captured)
        if all(
            bool(side.isfinite().all()) for pair in captured[sequence_id].values() for side in pair
        )
    ]


def _scores(
    bases: tuple[Basis, Basis],
    name: str,
    sequences: list[_Captured],
    n_queries: int,
    inverses: list[Tensor],
) -> list[Tensor]:
    """<D_q / (Lambda + lambda), D_z> [Q, Z] in the eigenbasis, for each variant of Lambda."""
    inputs_basis, outputs_basis = bases
    # A sequence that does not reach a module, as an expert that it did not choose, scores nothing.
    reached = [place for place, sequence in enumerate(sequences) if name in sequence]
    rotated = [
        (
            rotate_inputs(sequences[place][name][0], inputs_basis),
            outputs_basis.rotate(sequences[place][name][1].to(outputs_basis.blocks[0].dtype)),
        )
        for place in reached
    ]
    n_sequences = len(sequences) - n_queries
    scores = [torch.zeros(n_queries, n_sequences, dtype=torch.float64) for _ in inverses]
    rows = torch.tensor([place for place in reached if place < n_queries])
    columns = torch.tensor([place - n_queries for place in reached if place >= n_queries])
    if not len(rows) or not len(columns):
        return scores
    width = len(rotated) * inputs_basis.width
    for band in _bands(outputs_basis.width, max(1, _TILE_NUMBERS // width)):
        gradients = torch.stack([product(g[:, band].T, a).double() for a, g in rotated])
        queries, others = gradients[: len(rows)], gradients[len(rows) :].flatten(1)
        for index, inverse in enumerate(inverses):
            weighted = queries * inverse[band].to(queries.device)
            scores[index][rows[:, None], columns] += (weighted.flatten(1) @ others.T).cpu()
    return scores


def _bands(length: int, most: int) -> Iterator[slice]:
    for start in range(0, length, most):
        yield slice(start, min(start + most, length))
