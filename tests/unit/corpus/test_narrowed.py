"""A split with some of its rows: what it reads, what it is called, and that it travels."""

from __future__ import annotations

import numpy as np
import pytest

from rayinfluence.corpus.corpus import Corpus
from rayinfluence.corpus.splits import Split
from rayinfluence.dataflow.jobs.scan import Pending
from rayinfluence.dataflow.run import Run
from rayinfluence.dataflow.runners.ray.actors import from_row, to_row
from rayinfluence.dataflow.stages.select import narrowed, sampled
from rayinfluence.influence.ranks import best_share
from rayinfluence.testing import tiny_run


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    with Run(tiny_run(tmp_path_factory.mktemp("corpus"), 40)) as run:
        return run.tokenize()


def test_a_narrowed_split_reads_its_rows_and_has_a_name_of_its_own(corpus: Corpus) -> None:
    split = corpus.plan(400)[1]
    there = split.sequence_ids
    assert corpus.read(split)["sequence_id"].to_pylist() == there.tolist()
    some = there[[1, -1]]
    part = split.narrowed(np.concatenate([[0], some, [2**40]]))
    assert part is not None
    assert corpus.read(part).equals(corpus.read(split).take([1, len(there) - 1]))
    assert part.sequence_ids.tolist() == some.tolist()
    assert (part.n_rows, part.index) == (2, split.index)
    other = split.narrowed(there[:2])
    assert other is not None
    assert len({split.digest, part.digest, other.digest}) == 3
    assert part.narrowed(some) == part
    again = part.narrowed(some[:1])
    assert again is not None
    assert again == split.narrowed(some[:1])


def test_all_of_a_split_is_the_split_and_none_is_none(corpus: Corpus) -> None:
    split = corpus.plan(400)[0]
    assert split.narrowed(split.sequence_ids) is split
    assert split.narrowed(np.array([2**50])) is None
    assert split.narrowed(np.zeros(0, np.int64)) is None


def test_a_narrowed_split_travels_to_actors(corpus: Corpus) -> None:
    splits = corpus.plan(400)
    part = splits[0].narrowed(splits[0].sequence_ids[1:])
    assert isinstance(part, Split)
    bundle = [Pending(part, (0, 2)), Pending(splits[1], (1,))]
    assert from_row(to_row(bundle)) == bundle


def test_each_sequence_is_as_likely_in_a_sample(corpus: Corpus) -> None:
    splits = corpus.plan(400)
    everything = np.concatenate([split.sequence_ids for split in splits])
    n, counts = len(everything) // 3, np.zeros(len(everything))
    for seed in range(600):
        ids = sampled(splits, n, seed)
        assert len(np.unique(ids)) == n
        counts[np.searchsorted(everything, ids)] += 1
    expected = 600 * n / len(everything)
    spread = (600 * (n / len(everything)) * (1 - n / len(everything))) ** 0.5
    assert np.abs(counts - expected).max() < 5 * spread
    assert sampled(splits, 10**9, 0).tolist() == everything.tolist()
    part = narrowed(splits, sampled(splits, n, 0))
    assert sampled(part, 10**9, 1).tolist() == sampled(splits, n, 0).tolist()


def test_the_best_of_a_sample_is_of_the_best() -> None:
    """As often as it says, by counting; and not much more often."""
    n, n_all = 20, 300
    share = best_share(n, n_all)
    generator = np.random.default_rng(0)
    best = [generator.choice(n_all, n, replace=False).min() for _ in range(4_000)]
    held = np.mean([rank < share * n_all for rank in best])
    assert 0.945 <= held <= 0.97
    assert best_share(10, 10) == 0.1
    assert best_share(10**4, 10**8) == pytest.approx(3.0 / 10**4, rel=0.01)
