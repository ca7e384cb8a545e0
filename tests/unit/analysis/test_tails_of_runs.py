"""Tails of results whose scores are made up, so that the answer is known."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from made_up_results import make_results, query, row

from rayinfluence.analysis import analyse_tails
from rayinfluence.analysis.asked import Gate
from rayinfluence.influence.concentration import share_of_largest
from rayinfluence.influence.tails import Tails as Histograms
from rayinfluence.storage.results import TAIL_SCHEMA, Results


class Kept(Results):
    """Results that have all scores in memory."""

    def __init__(self, made: Results, all_scores: dict[str, np.ndarray]) -> None:
        self.__dict__ = made.__dict__
        self.all_scores = all_scores

    def scores(self, query_id: str) -> pa.Table:
        scores = self.all_scores[query_id]
        return pa.table({"sequence_id": np.arange(len(scores)), "score": scores})


def results_of(all_scores: dict[str, np.ndarray], dense: bool = False, **changes: Any) -> Results:
    """A query for each array of scores, with its ten strongest as survivors."""
    rows, statistics, tables = [], [], []
    for query_id, scores in all_scores.items():
        best = np.argsort(-scores)[:10]
        rows += [
            row(
                query_id,
                rank,
                score=float(scores[i]),
                scan_score=float(scores[i]),
                sequence_id=int(i),
                delta_nats=float(scores[i]) / len(scores),
            )
            for rank, i in enumerate(best, start=1)
        ]
        statistics.append({"query_id": query_id, "n_sequences": len(scores)})
        for sign in (1, -1):
            tail = Histograms.of(scores[:, None]).of_query(0, sign)
            n = len(tail.bins)
            columns = [[query_id] * n, [sign] * n, tail.lower, tail.upper, tail.counts, tail.sums]
            tables.append(pa.table(columns, schema=TAIL_SCHEMA))
    asked = [query(query_id, **changes) for query_id in all_scores]
    made = make_results(
        rows, asked, statistics=statistics, dense_scores=["split"] if dense else None
    )
    made.tails = pa.concat_tables(tables)
    return Kept(made, all_scores)


def heavy(n: int, seed: int, exponent: float = 2.5) -> np.ndarray:
    """A power law to both sides of zero."""
    generator = np.random.default_rng(seed)
    sizes = (1 - generator.random(n)) ** (-1 / (exponent - 1))
    return sizes * generator.choice([-1.0, 1.0], n)


@pytest.mark.parametrize("dense", [False, True])
def test_a_planted_power_law_is_found_with_its_exponent(dense: bool) -> None:
    found = analyse_tails(results_of({f"q{s}": heavy(100_000, s) for s in range(3)}, dense))
    assert found.refused == ""
    assert found.scores.startswith("all scores" if dense else "histograms of all scores")
    exponents = [one.law.exponent for one in found.queries if one.law is not None]
    assert np.mean(exponents) == pytest.approx(2.5, rel=0.05)
    exponential = found.summary["power law beats exponential"]
    assert exponential is not None
    assert exponential.mean == 1.0
    assert {one.law.infinite for one in found.queries if one.law} == {"variance"}
    ratio = found.summary["held-out ratio of sequences needed"]
    assert (ratio is not None) == dense
    # The tenth score of all 100,000 is what some 100,000 are expected to give ten times.
    needed = [one.law.needed for one in found.queries if one.law and one.law.needed]
    assert len(needed) == 3
    assert 50_000 < np.median(needed) < 200_000


def test_normal_noise_is_no_finding() -> None:
    noise = {f"q{s}": np.random.default_rng(s).normal(size=100_000) for s in range(4)}
    found = analyse_tails(results_of(noise))
    words = {one.finding.split()[0]: one.word for one in found.verdicts}
    assert words["the"] == "does not at this size"
    share = found.summary["top 1 % share"]
    assert share is not None
    assert share.mean == pytest.approx(found.noise_share, rel=0.05)
    assert words["few"] != "reproduces"
    signs = found.summary["above random signs"]
    assert signs is not None
    assert signs.mean <= 0.5


def test_signs_that_lean_are_more_than_random_ones() -> None:
    scores = np.random.default_rng(0).normal(size=20_000)
    scores[:100] = 50.0
    found = analyse_tails(results_of({"a": scores, "b": scores[::-1].copy()}))
    [concentration] = [one for one in found.verdicts if one.finding.startswith("few")]
    assert concentration.word == "reproduces"
    one = found.queries[0]
    assert one.random_signs is not None
    assert one.top_share is not None
    assert one.top_share > one.random_signs[2] > found.noise_share


def test_too_few_scores_are_refused_with_how_many_are_missing() -> None:
    found = analyse_tails(results_of({"a": heavy(1_904, 0), "b": heavy(1_904, 1)}))
    assert all(one.law is None for one in found.queries)
    assert found.refused == (
        "No law is fitted to 2 of 2 queries: the tail is the largest 1 % of scores, 20 of 1,904, "
        "and laws cannot be told apart by fewer than 500. 480 more are needed: scan 48,096 "
        "sequences more."
    )
    assert found.verdicts[0].word == "not asked"
    assert found.verdicts[1].word != "not asked"


def test_what_the_model_does_not_know_is_counted_and_left_out() -> None:
    made = results_of({"a": heavy(2_000, 0)})
    made.queries["b"] = {**made.queries["a"], "query_id": "b", "log_probability": -9.0}
    made.queries["c"] = {**made.queries["a"], "query_id": "c", "rather_than": " x"}
    gate = Gate.of(made, -2.0)
    assert (gate.known, gate.unknown, gate.unmeasured) == (("a",), ("b",), ("c",))
    assert "1 of 3 queries are known" in gate.sentence
    assert "at least -2.00 nats per token" in gate.sentence
    assert Gate.of(made, -5.0).unknown == ()
    found = analyse_tails(made, least=-2.0)
    assert [one.query_id for one in found.queries] == ["a"]
    assert "One run is of one seed of training: no interval is over seeds." in found.notes


def test_one_sequence_is_measured_against_what_there_is_to_be_learnt() -> None:
    scores = np.random.default_rng(0).normal(size=1_000)
    scores[7] = 3_000.0  # of 1,000 sequences: 3 nats, twice what the completion lacks
    found = analyse_tails(results_of({"a": scores, "b": scores}))
    one = found.queries[0]
    assert one.largest_nats == pytest.approx(3.0)
    assert one.information == pytest.approx(1.5)
    assert one.largest_of_information == pytest.approx(2.0)
    # A bin of the histogram cannot be cut, and the strongest is alone in its own.
    positive = scores[scores > 0]
    assert one.largest_share == pytest.approx(3_000.0 / positive.sum())
    assert share_of_largest(Histograms.of(scores[:, None]).of_query(0, 1), 1) is not None
    [single] = [v for v in found.verdicts if v.finding.startswith("no single")]
    assert single.word == "does not at this size"
