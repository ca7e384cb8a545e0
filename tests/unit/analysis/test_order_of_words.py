"""The order of words, of scores that are made up so that the answer is known."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from made_up_results import make_results, query, row

from rayinfluence.analysis import Scored, analyse_order
from rayinfluence.errors import InputError
from rayinfluence.influence.order import (
    BEGINNING,
    BEYOND,
    BEYOND_CONTROL,
    CONTROL,
    FORWARD,
    LANGUAGE,
    OTHER_OBJECT,
    OTHER_SUBJECT,
    REMOVED,
    REVERSED,
)
from rayinfluence.report.analysed import analysis_page, analysis_parts
from rayinfluence.storage.results import Results

#: Of the forward sentence: nothing but the string is left of a reversed one.
NULL = {
    FORWARD: 1.0,
    REMOVED: 0.0,
    OTHER_OBJECT: 0.05,
    OTHER_SUBJECT: 0.7,
    REVERSED: 0.3,
    BEGINNING: 0.3,
}


def results_of(n: int = 30, **changes: Any) -> Results:
    asked = [query(f"q{i}", **changes) for i in range(n)]
    return make_results([row("q0")], asked, n_training_sequences=100, fingerprint="ab")


def scored_of(shares: dict[str, float], n: int = 30, noise: float = 0.1) -> list[Scored]:
    generator = np.random.default_rng(0)
    found = []
    for i in range(n):
        size = float(generator.lognormal(3.0))
        for part, one in shares.items():
            for _ in range(2):
                error = noise * size * float(generator.normal())
                found.append(Scored(f"q{i}", part, (1, 2), one * size + error))
    return found


def words(shares: dict[str, float], **options: Any) -> list[str]:
    return [one.word for one in analyse_order(results_of(), scored_of(shares, **options)).verdicts]


def test_a_string_without_order_leaves_nothing_beyond_itself() -> None:
    found = analyse_order(results_of(), scored_of(NULL))
    shares = {one.name: one.share for one in found.parts}
    beyond = shares[BEYOND]
    assert beyond is not None
    assert beyond.low is not None
    assert beyond.high is not None
    assert -0.08 < beyond.low < 0 < beyond.high < 0.08
    assert [one.word for one in found.verdicts] == [*["reproduces"] * 3, "not asked"]
    for name, wanted in NULL.items():
        measured = shares[name]
        assert measured is not None
        assert measured.mean == pytest.approx(wanted, abs=0.05)
    [test] = [one for one in found.signs if (one.more, one.less) == (FORWARD, REVERSED)]
    assert (test.larger, test.n) == (30, 30)
    assert test.p == pytest.approx(2 / 2**30)
    [null] = [one for one in found.signs if one.more == REVERSED]
    assert null.less == BEGINNING
    assert null.p > 0.05


def test_a_planted_relation_in_reverse_is_found() -> None:
    found = analyse_order(results_of(), scored_of({**NULL, REVERSED: 0.9}))
    [beyond] = [one.share for one in found.parts if one.name == BEYOND]
    assert beyond is not None
    assert beyond.mean == pytest.approx(0.6, abs=0.05)
    assert found.verdicts[0].word == "partly"
    [test] = [one for one in found.signs if one.more == REVERSED]
    assert test.p < 1e-6
    assert words({**NULL, REVERSED: 1.2})[0] == "does not at this size"


def test_meaning_and_completion_have_words_of_their_own() -> None:
    assert words({**NULL, OTHER_SUBJECT: 1.1})[1] == "partly"
    assert words({**NULL, OTHER_SUBJECT: 1.1, OTHER_OBJECT: 1.2})[1] == "does not at this size"
    assert words({**NULL, REMOVED: 0.5})[2] == "partly"
    assert words({**NULL, REMOVED: 1.2})[2] == "does not at this size"
    few = {FORWARD: 1.0, REVERSED: 0.3, BEGINNING: 0.3}
    assert words(few)[1:] == ["not asked"] * 3


def test_another_language_is_beside_its_control() -> None:
    # All of it is left, and all but 0.1 of that is what the control has, too.
    string = {FORWARD: 1.0, LANGUAGE: 0.6, CONTROL: 0.5}
    found = analyse_order(results_of(), scored_of(string))
    assert [one.name for one in found.parts] == [FORWARD, LANGUAGE, CONTROL, BEYOND_CONTROL]
    beyond = found.parts[-1]
    assert beyond.share is not None
    assert beyond.share.mean == pytest.approx(0.1, abs=0.05)
    assert beyond.n_texts == found.parts[1].n_texts
    assert [one.word for one in found.verdicts] == [*["not asked"] * 3, "partly"]
    assert found.verdicts[0].why == "No reversed sentences were given."
    assert any((one.more, one.less) == (LANGUAGE, CONTROL) for one in found.signs)
    assert not any("reversed" in one for one in found.notes)
    assert words({**string, CONTROL: 0.0})[3] == "reproduces"
    assert words({**string, CONTROL: 0.6})[3] == "does not at this size"


def test_nats_are_scores_over_the_training_sequences() -> None:
    found = analyse_order(results_of(2), scored_of(NULL, 2, noise=0))
    forward = found.parts[0]
    scores = [of[FORWARD] or 0.0 for of in found.queries.values()]
    assert forward.nats is not None
    assert forward.nats.mean == pytest.approx(np.mean(scores) / 100)
    assert (forward.name, forward.n_texts) == (FORWARD, 4)


def test_what_the_model_does_not_know_is_counted_and_left_out() -> None:
    made = results_of(5)
    made.queries["q0"]["log_probability"] = -9.0
    found = analyse_order(made, scored_of(NULL, 4))
    assert list(found.queries) == ["q1", "q2", "q3"]
    assert "3 of 4 queries are known" in found.notes[0]
    assert "1 of 5 queries of the run have no texts, and are left out." in found.notes
    assert "One run is of one seed of training: no interval is over seeds." in found.notes


def test_what_is_no_match_is_said() -> None:
    scored = scored_of(NULL, 3)
    one = next(place for place, text in enumerate(scored) if text.part == BEGINNING)
    scored[one] = Scored(scored[one].query, BEGINNING, (9,), scored[one].score)
    said = analyse_order(results_of(3), scored).notes
    assert any("Of 1 of 6 reversed sentences the beginning is made of other" in s for s in said)


def test_one_query_has_no_interval_and_decides_nothing() -> None:
    found = analyse_order(results_of(1), scored_of(NULL, 1))
    assert [one.word for one in found.verdicts] == ["not asked"] * 4


def test_what_cannot_be_asked_is_refused() -> None:
    strange = [Scored("other", FORWARD, (1, 2), 1.0)]
    with pytest.raises(InputError, match="the run has no query 'other'"):
        analyse_order(results_of(), strange)
    with pytest.raises(InputError, match=r"knows none of the queries .* 0 of 30 queries are known"):
        analyse_order(results_of(log_probability=-9.0), scored_of(NULL))


def test_terminal_and_page_say_it() -> None:
    found = analyse_order(results_of(), scored_of(NULL))
    assert analysis_parts(found)
    page = analysis_page(found)
    assert BEYOND in page
    assert "What parts of a sentence have of its influence" in page
