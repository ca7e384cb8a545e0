"""The Ray runner: replicas as actors, splits streamed by Ray Data to an actor pool.

Placement, retries and the movement of tensors are Ray's. Model weights and jobs are put into the
object store once; the processes of a node read the same copy. What a worker commits is named by
what it was made of, so a retry writes the same bytes under the same key.
"""

from __future__ import annotations

import logging
import os
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import ray
import torch
from ray.data import ActorPoolStrategy, DataContext
from ray.data.block import BlockMetadata
from ray.data.datasource import Datasource, ReadTask
from torch import nn

from rayinfluence.config import RunnerConfig
from rayinfluence.corpus.corpus import Split, read_split
from rayinfluence.dataflow.jobs import Job, ScanJob
from rayinfluence.dataflow.replica import Numerics, Replica
from rayinfluence.dataflow.runner import Pending
from rayinfluence.dataflow.stages import Advance
from rayinfluence.errors import ConfigError, RayInfluenceError, StageError
from rayinfluence.model.load import disassemble
from rayinfluence.storage.shared import SharedTensors
from rayinfluence.storage.store import Store

#: A read has another request than a scorer, or Ray Data would fuse the two and reading would wait
#: for scoring.
_READ_CPUS = 0.5
_POLL_SECONDS = 1.0


@dataclass(frozen=True)
class ModelParts:
    """A replica taken apart, as it travels."""

    skeleton: nn.Module
    weights: SharedTensors
    modules: list[str]
    numerics: Numerics

    @classmethod
    def of(cls, replica: Replica) -> ModelParts:
        """Take a replica apart."""
        skeleton, weights = disassemble(replica.model)
        return cls(skeleton, weights, list(replica.modules), replica.numerics)

    def build(self) -> Replica:
        """Put it together in this process, which computes on one thread from now on."""
        torch.set_num_threads(1)
        return Replica.build(self.skeleton, self.weights, self.modules, self.numerics)


class RayRunner:
    """Runs stages on a Ray cluster, or on a local Ray that it starts.

    Args:
        config: the number of replicas and the cluster's address.
        replica: makes the model, on the driver, when the first stage needs it.
    """

    def __init__(self, config: RunnerConfig, replica: Callable[[], Replica]) -> None:
        self._config = config
        self._make = replica
        self._started = _connect(config)
        self._model: ray.ObjectRef[Any] | None = None
        self._device = "cpu"
        self._actors: list[Any] = []
        self._tally: Any = None

    def replicas(self, job: Job[Any, Any], items: Sequence[Any], advance: Advance) -> Iterator[Any]:
        """Run a job on each item; an actor takes its next item when it has done the last."""
        if not items:
            return
        model, operands = self._put_model(), [ray.put(job)]
        idle = self._start_actors(min(self._config.actors, len(items)))
        waiting = list(reversed(items))
        busy: dict[Any, Any] = {}
        while waiting or busy:
            while waiting and idle:
                actor = idle.pop()
                reference = actor.run.remote([model], operands, waiting.pop(), self._tally)
                busy[reference] = actor
            done, _ = ray.wait(list(busy), num_returns=1, timeout=_POLL_SECONDS)
            advance(_get(self._tally.take.remote()))
            for reference in done:
                idle.append(busy.pop(reference))
                yield _get(reference)
        advance(_get(self._tally.take.remote()))

    def scan(self, job: ScanJob, pending: Sequence[Pending], advance: Advance) -> Iterator[int]:
        """Stream splits to a pool of scorers, one row per split."""
        if not pending:
            return
        model = self._put_model()
        self._stop_actors()
        operands = ray.put(job)
        tokens = {split.index: split.n_tokens for split, _ in pending}
        context = DataContext.get_current().copy()
        context.enable_progress_bars = False
        with DataContext.current(context):
            rows = ray.data.read_datasource(
                Splits(job.corpus, pending),
                num_cpus=_READ_CPUS,
                override_num_blocks=len(pending),
            ).map_batches(
                Scorer,
                batch_size=1,
                batch_format="pyarrow",
                compute=ActorPoolStrategy(size=min(self._config.actors, len(pending))),
                fn_constructor_args=([model], [operands]),
                num_cpus=1,
                num_gpus=self._gpus,
            )
            batches = iter(rows.iter_batches(batch_size=None, batch_format="pyarrow"))
            while (batch := _next(batches)) is not None:
                for index in batch["split"].to_pylist():
                    advance(tokens[index])
                    yield index

    def tasks(self, function: Callable[[Any], Any], items: Sequence[Any]) -> Iterator[Any]:
        """Apply a function to each item in tasks of one CPU; outcomes in the order of the items."""
        remote = ray.remote(num_cpus=1, max_retries=-1)(_single_threaded)
        references = [remote.remote(function, item) for item in items]
        return (_get(reference) for reference in references)

    def close(self) -> None:
        """End the actors, and the local Ray if this runner started it."""
        self._stop_actors()
        self._model = None
        if self._started:
            ray.shutdown()

    @property
    def _gpus(self) -> int:
        return int(self._device == "cuda")

    def _put_model(self) -> Any:
        if self._model is None:
            replica = self._make()
            self._device = replica.numerics.device
            self._model = ray.put(ModelParts.of(replica))
        return self._model

    def _start_actors(self, count: int) -> list[Any]:
        if self._tally is None:
            self._tally = Tally.options(num_cpus=0).remote()  # type: ignore[attr-defined]
        while len(self._actors) < count:
            self._actors.append(
                ReplicaActor.options(  # type: ignore[attr-defined]
                    num_cpus=1, num_gpus=self._gpus, max_restarts=-1, max_task_retries=-1
                ).remote()
            )
        return list(self._actors)

    def _stop_actors(self) -> None:
        for actor in self._actors:
            ray.kill(actor)
        self._actors = []


@ray.remote
class ReplicaActor:
    """Holds a model replica and runs jobs on it."""

    def __init__(self) -> None:
        self._replica: Replica | None = None
        self._key: Any = None
        self._job: Any = None

    def run(self, model: list[Any], operands: list[Any], item: Any, tally: Any) -> Any:
        """Run a job, prepared when it is first seen, on one item.

        The references come with each call, so an actor that Ray restarts finds them again.
        """
        if self._replica is None:
            self._replica = ray.get(model[0]).build()
        if self._key != operands[0]:
            self._job = None  # the last job's operands go before the next one's come
            self._job = ray.get(operands[0])
            self._job.prepare(self._replica)
            self._key = operands[0]
        return self._job.run(self._replica, item, lambda tokens: tally.add.remote(tokens))


@ray.remote
class Tally:
    """Counts tokens of items under way, for the driver's progress."""

    def __init__(self) -> None:
        self._tokens = 0

    def add(self, tokens: int) -> None:
        """Count tokens."""
        self._tokens += tokens

    def take(self) -> int:
        """The tokens counted since the last call."""
        tokens, self._tokens = self._tokens, 0
        return tokens


class Scorer:
    """The pool's actor: scores the split in each row and commits its partials."""

    def __init__(self, model: list[Any], operands: list[Any]) -> None:
        self._replica = ray.get(model[0]).build()
        self._job: ScanJob = ray.get(operands[0])
        self._job.prepare(self._replica)

    def __call__(self, rows: pa.Table) -> pa.Table:
        """Score one row: a split's index, its digest, the banks it lacks, and its sequences."""
        stream = rows["rows"].combine_chunks()
        table = pa.ipc.open_stream(stream[0].as_buffer()).read_all()
        self._job.score(self._replica, rows["digest"][0].as_py(), table, rows["banks"][0].as_py())
        return rows.select(["split"])


class Splits(Datasource):  # type: ignore[misc]
    """One read task and one row per split, with its sequences as an Arrow stream."""

    def __init__(self, corpus: Store, pending: Sequence[Pending]) -> None:
        super().__init__()
        self._corpus = corpus
        self._pending = list(pending)

    def estimate_inmemory_data_size(self) -> int:
        """Bytes of all rows, roughly."""
        return sum(_bytes(split) for split, _ in self._pending)

    def get_read_tasks(self, parallelism: int, *args: Any, **kwargs: Any) -> list[ReadTask]:
        """The tasks; their number does not follow Ray's suggestion."""
        return [
            ReadTask(
                _reader(self._corpus, split, banks),
                BlockMetadata(
                    num_rows=1,
                    size_bytes=_bytes(split),
                    exec_stats=None,
                    input_files=None,
                ),
            )
            for split, banks in self._pending
        ]


def _reader(corpus: Store, split: Split, banks: tuple[int, ...]) -> Callable[[], list[pa.Table]]:
    def read() -> list[pa.Table]:
        sink = pa.BufferOutputStream()
        table = read_split(corpus, split)
        with pa.ipc.new_stream(sink, table.schema) as writer:
            writer.write_table(table)
        return [
            pa.table(
                {
                    "split": pa.array([split.index], pa.int64()),
                    "digest": pa.array([split.digest], pa.string()),
                    "banks": pa.array([list(banks)], pa.list_(pa.int32())),
                    "rows": _one_binary(sink.getvalue()),
                }
            )
        ]

    return read


def _one_binary(buffer: pa.Buffer) -> pa.Array:
    offsets = pa.py_buffer(np.array([0, buffer.size], dtype=np.int64))
    return pa.Array.from_buffers(pa.large_binary(), 1, [None, offsets, buffer])


def _bytes(split: Split) -> int:
    return 4 * split.n_tokens + 128 * split.n_rows


def _connect(config: RunnerConfig) -> bool:
    """Join the cluster that is named, or that this job runs in; else start a local Ray.

    True if it was started.
    """
    if ray.is_initialized():
        return False
    address = config.address or os.environ.get("RAY_ADDRESS")
    for name in ("ray.data", "ray._private.authentication"):
        logging.getLogger(name).setLevel(logging.ERROR)
    quiet = {"logging_level": "error", "log_to_driver": False}
    try:
        if address:
            ray.init(address=address, **quiet)
        else:
            # Ray would print an error for each pooled actor that could not be restarted after the
            # driver's death: there is no driver to restart it for.
            os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
            # A corpus may be private: a Ray that we start reports to nobody.
            os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
            # One CPU more than replicas, or reads would wait for a free one forever.
            ray.init(num_cpus=config.actors + 1, include_dashboard=False, **quiet)
    except Exception as error:  # connection, authentication and start-up errors share no base
        raise ConfigError(
            f"runner: Ray cannot be reached at {address or 'a local start'}: {error}. Check the "
            "address and the "
            "token (RAY_AUTH_MODE, RAY_AUTH_TOKEN_PATH), or set `runner: {name: inline}`."
        ) from error
    return True


def _single_threaded(function: Callable[[Any], Any], item: Any) -> Any:
    torch.set_num_threads(1)
    return function(item)


def _get(reference: Any) -> Any:
    try:
        return ray.get(reference)
    except ray.exceptions.RayError as error:
        raise _ours(error) from error


def _next(batches: Iterator[pa.Table]) -> pa.Table | None:
    try:
        return next(batches, None)
    except Exception as error:
        raise _ours(error) from error


def _ours(error: BaseException) -> RayInfluenceError:
    """The error that a worker raised, out of Ray's wrappings.

    One of ours keeps its kind and message.
    """
    seen: BaseException | None = error
    while seen is not None:
        cause = getattr(seen, "cause", None)
        for candidate in (cause, seen):
            if type(candidate).__module__ == RayInfluenceError.__module__:
                return candidate  # type: ignore[return-value]
        seen = cause if isinstance(cause, BaseException) else seen.__cause__
    return StageError("a worker failed: " + "".join(traceback.format_exception_only(error)).strip())
