"""Which queries an analysis is of, and what is said of all of them.

What influences say of something that the model does not know is of no meaning for a finding, so
queries are gated by their log-probability per token that counts.
"""

from __future__ import annotations

import math
from collections.abc import Collection
from copy import copy
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from rayinfluence.errors import InputError
from rayinfluence.influence.intervals import mean_and_ends
from rayinfluence.storage.metadata import as_text
from rayinfluence.storage.results import Results, is_difference, seeds_of
from rayinfluence.storage.results.evaluated import Interval
from rayinfluence.storage.results.likelihood import per_token_probability

#: In nats per token: a probability of 0.1 on (geometric) average.
LEAST = math.log(0.1)

Word = Literal["reproduces", "partly", "does not at this size", "not asked"]


@dataclass(frozen=True)
class Verdict:
    """What a run says of a finding, by rules that docs/findings.md has.

    Attributes:
        finding: in a few words.
        word: of three, or that the run cannot tell.
        why: the figures that decide it, in a sentence.
    """

    finding: str
    word: Word
    why: str


@dataclass(frozen=True)
class Gate:
    """Queries by whether the model knows what they ask for.

    Attributes:
        least: log-probability per token, in nats, from which on it does.
        known: ids of queries that an analysis is of.
        unknown: of those below.
        unmeasured: of those that ask for no log-probability.
    """

    least: float
    known: tuple[str, ...]
    unknown: tuple[str, ...]
    unmeasured: tuple[str, ...]

    @classmethod
    def of(cls, results: Results, least: float) -> Gate:
        """All queries of results."""
        sides: tuple[list[str], list[str], list[str]] = ([], [], [])
        for query_id, query in results.queries.items():
            probability = None if is_difference(query) else per_token_probability(query)
            if probability is None:
                sides[2].append(query_id)
            else:
                sides[int(probability < math.exp(least))].append(query_id)
        return cls(least, *map(tuple, sides))

    def only(self, query_ids: Collection[str]) -> Gate:
        """The same of some queries."""
        sides = (self.known, self.unknown, self.unmeasured)
        kept = (tuple(one for one in side if one in query_ids) for side in sides)
        return Gate(self.least, *kept)

    @property
    def sentence(self) -> str:
        """How many there are."""
        n = len(self.known) + len(self.unknown) + len(self.unmeasured)
        text = (
            f"{len(self.known):,} of {n:,} queries are known to the model (at least "
            f"{self.least:.2f} nats per token), and figures are of those"
        )
        if self.unknown:
            text += f"; {len(self.unknown):,} are not"
        if self.unmeasured:
            text += f"; {len(self.unmeasured):,} ask for no log-probability, and are left out too"
        return f"{text}."


def only_of(results: Results, key: str, value: str) -> Results:
    """The same results, of the queries alone whose metadata has a value under a key.

    Raises:
        InputError: no query has it.
    """
    some = copy(results)
    some.queries = {
        query_id: row
        for query_id, row in results.queries.items()
        if key in row["metadata"] and as_text(row["metadata"][key]) == value
    }
    if not some.queries:
        there = sorted({name for row in results.queries.values() for name in row["metadata"]})
        raise InputError(
            f"--only {key}={value}: no query has that in its metadata; keys are "
            f"{', '.join(there) or 'none'}."
        )
    return some


def notes_of(results: Results, gate: Gate) -> tuple[str, ...]:
    """What holds of all figures of an analysis."""
    said = [gate.sentence]
    if seeds_of(results.manifest) is None:
        said.append("One run is of one seed of training: no interval is over seeds.")
    said.append(
        "In brackets: 95 % of means over queries drawn with replacement. They are about other "
        "queries like these, and not about other models, seeds or corpora."
    )
    if not results.complete:
        said.append(f"{len(results.manifest['set_aside']):,} splits of the corpus are missing.")
    return tuple(said)


def over_queries(values_Q: NDArray[np.float64]) -> Interval | None:
    """A mean over queries with its interval; NaN where a query has no value."""
    found = mean_and_ends(values_Q)
    return None if found is None else Interval(*found)
