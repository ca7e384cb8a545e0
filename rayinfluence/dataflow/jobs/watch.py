"""What a worker tells of its work while it does it: starts, phases, tokens, counts. No Ray."""

from __future__ import annotations

import contextlib
import logging
import time
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Protocol

from rayinfluence.errors import StageError

_log = logging.getLogger(__name__)
#: The strongest proponents so far: by query digest, score and sequence id.
Leaders = dict[str, tuple[float, int]]
#: Work that was started this often, and whose worker died each time, is not started again.
MOST_STARTS = 2
#: Told (phase, work) by a process that is about to enter a phase of its work.
observers: list[Callable[[str, str], None]] = []


def enter_phase(phase: str, work: str) -> None:
    """Tell the observers, of which there are none but those that somebody outside has added."""
    for observer in observers:
        observer(phase, work)


class Watch(Protocol):
    """Told by a worker of what it does."""

    def begin(self, work: str) -> int:
        """Note that a piece of a job starts; how often it has been started under this driver."""

    def advance(self, tokens: int) -> None:
        """Note that tokens are done."""

    def lead(self, found: Leaders) -> None:
        """Note the strongest proponents of what is done."""

    def count(self, name: str, value: float, **tags: str) -> None:
        """Add to a metric, one of METRICS."""

    def phase(self, name: str, work: str) -> contextlib.AbstractContextManager[None]:
        """A phase of a piece of work, timed while the block runs."""


class LocalWatch:
    """The watch of work in the driver's own process, where there is nobody to export metrics to.

    Args:
        advance: told of tokens.
        lead: told of proponents.
    """

    def __init__(
        self,
        advance: Callable[[int], None],
        lead: Callable[[Leaders], None] = lambda found: None,
    ) -> None:
        self.advance = advance
        self.lead = lead
        self._starts: Counter[str] = Counter()

    def begin(self, work: str) -> int:
        """Note a start."""
        self._starts[work] += 1
        return self._starts[work]

    def count(self, name: str, value: float, **tags: str) -> None:
        """Leave it."""

    @contextlib.contextmanager
    def phase(self, name: str, work: str) -> Iterator[None]:
        """Leave it."""
        enter_phase(name, work)
        yield


def keep_leaders(leaders: Leaders, found: Leaders) -> None:
    """Update leaders with others; of equal scores the smaller sequence id leads."""
    for query, (score, sequence_id) in found.items():
        best = leaders.get(query)
        if best is None or (score, -sequence_id) > (best[0], -best[1]):
            leaders[query] = score, sequence_id


@contextlib.contextmanager
def timed_phase(watch: Watch, name: str, work: str) -> Iterator[None]:
    """A phase whose seconds are counted and logged."""
    enter_phase(name, work)
    started = time.monotonic()
    try:
        yield
    finally:
        seconds = time.monotonic() - started
        watch.count("rayinfluence_seconds", seconds, phase=name)
        _log.info("%s done", name, extra={"phase": name, "work": work, "seconds": seconds})


def begin_or_refuse(watch: Watch, work: str) -> None:
    """Note a start of work that cannot be left out of the result.

    Raises:
        StageError: its workers died whenever they did it.
    """
    if watch.begin(work) > MOST_STARTS:
        raise StageError(
            f"{work}: the {MOST_STARTS} workers that began it died. Mostly that is memory: look "
            "for 'out of memory' in the logs of Ray's nodes, lower `batch_tokens` or give the "
            "workers more, and run the same command again."
        )
