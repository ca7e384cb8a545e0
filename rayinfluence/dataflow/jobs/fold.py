"""The fit's job: fold a lane of splits into sums and commit them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import pyarrow as pa
import pyarrow.compute as pc

from rayinfluence.corpus.splits import Split, read_split
from rayinfluence.dataflow import stage_names
from rayinfluence.dataflow.compute.folding import (
    Bases,
    LaneRows,
    fitting_labels,
    fold_covariance,
    fold_moments,
)
from rayinfluence.dataflow.compute.quarantine import refuse_many_bad
from rayinfluence.dataflow.compute.replica import Quarantine, Replica
from rayinfluence.dataflow.jobs.checkpoint import Checkpoint
from rayinfluence.dataflow.jobs.handles import Handle
from rayinfluence.dataflow.jobs.watch import Watch, begin_or_refuse, enter_phase
from rayinfluence.errors import CorpusError
from rayinfluence.storage.shared import SharedTensors
from rayinfluence.storage.store import Store
from rayinfluence.storage.tensors import read_header, write_tensors

Item = TypeVar("Item", contravariant=True)
Outcome = TypeVar("Outcome", covariant=True)


@dataclass(frozen=True)
class Lane:
    """Splits that are folded, in this order, into one accumulator.

    ``key`` is where it is committed; ``digest`` names their content, without the sequences
    ``held_out``; ``modules`` are those whose sums it has.
    """

    key: str
    splits: tuple[Split, ...]
    digest: str
    held_out: tuple[int, ...] = ()
    modules: tuple[str, ...] = ()

    @property
    def n_tokens(self) -> int:
        """Tokens in its splits."""
        return sum(split.n_tokens for split in self.splits)


@dataclass
class FoldJob:
    """Fold a lane into sums and commit them with their counts as one object.

    Covariances, or moments when bases are given: those of a lane's modules, as ``inputs/<source>``
    and ``outputs/<module>``. Sums so far are kept beside the lane's place every
    ``checkpoint_seconds``, so an actor that dies loses no more than that.
    """

    corpus: Store
    factors: Store
    labels: str
    n_blocks: int
    checkpoint_seconds: float
    bases: Mapping[str, Handle[SharedTensors]] | None = None
    _bases: Bases | None = None

    @property
    def stage(self) -> str:
        """The stage's name."""
        return stage_names.COVARIANCE if self.bases is None else stage_names.MOMENTS

    def prepare(self, replica: Replica) -> None:
        """Move the bases to the device."""
        if self.bases is not None:
            modules = [p.removeprefix("outputs/") for p in self.bases if p.startswith("outputs/")]
            tensors = {
                f"{place.partition('/')[2]}/{part}": tensor
                for place, handle in self.bases.items()
                for part, tensor in handle.get().items()
            }
            self._bases = Bases.on(replica.only(modules), tensors)

    def run(self, replica: Replica, item: Lane, watch: Watch) -> Quarantine:
        """Fold one lane; returns the sequences it left out."""
        replica = replica.only(item.modules)
        checkpoint = Checkpoint(self.factors, item.key, item.digest, self.checkpoint_seconds)
        found = checkpoint.read()
        begin_or_refuse(watch, f"{item.key} from its split {found.n_splits if found else 0} on")

        def read(start: int) -> Iterator[pa.Table]:
            for place, split in enumerate(item.splits[start:]):
                if place:
                    enter_phase(f"lane of {self.stage}", item.key)
                with watch.phase("read", split.digest):
                    table = read_split(self.corpus, split)
                with watch.phase("score", split.digest):
                    yield _without(table, item.held_out, watch)

        labels = fitting_labels(self.labels, replica.numerics.seed)
        rows = LaneRows(read, labels, watch.advance, found, checkpoint.offer)
        if self._bases is None:
            fold = fold_covariance(replica, rows, self.n_blocks)
        else:
            fold = fold_moments(replica, rows, self._bases)
        with watch.phase("write", item.digest):
            write_tensors(self.factors, item.key, fold.tensors, fold.header(item.digest))
        checkpoint.drop()
        watch.count("rayinfluence_sequences", fold.n_sequences)
        watch.count("rayinfluence_quarantined", len(fold.quarantine), kind="sequence")
        return fold.quarantine


def _without(table: pa.Table, held_out: tuple[int, ...], watch: Watch) -> pa.Table:
    """A split's rows but for those that are held out, whose tokens need no more work."""
    if not held_out:
        return table
    held = pc.is_in(table["sequence_id"], pa.array(held_out, pa.int64()))
    watch.advance(pc.sum(pc.list_value_length(table.filter(held)["tokens"])).as_py() or 0)
    return table.filter(pc.invert(held))


def lanes_by_module(lanes: Sequence[Lane]) -> dict[str, tuple[Lane, ...]]:
    """The lanes that have sums of each module."""
    groups: dict[tuple[str, ...], list[Lane]] = {}
    for lane in lanes:
        groups.setdefault(lane.modules, []).append(lane)
    return {name: tuple(group) for modules, group in groups.items() for name in modules}


def lane_totals(store: Store, lanes: Sequence[Lane]) -> tuple[dict[str, int], Quarantine]:
    """Sequences and tokens of some lanes of the same modules, and what they left out.

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
