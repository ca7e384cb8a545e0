"""Progress of stages: tokens/s and time left, live on a terminal, in plain lines elsewhere.

Timings are kept.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from rayinfluence.dataflow.jobs.watch import Leaders, keep_leaders
from rayinfluence.text import visible_line

_LINE_SECONDS = 10.0
#: Seconds of a stage without tokens that a line tells of.
_WORTH_SAYING = 0.1
#: Queries whose leader is shown.
_LEADERS = 5


@dataclass(frozen=True)
class Timing:
    """Wall time that a stage took in this process, in seconds, and tokens it went through."""

    seconds: float
    tokens: int

    @property
    def tokens_per_second(self) -> float:
        """Tokens per second of wall time."""
        return self.tokens / self.seconds if self.seconds > 0 else 0.0


class StageProgress:
    """One stage under way; ``advance`` is told of tokens as they are done."""

    def __init__(self, name: str, total_tokens: int, console: Console) -> None:
        self.name = name
        self.tokens = 0
        self._total = total_tokens
        self._console = console
        self._started = self._last_line = time.monotonic()
        self._leaders: Leaders = {}
        #: Names of queries, by digest.
        self.names: Mapping[str, str] = {}
        self._bar: Progress | None = None
        if console.is_terminal:
            self._bar = Progress(
                TextColumn("{task.description:<12}"),
                BarColumn(),
                TextColumn("{task.percentage:>3.0f}% {task.fields[rate]:>12}"),
                TimeRemainingColumn(),
                console=console,
                transient=True,
            )
            self._task = self._bar.add_task(name, total=max(1, total_tokens), rate="")
            self._bar.start()

    def advance(self, tokens: int) -> None:
        """Count tokens as done."""
        self.tokens += tokens
        now = time.monotonic()
        rate = self.tokens / max(now - self._started, 1e-9)
        if self._bar is not None:
            self._bar.update(self._task, completed=self.tokens, rate=f"{rate:,.0f} tok/s")
        elif now - self._last_line >= _LINE_SECONDS:
            self._last_line = now
            left = max(0.0, (self._total - self.tokens) / rate) if rate > 0 else 0.0
            self._say(
                f"{min(100, 100 * self.tokens // max(1, self._total)):3d} %, {rate:,.0f} "
                f"tokens/s, {left:.0f} s left"
            )
            shown = [
                f"{name}: sequence {self._leaders[query][1]} ({self._leaders[query][0]:+.3g})"
                for query, name in self.names.items()
                if query in self._leaders
            ]
            if shown:
                more = len(shown) - _LEADERS
                self._say(
                    f"leading so far: {', '.join(shown[:_LEADERS])}"
                    + (f" and {more} more queries" if more > 0 else "")
                )

    def lead(self, found: Leaders) -> None:
        """Keep the strongest proponents so far."""
        keep_leaders(self._leaders, found)

    def skip(self, tokens: int) -> None:
        """Leave out tokens that an earlier run did; they do not count in the rate."""
        self._total -= tokens
        if self._bar is not None:
            self._bar.update(self._task, total=max(1, self._total))

    def finish(self) -> Timing:
        """End the stage."""
        timing = Timing(time.monotonic() - self._started, self.tokens)
        if self._bar is not None:
            self._bar.stop()
        # Of what took no time there is nothing to say; its timing is kept.
        if self.tokens or timing.seconds >= _WORTH_SAYING:
            rate = f", {timing.tokens_per_second:,.0f} tokens/s" if self.tokens else ""
            self._say(f"done in {timing.seconds:.1f} s{rate}")
        return timing

    def stop(self) -> None:
        """Leave the stage unfinished."""
        if self._bar is not None:
            self._bar.stop()

    def _say(self, text: str) -> None:
        # Ids of queries are their authors', and neither markup nor commands to a terminal.
        line = visible_line(f"{self.name:<12} {text}")
        self._console.print(line, highlight=False, markup=False, soft_wrap=True)


class ProgressLog:
    """All stages of a run; prints to standard error unless another console is given.

    Args:
        console: where to.
        quiet: whether warnings alone are printed.
    """

    def __init__(self, console: Console | None = None, quiet: bool = False) -> None:
        self.console = console or Console(stderr=True)
        self.timings: dict[str, Timing] = {}
        self._quiet = quiet

    @contextlib.contextmanager
    def stage(self, name: str, total_tokens: int = 0) -> Iterator[StageProgress]:
        """Show a stage while the block runs, and keep its timing when it ends well."""
        console = Console(quiet=True) if self._quiet else self.console
        progress = StageProgress(name, total_tokens, console)
        try:
            yield progress
        except BaseException:
            progress.stop()
            raise
        timing, before = progress.finish(), self.timings.get(name, Timing(0, 0))
        # The fit comes to its stages once a round.
        self.timings[name] = Timing(before.seconds + timing.seconds, before.tokens + timing.tokens)

    def note(self, text: str) -> None:
        """Say one line, unless it is to be quiet."""
        if not self._quiet:
            self._print(text)

    def warn(self, text: str) -> None:
        """Say one line that is said in any case."""
        self._print(f"warning: {text}")

    def _print(self, text: str) -> None:
        # Of lines of a log the terminal makes several, and a program one.
        self.console.print(visible_line(text), highlight=False, markup=False, soft_wrap=True)
