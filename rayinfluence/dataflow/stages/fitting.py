"""The stages of one fit: covariances, eigenbases, moments, and the factors put together.

Sums are one object a lane, a basis one of a side of a module, and the factors one of a module.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from rayinfluence.dataflow import stage_names
from rayinfluence.dataflow.compute.quarantine import refuse_many_bad
from rayinfluence.dataflow.jobs.checkpoint import Checkpoint
from rayinfluence.dataflow.jobs.eigen import Assembly, EigenJob, Side, assemble, decompose, identity
from rayinfluence.dataflow.jobs.fold import FoldJob, Lane, lane_totals, lanes_by_module
from rayinfluence.dataflow.jobs.handles import Deferred, Handle, Stored, read_stored
from rayinfluence.dataflow.layout import basis_key, module_key
from rayinfluence.dataflow.runners.base import Runner
from rayinfluence.dataflow.stages.ensure import Lacking, Place, Stage, ensure
from rayinfluence.dataflow.stages.progress import ProgressLog, StageProgress
from rayinfluence.dataflow.stages.sample import FitPlan, Piece
from rayinfluence.model.modules import ModuleShape
from rayinfluence.storage.shared import SharedTensors
from rayinfluence.storage.store import Store

#: Kinds of device that decompose much sooner than a core: an H200 in a hundredth of its time.
_DECOMPOSES = frozenset({"cuda"})
#: Widths cubed, summed, whose eigendecompositions take some 4 s: 4e-10 s each on a core.
_FEW_SECONDS_CUBED = 10**10


@dataclass(frozen=True)
class Fitting:
    """A fit under way.

    Attributes:
        runner: where it runs.
        corpus: with the sample.
        store: of the factors.
        plan: what they are made of.
        shapes: of the tracked modules.
        progress: told of it.
        checkpoint_seconds: least time between two checkpoints of a lane.
        device: of the replicas; decides where bases are made.
    """

    runner: Runner
    corpus: Store
    store: Store
    plan: FitPlan
    shapes: Mapping[str, ModuleShape]
    progress: ProgressLog
    checkpoint_seconds: float
    device: str

    def covariances(self, number: int) -> None:
        """What is new in a round, folded; a diagonal needs none.

        Raises:
            CorpusError: more than 1 % of the sequences are bad.
        """
        if self._is_diagonal:
            return

        def work(lacking: Sequence[Lacking[Lane]], told: StageProgress) -> Iterable[Any]:
            return self.runner.replicas(self._job, _largest_first(lacking), told.advance)

        self._fold(stage_names.COVARIANCE, self.plan.new_lanes(number), work)

    def bases(self, piece: Piece) -> None:
        """The eigenbases of a piece whose covariances are there; a diagonal has none.

        Raises:
            NumericsError: a covariance is not finite or cannot be decomposed.
        """
        if self._is_diagonal:
            return

        def work(lacking: Sequence[Lacking[Side]], told: StageProgress) -> Iterable[Any]:
            items = [one.item for one in lacking]
            if self.device in _DECOMPOSES:
                return self.runner.replicas(EigenJob(), items, told.advance)
            return self.runner.tasks(decompose, items, small=self.is_small)

        places = self._in_store(lambda side: side.key)
        ensure(Stage(stage_names.EIGEN, self.sides(piece), places, work), self.progress)

    def moments(self, piece: Piece) -> None:
        """The moments of a piece in its bases, which are there.

        Raises:
            CorpusError: more than 1 % of the sequences are bad.
        """

        def work(lacking: Sequence[Lacking[Lane]], told: StageProgress) -> Iterable[Any]:
            for modules in self.plan.groups:
                lanes = [one for one in lacking if one.item.modules == modules]
                if lanes:
                    job = replace(self._job, bases=self.shared(piece, modules))
                    yield from self.runner.replicas(job, _largest_first(lanes), told.advance)

        self._fold(stage_names.MOMENTS, self.plan.moment_lanes(piece), work)

    def factors(self, piece: Piece) -> None:
        """The factors of all modules, from the moments and bases of a piece."""
        moments = lanes_by_module(self.plan.moment_lanes(piece))
        items = [
            Assembly(
                self.store,
                moments[module[0]],
                ()
                if self._is_diagonal
                else tuple(
                    basis_key(piece.name, side, module[0])
                    for side in ("outputs", "inputs")
                    if side == "outputs" or module[-1] == module[0]
                ),
                module,
                module_key(module[0]),
            )
            for module in self.plan.parts["modules"]
        ]

        def work(lacking: Sequence[Lacking[Assembly]], told: StageProgress) -> Iterable[Any]:
            return self.runner.tasks(assemble, [one.item for one in lacking], small=self.is_small)

        places = self._in_store(lambda assembly: assembly.key)
        ensure(Stage(stage_names.FACTORS, items, places, work), self.progress)

    def sides(self, piece: Piece) -> list[Side]:
        """Of all modules, the widest first, so that the last to finish is a small one."""
        lanes = lanes_by_module(self.plan.covariance_lanes(piece))
        sides = [
            Side(
                self.store,
                lanes[shape.name],
                side,
                shape,
                basis_key(piece.name, side, shape.name),
            )
            for side in ("inputs", "outputs")
            for shape in self.shapes.values()
            if side == "outputs" or shape.source == shape.name
        ]
        return sorted(sides, key=lambda side: -side.width)

    def shared(self, piece: Piece, modules: Sequence[str]) -> dict[str, Handle[SharedTensors]]:
        """The bases of some modules: ``inputs/<source>`` and ``outputs/<module>``."""
        wanted = {f"outputs/{name}" for name in modules}
        wanted |= {f"inputs/{self.shapes[name].source}" for name in modules}
        sides = {
            place: side
            for side in self.sides(piece)
            if (place := f"{side.side}/{side.shape.name}") in wanted
        }
        if self._is_diagonal:
            widths = {place: (side.side, side.width) for place, side in sides.items()}
            return {place: Deferred(identity, one) for place, one in widths.items()}
        stored = {
            place: Stored(self.store, side.key, f"{side.side}_basis.")
            for place, side in sides.items()
        }
        handles = self.runner.share(read_stored, list(stored.values()), self.is_small)
        return dict(zip(stored, handles, strict=True))

    @property
    def is_small(self) -> bool:
        """Whether factors are decomposed and put together sooner than a process starts."""
        widths = [width for shape in self.shapes.values() for width in shape.widths.values()]
        return sum(width**3 for width in widths) <= _FEW_SECONDS_CUBED

    @property
    def _is_diagonal(self) -> bool:
        return self.plan.kind == "diagonal"

    @property
    def _job(self) -> FoldJob:
        settings = self.plan.parts["fit"]
        every = self.checkpoint_seconds
        return FoldJob(self.corpus, self.store, settings["labels"], settings["blocks"], every)

    def _fold(
        self,
        name: str,
        lanes: Sequence[Lane],
        work: Callable[[Sequence[Lacking[Lane]], StageProgress], Iterable[Any]],
    ) -> None:
        stage = Stage(
            name,
            lanes,
            self._in_store(lambda lane: lane.key),
            work,
            n_tokens=lambda lane: lane.n_tokens,
            kept=self._kept,
        )
        ensure(stage, self.progress)
        for modules in self.plan.groups:
            group = [lane for lane in lanes if lane.modules == modules]
            _, quarantine = lane_totals(self.store, group)
            refuse_many_bad(len(quarantine), self.plan.n_sequences, quarantine)

    def _kept(self, lane: Lane) -> int:
        """Tokens of a lane that are in the sums that an earlier worker left."""
        kept = Checkpoint(self.store, lane.key, lane.digest, self.checkpoint_seconds)
        return sum(split.n_tokens for split in lane.splits[: kept.n_splits()])

    def _in_store(self, key: Callable[[Any], str]) -> Callable[[Any], Sequence[Place]]:
        return lambda item: [Place(self.store, key(item))]


def _largest_first(lacking: Sequence[Lacking[Lane]]) -> list[Lane]:
    """So that the last to finish is a small one."""
    return sorted((one.item for one in lacking), key=lambda lane: -lane.n_tokens)
