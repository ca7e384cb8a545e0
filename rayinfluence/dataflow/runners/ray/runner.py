"""The Ray runner: replicas as actors, splits streamed by Ray Data to a pool that autoscales.

Placement and the movement of tensors are Ray's. Model weights and jobs are put into the object
store once; the processes of a node read the same copy. What a worker commits is named by what it
was made of, so doing it again writes the same bytes under the same key.
"""

from __future__ import annotations

import threading
import time
import traceback
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from queue import Empty, Queue
from typing import Any, TypeVar

import ray
import torch
from ray.data import ActorPoolStrategy, DataContext
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from rayinfluence import errors
from rayinfluence.config_places import RunnerConfig
from rayinfluence.dataflow.compute.replica import Replica
from rayinfluence.dataflow.compute.scoring import Advance
from rayinfluence.dataflow.jobs.handles import Handle
from rayinfluence.dataflow.jobs.job import Job
from rayinfluence.dataflow.jobs.scan import Pending, ScanJob, Settled
from rayinfluence.dataflow.runners.base import Lead, ignore
from rayinfluence.dataflow.runners.ray.actors import (
    InStore,
    ModelParts,
    ReplicaActor,
    Scorer,
    Telling,
    end,
    left_out_of,
    shared,
    single_threaded,
    to_row,
)
from rayinfluence.dataflow.runners.ray.connection import Connection
from rayinfluence.dataflow.runners.ray.tally import Tally
from rayinfluence.errors import RayInfluenceError, StageError
from rayinfluence.model.folder_code import FolderCode

_POLL_SECONDS = 1.0
#: Splits in a row, at most: Ray Data passes tens of rows a second, and a split may be small.
_LONGEST_ROW = 64
#: Rows that an actor finds at least, as long as there are splits for them.
_ROWS_PER_ACTOR = 8
#: Actors in a row that may die before one is ready for work.
_FALSE_STARTS = 5
#: Workers that a task may lose.
_TASK_RETRIES = 5
#: A task reports nothing, and a decomposition takes long.
_TASK_STALLS = 10
#: What Ray takes to let go of what an actor had, at most.
_RELEASE_SECONDS = 2.0
#: What tells that a worker is gone, and not that its work is wrong.
_LOST = (
    ray.exceptions.RayActorError,
    ray.exceptions.ObjectLostError,
    ray.exceptions.OutOfMemoryError,
    ray.exceptions.NodeDiedError,
)

Outcome = TypeVar("Outcome")


class RayRunner:
    """Runs stages on a Ray cluster, or on a local Ray that it starts.

    Args:
        config: the number of replicas and the cluster's address.
        replica: makes the model, on the driver, when the first stage needs it.
        run: the run's name, for metrics.
    """

    def __init__(self, config: RunnerConfig, replica: Callable[[], Replica], run: str) -> None:
        self._config = config
        self._make = replica
        self._run = run
        self._connection = Connection(config)
        # As in workers: other threads would mean other bits.
        self._threads = torch.get_num_threads()
        torch.set_num_threads(1)
        self._model: ray.ObjectRef[Any] | None = None
        self._device = "cpu"
        self._idle: list[Any] = []
        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        self._tally: Any = Tally.options(scheduling_strategy=here).remote()  # type: ignore[attr-defined]

    def device(self) -> str:
        """CUDA if a node that is up has room for a replica on its GPUs."""
        alive = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        gpus = self._config.gpus_per_actor or 1
        able = any(has.get("GPU", 0) >= gpus and has.get("CPU", 0) >= 1 for has in alive)
        return "cuda" if able else "cpu"

    def get_ready(self, device: str) -> None:
        """Start as many actors as there are always; they import meanwhile what replicas need."""
        self._device = device
        if not self._idle:
            self._idle = [self._start() for _ in range(self._config.actors)]

    def replicas(self, job: Job[Any, Any], items: Sequence[Any], advance: Advance) -> Iterator[Any]:
        """Run a job on each item; an actor takes its next item when it has done the last.

        An item whose actor died goes to another one; actors are used as soon as there is room for
        them.
        """
        if not items:
            return
        model, operands = self._put_model(), [ray.put(job)]
        ray.get(self._tally.forget.remote())
        waiting = deque(items)
        count = min(self._config.most_actors, len(items))
        actors, self._idle = self._idle[:count], self._idle[count:]
        actors += [self._start() for _ in range(count - len(actors))]
        # An actor that cannot hold model or operands dies before it is given an item.
        busy = {a.prepare.remote([model], operands, self._run): (a, None) for a in actors}
        free: list[Any] = []
        deadline = _Deadline(self._config.stall_seconds)
        false_starts = 0
        try:
            while waiting or any(item is not None for _, item in busy.values()):
                while waiting and free:
                    actor, item = free.pop(), waiting.popleft()
                    busy[actor.run.remote(item, self._tally, self._run)] = actor, item
                done, _ = ray.wait(list(busy), num_returns=1, timeout=_POLL_SECONDS)
                deadline.check(self._take(advance) or len(done))
                for reference in done:
                    actor, item = busy.pop(reference)
                    try:
                        outcome = ray.get(reference)
                    except _LOST as error:
                        end(actor)
                        if item is not None:
                            waiting.appendleft(item)
                        elif (false_starts := false_starts + 1) > _FALSE_STARTS:
                            raise StageError(
                                f"{job.stage}: {false_starts} workers in a row died while they "
                                "loaded the model and what the stage needs. Mostly that is memory: "
                                "look for 'out of memory' in the logs of Ray's nodes, give workers "
                                "more, and run the same command again."
                            ) from error
                        actor = self._start()
                        busy[actor.prepare.remote([model], operands, self._run)] = actor, None
                        continue
                    except ray.exceptions.RayError as error:
                        raise _ours(error) from error
                    free.append(actor)
                    if item is None:
                        false_starts = 0
                    else:
                        yield outcome
        finally:
            self._idle += free
            # There was no room for them, or an error ends the stage.
            for actor, _ in busy.values():
                end(actor)
        self._take(advance)

    def scan(
        self, job: ScanJob, pending: Sequence[Pending], advance: Advance, lead: Lead = ignore
    ) -> Iterator[Settled]:
        """Stream splits to a pool of scorers, some of them in a row."""
        if not pending:
            return
        model = self._put_model()
        self._make_room(min(self._config.most_actors, len(pending)))
        operands = ray.put(job)
        ray.get(self._tally.forget.remote())
        splits = {item.split.index: item.split for item in pending}
        rows = [to_row(bundle) for bundle in bundles(pending, self._config.most_actors)]
        context = DataContext.get_current().copy()
        context.enable_progress_bars = False
        context.max_consecutive_actor_init_deaths = 3
        # A row may take hours; the tally knows better whether anything moves.
        context.execution_no_progress_timeout_s = -1
        with DataContext.current(context):
            # Not from tables: Ray Data would start tasks that look at each of them.
            scored = ray.data.from_items(rows, override_num_blocks=len(rows)).map_batches(
                Scorer,
                batch_size=1,
                batch_format="pyarrow",
                compute=ActorPoolStrategy(
                    min_size=min(self._config.actors, len(rows)),
                    max_size=min(self._config.most_actors, len(rows)),
                ),
                fn_constructor_args=([model], [operands], self._tally, self._run),
                num_cpus=1,
                num_gpus=self._gpus,
            )
            batches = scored.iter_batches(batch_size=None, batch_format="pyarrow")
            try:
                for batch in self._watched(batches, advance, lead):
                    for row in batch.to_pylist():
                        if row["error"] is not None:
                            raise getattr(errors, row["error"])(row["reason"])
                        split = splits[row["split"]]
                        yield Settled(split, row["reason"], left_out_of(row))
            finally:
                _end_pass(scored)

    def tasks(
        self, function: Callable[[Any], Any], items: Sequence[Any], small: bool = False
    ) -> Iterator[Any]:
        """Apply a function to each item in tasks of one CPU; outcomes in the order of the items."""
        if small:
            yield from map(function, items)
            return
        for reference in self._submitted(single_threaded, function, items):
            yield self._get(reference)

    def told_tasks(
        self,
        stage: str,
        function: Callable[[Any, Advance], Any],
        items: Sequence[Any],
        advance: Advance,
    ) -> Iterator[Any]:
        """Apply a function to each item in tasks of one CPU, which tell the tally of tokens."""
        ray.get(self._tally.forget.remote())
        telling = Telling(function, self._tally, self._run, stage)
        deadline = _Deadline(self._config.stall_seconds)
        for reference in self._submitted(single_threaded, telling, items):
            done: list[Any] = []
            while not done:
                done, _ = ray.wait([reference], timeout=_POLL_SECONDS)
                deadline.check(self._take(advance) + len(done))
            yield self._get(reference)
        self._take(advance)

    def _submitted(
        self,
        task: Callable[..., Any],
        function: Callable[[Any], Any],
        items: Sequence[Any],
        **options: Any,
    ) -> Iterator[Any]:
        """References of tasks in the order of the items, no more than some of them ahead."""
        if self._idle and not _a_cpu_is_free():
            # Actors that wait for the next stage hold all there is, and tasks would wait for them.
            self._stop_actors()
        remote = ray.remote(num_cpus=1, max_retries=_TASK_RETRIES, **options)(task)
        most = 2 * max(4, int(ray.cluster_resources().get("CPU", 0)))
        # Once: a tokenizer is megabytes, and there may be as many items as files of documents.
        parcel = ray.put((FolderCode.imported(), function))
        under_way: deque[Any] = deque()
        for item in items:
            under_way.append(remote.remote(parcel, item))
            if len(under_way) == most:
                yield under_way.popleft()
        yield from under_way

    def share(
        self, function: Callable[[Any], Any], items: Sequence[Any], small: bool = False
    ) -> Sequence[Handle[Any]]:
        """Made once, in tasks, and kept in the object store: a node's processes read one copy."""
        if small:
            return [InStore([ray.put(function(item))]) for item in items]
        made = self._submitted(shared, function, items, num_returns=2)
        return [InStore([value]) for value, done in made if self._get(done)]

    def close(self) -> None:
        """End the actors, and the local Ray if this runner started it."""
        self._stop_actors()
        end(self._tally)
        self._model = None
        torch.set_num_threads(self._threads)
        self._connection.close()

    @property
    def _gpus(self) -> int:
        """Of an actor."""
        return (self._config.gpus_per_actor or 1) * (self._device == "cuda")

    def _put_model(self) -> Any:
        if self._model is None:
            replica = self._make()
            self._device = replica.numerics.device
            self._model = ray.put(ModelParts.of(replica, self._gpus))
        return self._model

    def _start(self) -> Any:
        return ReplicaActor.options(num_cpus=1, num_gpus=self._gpus).remote()  # type: ignore[attr-defined]

    def _stop_actors(self) -> None:
        for actor in self._idle:
            end(actor)
        self._idle = []

    def _make_room(self, count: int) -> None:
        """End as many idle actors as it takes for so many scorers; the others wait for their turn.

        Processes take seconds to start, and the second pass wants them again.
        """
        free = ray.available_resources()
        room = int(free.get("CPU", 0))
        if self._gpus:
            room = min(room, int(free.get("GPU", 0)) // self._gpus)
        ended = max(0, count - room)
        for actor in self._idle[:ended]:
            end(actor)
        self._idle = self._idle[ended:]
        for actor in self._idle:
            actor.rest.remote()

    def _take(self, advance: Advance, lead: Lead = ignore) -> int:
        """Pass on what workers have done since the last call; returns the tokens."""
        tokens, leaders = ray.get(self._tally.take.remote())
        lead(leaders)
        advance(tokens)
        return int(tokens)

    def _watched(
        self, outcomes: Iterable[Outcome], advance: Advance, lead: Lead
    ) -> Iterator[Outcome]:
        """Outcomes as they come, or an error when nothing comes and nothing is told either."""
        queue: Queue[tuple[list[Outcome], BaseException | None]] = Queue()
        stopped = threading.Event()

        def pump() -> None:
            try:
                for outcome in outcomes:
                    queue.put(([outcome], None))
                    if stopped.is_set():
                        return
                queue.put(([], None))
            except BaseException as error:
                queue.put(([], error))

        # A stalled Ray would never let go of the thread that waits for it.
        threading.Thread(target=pump, daemon=True).start()
        deadline = _Deadline(self._config.stall_seconds)
        try:
            while True:
                found: list[Outcome] = []
                try:
                    found, error = queue.get(timeout=_POLL_SECONDS)
                    if error is not None:
                        raise _ours(error) from error
                    if not found:
                        break
                except Empty:
                    pass
                deadline.check(self._take(advance, lead) + len(found))
                yield from found
        finally:
            stopped.set()
        self._take(advance, lead)

    def _get(self, reference: Any) -> Any:
        seconds = _TASK_STALLS * self._config.stall_seconds
        try:
            return ray.get(reference, timeout=seconds)
        except ray.exceptions.GetTimeoutError as error:
            raise _silence(seconds, f"{_TASK_STALLS} times `runner.stall_seconds`") from error
        except ray.exceptions.RayError as error:
            raise _ours(error) from error


class _Deadline:
    """Ends a stage in which nothing moves."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._last = time.monotonic()

    def check(self, moved: int) -> None:
        """Note whether anything has moved since the last call."""
        now = time.monotonic()
        if moved:
            self._last = now
        if now - self._last > self._seconds:
            raise _silence(self._seconds, "`runner.stall_seconds`")


def _a_cpu_is_free() -> bool:
    """Whether there is one, or soon will be: that of an actor that has just ended comes late."""
    deadline = time.monotonic() + _RELEASE_SECONDS
    while ray.available_resources().get("CPU", 0) < 1:
        if time.monotonic() > deadline:
            return False
        time.sleep(_RELEASE_SECONDS / 20)
    return True


def _silence(seconds: float, setting: str) -> StageError:
    return StageError(
        f"no worker has reported anything for {seconds:.0f} s ({setting}). Either the cluster has "
        "no room on a node for a worker of one CPU and, on GPUs, `runner.gpus_per_actor` of them "
        "(one if that is not set; `ray status` says so), or its nodes are cut off, or the work "
        "takes longer than that: then raise it. What is committed "
        "is kept: run the same command again."
    )


def bundles(pending: Sequence[Pending], actors: int) -> list[list[Pending]]:
    """Cut splits into rows: long ones first, single splits at the end, so that actors end together.

    Args:
        pending: in order.
        actors: at most this many will work on them.
    """
    rows = []
    start = 0
    while start < len(pending):
        share = (len(pending) - start) // (_ROWS_PER_ACTOR * actors)
        length = min(_LONGEST_ROW, max(1, share))
        rows.append(list(pending[start : start + length]))
        start += length
    return rows


def _end_pass(dataset: ray.data.Dataset) -> None:
    """End a pass, finished or not, and its actors.

    Ray Data does so when its iterator is closed, but another thread waits in that. A Ray that is
    shut down under the threads of a pass can take the process with it.
    """
    executor = dataset._current_executor
    if executor is not None:
        executor.shutdown(force=True)


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
