"""Which characters each token of a text is of, looked up where they are asked for.

A tokenizer's library has them in its own memory. A tuple of each is a fifth of what encoding takes,
and of most texts only those at the ends of sequences are looked at.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

from rayinfluence.corpus.chat import Span

if TYPE_CHECKING:
    from tokenizers import Encoding as LibraryEncoding

#: The characters of a token that is none of the text.
NOWHERE: Span = (0, 0)


class _Run(NamedTuple):
    """Tokens in a row, as a list or as the library has them."""

    of: LibraryEncoding | list[Span]
    start: int
    end: int

    def at(self, place: int) -> Span:
        if isinstance(self.of, list):
            return self.of[place]
        found: Span | None = self.of.token_to_chars(place)
        return found or NOWHERE  # a token that the library added is of no character

    def all(self) -> list[Span]:
        spans: list[Span] = self.of if isinstance(self.of, list) else self.of.offsets
        return spans[self.start : self.end]


class Spans:
    """The spans of tokens: a sequence that is cut and put together without looking at them.

    Args:
        runs: of tokens, one after the other.
    """

    def __init__(self, runs: Sequence[_Run]) -> None:
        self._runs = [run for run in runs if run.start < run.end]

    @classmethod
    def of(cls, found: LibraryEncoding | list[Span]) -> Spans:
        """Of all tokens of an encoding of the library, or those of a list."""
        return cls([_Run(found, 0, len(found))])

    @classmethod
    def nowhere(cls, count: int) -> Spans:
        """Of so many tokens that are no text."""
        return cls.of([NOWHERE] * count)

    def __len__(self) -> int:
        return sum(run.end - run.start for run in self._runs)

    def __iter__(self) -> Iterator[Span]:
        for run in self._runs:
            yield from run.all()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Spans) and list(self) == list(other)

    def __hash__(self) -> int:
        return hash(tuple(self))

    def __add__(self, other: Spans) -> Spans:
        return Spans([*self._runs, *other._runs])

    def cut(self, start: int, end: int | None = None) -> Spans:
        """Those from one token to before another, as in a slice; neither is negative."""
        end = len(self) if end is None else end
        runs = []
        for run in self._runs:
            length = run.end - run.start
            first, last = max(0, start), min(length, end)
            if first < last:
                runs.append(_Run(run.of, run.start + first, run.start + last))
            start, end = start - length, end - length
        return Spans(runs)

    def characters(self) -> Span:
        """From the first character of all tokens to the last; of none where they have none."""
        found = [(run, range(run.start, run.end)) for run in self._runs]
        first = next(self._some((run, iter(places)) for run, places in found), NOWHERE)
        last = next(self._some((run, reversed(places)) for run, places in found[::-1]), NOWHERE)
        return first[0], last[1]

    @staticmethod
    def _some(runs: Iterator[tuple[_Run, Iterator[int]]]) -> Iterator[Span]:
        for run, places in runs:
            for place in places:
                span = run.at(place)
                if span[0] < span[1]:
                    yield span
