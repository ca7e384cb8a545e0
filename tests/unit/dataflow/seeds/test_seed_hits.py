"""Which sequences are shown of a query, by means over seeds."""

import numpy as np
import pyarrow as pa
import pytest

from rayinfluence.dataflow.compute.partial import Partial
from rayinfluence.dataflow.seeds.hits import hits_of_all, hits_of_survivors
from rayinfluence.influence.groups import GroupSums
from rayinfluence.influence.tails import Tails
from rayinfluence.influence.topk import TopK


def partial_of(scores: list[float], ids: list[int], top: int) -> Partial:
    scores_N1, ids_N = np.array(scores)[:, None], np.array(ids, np.int64)
    first = TopK.of(scores_N1, ids_N, top), TopK.of(-scores_N1, ids_N, top)
    return Partial(*first, GroupSums(), Tails.of(scores_N1), len(ids))


def rows(*of: tuple[int, float, float]) -> pa.Table:
    ids, scores, scanned = zip(*of, strict=True)
    return pa.table({"sequence_id": ids, "score": scores, "scan_score": scanned})


def test_a_list_ends_before_the_first_sequence_without_a_text() -> None:
    partial = partial_of([5.0, 4.0, 3.0, 2.0, -1.0, -2.0], [1, 2, 3, 4, 5, 6], 4)
    errors = {i: i / 10 for i in range(1, 7)}
    found = hits_of_all(partial, 0, errors, np.array([1, 2, 4, 5, 6]), 9)
    assert found.ids_H.tolist() == [1, 2, 6, 5]
    assert found.ranks_H.tolist() == [1, 2, 1, 2]
    assert found.directions_H.tolist() == [0, 0, 1, 1]
    assert found.means_H.tolist() == [5.0, 4.0, -2.0, -1.0]
    assert found.errors_H.tolist() == [0.1, 0.2, 0.6, 0.5]
    # Not 4, which is known: 3 is before it.
    assert (found.n_cut, found.n_scored, found.n_not_by_all) == (2, 6, 3)


def test_of_survivors_those_of_all_are_ranked_by_their_means() -> None:
    one = rows((7, 10.0, 9.0), (3, 4.0, 5.0), (5, -6.0, -6.0), (8, 1.0, 1.0), (9, 2.0, 2.0))
    other = rows((3, 8.0, 5.0), (9, -2.0, -1.0), (5, 1.0, 1.0), (7, 0.0, 2.0), (4, 3.0, 3.0))
    found = hits_of_survivors([one, other])
    # 9 has a mean of zero, 8 and 4 are of one seed; 3 is before 7 at full rank, not in the scan.
    assert found.ids_H.tolist() == [3, 7, 5]
    assert found.means_H.tolist() == [6.0, 5.0, -2.5]
    assert found.errors_H == pytest.approx([2.0, 5.0, 3.5], rel=1e-15)
    assert found.directions_H.tolist() == [0, 0, 1]
    assert found.ranks_H.tolist() == [1, 2, 1]
    assert found.scan_means_H.tolist() == [5.0, 5.5, -2.5]
    assert found.scan_ranks_H.tolist() == [2, 1, 1]
    assert (found.n_scored, found.n_not_by_all, found.n_cut) == (4, 2, 0)


def test_seeds_may_have_nothing_in_common() -> None:
    found = hits_of_survivors([rows((1, 1.0, 1.0)), rows((2, 1.0, 1.0))])
    assert (len(found.ids_H), found.n_scored, found.n_not_by_all) == (0, 0, 2)
