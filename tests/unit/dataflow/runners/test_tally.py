"""What actors tell the tally: everything, in few messages."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pytest

from rayinfluence.dataflow.runners.ray import tally
from rayinfluence.dataflow.runners.ray.actors import Scorer, to_row
from rayinfluence.errors import StorageError


class Remote:
    """A tally that counts messages, in this process."""

    def __init__(self) -> None:
        self.tokens: list[int] = []
        self.leaders: list[Any] = []

    @property
    def hear(self) -> Any:
        """A method that is called as an actor's."""
        return self

    def remote(self, tokens: int, leaders: Any) -> None:
        """Note a message."""
        self.tokens.append(tokens)
        self.leaders.append(leaders)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time, in a list of one."""
    now = [100.0]
    monkeypatch.setattr(tally.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(tally.Meter, "add", lambda *args, **tags: None)
    return now


def test_a_message_a_second(clock: list[float]) -> None:
    remote = Remote()
    watch = tally.ActorWatch(remote, "run", "scan")
    for step in range(300):
        clock[0] = 100 + step / 100
        watch.advance(7)
    assert len(remote.tokens) == 3
    watch.tell()
    assert sum(remote.tokens) == 300 * 7
    watch.tell()
    assert len(remote.tokens) == 4, "nothing is told twice, nor that nothing was done"


def test_the_first_and_the_late_are_told_at_once(clock: list[float]) -> None:
    remote = Remote()
    watch = tally.ActorWatch(remote, "run", "scan")
    watch.advance(1)
    clock[0] += 3600
    watch.advance(2)
    assert remote.tokens == [1, 2]


def test_leaders_are_gathered(clock: list[float]) -> None:
    remote = Remote()
    watch = tally.ActorWatch(remote, "run", "scan")
    watch.advance(1)
    watch.lead({"a": (2.0, 7), "b": (1.0, 3)})
    watch.lead({"a": (1.0, 8), "b": (1.5, 4)})
    assert len(remote.leaders) == 1
    watch.tell()
    assert remote.leaders[1] == {"a": (2.0, 7), "b": (1.5, 4)}


class Job:
    """Does two batches, and then ends or fails."""

    def __init__(self, error: Exception | None) -> None:
        self._error = error

    def run(self, replica: Any, bundle: Any, watch: tally.ActorWatch) -> Any:
        """Do them."""
        watch.advance(1)
        watch.advance(2)
        if self._error is not None:
            raise self._error
        return [SimpleNamespace(split=SimpleNamespace(index=0), reason=None, left_out={})]


@pytest.mark.parametrize("error", [None, StorageError("gone")])
def test_after_a_row_nothing_is_left_to_tell(clock: list[float], error: Exception | None) -> None:
    remote = Remote()
    scorer = object.__new__(Scorer)
    scorer._replica = None  # type: ignore[assignment]
    scorer._refusal = None
    scorer._job = Job(error)  # type: ignore[assignment]
    scorer._watch = tally.ActorWatch(remote, "run", "scan")
    scorer(pa.Table.from_pylist([to_row([])]))
    assert remote.tokens == [1, 2]
