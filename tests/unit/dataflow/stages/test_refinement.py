"""The sample that a solver's curvature is a mean over."""

import numpy as np
import pytest

from rayinfluence.config_solver import SolverConfig
from rayinfluence.corpus.corpus import Corpus
from rayinfluence.corpus.fragments import ShardRecord
from rayinfluence.corpus.manifest import CorpusManifest
from rayinfluence.corpus.shards import ROWS_PER_SHARD, RowGroup
from rayinfluence.corpus.tokenize import TokenizeSettings
from rayinfluence.dataflow.compute.refining import lane_count
from rayinfluence.dataflow.stages.refinement import Refinement
from rayinfluence.errors import CorpusError
from rayinfluence.storage.store import Store


def corpus(*groups_per_shard: int) -> Corpus:
    """Of row groups of ten sequences and a hundred tokens each."""
    settings = TokenizeSettings("text", "id", 16, 48, 2**20)
    records = tuple(
        ShardRecord(f"s{i}", 0, [RowGroup(10, 100, f"{i}-{j}") for j in range(count)])
        for i, count in enumerate(groups_per_shard)
    )
    return Corpus(Store("nowhere"), CorpusManifest("tokenizer", settings, records, ()))


def planned(
    over: Corpus,
    n: int = 20,
    split_tokens: int = 250,
    bad: tuple[int, ...] = (),
    seed: int = 0,
    n_shards: int = 2,
) -> Refinement:
    splits = over.plan(split_tokens)
    return Refinement.plan(SolverConfig(sequences=n), over, splits, n_shards, bad, seed)


def test_it_is_as_many_as_there_are_to_be_and_each_once() -> None:
    assert len(np.unique(planned(corpus(4, 2)).ids)) == 20
    assert planned(corpus(4, 2), n=1000).ids.tolist() == [
        *range(40),
        *range(ROWS_PER_SHARD, ROWS_PER_SHARD + 20),
    ]


def test_how_the_corpus_is_cut_into_splits_is_nothing_to_it() -> None:
    first, second = (
        planned(corpus(4, 2), split_tokens=16),
        planned(corpus(4, 2), split_tokens=10**6),
    )
    assert first.ids.tolist() == second.ids.tolist()
    assert first.parts == second.parts
    found = [
        [i for piece in one.pieces() for _, ids in piece.rows for i in ids]
        for one in (first, second)
    ]
    assert found == [first.ids.tolist()] * 2


def test_another_seed_draws_another_one() -> None:
    assert planned(corpus(4, 2), seed=1).parts["sample"] != planned(corpus(4, 2)).parts["sample"]


def test_what_the_model_cannot_be_scored_on_is_left_out() -> None:
    drawn = planned(corpus(4, 2)).ids.tolist()
    left = planned(corpus(4, 2), bad=(drawn[3], drawn[7])).ids.tolist()
    assert left == [i for i in drawn if i not in (drawn[3], drawn[7])]
    with pytest.raises(CorpusError, match=r"scan\.solver\.sequences: 1, .* Take more"):
        planned(corpus(1), n=1, bad=tuple(range(10)))


def test_shards_that_are_added_change_nothing() -> None:
    """Factors are of the first ones, and so is the sample."""
    before, after = planned(corpus(4, 2)), planned(corpus(4, 2, 7))
    assert after.parts == before.parts
    assert after.ids.tolist() == before.ids.tolist()
    assert planned(corpus(4, 2, 7), n_shards=3).parts["sample"] != before.parts["sample"]


@pytest.mark.parametrize(("n", "lanes"), [(1, 1), (63, 1), (64, 2), (511, 15), (10_000, 16)])
def test_lanes_have_some_sequences_each(n: int, lanes: int) -> None:
    assert lane_count(n) == lanes
