"""Depths of hits whose scores by layer are made up."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from made_up_results import make_results, query, row

from rayinfluence.analysis import analyse_layers
from rayinfluence.analysis.asked import only_of
from rayinfluence.analysis.layers import ALL, WITHOUT
from rayinfluence.errors import InputError
from rayinfluence.influence.blocks import bands, depths
from rayinfluence.storage.results import Results


def results_of(weights: dict[str, list[list[float]]], n_hits: int = 5, **manifest: Any) -> Results:
    """A class of queries for each name, and a query for each row of weights of blocks."""
    generator = np.random.default_rng(0)
    rows, asked = [], []
    for name, queries in weights.items():
        for number, weight_B in enumerate(queries):
            query_id = f"{name}-{number}"
            asked.append(query(query_id, metadata={"class": name} if name else {}))
            for rank in range(1, n_hits + 1):
                scores = np.array(weight_B) * generator.uniform(0.8, 1.2, len(weight_B))
                by_layer = [(f"h.{b}.mlp", float(s)) for b, s in enumerate(scores)]
                rows.append(row(query_id, rank, layer_scores=by_layer))
    return make_results(rows, asked, n_training_sequences=1000, **manifest)


def test_a_planted_layer_is_found_and_stands_out_from_shuffled_labels() -> None:
    even, deep = [[1.0] * 6] * 12, [[1.0, 1.0, 1.0, 1.0, 1.0, 9.0]] * 12
    found = analyse_layers(results_of({"prose": even, "facts": deep}), "class")
    classes = {one.name: one for one in found.classes}
    assert list(classes) == [ALL, "facts", "prose"]
    facts = classes["facts"]
    last = facts.shares[-1]
    assert last is not None
    assert last.mean == pytest.approx(9 / 14, abs=0.03)
    assert last.mean > facts.shuffled[-1][1]
    assert facts.p is not None
    assert facts.p < 0.01
    assert facts.centre is not None
    expected = (np.array([1, 1, 1, 1, 1, 9]) / 14) @ ((np.arange(6) + 0.5) / 6)
    assert facts.centre.mean == pytest.approx(expected, abs=0.01)
    assert {one.finding.split()[0]: one.word for one in found.verdicts}["classes"] == "reproduces"


def test_classes_that_are_alike_do_not_stand_out() -> None:
    generator = np.random.default_rng(1)
    some = {name: generator.uniform(0.5, 1.5, (12, 4)).tolist() for name in ("a", "b")}
    found = analyse_layers(results_of(some), "class")
    assert all(one.p is None or one.p > 0.05 for one in found.classes)
    assert found.verdicts[0].word == "reproduces"
    assert found.verdicts[1].word == "does not at this size"
    assert found.verdicts[2].word == "not asked"  # queries without tokens


def test_one_class_has_no_control_and_says_so() -> None:
    found = analyse_layers(results_of({"a": [[1.0, 2.0]] * 3}))
    assert [one.name for one in found.classes] == [ALL]
    assert found.classes[0].p is None
    assert [one.word for one in found.verdicts] == ["not asked"] * 3
    assert found.thirds == ()
    assert any("One class has no control" in note for note in found.notes)
    assert any("gradient energy are not known" in note for note in found.notes)


def test_many_blocks_are_nine_bands() -> None:
    found = analyse_layers(results_of({"a": [[1.0] * 24] * 2}))
    assert len(found.bands) == 9
    assert found.bands[0] == "0-2"
    assert found.bands[-1] == "22-23"
    assert [len(run) for run in bands(24)] == [3] * 6 + [2] * 3
    assert [list(run) for run in bands(3)] == [[0], [1], [2]]


def test_shares_are_of_sizes_and_a_hit_without_scores_has_none() -> None:
    shares, centres = depths(np.array([[3.0, -1.0], [0.0, 0.0]]))
    np.testing.assert_allclose(shares[0], [0.75, 0.25])
    assert centres[0] == pytest.approx(0.75 * 0.25 + 0.25 * 0.75)
    assert np.isnan(centres[1])


def test_gradient_energy_is_damping_times_weights() -> None:
    made = results_of(
        {"a": [[1.0, 1.0]] * 2},
        methods={"ekfac": {"damping": {"h.0.mlp": 0.1, "h.1.mlp": 0.3}}},
        model={"parameters_by_module": {"h.0.mlp": 100, "h.1.mlp": 100}},
        config={"scan": {"damping": None, "damping_scale": 0.1}},
    )
    found = analyse_layers(made)
    assert found.energy == pytest.approx((0.25, 0.75))
    assert found.over_energy == pytest.approx((0.75, 0.25), abs=0.05)
    made.manifest["config"]["scan"]["damping"] = 1.0
    assert analyse_layers(made).energy == ()


def test_what_cannot_be_asked_is_refused() -> None:
    made = results_of({"a": [[1.0, 2.0]], "": [[2.0, 1.0]]})
    with pytest.raises(InputError, match=r"--by kind: no known query has it .* they have class"):
        analyse_layers(made, "kind")
    assert WITHOUT in {one.name for one in analyse_layers(made, "class").classes}
    with pytest.raises(InputError, match="has scores of 1 blocks for known queries"):
        analyse_layers(results_of({"a": [[1.0]]}))
    with pytest.raises(InputError, match="has scores of 0 blocks for known queries"):
        analyse_layers(made, least=-1e-9)


def test_a_class_of_few_queries_decides_nothing() -> None:
    some = {"a": [[1.0] * 4] * 12, "b": [[1.0, 1.0, 1.0, 9.0]] * 4}
    found = analyse_layers(results_of(some), "class")
    assert found.verdicts[1].word == "not asked"
    some["b"] = [[1.0, 1.0, 1.0, 9.0]] * 5
    assert analyse_layers(results_of(some), "class").verdicts[1].word == "reproduces"


def test_shuffled_pairs_take_away_what_is_of_the_query() -> None:
    """Queries of one class are deep whatever they are beside; hits of the other are deep alone."""
    deep, even = [1.0, 1.0, 1.0, 9.0], [1.0] * 4
    made = results_of({"a": [deep] * 8, "b": [deep] * 8})
    names = [f"h.{b}.mlp" for b in range(4)]
    pairs = {
        f"{label}-{number}": [dict(zip(names, scores, strict=True))] * 3
        for label, scores in (("a", deep), ("b", even))
        for number in range(8)
    }
    found = analyse_layers(made, "class", pairs=pairs)
    classes = {one.name: one for one in found.classes}
    assert found.n_pairs == 3
    beyond = {name: one.beyond_pairs for name, one in classes.items()}
    assert beyond["a"] is not None
    assert beyond["b"] is not None
    assert beyond["a"].mean == pytest.approx(0.0, abs=0.02)
    centre_B = (np.arange(4) + 0.5) / 4
    expected = (np.array(deep) / 12 - np.array(even) / 4) @ centre_B
    assert beyond["b"].mean == pytest.approx(expected, abs=0.02)
    assert [one.mean for one in classes["b"].pairs if one] == pytest.approx([0.25] * 4)
    assert any("up to 3 hits of others" in note for note in found.notes)
    without = analyse_layers(made, "class")
    assert (without.n_pairs, without.classes[0].pairs) == (0, ())
    assert without.classes[0].beyond_pairs is None


def test_a_third_that_finds_other_words_is_found() -> None:
    """By the middle block a text comes first that has nothing of the query."""
    rows, asked = [], []
    for number in range(6):
        query_id = f"q{number}"
        own = 100 + 10 * number
        asked.append(query(query_id, tokens=[1, own, own + 1]))
        for rank in range(1, 21):
            literal = rank <= 10
            tokens = [1, own, own + 1] if literal else [1, own + 5, 999]
            by_layer = [3.0, 0.1, 3.0] if literal else [1.0, 2.0, 1.0]
            scores = [(f"h.{b}.mlp", s - rank / 1000) for b, s in enumerate(by_layer)]
            one = row(query_id, rank, layer_scores=scores, tokens=tokens, score=sum(by_layer))
            rows.append(one | {"sequence_id": 1000 * number + rank})
    made = make_results(rows, asked, n_training_sequences=1000)
    found = analyse_layers(made)
    thirds = {one.name: one for one in found.thirds}
    assert list(thirds) == ["all blocks", "lower", "middle", "upper", "hits of other queries"]
    means = [one.overlap.mean for one in thirds.values() if one.overlap]
    # A token that is in every text weighs nothing.
    assert means == pytest.approx([1.0, 1.0, 0.0, 1.0, 0.0])
    beside = thirds["middle"].beside_all
    assert beside is not None
    assert beside.mean == pytest.approx(-1.0)
    assert found.verdicts[2].word == "reproduces"


def test_some_queries_are_asked_alone() -> None:
    made = results_of({"a": [[1.0, 2.0]] * 2, "b": [[2.0, 1.0]] * 3})
    some = only_of(made, "class", "b")
    assert list(some.queries) == ["b-0", "b-1", "b-2"]
    assert analyse_layers(some).gate.known == ("b-0", "b-1", "b-2")
    assert len(made.queries) == 5
    with pytest.raises(InputError, match=r"--only class=c: no query has that .* keys are class"):
        only_of(made, "class", "c")
