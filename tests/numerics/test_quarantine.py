"""A score that overflows is left out for its query alone: others do not see who is beside them."""

from functools import reduce
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from rayinfluence.corpus.metadata import canonical
from rayinfluence.dataflow.compute import scoring
from rayinfluence.dataflow.compute.grouping import SplitGroups, group_digest, group_table
from rayinfluence.dataflow.compute.partial import Partial
from rayinfluence.dataflow.compute.quarantine import Bad, Tally, worst
from rayinfluence.dataflow.compute.statistics import statistics_table, tails_table
from rayinfluence.influence import groups

N, Q, TOP = 40, 3, 5
REASON = "its influence is not finite"
#: Rows that overflow, by query; 11 does for all of them.
OVERFLOWS = {0: (3, 11), 1: (11,), 2: (11, 20, 21)}
LENGTHS = np.arange(N) + 2


class FakeBatch:
    """What scoring needs of a batch."""

    def __init__(self, ids: np.ndarray) -> None:
        self.sequence_ids, self.lengths_B = ids, LENGTHS[ids % N]


def split_scores(seed: int = 0) -> np.ndarray:
    scores = np.random.default_rng(seed).standard_normal((N, Q)) * 100
    for query, rows in OVERFLOWS.items():
        scores[list(rows), query] = [np.inf, -np.inf, np.nan][: len(rows)]
    return scores


def partial_of(scores: np.ndarray, start: int = 0) -> Partial:
    """The partial of a split, scored in two batches."""
    ids = np.arange(N) + start
    found: Any = [(FakeBatch(part), scores[part - start]) for part in np.split(ids, [17])]
    scored = scoring.finite_scores(found, scores.shape[1], {})
    sources = ["web" if i % 3 else "books" for i in range(N - 20)] + ["law"] * 20
    sources[20] = sources[21] = "rare"
    table = pa.table(
        {
            "sequence_id": ids,
            "metadata": [f'{{"source": {canonical(source)}}}' for source in sources],
        }
    )
    made = scored.partial(SplitGroups(table, ["source"]), TOP)
    assert made.n_sequences == len(scored.ids_N)
    return made


def tables(partial: Partial, place: int) -> list[list[dict[str, Any]]]:
    found = {"q": (partial, place)}
    digests = [group_digest({"source": "web"}, "source")] * TOP
    best = {"q": {"source": pa.chunked_array([digests], pa.string())}}
    of_groups, tails = (
        pa.concat_tables(made) for made in (group_table(found, best), tails_table(found))
    )
    return [one.to_pylist() for one in (statistics_table(found), tails, of_groups)]


@pytest.mark.parametrize("query", range(Q))
def test_a_query_finds_what_it_finds_without_the_others(query: int) -> None:
    scores = [split_scores(seed) for seed in range(3)]
    together = reduce(Partial.merge, [partial_of(one, N * i) for i, one in enumerate(scores)])
    single = [one[:, [query]] for one in scores]
    alone = reduce(Partial.merge, [partial_of(one, N * i) for i, one in enumerate(single)])
    assert tables(together, query) == tables(alone, 0)
    assert together.scored(query) == alone.scored(0)
    for ours, theirs in (
        (together.proponents, alone.proponents),
        (together.opponents, alone.opponents),
    ):
        assert ours.scores_QK[query].tobytes() == theirs.scores_QK[0].tobytes()
        assert ours.ids_QK[query].tolist() == theirs.ids_QK[0].tolist()
    bad = {N * split + row for split in range(len(scores)) for row in OVERFLOWS[query]}
    assert not bad & set(together.survivors(query).tolist())
    lacking = {i for i, bad in together.quarantine.items() if bad.concerns(query)}
    assert lacking == set(alone.quarantine) == bad


def test_who_is_left_out_for_whom_is_said() -> None:
    partial = partial_of(split_scores())
    assert partial.quarantine == {
        3: Bad(REASON, (0,), 5),
        11: Bad(REASON),
        20: Bad(REASON, (2,), 22),
        21: Bad(REASON, (2,), 23),
    }
    assert list(partial.quarantine) == [3, 11, 20, 21]
    all_tokens = int(LENGTHS.sum()) - 13
    assert (partial.n_sequences, partial.n_tokens) == (39, all_tokens)
    assert [partial.scored(query) for query in range(Q)] == [
        (38, all_tokens - 5),
        (39, all_tokens),
        (37, all_tokens - 45),
    ]


def test_a_group_of_which_a_query_has_no_score_is_none_of_its_groups() -> None:
    partial = partial_of(split_scores())
    values = [{row["value"] for row in tables(partial, query)[2]} for query in range(Q)]
    assert values == [{"web", "books", "law", "rare"}] * 2 + [{"web", "books", "law"}]


def test_groups_that_are_bounded_keep_count_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(groups, "MOST_VALUES", 1)
    sums = partial_of(split_scores()).groups
    assert len(sums.counts) == 2
    for query in range(Q):
        assert sum(sums.count(group, query) for group in sums.counts) == N - len(OVERFLOWS[query])


def test_the_worst_query_is_counted_and_nobody_twice() -> None:
    partial = partial_of(split_scores())
    tally = Tally(Q)
    assert tally.worst == 0
    for _ in range(2):
        tally.add(partial.quarantine)
        assert tally.worst == 3
    query, left_out = tally.of_worst()
    assert query == 2
    assert sorted(left_out) == [11, 20, 21]
    others = Tally(Q, asked=[0, 1])
    others.add(partial.quarantine)
    assert others.worst == 2
    assert others.of_worst()[0] == 0
    assert worst({}, 0) == 0
