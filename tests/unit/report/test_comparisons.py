"""Results beside each other: what is matched, what is said of it, and how it is shown."""

import math
from typing import Any

import pytest
from made_up_results import (
    HOSTILE,
    OUR_ATTRIBUTES,
    OUR_TAGS,
    Page,
    group,
    make_results,
    query,
    row,
)
from rich.console import Console

from rayinfluence.display.plain import plain_lines
from rayinfluence.report.compare import Comparison, Side, comparison_page, comparison_parts
from rayinfluence.report.compare.matching import Match, matched
from rayinfluence.storage.results import Results

STATISTICS = {
    "query_id": "q",
    "n_sequences": 50,
    "n_positive": 30,
    "n_negative": 20,
    "positive_sum": 9.0,
    "negative_sum": -4.0,
}


def hit(digest: str, rank: int, direction: str = "proponent", **changes: Any) -> dict[str, Any]:
    """A hit that is told by its digest, with a token of its own."""
    own = {"content_digest": digest, "document_id": f"of {digest}", "tokens": [ord(digest[0])]}
    number = 100 * ord(digest[0]) + rank + 50 * (direction == "opponent")
    return row("q", rank, direction, **({"sequence_id": number} | own | changes))


def results_of(digests: str, opponents: str = "", **changes: Any) -> Results:
    rows = [hit(one, rank) for rank, one in enumerate(digests, start=1)]
    rows += [hit(one, rank, "opponent") for rank, one in enumerate(opponents, start=1)]
    asked = [query(tokens=[ord("a"), ord("z")], digest="1", **changes.pop("query", {}))]
    return make_results(rows, asked, statistics=[STATISTICS], **changes)


def compared(*results: Results, **options: Any) -> Comparison:
    sides = [
        Side(letter, f"runs/{letter}", one) for letter, one in zip("ABC", results, strict=False)
    ]
    return Comparison.of_sides(sides, **options)


def only(comparison: Comparison) -> Any:
    [pair] = comparison.pairs
    [(one, _)] = pair.queries
    return one


def text_of(comparison: Comparison) -> str:
    return "\n".join(plain_lines(comparison_parts(comparison)))


def test_hits_are_matched_by_what_they_say_whatever_their_ids() -> None:
    one = only(compared(results_of("abcde", "fg"), results_of("bahjd", "gk")))
    proponents, opponents = one.hits
    assert [(o.k, o.both, o.by_chance) for o in proponents.overlaps] == [(5, 3, 0.1)]
    assert [(o.k, o.both) for o in opponents.overlaps] == [(2, 1)]
    places = {h.content_digest: (h.ours, h.theirs) for h in proponents.first}
    assert list(places) == ["a", "b", "c", "h", "d", "j", "e"]
    ranks = {key: tuple(p and p.rank for p in both) for key, both in places.items()}
    assert ranks["a"] == (1, 2)
    assert ranks["b"] == (2, 1)
    assert ranks["d"] == (4, 5)
    assert ranks["c"] == (3, None)
    assert ranks["h"] == (None, 3)


def test_first_hits_are_as_many_as_both_have_and_depths_are_the_usual_ones() -> None:
    letters = "".join(chr(ord("A") + n) for n in range(57))
    one = only(compared(results_of(letters[:25]), results_of(letters[:21])))
    assert [o.k for o in one.hits[0].overlaps] == [10, 20]
    assert one.hits[0].overlaps[0].both == 10
    assert one.hits[0].rank_biased == pytest.approx(1.0)
    assert len(one.hits[0].first) == 10
    assert one.hits[1].overlaps == ()
    assert one.hits[1].rank_biased is None


def test_a_repeated_text_is_one_at_its_best_rank() -> None:
    rows = [hit("a", 1), hit("a", 2, sequence_id=7), hit("b", 3)]
    ours = make_results(rows, [query(digest="1")])
    one = only(compared(ours, results_of("ab")))
    assert one.hits[0].kept == (2, 2)
    assert [h.ours and h.ours.rank for h in one.hits[0].first] == [1, 3]
    assert one.hits[0].overlaps[0].both == 2
    assert one.hits[0].overlaps[0].by_chance is None  # how many were scored is not known


def test_what_turned_round_is_named() -> None:
    comparison = compared(results_of("ab"), results_of("b", "a"))
    [turned] = [h for h in only(comparison).hits[0].first if h.content_digest == "a"]
    assert (turned.theirs.direction, turned.theirs.rank) == ("opponent", 1)
    assert "opponent 1" in text_of(comparison)


def test_where_a_side_has_no_hits_there_are_no_ranks() -> None:
    text = text_of(compared(results_of("ab", "c"), results_of("ab")))
    assert "Of opponents there are 1 in A and 0 in B: nothing can be compared." in text
    assert "> 0" not in text
    assert " none " in text.split("First opponents side by side")[1].split("In both:")[0]


def test_tokens_are_compared_by_rarity() -> None:
    # All of four texts are of one token each, and the question has a token that one of them has.
    one = only(compared(results_of("ab"), results_of("cd")))
    assert one.hits[0].alike == 0.0
    known, unknown = math.log(5 / 2), math.log(5)
    # Of the first side's two hits one has it.
    assert one.literal == (pytest.approx(known / (known + unknown) / 2), 0.0)
    assert only(compared(results_of("ab"), results_of("ba"))).hits[0].alike == 1.0


def test_other_tokenizers_are_matched_by_texts() -> None:
    theirs = results_of("xy", tokenizer={"digest": "2"}, query={"token_texts": ["Bel", "mora"]})
    ours = results_of("ab", tokenizer={"digest": "1"})
    comparison = compared(ours, theirs)
    one = only(comparison)  # one text, "One two three four", is all that the hits say
    assert one.hits[0].kept == (1, 1)
    assert one.hits[0].overlaps[0].both == 1
    assert one.hits[0].alike is None
    assert "The tokenizers differ" in text_of(comparison)


def asked(name: str, digest: str, **changes: Any) -> dict[str, Any]:
    return {"query_id": name, "digest": digest, "completion": name, **changes}


def test_queries_are_matched_by_what_is_asked() -> None:
    ours = {n: asked(n, d) for n, d in (("same", "1"), ("a", "2"), ("other", "3"), ("mine", "4"))}
    theirs = {
        n: asked(n, d) for n, d in (("b", "2"), ("same", "1"), ("other", "5"), ("theirs", "6"))
    }
    found = matched(ours, theirs, ("A", "B"))
    assert found.matches[0] == Match("same", "same")
    assert (found.matches[1].ours, found.matches[1].theirs) == ("a", "b")
    assert found.matches[1].note == "it is called b in B"
    # Here a query asks for the same text by other tokens, or otherwise counted.
    assert found.matches[2] == Match("other", "other", "its tokens, or how they count, differ")
    assert found.others == ("asked in A alone: mine", "asked in B alone: theirs")


def test_one_id_for_two_questions_is_no_match() -> None:
    ours, theirs = {"q": asked("q", "1")}, {"q": asked("q", "2", completion="another")}
    found = matched(ours, theirs, ("A", "B"))
    assert found.matches == ()
    assert found.others == ("q asks one thing in A and another in B",)


def test_equal_digests_of_other_tokenizers_mean_nothing() -> None:
    ours, theirs = {"q": asked("q", "1")}, {"p": asked("p", "1")}
    assert matched(ours, theirs, ("A", "B"), same_tokens=True).matches[0].theirs == "p"
    assert matched(ours, theirs, ("A", "B"), same_tokens=False).matches == ()


def test_where_no_query_is_common_it_is_said() -> None:
    other = make_results([], [query("p", digest="9", completion=" else")])
    comparison = compared(results_of("ab"), other)
    for shown in (text_of(comparison), Page(comparison_page(comparison)).text):
        assert "No query was asked in both" in shown
        assert "asked in A alone: q" in shown
        assert "asked in B alone: p" in shown


def test_settings_that_differ_are_named_and_others_are_not() -> None:
    def side(damping: float, path: str, parameters: int) -> Results:
        scan = {"damping_scale": damping, "top": 5}
        return results_of(
            "ab",
            config={"run": path, "model": path, "scan": scan},
            model={"path": f"s3://user:secret@host/{path}", "parameters": parameters},
        )

    comparison = compared(side(0.1, "small", 10), side(0.5, "large", 2000))
    assert {d.key: d.values for d in comparison.differences} == {
        "scan.damping_scale": ("0.1", "0.5"),
        "model.parameters": ("10", "2000"),
    }
    assert "large (2,000 parameters)" in text_of(comparison)
    assert "secret" not in text_of(comparison) + comparison_page(comparison)
    assert "secret" not in str(comparison.to_json())


@pytest.mark.parametrize(("theirs", "named"), [("same", False), ("other", True)])
def test_where_the_same_documents_were_read_does_not_matter(theirs: str, named: bool) -> None:
    def side(fingerprint: str, path: str) -> Results:
        config = {"corpus": {"documents": [path], "path": path}}
        return results_of("ab", config=config, corpus={"fingerprint": fingerprint})

    found = {d.key for d in compared(side("same", "a"), side(theirs, "conf/a")).differences}
    assert ({"corpus.documents", "corpus.path", "corpus.fingerprint"} <= found) is named
    assert named or not found


def test_groups_stand_side_by_side() -> None:
    ours = results_of("ab", groups=[group("web", lift=3.0), group("books", lift=1.0)])
    theirs = results_of("ab", groups=[group("web", lift=0.5, in_top=1)])
    comparison = compared(ours, theirs)
    [(_, groups)] = comparison.pairs[0].queries
    assert [(g.name, g.ours and g.ours.lift, g.theirs and g.theirs.lift) for g in groups] == [
        ("web", 3.0, 0.5),
        ("books", 1.0, None),
    ]
    lines = [line.split() for line in text_of(comparison).splitlines()]
    assert ["web", "8", "of", "10", "1", "of", "10", "3.00", "0.50", "+0.250", "+0.250"] in lines


def test_several_sides_are_compared_with_the_first() -> None:
    comparison = compared(results_of("ab"), results_of("ba"), results_of("cd"))
    assert [[s.letter for s in pair.sides] for pair in comparison.pairs] == [["A", "B"], ["A", "C"]]
    both = [pair.queries[0][0].hits[0].overlaps[0].both for pair in comparison.pairs]
    assert both == [2, 0]


def test_two_queries_of_a_run_stand_beside_each_other() -> None:
    rows = [hit("a", 1), hit("b", 2)]
    rows += [hit("b", 1) | {"query_id": "r"}, hit("c", 2) | {"query_id": "r"}]
    results = make_results(rows, [query(digest="1"), query("r", digest="2", completion=" Rome")])
    comparison = Comparison.of_queries(Side("A", "runs/A", results), ["q", "r"])
    assert only(comparison).hits[0].overlaps[0].both == 1
    shown = text_of(comparison)
    assert "rank q" in shown
    assert "rank r" in shown
    assert "Belmora" in shown
    assert "Rome" in shown


def test_some_queries_are_compared_where_they_are_named() -> None:
    rows = [hit("a", 1), hit("a", 1) | {"query_id": "r"}]
    there = make_results(rows, [query(digest="1"), query("r", digest="2", completion=" Rome")])
    comparison = compared(there, there, only=["r"])
    assert only(comparison).ours == "r"
    assert comparison.pairs[0].others == ()


def hostile() -> Comparison:
    ours = make_results(
        [row(HOSTILE, 1, document_id=HOSTILE, text=HOSTILE, metadata={"source": HOSTILE})],
        [query(HOSTILE, prompt=HOSTILE, completion=HOSTILE, digest="1")],
        [group(HOSTILE, HOSTILE, column=HOSTILE)],
        HOSTILE,
        fingerprint=HOSTILE,
        model={"path": HOSTILE},
        config={"scan": {HOSTILE: HOSTILE}},
        set_aside=[{"name": HOSTILE, "reason": HOSTILE}],
    )
    theirs = make_results(
        [], [query(f"x{HOSTILE}", prompt=HOSTILE, completion=HOSTILE, digest="2")]
    )
    sides = [Side(a, HOSTILE, one) for a, one in (("A", ours), ("B", ours), ("C", theirs))]
    return Comparison.of_sides(sides)


def test_hostile_text_is_data_on_the_page() -> None:
    page = Page(comparison_page(hostile()))
    assert {name for name, _ in page.elements} <= set(OUR_TAGS.split())
    attributes = {key for _, attributes in page.elements for key in attributes}
    assert attributes <= set(OUR_ATTRIBUTES.split())
    assert not page.open
    assert sum(name == "script" for name, _ in page.elements) == 1
    assert "\x1b" not in page.text
    assert "\x00" not in page.text
    assert "<img src=x onerror=alert(1)>" in page.text


def test_hostile_text_does_not_reach_the_terminal_raw() -> None:
    shown = text_of(hostile())
    assert "\x1b" not in shown
    assert "\x00" not in shown
    assert "[bold]" in shown
    console = Console(force_terminal=True, color_system="truecolor", width=100)
    with console.capture() as captured:
        for part in comparison_parts(hostile()):
            if not hasattr(part, "rows"):
                console.print(part)
    assert "\x1b[31m\x00" not in captured.get()


def test_equal_results_give_equal_pages_of_one_policy() -> None:
    comparison = compared(results_of("abc"), results_of("bca"))
    assert comparison_page(comparison) == comparison_page(comparison)
    policies = [
        a["content"]
        for name, a in Page(comparison_page(comparison)).elements
        if name == "meta" and a.get("http-equiv") == "Content-Security-Policy"
    ]
    assert len(policies) == 1
    assert (policies[0] or "").startswith("default-src 'none'; style-src")
