from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rayinfluence.config import FitConfig
from rayinfluence.corpus.corpus import Corpus
from rayinfluence.corpus.fragments import ShardRecord
from rayinfluence.corpus.manifest import CorpusManifest
from rayinfluence.corpus.shards import RowGroup
from rayinfluence.corpus.tokenize import TokenizeSettings
from rayinfluence.dataflow.compute.quarantine import refuse_many_bad
from rayinfluence.dataflow.compute.replica import Numerics
from rayinfluence.dataflow.stages.sample import FitPlan, Piece, plan_fit
from rayinfluence.errors import CorpusError
from rayinfluence.model.modules import ModuleShape
from rayinfluence.storage.store import Store

NUMERICS = Numerics("float32", "cpu", 64, 2**17, "sdpa", 0)
SHAPES = {"a": ModuleShape("a", 3, 4, True, "a")}


def corpus(*groups_per_shard: int, rows: int = 10, tokens: int = 100) -> Corpus:
    settings = TokenizeSettings("text", "id", 16, 48, 2**20)
    records = tuple(
        ShardRecord(f"s{i}", 0, [RowGroup(rows, tokens, f"{i}-{j}") for j in range(count)])
        for i, count in enumerate(groups_per_shard)
    )
    return Corpus(Store("nowhere"), CorpusManifest("tokenizer", settings, records, ()))


def plan(over: Corpus, n_shards: int | None = None, **changes: Any) -> FitPlan:
    # With such a bound every size is worth a test.
    settings = {"error_bound": 50.0, **changes}
    fit = FitConfig(**{k: v for k, v in settings.items() if k in FitConfig.model_fields})
    numerics = Numerics(**{**vars(NUMERICS), **changes.get("numerics", {})})
    return plan_fit(
        fit,
        over,
        len(over.manifest.shards) if n_shards is None else n_shards,
        numerics,
        changes.get("model", "digest"),
        changes.get("shapes", SHAPES),
    )


def test_more_lanes_than_splits_are_as_many_as_splits() -> None:
    made = plan(corpus(3, 4, 5), lanes=10**9)
    [piece] = made.pieces(0)
    assert [lane.splits for lane in made.moment_lanes(piece)] == [(one,) for one in made.sample]


@given(
    st.lists(st.integers(0, 12), min_size=1, max_size=4).filter(any),
    st.integers(1, 9),
    st.integers(1, 500),
)
def test_lanes_deal_the_sample_round_robin_and_miss_nothing(
    groups: list[int], lanes: int, sequences: int
) -> None:
    over = corpus(*groups)
    made = plan(over, lanes=lanes, sequences=sequences)
    last = len(made.rounds) - 1
    whole = made.moment_lanes(Piece(last))
    assert 1 <= len(whole) <= lanes
    dealt = [split for lane in whole for split in lane.splits]
    assert len({split.digest for split in dealt}) == len(dealt) == len(made.sample)
    for index, lane in enumerate(whole):
        assert lane.splits == made.sample[index::lanes]
    n_rows = sum(split.n_rows for split in dealt)
    assert sequences < over.n_sequences or n_rows == over.n_sequences

    # The covariances of a piece are those of its moments' splits, each counted once.
    sizes = []
    for number, size in enumerate(made.rounds):
        for piece in made.pieces(number):
            added = [s.digest for lane in made.covariance_lanes(piece) for s in lane.splits]
            folded = [s.digest for lane in made.moment_lanes(piece) for s in lane.splits]
            assert len(set(added)) == len(added) == len(folded)
            assert set(added) == set(folded)
            sizes.append((piece.alone, len(added)))
        assert sizes[-1] == (False, size)
    assert sum(n for alone, n in sizes if alone) == made.rounds[-1] - made.rounds[0]
    keys = [lane.key for n in range(last + 1) for lane in made.new_lanes(n)]
    keys += [
        lane.key for n in range(last + 1) for p in made.pieces(n) for lane in made.moment_lanes(p)
    ]
    assert len(set(keys)) == len(keys)


@given(
    st.lists(st.integers(0, 12), min_size=1, max_size=4).filter(any),
    st.integers(1, 4),
    st.integers(1, 12),
    st.integers(0, 9),
)
def test_the_probe_set_is_from_all_over_the_sample_and_in_no_sum(
    groups: list[int], lanes: int, rows: int, seed: int
) -> None:
    made = plan(corpus(*groups, rows=rows), lanes=lanes, numerics={"seed": seed})
    places = {
        split.first_sequence_id + row: place
        for place, (split, row) in enumerate(
            (split, row)
            for split in sorted(made.sample, key=lambda split: split.index)
            for row in range(split.n_rows)
        )
    }
    held = [places[sequence_id] for sequence_id in made.held_out]
    assert held == sorted(held)
    if held:
        edges = [i * len(places) // len(held) for i in range(len(held) + 1)]
        assert all(a <= place < b for place, (a, b) in zip(held, pairwise(edges), strict=True))
        assert 2 <= len(held) <= min(40, len(places) / 10)
    else:
        assert made.rounds == (len(made.sample),)
    chosen = [(split, i) for split, ids in made.held_out_rows() for i in ids]
    assert [i for _, i in chosen] == list(made.held_out)
    assert all(0 <= i - split.first_sequence_id < split.n_rows for split, i in chosen)
    for piece in (piece for number in range(len(made.rounds)) for piece in made.pieces(number)):
        for moments in made.moment_lanes(piece):
            inside = [i for s, i in chosen if s in moments.splits]
            assert sorted(moments.held_out) == sorted(inside)
        folded = made.moment_lanes(piece)
        kept = sum(s.n_rows for lane in folded for s in lane.splits)
        assert kept > sum(len(lane.held_out) for lane in folded)


def test_a_lane_without_other_rows_is_another_lane() -> None:
    made = plan(corpus(12), lanes=2)
    other = replace(made, held_out=tuple(i + 1 for i in made.held_out))
    first, second = (p.moment_lanes(Piece(0)) for p in (made, other))
    assert [lane.splits for lane in first] == [lane.splits for lane in second]
    assert [lane.digest for lane in first] != [lane.digest for lane in second]


@pytest.mark.parametrize(
    ("bound", "rounds"), [(0.1, 1), (0.19, 1), (0.2, 3), (0.4, 5), (50.0, 6), (None, 1)]
)
def test_sizes_that_cannot_be_sure_enough_are_not_tested(bound: float | None, rounds: int) -> None:
    """Of 6,400 rows: at 0.2 it takes 1,600 at least, at 0.4 a quarter of that."""
    made = plan(corpus(640), lanes=8, error_bound=bound)
    assert len(made.rounds) == rounds
    assert bool(made.held_out) == (rounds > 1)


@given(st.integers(1, 60), st.integers(1, 9))
def test_the_sample_doubles_from_round_to_round(groups: int, lanes: int) -> None:
    made = plan(corpus(groups), lanes=lanes)
    assert made.rounds[-1] == len(made.sample)
    for before, after in pairwise(made.rounds):
        assert after in (2 * before, 2 * before + 1)
        assert before >= lanes, "a lane without a split says nothing of the spread"
    assert made.rounds[0] < 2 * lanes or lanes == 1 or not made.held_out
    assert plan(corpus(groups), lanes=lanes, error_bound=None).rounds == made.rounds[-1:]


def test_the_sample_is_spread_over_the_whole_corpus() -> None:
    made = plan(corpus(40, 40), lanes=2, sequences=400)
    chosen = sorted(split.index for split in made.sample)
    gaps = [after - before for before, after in pairwise(chosen)]
    assert len(chosen) >= 4
    assert max(gaps) - min(gaps) <= 1
    assert {split.shard for split in made.sample} == {"s0", "s1"}
    # So is its beginning.
    assert {split.shard for split in made.sample[: made.rounds[2]]} == {"s0", "s1"}


@pytest.mark.parametrize("sequences", [100, 200])
def test_a_small_sample_of_a_large_corpus_fills_every_lane(sequences: int) -> None:
    made = plan(corpus(400, 400), lanes=4, sequences=sequences)
    lanes = made.moment_lanes(Piece(len(made.rounds) - 1))
    assert len(lanes) == 4
    assert all(len(lane.splits) >= 2 for lane in lanes)
    assert sum(split.n_rows for split in made.sample) <= sequences + 10


def test_a_plan_of_the_first_shards_is_what_it_was_before_others_came() -> None:
    before, after = corpus(5, 3), corpus(5, 3, 7)
    assert plan(after, 2).fingerprint == plan(before).fingerprint
    assert plan(after, 2).sample == plan(before).sample
    assert plan(after).fingerprint != plan(before).fingerprint


@pytest.mark.parametrize(
    "changes",
    [
        {"lanes": 3},
        {"blocks": 2},
        {"error_bound": None},
        {"shapes": {"a": ModuleShape("a", 3, 4, True, "b")}},
        {"sequences": 20},
        {"labels": "data"},
        {"model": "other"},
        {"shapes": {"a": ModuleShape("a", 3, 4, False, "a")}},
        {"shapes": {"b": ModuleShape("b", 3, 4, True, "b")}},
        {"numerics": {"dtype": "float64"}},
        {"numerics": {"batch_tokens": 65}},
        {"numerics": {"seed": 1}},
        {"numerics": {"attention": "eager"}},
        {"numerics": {"version": 99}},
    ],
    ids=str,
)
def test_whatever_decides_the_factors_decides_their_name(changes: dict[str, Any]) -> None:
    over = corpus(30)
    assert plan(over, **changes).fingerprint != plan(over).fingerprint


def test_what_decides_nothing_is_not_in_the_name() -> None:
    over = corpus(30)
    assert plan(over, numerics={"split_tokens": 10**6}).fingerprint == plan(over).fingerprint


@pytest.mark.parametrize(("n_bad", "n_all"), [(0, 0), (0, 5), (1, 100), (10, 1000)])
def test_up_to_one_percent_may_be_bad(n_bad: int, n_all: int) -> None:
    refuse_many_bad(n_bad, n_all, dict.fromkeys(range(n_bad), ""))


@pytest.mark.parametrize(("n_bad", "n_all"), [(1, 99), (11, 1000), (3, 3)])
def test_more_is_refused_with_an_example(n_bad: int, n_all: int) -> None:
    bad = dict.fromkeys(range(7, 7 + n_bad), "it is odd")
    with pytest.raises(CorpusError, match=rf"{n_bad} of {n_all} .* is sequence 7: it is odd"):
        refuse_many_bad(n_bad, n_all, bad)
