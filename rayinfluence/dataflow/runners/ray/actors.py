"""What runs inside Ray's workers: replicas that do jobs, the pool's scorer, tasks."""

from __future__ import annotations

import contextlib
import json
import platform
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import pyarrow as pa
import ray
import torch
from torch import nn

from rayinfluence.corpus.shards import RowGroup
from rayinfluence.corpus.splits import Split
from rayinfluence.dataflow.compute.devices import devices_here, refuse_fewer_gpus
from rayinfluence.dataflow.compute.quarantine import Bad, LeftOut, from_json, to_json
from rayinfluence.dataflow.compute.replica import Numerics, Replica
from rayinfluence.dataflow.jobs.scan import Pending, ScanJob
from rayinfluence.dataflow.runners.memory import give_back_freed_memory, prepare_process
from rayinfluence.dataflow.runners.ray.logs import log_as_json
from rayinfluence.dataflow.runners.ray.tally import ActorWatch
from rayinfluence.errors import ConfigError, RayInfluenceError
from rayinfluence.model.folder_code import FolderCode
from rayinfluence.model.load import disassemble
from rayinfluence.model.modules import ModuleShape
from rayinfluence.storage.shared import SharedTensors


@dataclass(frozen=True)
class ModelParts:
    """A replica taken apart, as it travels."""

    #: First, since the skeleton may be of classes that it brings.
    code: FolderCode
    skeleton: nn.Module
    #: References of the weights, each with its name.
    weights: list[Any]
    shapes: dict[str, ModuleShape]
    numerics: Numerics
    gpus: int

    @classmethod
    def of(cls, replica: Replica, gpus: int) -> ModelParts:
        """Take a replica apart; it uses the object store's copy of its weights from then on.

        Weight by weight, or this node would hold them twice.
        """
        skeleton, weights = disassemble(replica.model)
        stored = []
        for name in list(weights):
            stored.append(ray.put(SharedTensors({name: weights.pop(name)})))
            replica.model.get_parameter(name).data = ray.get(stored[-1])[name]
            give_back_freed_memory()
        shapes, numerics = replica.shapes, replica.numerics
        return cls(FolderCode.imported(), skeleton, stored, shapes, numerics, gpus)

    def build(self) -> Replica:
        """Put it together in this process, which computes on one thread from now on.

        Raises:
            ConfigError: the numbers are to be made on CUDA devices, and there are too few here.
            ModelError: the model cannot be dealt over them.
        """
        if self.numerics.device == "cuda" and not torch.cuda.is_available():
            raise ConfigError(
                f"device: cuda, and a worker on the node {platform.node()}, which Ray takes for "
                f"one with a GPU, sees no CUDA device (torch {torch.__version__}). Install a CUDA "
                "build of torch and a driver there, or set `device: cpu`."
            )
        if self.gpus:
            refuse_fewer_gpus(self.gpus, f"a worker on the node {platform.node()}")
        torch.set_num_threads(1)
        weights = SharedTensors()
        for one in ray.get(self.weights):
            weights.update(one)
        devices = devices_here(self.numerics.device, self.gpus, self.skeleton)
        return Replica.build(self.skeleton, weights, self.shapes, self.numerics, devices)


@ray.remote
class ReplicaActor:
    """Holds a model replica and runs jobs on it."""

    def __init__(self) -> None:
        prepare_process()
        # While the driver checks the model: it takes seconds.
        import transformers.modeling_utils  # noqa: F401

        self._replica: Replica | None = None
        self._key: Any = None
        self._job: Any = None

    def prepare(self, model: list[Any], operands: list[Any], run: str) -> None:
        """Get ready for the items of a job."""
        if self._replica is None:
            log_as_json(run)
            self._replica = ray.get(model[0]).build()
        if self._key != operands[0]:
            self._job = None  # the last job's operands go before the next one's come
            self._job = ray.get(operands[0])
            self._job.prepare(self._replica)
            self._key = operands[0]

    def rest(self) -> None:
        """Let go of the last job's operands; another stage has the machine meanwhile."""
        self._job = self._key = None

    def run(self, item: Any, tally: Any, run: str) -> Any:
        """Run the job on one item."""
        watch = ActorWatch(tally, run, self._job.stage)
        outcome = self._job.run(self._replica, item, watch)
        watch.tell()
        return outcome


class Scorer:
    """The pool's actor: scores the splits in each row and commits their partials."""

    def __init__(self, model: list[Any], operands: list[Any], tally: Any, run: str) -> None:
        prepare_process()
        log_as_json(run)
        self._refusal: RayInfluenceError | None = None
        try:
            self._replica = ray.get(model[0]).build()
        except RayInfluenceError as error:
            # What is raised here would be tried again, and be lost as well.
            self._refusal = error
            return
        self._job: ScanJob = ray.get(operands[0])
        self._job.prepare(self._replica)
        self._watch = ActorWatch(tally, run, self._job.stage)

    def __call__(self, rows: pa.Table) -> pa.Table:
        """Score one row: splits that follow each other."""
        if self._refusal is not None:
            return _settled([(-1, str(self._refusal), type(self._refusal).__name__)])
        (row,) = rows.to_pylist()
        bundle = from_row(row)
        try:
            scored = list(self._job.run(self._replica, bundle, self._watch))
        except RayInfluenceError as error:
            # Ray Data wraps what is raised here, and our error is lost on its way to the driver.
            return _settled([(-1, str(error), type(error).__name__)])
        finally:
            self._watch.tell()
        return _settled(
            [(one.split.index, one.reason, None) for one in scored],
            [one.left_out for one in scored],
        )


def _settled(
    rows: Sequence[tuple[int, str | None, str | None]],
    left_out: Sequence[Mapping[int, LeftOut]] = ({},),
) -> pa.Table:
    splits, reasons, errors = zip(*rows, strict=True)
    lines = [
        json.dumps({bank: to_json(of_bank) for bank, of_bank in one.items()}) for one in left_out
    ]
    return pa.table(
        {
            "split": pa.array(splits, pa.int64()),
            "reason": pa.array(reasons, pa.string()),
            "error": pa.array(errors, pa.string()),
            "left_out": pa.array(lines, pa.large_string()),
        }
    )


def left_out_of(row: Mapping[str, Any]) -> dict[int, dict[int, Bad]]:
    """What a settled split's row says of sequences that were left out, by bank."""
    return {int(bank): from_json(of) for bank, of in json.loads(row["left_out"]).items()}


def to_row(bundle: Sequence[Pending]) -> dict[str, str]:
    """A row for the pool: which splits, and where they are; the actor reads them."""
    return {"bundle": json.dumps([asdict(item) for item in bundle])}


def from_row(row: Mapping[str, str]) -> list[Pending]:
    """What :func:`to_row` took."""
    bundle = []
    for item in json.loads(row["bundle"]):
        groups = tuple(RowGroup(**group) for group in item["split"].pop("row_groups"))
        chosen = item["split"].pop("chosen")
        rows = None if chosen is None else tuple(chosen)
        split = Split(**item["split"], row_groups=groups, chosen=rows)
        bundle.append(Pending(split, tuple(item["banks"])))
    return bundle


def single_threaded(parcel: tuple[FolderCode, Callable[[Any], Any]], item: Any) -> Any:
    """A task: apply a function to an item, which may be of a folder's classes, on one thread.

    Arguments are unpacked in their order: first the classes, then what may be of them.
    """
    prepare_process()
    torch.set_num_threads(1)
    _, function = parcel
    return function(item)


@dataclass(frozen=True)
class Telling:
    """A function of an item that tells the driver's tally of tokens as they are done."""

    function: Callable[[Any, Callable[[int], None]], Any]
    tally: Any
    run: str
    stage: str

    def __call__(self, item: Any) -> Any:
        """Do it."""
        watch = ActorWatch(self.tally, self.run, self.stage)
        outcome = self.function(item, watch.advance)
        watch.tell()
        return outcome


def shared(parcel: tuple[FolderCode, Callable[[Any], Any]], item: Any) -> tuple[Any, bool]:
    """A task whose outcome stays where it is; that there is one is told apart from it."""
    return single_threaded(parcel, item), True


@dataclass(frozen=True)
class InStore:
    """A handle of what is in the object store: its reference, in a list so that it stays one."""

    reference: list[Any]

    def get(self) -> Any:
        """The thing, as this node's processes share it."""
        return ray.get(self.reference[0])


def end(actor: Any) -> None:
    """Kill an actor, dead or alive."""
    with contextlib.suppress(ray.exceptions.RayError):
        ray.kill(actor)
