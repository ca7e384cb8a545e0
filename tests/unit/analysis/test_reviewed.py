"""Reviews whose sheets are made up: what is asked, what is read, and what follows."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable

import pytest
from made_up_results import make_results, query, row

from rayinfluence.analysis.reviewed import Drawn, Review, Sheet, chosen, read_sheet, reviewed
from rayinfluence.analysis.reviewed.items import RANDOM
from rayinfluence.errors import ConfigError, InputError
from rayinfluence.report.reviewed import reviewed_page, sheet_csv, sheet_page

QUERIES = {f"q{n}": (f"What is {n}?", f" It is {n}.") for n in range(4)}


def review_of(topics: tuple[str, ...] = (), seed: int = 0) -> Review:
    """Two methods with three hits of each query, the first in common, and two random texts."""
    asked = [query(one) for one in QUERIES]

    def results(method: str):
        rows = [
            row(one, rank, token_texts=[one, " both" if rank == 1 else f" {method} {rank}"])
            for one in QUERIES
            for rank in (1, 2, 3)
        ]
        return make_results(rows, asked, method=method, fingerprint="f" * 32)

    random = {one: [Drawn(n, f"{one} random {n}") for n in (7, 8)] for one in QUERIES}
    methods = {name: results(name) for name in ("ekfac", "bm25")}
    return chosen(methods, QUERIES, 3, random, topics, seed)


def said(review: Review, name: str, relates: Callable[[dict], str], about: str = "x") -> Sheet:
    """What a rater says who is told everything."""
    answers = {one.item: relates(dict(one.by)) for one in review.items}
    return Sheet(f"{name}.csv", name, dict.fromkeys(answers, about), answers)


def by_method(by: dict) -> str:
    if RANDOM in by:
        return "irrelevant"
    return "states" if "ekfac" in by else "topic"


def filled(review: Review, separator: str = ",", **changed: dict[str, str]) -> str:
    """A sheet on which all is of the topic, with other cells for some items."""
    rows = list(csv.DictReader(io.StringIO(sheet_csv(review))))
    for one in rows:
        one.update({"rater": "Ada", "about": "x", "relates": "topic"})
        one.update(changed.get(f"item{one['item']}", {}))
    file = io.StringIO()
    writer = csv.DictWriter(file, list(rows[0]), delimiter=separator)
    writer.writeheader()
    writer.writerows(rows)
    return file.getvalue()


def test_a_text_is_asked_about_once_and_its_methods_are_in_the_key_alone() -> None:
    review = review_of()
    assert len(review.items) == 4 * (1 + 2 + 2 + 2)
    [both] = [one for one in review.items if one.text == "q0 both"]
    assert dict(both.by) == {"ekfac": (1,), "bm25": (1,)}
    assert [one.query_id for one in review.items] == sorted(one.query_id for one in review.items)
    sheets = sheet_csv(review), sheet_page(review)
    for sheet in sheets:
        shown = sheet.replace(" ekfac ", "").replace(" bm25 ", "").replace(" random ", "")
        assert not any(name in shown for name in ("ekfac", "bm25", "random"))
        assert review.export in sheet
    again = Review.of_key(json.loads(json.dumps(review.key())), "key.json")
    assert [(one.item, dict(one.by)) for one in again.items] == [
        (one.item, dict(one.by)) for one in review.items
    ]
    assert "both" not in json.dumps(review.key())


def test_the_order_is_of_chance_and_of_the_seed() -> None:
    one, same, other = review_of(), review_of(), review_of(seed=1)
    assert one == same
    assert one.export != other.export
    first = [[dict(i.by) for i in r.items if i.query_id == "q0"] for r in (one, other)]
    assert first[0] != first[1]
    places = [n for n, i in enumerate(one.items) if RANDOM in i.by]
    assert places != sorted(places, key=lambda n: n % 7)  # not at one place of all queries


def test_relevance_by_method_and_agreement() -> None:
    review = review_of(("x", "y"))
    strict = said(review, "Bo", lambda by: "irrelevant" if RANDOM in by else by_method(by))
    found = reviewed(review, [said(review, "Ada", by_method), strict])
    methods = {one.method: one for one in found.methods}
    assert list(methods) == ["ekfac", "bm25", RANDOM]
    ekfac, bm25, random = methods.values()
    assert ekfac.relevant is not None
    assert (ekfac.relevant.mean, ekfac.n_hits, ekfac.n_unanswered) == (1.0, 12, 0)
    assert bm25.states is not None
    assert bm25.states.mean == pytest.approx(1 / 3)
    assert random.relevant is not None
    assert random.relevant.mean == 0.0
    assert random.over_random is None
    assert ekfac.over_random is not None
    assert (ekfac.over_random.mean, ekfac.over_random.n) == (1.0, 4)
    about, relates = found.agreement
    assert relates.alpha is not None
    assert relates.alpha.mean == pytest.approx(1.0)
    assert about.alpha is None
    assert about.why == "All answers are the same one."
    assert found.verdicts[0].word == "reproduces"
    assert "reproduces" in reviewed_page(found)


def test_hits_as_relevant_as_chance_reproduce_nothing() -> None:
    review = review_of()
    found = reviewed(review, [said(review, "Ada", lambda by: "topic")])
    assert found.verdicts[0].word == "does not at this size"
    assert [one.alpha for one in found.agreement] == [None, None]
    assert found.notes[0] == "One person has answered: nothing is known of agreement."
    assert found.agreement[0].why.startswith("Answers were written freely")
    assert found.agreement[1].why == "One person agrees with nobody: import two."


def test_alpha_is_that_of_the_answers() -> None:
    # By hand, as of two categories in test_rater_agreement: 28 items, one disagreement of 3 topics.
    review = review_of()
    ours = said(review, "Ada", by_method)
    theirs = dict(ours.relates)
    [item] = [one.item for one in review.items if one.text == "q0 both"]
    theirs[item] = "helps"
    found = reviewed(review, [ours, Sheet("b.csv", "Bo", {}, theirs)])
    # Ratings: irrelevant 16, topic 16, helps 1, states 23 of 56; distances by ranks.
    n = {"irrelevant": 16, "topic": 16, "helps": 1, "states": 23}
    names = list(n)

    def apart(a: str, b: str) -> float:
        i, j = sorted((names.index(a), names.index(b)))
        return (sum(n[c] for c in names[i : j + 1]) - (n[a] + n[b]) / 2) ** 2

    expected = sum(n[a] * n[b] * apart(a, b) for a in names for b in names)
    value = found.agreement[1].alpha
    assert value is not None
    assert value.mean == pytest.approx(1 - 55 * 2 * apart("helps", "states") / expected)
    assert value.low is not None
    assert value.high is not None
    assert value.low < value.mean <= value.high + 1e-12
    assert [(one.rater, one.missing) for one in found.raters] == [("Ada", 0), ("Bo", 28)]
    assert "Bo 28" in found.notes[0]


def test_unanswered_items_are_counted_and_left_out() -> None:
    review = review_of()
    [item] = [one.item for one in review.items if one.text == "q0 both"]
    sheet = read_sheet("a.csv", filled(review, **{f"item{item}": {"relates": ""}}).encode(), review)
    found = reviewed(review, [sheet])
    assert {one.method: one.n_unanswered for one in found.methods} == {
        "ekfac": 1,
        "bm25": 1,
        RANDOM: 0,
    }
    assert found.raters[0].missing == 1


@pytest.mark.parametrize("separator", [",", ";", "\t"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_sheets_come_back_from_any_spreadsheet(separator: str, encoding: str) -> None:
    review = review_of(("x", "Other Things"))
    text = filled(review, separator, item2={"relates": " States ", "about": "other things"})
    sheet = read_sheet("a.csv", text.encode(encoding), review)
    assert (sheet.rater, sheet.relates["2"], sheet.about["2"]) == ("Ada", "states", "Other Things")
    assert len(sheet.relates) == len(review.items)


def test_what_is_no_sheet_of_this_export_is_refused() -> None:
    review = review_of(("x", "y"))
    other = review_of(("x", "y"), seed=1)
    rows = filled(review).splitlines()

    def refused(text: str | bytes, message: str) -> None:
        with pytest.raises(InputError, match=message):
            read_sheet("a.csv", text if isinstance(text, bytes) else text.encode(), review)

    refused(filled(other), f"row 2: it is of the export {other.export}, and the key is of")
    refused("\n".join([*rows, rows[3]]), r"row 30: item 3 is in row 4 too")
    refused(filled(review, item4={"item": "99"}), "row 5: item 99 is none of the 28")
    refused(filled(review, item4={"relates": "maybe"}), "relates is 'maybe', and irrelevant, topic")
    refused(filled(review, item4={"about": "z"}), "about is 'z', and x, y were offered")
    refused(filled(review, item4={"rater": "Bo"}), "it is of several raters, Ada, Bo")
    refused("a,b\n1,2\n", "it has no column export and no column item")
    refused(rows[0], "a.csv has no rows")
    refused(b"", "it has no column export")
    refused(b"\xff\x00\xfe", "is no text in UTF-8")


def test_what_cannot_be_compared_is_refused() -> None:
    review = review_of()
    ada = said(review, "Ada", by_method)
    with pytest.raises(InputError, match="both of the rater 'Ada'"):
        reviewed(review, [ada, ada])
    with pytest.raises(InputError, match="no sheet has an answer"):
        reviewed(review, [Sheet("a.csv", "Ada", {}, {})])
    for values in ({}, [], {"what": "tails"}, {**review.key(), "items": [{}]}):
        with pytest.raises(InputError, match=r"k\.json is no key of a review"):
            Review.of_key(values, "k.json")
    with pytest.raises(ConfigError, match="--topic: name different ones"):
        review_of(("x", "X"))
    with pytest.raises(InputError, match="there is nothing to review"):
        chosen({"ekfac": make_results([], [])}, {}, 3, {}, (), 0)


def test_a_hostile_text_is_text() -> None:
    hostile = "</script><img src=x onerror=alert(1)>\"'=1+1"
    made = make_results([row("q", 1, token_texts=[hostile])])
    review = chosen({"ekfac": made}, {"q": ("=cmd()", hostile)}, 1, {}, (), 0)
    assert "<img" not in sheet_page(review)
    [cells] = list(csv.DictReader(io.StringIO(sheet_csv(review))))
    assert cells["question"] == "'=cmd()"
    assert cells["text"] == hostile
