"""Subsets that referees ask for, and tables that are asked by subset."""

from __future__ import annotations

import numpy as np
import pytest

from rayinfluence.corpus.queries import EncodedQuery
from rayinfluence.corpus.query_forms import Query
from rayinfluence.errors import ConfigError, NumericsError
from rayinfluence.evaluation.asked import (
    Answers,
    protocols,
    refuse_not_finite,
    weights,
    with_seeds,
)
from rayinfluence.evaluation.bank import About, Bank
from rayinfluence.evaluation.claims import Claims
from rayinfluence.evaluation.known import known_documents
from rayinfluence.evaluation.sequences import CorpusSequence
from rayinfluence.evaluation.subsets import Subset, added, drops, full, halves, without
from rayinfluence.evaluation.wanted import GroupsWanted, Trainings

IDS = np.arange(20)
SEEDS = (0, 3)


def table(subsets: list[Subset]) -> Bank:
    """f of two queries: of the first what was kept, of the second minus that, and the seed."""
    kept = np.array([subset.weights(IDS).sum() for subset in subsets], dtype=np.float64)
    seeds = np.array([subset.seed for subset in subsets])
    values = np.stack([kept + seeds / 8, -kept + seeds / 8], axis=1)
    about = About("r", {}, ("q0", "q1"), ("d0", "d1"), tuple(IDS.tolist()), ("",) * len(IDS))
    return Bank(about, tuple(subsets), values, np.zeros(len(subsets)))


def planned(seed: int) -> list[Subset]:
    return [*halves(IDS, 4, 7, seed), *drops(IDS, 0.05, 3, 7, seed), *drops(IDS, 0.1, 2, 7, seed)]


def test_protocols_are_named_by_their_design_and_share() -> None:
    found = protocols([*planned(0), *planned(3), full(0)])
    assert {name: np.shape(rows)[:2] for name, rows in found.items()} == {
        "half": (2, 4),
        "drop 5%": (2, 3),
        "drop 10%": (2, 2),
    }
    for rows in found.values():
        assert [one.dropped for one in rows[0]] == [one.dropped for one in rows[1]]
        assert {one.seed for one in rows[0]} == {0}


def test_a_design_without_a_subset_that_all_seeds_have_is_none() -> None:
    assert protocols([*halves(IDS, 1, 7, 0), *halves(IDS, 1, 8, 3)]) == {}
    assert protocols([full(0)]) == {}


def test_a_table_answers_by_subset_whatever_it_was_asked_for() -> None:
    one = without([4, 2], 5, 3)
    answers = Answers(table([full(0), full(3), one]))
    assert answers.of([one]).tolist() == [[18.375, -17.625]]
    assert answers.of([without([2, 4], 0, 3)]).tolist() == [[18.375, -17.625]]
    assert answers.full(SEEDS)[:, 0].tolist() == [20, 20.375]
    assert answers.has([one, full(0)])
    assert not answers.has([without([4], 0, 3)])
    assert answers.of([]).shape == (0, 2)


def test_outcomes_are_of_the_same_seed_each() -> None:
    groups = GroupsWanted(
        "source", ("a", "b"), with_seeds([without([1], 0, 0), without([2, 3], 1, 0)], SEEDS)
    )
    copies = with_seeds([added([9], 0, 0)], SEEDS)
    trainings = Trainings(SEEDS, protocols([*planned(0), *planned(3)]), groups, copies)
    said = Claims(
        {}, {1: (0, 5, 6)}, np.zeros((2, 2)), np.zeros((1, 2)), np.zeros(2), np.zeros(2), ((), ())
    )
    subsets = trainings.subsets([said, said])
    assert len(subsets) == len({subset.digest for subset in subsets}) == 2 * (9 + 2 + 1 + 1)
    answers = Answers(table([full(0), full(3), *subsets]))
    became = trainings.outcomes(answers)
    assert became.groups is not None
    assert became.groups.mean_GQ.tolist() == [[1, -1], [2, -2]]
    assert became.groups.error_GQ.tolist() == [[0, 0], [0, 0]]
    assert became.added_KQ is not None
    assert became.added_KQ.tolist() == [[1, -1]]
    losses = trainings.losses(answers, said)
    assert np.isnan(losses[0])
    assert losses[1] == -3


def test_a_table_that_lacks_trainings_says_so() -> None:
    groups = GroupsWanted("source", ("a",), with_seeds([without([1], 0, 0)], SEEDS))
    copies = with_seeds([added([9], 0, 0)], SEEDS)
    trainings = Trainings(SEEDS, {}, groups, copies)
    answers = Answers(table([full(0), full(3), *groups.subsets[0], *groups.subsets[1]]))
    told, notes = trainings.told_by(answers, [])
    assert (told.groups, told.added) == (groups, None)
    assert len(notes) == 1
    assert "copies" in notes[0]


def test_weights_are_those_of_the_subsets() -> None:
    assert weights([without([1], 0, 0), added([2], 0, 0)], IDS)[:, :4].tolist() == [
        [1, 0, 1, 1],
        [1, 1, 2, 1],
    ]
    assert weights([], IDS).shape == (0, 20)


def query(name: str, **metadata: object) -> EncodedQuery:
    return EncodedQuery(Query.of(name, "a", " b", dict(metadata)), ())


def test_documents_belong_to_queries_with_the_same_value() -> None:
    sequences = [CorpusSequence(n, "", f"d{n // 2}", group) for n, group in enumerate("xxyyz")]
    found = known_documents(
        "fact", [query("a", fact="y"), query("b"), query("c", fact="no")], sequences
    )
    assert found.relevant_Q == (frozenset({"d1"}), frozenset(), frozenset())
    assert found.documents_N == ("d0", "d0", "d1", "d1", "d2")


def test_a_key_that_tells_nothing_is_refused() -> None:
    sequences = [CorpusSequence(0, "", "d0", "x")]
    with pytest.raises(ConfigError, match="no query's metadata has 'fact'"):
        known_documents("fact", [query("a")], sequences)
    with pytest.raises(ConfigError, match=r"no document has at 'fact' what a query has there.*'y'"):
        known_documents("fact", [query("a", fact="y")], sequences)


def test_a_model_that_says_nothing_of_a_query_is_refused_by_name() -> None:
    values = np.zeros((2, 2))
    refuse_not_finite(values, ["a", "b"], ["q0", "q1"], "here")
    for bad in (np.nan, -np.inf):
        values[1, 0] = bad
        with pytest.raises(NumericsError, match=rf"here: the model b gives {bad} for query 'q0'"):
            refuse_not_finite(values, ["a", "b"], ["q0", "q1"], "here")
