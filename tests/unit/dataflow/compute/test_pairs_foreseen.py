"""What a plan foresees of scores by pairs of tokens is what a run makes."""

from __future__ import annotations

from pathlib import Path

import pytest

from rayinfluence.config import RunConfig
from rayinfluence.dataflow.compute.pair_work import Affordable, affordable
from rayinfluence.dataflow.compute.pairs_foreseen import JobSize, foreseen_pairs
from rayinfluence.dataflow.run import Run
from rayinfluence.storage.results import Results
from rayinfluence.storage.store import Store

METHODS = ["ekfac", "cosine"]
#: Tokens of sequences that have 10 on average.
JOB = JobSize(scanned=10_000, fitted=0, rescored=0, of_a_sequence=10.0, n_sequences=1000)


def test_what_is_foreseen_is_what_was_made(finished: tuple[Path, RunConfig]) -> None:
    folder, config = finished
    made = Results.load(Store(str(folder / "run"))).manifest["pair_scores"]
    with Run(config) as run:
        shapes = list(run.replica.shapes.values())
        found = foreseen_pairs(run.queries, config.scan.pair_scores, ["ekfac"], shapes, JOB)
        nothing = [
            foreseen_pairs([], 5, ["ekfac"], shapes, JOB),
            foreseen_pairs(run.queries, 0, ["ekfac"], shapes, JOB),
            foreseen_pairs(run.queries, 5, [], shapes, JOB),
        ]
        more = foreseen_pairs(run.queries, 2, METHODS, shapes, JOB)
    assert found.sample is not None
    assert made == {
        "hits": config.scan.pair_scores,
        "methods": list(found.sample.methods),
        "most_parts": found.sample.most_parts,
    }
    assert found.n_queries == 3
    assert [(one.n_queries, one.multiplications, one.sample) for one in nothing] == [
        (0, 0, None)
    ] * 3
    # Queries are alike: each is what the one that is measured would take for as many tokens.
    hits = 2 * config.scan.pair_scores * 10
    assert found.multiplications == 3 * found.sample.multiplications(shapes, hits)
    assert more.sample is not None
    assert more.sample.methods == ("ekfac", "cosine")


@pytest.mark.parametrize(
    ("allowed", "chosen"),
    [
        ({("ekfac", "cosine", 4): 32}, Affordable(4, ("ekfac", "cosine"), 32)),
        ({("ekfac", "cosine", 4): 4, ("ekfac", 4): 8}, Affordable(4, ("ekfac",), 8)),
        ({("ekfac", 4): 4, ("ekfac", 2): 4, ("ekfac", 1): 8}, Affordable(1, ("ekfac",), 8)),
        ({("ekfac", 2): 2, ("ekfac", 1): 2}, Affordable(2, ("ekfac",), 2)),
        ({}, Affordable(0, (), 0)),
    ],
)
def test_fewer_survivors_and_methods_are_taken_where_parts_would_be_few(
    allowed: dict[tuple[object, ...], int], chosen: Affordable
) -> None:
    assert affordable(4, METHODS, lambda n, some: allowed.get((*some, n), 0)) == chosen
