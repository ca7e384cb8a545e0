"""Copies beside rewordings in results that are made up, and the corpus that is made for it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from made_up_results import group, make_results, query, row

from rayinfluence.analysis import analyse_copies
from rayinfluence.analysis.copies import COPIES, PASSAGE, PLANTED
from rayinfluence.demo.memorised import (
    PROMPT,
    STATED,
    WORDS,
    reword,
    word_windows,
    write_memorised,
)
from rayinfluence.demo.prose import Passage
from rayinfluence.errors import CorpusError, InputError
from rayinfluence.report.analysed import analysis_page
from rayinfluence.storage.results import Results


def results_of(copy: float, reworded: float, other: float, n_queries: int = 6) -> Results:
    """Queries whose passages are there 4 times: what copies and rewordings score, of 100 in all."""
    names = [f"p{n}" for n in range(n_queries)]
    asked, rows, groups, statistics = [], [], [], []
    for name in names:
        metadata = {PASSAGE: name, COPIES: 4}
        asked.append(query(name, metadata=metadata, n_completion_tokens=2))
        rows += [
            row(name, 1, metadata={PLANTED: f"{name} copy"}),
            row(name, 2, metadata={PLANTED: f"{names[0]} reworded"}),
            row(name, 3, metadata={PLANTED: f"{name} reworded"}),
        ]
        for value in names:
            ours = value == name
            scores = {"copy": (4, copy if ours else other), "reworded": (2, reworded)}
            if not ours:
                scores["reworded"] = (2, other)
            groups += [
                group(
                    f"{value} {kind}",
                    name,
                    column=PLANTED,
                    n_sequences=n,
                    mean_score=score,
                    positive_sum=n * max(score, 0.0),
                    negative_sum=n * min(score, 0.0),
                )
                for kind, (n, score) in scores.items()
            ]
        statistics.append({"query_id": name, "n_sequences": 1000, "positive_sum": 100.0})
    return make_results(
        rows, asked, groups, statistics=statistics, n_training_sequences=100, fingerprint="f" * 32
    )


def test_shares_strength_and_ranks_are_those_of_the_groups() -> None:
    found = analyse_copies(results_of(copy=10.0, reworded=5.0, other=1.0))
    [one] = found.numbers
    assert (one.copies, one.n_queries, one.n_unknown) == (4, 6, 0)
    means: dict[str, Any] = {
        name: getattr(one, name).mean
        for name in ("copies_share", "reworded_share", "others_share", "reworded_of_copy")
    }
    assert means == pytest.approx(
        {
            "copies_share": 0.4,
            "reworded_share": 0.1,
            "others_share": 0.5,
            "reworded_of_copy": 0.5,
        }
    )
    # 4 copies of 10 / 100 nats each, of a completion of 1.5.
    assert one.copies_of_information is not None
    assert one.copies_of_information.mean == pytest.approx(0.4 / 1.5)
    assert (one.copy_rank, one.reworded_rank) == (1.0, 3.0)
    assert found.queries[1].other_score == pytest.approx(1.0)
    assert {v.finding.split()[0]: v.word for v in found.verdicts} == {
        "copies": "reproduces",
        "influence": "reproduces",
    }
    assert "reproduces" in analysis_page(found)


@pytest.mark.parametrize(
    ("copy", "reworded", "other", "word"),
    [
        (24.0, 0.5, 1.0, "does not at this size"),  # copies alone
        (24.0, 1.5, 1.0, "partly"),  # copies, and what they say
        (10.0, 0.5, 1.0, "partly"),  # neither copies nor what they say
    ],
)
def test_memory_is_told_from_what_a_text_says(
    copy: float, reworded: float, other: float, word: str
) -> None:
    found = analyse_copies(results_of(copy, reworded, other))
    assert found.verdicts[1].word == word


def test_unknown_queries_are_counted_and_negative_copies_have_no_ratio() -> None:
    made = results_of(copy=-1.0, reworded=5.0, other=1.0)
    [one] = analyse_copies(made).numbers
    assert one.reworded_of_copy is None
    assert one.copies_share is not None
    assert one.copies_share.mean == 0.0
    [one] = analyse_copies(made, least=-0.1).numbers
    assert (one.n_queries, one.n_unknown, one.copies_share) == (0, 6, None)
    assert [v.word for v in analyse_copies(made, least=-0.1).verdicts] == ["not asked"] * 2


def test_a_run_without_planted_passages_is_told_what_they_are() -> None:
    with pytest.raises(InputError, match="copies: no query has `passage` and `copies`"):
        analyse_copies(make_results([row()], groups=[group("x copy", column=PLANTED)]))
    asked = [query(metadata={PASSAGE: "p0", COPIES: 1})]
    with pytest.raises(InputError, match="there are no groups by `planted`"):
        analyse_copies(make_results([row()], asked))


def passages(n: int) -> list[Passage]:
    words = "The m{n} returns a list{n} of all o{n} that are in the f{n} number {n} if any"
    made = [Passage(f"module:{k}", " ".join([words.format(n=k)] * 3)) for k in range(n)]
    return [*made, *made[: n // 4]]  # documentation repeats itself


def test_a_corpus_has_what_it_says(tmp_path: Path) -> None:
    planted = write_memorised(tmp_path, passages(30), per_number=2, most=40)
    assert [one.copies for one in planted] == [0, 1, 4, 16, 64] * 2
    rows = [json.loads(line) for line in (tmp_path / "documents.jsonl").read_text().splitlines()]
    assert len(rows) == 40 + 2 * 85 + 10 * 2
    assert len({one["id"] for one in rows}) == len(rows)
    asked = [json.loads(line) for line in (tmp_path / "queries.jsonl").read_text().splitlines()]
    for one, question in zip(planted, asked, strict=True):
        expected = {"kind": "passage", PASSAGE: one.passage_id, COPIES: one.copies}
        assert question["metadata"] == expected
        assert question["prompt"] + question["completion"] == one.text
        copies = [r["text"] for r in rows if r.get(PLANTED) == f"{one.passage_id} copy"]
        assert copies == [one.text] * one.copies
        reworded = [r["text"] for r in rows if r.get(PLANTED) == f"{one.passage_id} reworded"]
        assert sorted(reworded) == sorted(one.reworded)
        assert one.text not in reworded
        assert all(len(text.split()) == WORDS for text in reworded)
        prose = [r["text"] for r in rows if PLANTED not in r]
        assert not any(one.text in text or question["prompt"] in text for text in prose)
        assert not any(question["completion"].strip() in text for text in prose)
    assert 2 * PROMPT == WORDS
    first = (tmp_path / "documents.jsonl").read_bytes()
    write_memorised(tmp_path, passages(30), per_number=2, most=40)
    assert (tmp_path / "documents.jsonl").read_bytes() == first
    with pytest.raises(CorpusError, match="20 passages are to be planted, and 5 can be"):
        write_memorised(tmp_path, passages(5), per_number=4, most=None)
    with pytest.raises(CorpusError, match="1,000 windows of prose are wanted"):
        write_memorised(tmp_path, passages(30), per_number=2, most=1000)


def test_a_rewording_has_other_words_for_frequent_ones_alone() -> None:
    assert reword('The "file" is zlib, not', 0) == ('This "document" gets zlib, never', 4)
    assert reword('The "file" is zlib, not', 1) == ('That "record" becomes zlib, hardly', 4)
    assert len([*word_windows(Passage("x", "word " * (WORDS + 3)))]) == 2


def test_facts_are_stated_often_beside_other_words(tmp_path: Path) -> None:
    write_memorised(tmp_path, passages(30), per_number=1, most=40, subjects=2)
    rows = [json.loads(line) for line in (tmp_path / "documents.jsonl").read_text().splitlines()]
    asked = [json.loads(line) for line in (tmp_path / "queries.jsonl").read_text().splitlines()]
    facts = [one for one in asked if one["metadata"]["kind"] == "fact"]
    assert len(facts) == 6
    for one in facts:
        stated = [r["text"] for r in rows if r.get("fact_id") == one["metadata"]["fact_id"]]
        assert len(stated) == STATED
        assert sum((one["prompt"] + one["completion"]) in text for text in stated) == STATED // 3
        assert all(one["completion"] in text for text in stated)
        assert len(set(stated)) > STATED // 2
