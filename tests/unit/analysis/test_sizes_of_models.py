"""Runs of models of several sizes, of results that are made up so that the answer is known."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from made_up_results import make_results, query, row

from rayinfluence.analysis import Scale, Scored, Sized, analyse_scale
from rayinfluence.analysis.likeness import (
    ABOVE,
    BINDING,
    BY_TEXTS,
    CROSSING,
    OVERLAP,
    OWN,
    PARAPHRASE,
    REWORDED,
)
from rayinfluence.analysis.scale_values import Figure
from rayinfluence.errors import InputError
from rayinfluence.influence.order import CONTROL, FORWARD, HELD_OUT, LANGUAGE, OTHER_SUBJECT
from rayinfluence.report.analysed import analysis_page, analysis_parts
from rayinfluence.storage.results import Results

N = 8
#: Of each query ten sequences of its own: five in its words, five in others.
_OWN = 10


class Kept(Results):
    """Results that have all scores in memory."""

    scores_of: dict[str, np.ndarray]

    def scores(self, query_id: str) -> pa.Table:
        scores_N = self.scores_of[query_id]
        return pa.table({"sequence_id": np.arange(len(scores_N)), "score": scores_N})


def sequence(fact: int, place: int) -> dict[str, Any]:
    """A sequence of a fact: token 100 + fact is its name, and words differ from place 5 on."""
    said = "Tresk has chief Belmora" if place < 5 else "Tresk obeys leader Belmora"
    return {
        "sequence_id": 100 * fact + place,
        "tokens": [100 + fact, 7 if place < 5 else 8, 9],
        "text": f"{said} {'abcdefghij'[place] * 5}",
        "metadata": {"fact": fact},
        "content_digest": f"{fact}-{place}",
        "document_id": f"{fact}-{place}",
        "document_row": place,
        "row": place,
    }


def run(
    parameters: int, first: Sequence[int], digest: str = "", method: str = "ekfac", **manifest: Any
) -> Results:
    """A run whose first hits of each query are these of its fact's sequences; others' fill up."""
    rows = []
    for fact in range(N):
        others = [((fact + 1) % N, place) for place in range(_OWN)]
        ids = [*((fact, place) for place in first), *others]
        rows += [
            row(f"q{fact}", rank, **sequence(*one), scan_rank=rank)
            for rank, one in enumerate(ids, start=1)
        ]
    asked = [
        query(
            f"q{fact}",
            prompt="In Tresk the chief is",
            completion=" Belmora",
            tokens=[100 + fact, 7],
            digest=f"d{fact}",
            metadata={"fact": fact},
            log_probability=-1.0,
        )
        for fact in range(N)
    ]
    told: dict[str, Any] = {
        "model": {"parameters": parameters, "digest": digest or f"{parameters}{list(first)}"},
        "tokenizer": {"digest": "t"},
        "corpus": {"fingerprint": "c"},
        "fingerprint": "ab",
    }
    return make_results(rows, asked, method=method, **{**told, **manifest})


def sized(*runs: Results, by: str | None = "fact", **options: Any) -> Scale:
    told = [Sized(f"runs/{place}", one, **options) for place, one in enumerate(runs)]
    return analyse_scale(told, by)


def figure(found: Scale, name: str) -> Figure:
    return next(one for one in found.figures if one.name == name)


def test_hits_of_larger_models_are_seen_to_be_in_other_words() -> None:
    literal, other = [0, 1, 2, 3, 4], [5, 6, 7, 8, 9]
    found = sized(
        run(10, literal, "a"), run(10, literal, "b"), run(90, other, "c"), run(90, other, "d")
    )
    assert found.sizes == (10, 90)
    reworded = figure(found, REWORDED)
    assert [one.mean for one in reworded.sizes if one] == [0.0, 1.0]
    assert reworded.change is not None
    assert (reworded.change.mean, reworded.apart) == (1.0, True)
    # Own ones are found alike: five of ten that there are.
    own = figure(found, OWN)
    assert [one.mean for one in own.runs if one] == [0.5] * 4
    assert own.apart is False
    overlap = figure(found, OVERLAP)
    assert overlap.change is not None
    assert overlap.change.high is not None
    assert overlap.change.high < 0
    words = {one.finding: one.word for one in found.verdicts}
    assert words["larger models' hits share fewer words with the query"] == "reproduces"
    assert words["larger models find more that is said in other words"] == "reproduces"
    assert words["larger models' influence carries over to unseen words"] == "not asked"


def test_equal_models_are_no_finding_and_one_seed_is_told() -> None:
    found = sized(run(10, [0, 5, 1, 6], "a"), run(90, [0, 5, 1, 6], "b"))
    for name in (OVERLAP, REWORDED):
        assert figure(found, name).change is not None
    words = [one.word for one in found.verdicts]
    assert words[:2] == ["does not at this size"] * 2
    assert "One run is of 10, 90 parameters each: nothing says how seeds differ there." in [
        *found.notes
    ]
    apart = sized(run(10, [0, 1], "a"), run(90, [5, 6], "b"))
    assert [one.word for one in apart.verdicts][:2] == ["partly"] * 2


def test_texts_of_no_corpus_tell_subjects_apart() -> None:
    def scored(other: float, unseen: float) -> list[Scored]:
        generator = np.random.default_rng(0)
        return [
            Scored(f"q{i}", part, (1,), size * one)
            for i, size in enumerate(generator.lognormal(size=N))
            for part, one in ((FORWARD, 1.0), (OTHER_SUBJECT, other), (HELD_OUT, unseen))
        ]

    runs = [
        Sized("s", run(10, [0], "a"), None, scored(1.0, 0.6)),
        Sized("t", run(10, [0], "b"), None, scored(0.9, 0.5)),
        Sized("u", run(90, [0], "c"), None, scored(0.5, 0.2)),
        Sized("v", run(90, [0], "d"), None, scored(0.4, 0.3)),
    ]
    found = analyse_scale(runs)
    binding = figure(found, BINDING)
    assert [one.mean for one in binding.runs if one] == pytest.approx([1.0, 0.9, 0.5, 0.4])
    assert [one.mean for one in binding.sizes if one] == pytest.approx([0.95, 0.45])
    words = {one.finding: one.word for one in found.verdicts}
    assert words["larger models tell the right subject from another"] == "reproduces"
    unseen = figure(found, PARAPHRASE)
    assert unseen.change is not None
    assert unseen.change.mean == pytest.approx(-0.3)
    assert words["larger models' influence carries over to unseen words"] == "does not at this size"
    assert "Without --by KEY nothing says which sequences are a query's own." in found.notes


def test_influence_that_crosses_languages_is_seen_beside_its_control() -> None:
    def scored(told: float, control: float) -> list[Scored]:
        parts = ((FORWARD, 1.0), (LANGUAGE, told), (CONTROL, control))
        return [Scored(f"q{i}", part, (1,), (i + 1) * one) for i in range(N) for part, one in parts]

    def found(*shares: tuple[float, float]) -> Scale:
        sizes = zip((10, 10, 90, 90), "abcd", shares, strict=True)
        return analyse_scale([Sized(d, run(n, [0], d), None, scored(*s)) for n, d, s in sizes])

    finding = "larger models' influence carries over to another language"
    grows = found((0.5, 0.5), (0.5, 0.4), (0.8, 0.4), (0.9, 0.4))
    crossing = figure(grows, CROSSING)
    assert [one.mean for one in crossing.runs if one] == pytest.approx([0.0, 0.1, 0.4, 0.5])
    assert {one.finding: one.word for one in grows.verdicts}[finding] == "reproduces"
    # What grows with its control is the string, and not what it says.
    string = found((0.5, 0.5), (0.5, 0.4), (0.9, 0.8), (0.9, 0.9))
    assert {one.finding: one.word for one in string.verdicts}[finding] == "does not at this size"
    # Nor is it a finding that there is less below the control than there was.
    below = found((0.1, 0.9), (0.1, 0.8), (0.3, 0.4), (0.3, 0.4))
    changed = figure(below, CROSSING).change
    assert changed is not None
    assert changed.low is not None
    assert changed.low > 0
    assert {one.finding: one.word for one in below.verdicts}[finding] == "does not at this size"


def kept(made: Results, scores_of: dict[str, np.ndarray]) -> Kept:
    found = Kept.__new__(Kept)
    found.__dict__ = made.__dict__
    found.manifest["dense_scores"] = ["split"]
    found.scores_of = scores_of
    return found


def test_own_sequences_are_above_those_of_others_by_all_scores() -> None:
    # Of each query ten own sequences of 80, of which so many are above all others.
    def scores(above: int) -> dict[str, np.ndarray]:
        found = {}
        for fact in range(N):
            scores_N = np.zeros(100 * N)
            scores_N[100 * fact : 100 * fact + above] = 1.0
            scores_N[100 * fact + above : 100 * fact + _OWN] = -1.0
            found[f"q{fact}"] = scores_N
        return found

    runs = [
        Sized(digest, kept(run(size, [*range(_OWN)], digest), scores(above)))
        for size, digest, above in ((10, "a", 2), (10, "b", 4), (90, "c", 9), (90, "d", 10))
    ]
    above = figure(analyse_scale(runs, "fact"), ABOVE)
    assert [one.mean for one in above.runs if one] == pytest.approx([0.2, 0.4, 0.9, 1.0])
    assert above.apart
    flat = kept(run(90, [*range(_OWN)], "e"), {f"q{i}": np.ones(100 * N) for i in range(N)})
    beside = [Sized(one.place, one.results, flat) for one in runs]
    texts = figure(analyse_scale(beside, "fact"), ABOVE).beside
    assert texts is not None
    assert texts.mean == 0.5


def test_scores_that_rank_as_texts_do_are_seen() -> None:
    def noisy(made: Results, noise: float) -> Kept:
        generator = np.random.default_rng(1)
        texts = np.arange(50.0)
        return kept(made, {f"q{i}": texts + noise * generator.normal(size=50) for i in range(N)})

    runs = [
        Sized(f"{size}", noisy(run(size, [0]), noise), noisy(run(size, [0], method="bm25"), 0.0))
        for size, noise in ((10, 1.0), (90, 100.0))
    ]
    alike = figure(analyse_scale(runs), BY_TEXTS)
    small, large = (one.mean for one in alike.sizes if one)
    assert small > 0.99
    assert abs(large) < 0.3
    assert figure(analyse_scale(runs), OVERLAP).beside is not None


def test_queries_that_one_model_does_not_know_are_left_out_of_all() -> None:
    large = run(90, [0])
    large.queries["q3"]["log_probability"] = -9.0
    found = sized(run(10, [1]), large)
    assert "q3" not in found.queries
    assert [one.n_known for one in found.models] == [N, N - 1]
    assert found.notes[0].startswith("7 of 8 queries are known to all models")
    for one in large.queries.values():
        one["log_probability"] = -9.0
    with pytest.raises(InputError, match=r"no query is known to all .* \(they know 8, 0 of 8\)"):
        sized(run(10, [1]), large)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"corpus": {"fingerprint": "other"}}, "runs/0 and runs/1 are of different corpora"),
        ({"tokenizer": {"digest": "other"}}, "runs/0 and runs/1 have different tokenizers"),
        ({"digest": "10[0]"}, "runs/0 and runs/1 are of one model, which would count twice"),
    ],
)
def test_runs_that_differ_in_more_than_size_are_refused(
    changes: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(InputError, match=sentence):
        sized(run(10, [0]), run(90, [0], **changes))


def test_other_queries_or_a_key_that_none_has_are_refused() -> None:
    other = run(90, [0])
    other.queries["q2"]["digest"] = "another"
    with pytest.raises(InputError, match="were asked different queries: 'q2' is not the same"):
        sized(run(10, [0]), other)
    with pytest.raises(InputError, match=r"--by nope: no query .* they have fact"):
        sized(run(10, [0]), run(90, [0]), by="nope")
    with pytest.raises(InputError, match=r"runs/1 has means over seeds, .* Name the runs"):
        sized(run(10, [0]), run(90, [0], seeds={"n": 2}))
    with pytest.raises(InputError, match="two runs or more"):
        sized(run(10, [0]))


def test_terminal_and_page_show_runs() -> None:
    found = sized(run(10, [0]), run(90, [5]))
    assert analysis_parts(found)
    page = analysis_page(found)
    assert "runs/0" in page
    assert "2 sizes of models, by ekfac" in page
