"""Scores by pairs of tokens before there is any survivor: what a run would choose to make."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rayinfluence.corpus.queries import EncodedQuery
from rayinfluence.dataflow.compute.completion_parts import part_ends
from rayinfluence.dataflow.compute.pair_work import (
    Affordable,
    QueryWork,
    affordable,
    most_parts,
    multiplications,
)
from rayinfluence.model.modules import ModuleShape


@dataclass(frozen=True)
class PairSample:
    """A query whose pass is measured, as others are.

    Attributes:
        query: the one that takes most.
        ends: of the parts of its completion.
        most_parts: that completions are cut into.
        methods: by gradients, by which sequences are scored.
    """

    query: EncodedQuery
    ends: tuple[int, ...]
    most_parts: int
    methods: tuple[str, ...]

    def multiplications(self, shapes: Sequence[ModuleShape], n_tokens: int) -> int:
        """What it takes for sequences of so many tokens, which all methods score."""
        work = QueryWork.of(self.query, n_tokens, [n_tokens] * len(self.methods))
        return multiplications(work, shapes, self.most_parts)


@dataclass(frozen=True)
class ForeseenPairs:
    """The pass over pairs of tokens, as if methods had no survivor in common.

    Attributes:
        n_queries: that have parts.
        multiplications: of all of them.
        sample: None where none has such scores by a method that reads gradients.
    """

    n_queries: int = 0
    multiplications: int = 0
    sample: PairSample | None = None


@dataclass(frozen=True)
class JobSize:
    """Tokens that a job goes through: what the pass may take a share of.

    Attributes:
        scanned, fitted, rescored: by its stages.
        of_a_sequence: on average.
        n_sequences: that the corpus has.
    """

    scanned: int
    fitted: int
    rescored: int
    of_a_sequence: float
    n_sequences: int


def foreseen_pairs(
    queries: Sequence[EncodedQuery],
    n: int,
    by_gradients: Sequence[str],
    shapes: Sequence[ModuleShape],
    job: JobSize,
) -> ForeseenPairs:
    """The pass as a run would choose it, with as many survivors as there can be, of mean length.

    Args:
        queries: of the run.
        n: survivors of each direction, at most (``scan.pair_scores``).
        by_gradients: the methods by gradients.
        shapes: of the tracked modules.
        job: what else there is to do.
    """
    asked = [query for query in queries if part_ends(query, 2) is not None]

    def work(query: EncodedQuery, n_hits: int, n_methods: int) -> QueryWork:
        of_method = int(min(2 * n_hits, job.n_sequences) * job.of_a_sequence)
        run = int(min(2 * n_hits * n_methods, job.n_sequences) * job.of_a_sequence)
        return QueryWork.of(query, run, [of_method] * n_methods)

    def most(n_hits: int, methods: Sequence[str]) -> int:
        of_all = [work(query, n_hits, len(methods)) for query in asked]
        return most_parts(of_all, shapes, job.scanned, job.fitted, job.rescored)

    chosen = affordable(n, by_gradients, most) if asked and by_gradients else Affordable(0, (), 0)
    if not chosen.most_parts:
        return ForeseenPairs()
    sizes = [
        multiplications(work(query, chosen.n, len(chosen.by_gradients)), shapes, chosen.most_parts)
        for query in asked
    ]
    largest = asked[sizes.index(max(sizes))]
    ends = part_ends(largest, chosen.most_parts)
    assert ends is not None
    sample = PairSample(largest, ends, chosen.most_parts, chosen.by_gradients)
    return ForeseenPairs(len(asked), sum(sizes), sample)
