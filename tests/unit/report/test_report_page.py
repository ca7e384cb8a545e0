"""The page: safe, and showing what the results say."""

import re
from pathlib import Path
from typing import Any

import pytest
from made_up_results import (
    OUR_ATTRIBUTES,
    OUR_TAGS,
    Page,
    both_sides,
    full_results,
    group,
    hostile_results,
    make_results,
    page_of,
    query,
    row,
    terminal_of,
)

from rayinfluence import report
from rayinfluence.report import render_page
from rayinfluence.report.heat import LEVELS
from rayinfluence.report.markup import Html, tag
from rayinfluence.storage.results import Results

# The page: safety.


def test_hostile_text_adds_no_element_and_no_attribute() -> None:
    hostile = hostile_results()
    page = page_of(hostile, make_results([], [query("other")], method="plain"))
    assert {name for name, _ in page.elements} <= set(OUR_TAGS.split())
    attributes = {key for _, attributes in page.elements for key in attributes}
    assert attributes <= set(OUR_ATTRIBUTES.split())
    assert not page.open
    assert sum(name == "script" for name, _ in page.elements) == 1
    assert sum(name == "style" for name, _ in page.elements) == 1


@pytest.mark.parametrize("place", ["warning", "document", "module", "licence", "completion"])
def test_hostile_text_is_shown_as_it_is(place: str) -> None:
    text = f"<i>{place}</i>&amp;"
    changes: dict[str, Any] = {
        "document": {"document_id": text},
        "module": {"layer_scores": [(f"h.0.{text}", 1.0)]},
        "licence": {"metadata": {"licence": text}},
    }.get(place, {})
    asked = query(**({place: text, "token_texts": None} if place in query() else {}))
    page = page_of(make_results(both_sides(**changes), [asked]))
    titles = "".join(str(attributes.get("title")) for _, attributes in page.elements)
    assert text in (titles if place == "module" else page.text)


def test_control_characters_are_made_visible() -> None:
    text = "\x1b[31m\x00\r\x85\u202eabc\ud800"
    results = make_results([], [query()], method="m")
    results.queries["q"]["prompt"] = text  # half a surrogate pair is in no table
    page = render_page({"m": results})
    assert not set(page) & set("\x1b\x00\r\x85\u202e\ud800")
    assert "␛[31m␀␍[U+0085][U+202E]abc\ufffd" in page
    page.encode()


def test_the_page_requests_nothing() -> None:
    page = render_page({"ekfac": full_results()})
    assert not re.search(r"https?:|//[a-z]|url\(|@import|\bsrc=|javascript:", page)
    policies = [a["content"] for _, a in Page(page).elements if a.get("http-equiv")]
    assert len(policies) == 1
    assert policies[0] is not None
    assert policies[0].startswith("default-src 'none'; style-src 'sha256-")
    assert "unsafe" not in policies[0]
    assert " style=" not in page


def test_links_of_the_page_reach_its_queries() -> None:
    page = page_of(full_results(5))
    links = {a["href"] for name, a in page.elements if name == "a"}
    ids = [a["id"] for _, a in page.elements if "id" in a]
    assert len(ids) == len(set(ids))
    assert links <= {f"#{one}" for one in ids}
    assert links >= {f"#{a['id']}" for a in page.of_class("query|card")}


def test_markup_is_escaped_unless_made_by_tag() -> None:
    inner = tag("b", "<&>", title='"')
    assert inner == '<b title="&quot;">&lt;&amp;&gt;</b>'
    assert tag("p", inner) == f"<p>{inner}</p>"
    assert tag("p", f"{inner}").count("&lt;b") == 1
    assert tag("input", hidden=True, checked=False, value=None) == "<input hidden>"
    assert isinstance(inner, Html)


# The page: contents.


def test_equal_results_give_equal_bytes() -> None:
    assert render_page({"ekfac": full_results()}) == render_page({"ekfac": full_results()})


def test_heat_is_shown_on_the_token_that_was_predicted() -> None:
    page = render_page({"ekfac": make_results([row()])})
    assert f'One<b class="p{LEVELS}" title="+100"> two</b>' in page
    assert '<b class="n4" title="-50.0"> three</b><b class="p5" title="+70.0"> four</b>' in page


def test_heat_of_no_token_without_scores() -> None:
    page = page_of(make_results([row(token_scores=[0.0] * 4), row(rank=2, token_scores=[])]))
    legend = 2 * LEVELS
    assert len(page.of_class(r"[pn]\d")) == legend
    assert page.text.count("One two three four") == 2


def test_newlines_in_hot_tokens_show() -> None:
    page = page_of(make_results([row(token_texts=["a", "\n", "b", "\n"])]))
    assert "a↵\nb↵\n" in page.text


def test_sides_have_their_signs() -> None:
    page = page_of(make_results(both_sides(n=1)))
    assert "+120" in page.text
    assert "+0.120 nats" in page.text
    assert "-120" in page.text
    assert len(page.of_class("score raises")) == len(page.of_class("score lowers")) == 1


def test_flags_metadata_and_groups_are_shown() -> None:
    rows = [row(suspect=True), row(rank=2, near_duplicate_of=2**32 + 1)]
    page = page_of(make_results(rows, groups=[group("Treskian", column="language")]))
    for text in ("suspect: another", "near-duplicate of proponent 1", "CC0", "books", "document-1"):
        assert text in page.text
    assert "By language, among the first 10 proponents" in page.text
    assert "Treskian1,2345%8 (80%)169.80 to 19+0.250 ± 0.125" in page.text


def test_groups_are_in_the_order_of_the_table_and_the_rest_is_counted() -> None:
    many = [group(f"source {n}", lift=20.0 - n) for n in range(15)]
    page = page_of(make_results([], groups=[*many, group("w", column="x")]))
    places = [page.text.index(f"source {n}1,234") for n in range(12)]
    assert places == sorted(places)
    assert "source 121,234" not in page.text  # in the picture it is
    assert "3 with smaller lifts are in the results table." in page.text
    assert "By x" in page.text
    assert "nearly cancel" in page.text


@pytest.mark.parametrize(
    ("value", "kind", "shown"),
    [
        ("1", "string", "1"),
        ("1", "number", "1 (number)"),
        ("true", "boolean", "true (boolean)"),
        ("", "string", "(empty)"),
        ("", "missing", "(none given)"),
        ("", "other", "(other values)"),
    ],
)
def test_a_group_is_named_by_its_value_and_type(value: str, kind: str, shown: str) -> None:
    groups = [group(value, value_type=kind), group("web")]
    assert f"mean score{shown}1,234" in page_of(make_results([], groups=groups)).text


def test_a_key_that_no_document_has_makes_no_table() -> None:
    page = page_of(make_results([], groups=[group("", value_type="missing")]))
    assert "Where the influence comes from" not in page.text


def test_a_group_without_a_top_or_an_error_leaves_cells_empty() -> None:
    nothing = dict.fromkeys(("lift", "lift_low", "lift_high", "mean_score_error"))
    page = page_of(make_results([], groups=[group("web", top=0, in_top=0, **nothing)]))
    assert "By source" in page.text
    assert "web1,2345%+0.250" in page.text


def test_the_token_that_carries_a_score_is_named_with_what_it_is() -> None:
    rows = [
        row(carried_by=1, carrier_in_completion=True),
        row(rank=2, carried_by=2, carrier_in_completion=False),
    ]
    for text in (page_of(make_results(rows)).text, terminal_of(make_results(rows), width=200)):
        assert "one token carries it: “two”, a token of the completion" in text
        assert "one token carries it: “three”" in text
        assert "“three”, a token" not in text
        assert "spurious" not in text


def test_what_is_beyond_the_linear_range_has_words_and_no_number() -> None:
    results = make_results([row(delta_nats=3.51, beyond_linear=True), row(rank=2, delta_nats=0.02)])
    for text in (page_of(results).text, terminal_of(results, width=200)):
        assert "beyond the linear range: no prediction" in text
        assert "3.51" not in text
        assert "0.0200" in text
    assert "+0.0200 nats, 1.02 times as likely" in page_of(results).text


def test_a_sum_of_survivors_is_marked_as_one_is() -> None:
    few = make_results([row(rank=n, delta_nats=0.01) for n in range(1, 6)])
    many = make_results([row(rank=n, delta_nats=0.06) for n in range(1, 11)])
    sure = make_results(
        [row(rank=n, delta_nats=0.04) for n in range(1, 11)], [query(log_probability=-0.3)]
    )
    against = make_results([row(rank=n, direction="opponent", delta_nats=-0.3) for n in (1, 2)])
    said = {
        "first 2 opponents together: beyond the linear range: no prediction.": against,
        "first 5 proponents together: +0.0500 nats, 1.05 times as likely.": few,
        "first 10 proponents together: beyond the linear range: no prediction.": many,
        "10 proponents together: beyond the linear range: no prediction.": sure,
    }
    for sentence, results in said.items():
        assert sentence in page_of(results).text
        assert sentence in " ".join(terminal_of(results, width=200).split())


def rescored_results() -> Results:
    rescored = {
        "largest_relative_difference": 1.5,
        "changed_ranks": 3,
        "compared_ranks": 20,
        "changed_signs": 1,
    }
    statistics = {
        "query_id": "q",
        "n_sequences": 12_345,
        "n_positive": 7_000,
        "n_negative": 5_000,
        "positive_sum": 1234.6,
        "negative_sum": -987.6,
        "top_1_percent_share": 0.354,
        "top_1_percent_share_error": 0.012,
    }
    methods = {"ekfac": {"rescoring": {"q": rescored}}}
    return make_results(both_sides(), statistics=[statistics], methods=methods)


RESCORED = (
    "Scored again at full rank: scores moved by at most 150%, 3 of the first 20 ranks hold another "
    "sequence, 1 score changed sign."
)
STATISTICS = (
    "All 12,345 sequences: +1,235 from 7,000 that raise and -988 from 5,000 that lower; the 1 % "
    "of sequences with the largest scores hold 35.4% ± 1.3% of what raises."
)


def test_mass_concentration_and_rescoring_are_said() -> None:
    results = rescored_results()
    text = page_of(results).text
    assert RESCORED in text
    assert STATISTICS in text
    shown = " ".join(terminal_of(results).split())
    assert RESCORED in shown
    assert STATISTICS in shown


def test_a_share_without_doubt_has_a_decimal_and_none_is_not_said() -> None:
    row = {"query_id": "q", "n_sequences": 10, "n_positive": 1, "n_negative": 0}
    row |= {"positive_sum": 1.0, "negative_sum": 0.0}
    exact = row | {"top_1_percent_share": 0.354, "top_1_percent_share_error": 0.0}
    assert "hold 35.4% of what" in page_of(make_results([], statistics=[exact])).text
    text = page_of(make_results([], statistics=[row])).text
    assert "0 from 0 that lower." in text
    assert "top 1 %" not in text


def test_the_page_says_how_many_it_leaves_out() -> None:
    page = page_of(full_results(1, n=7), per_side=5)
    assert len(page.of_class("card")) == 10
    assert page.text.count("2 more in the results table") == 2


def test_methods_are_switched_by_radio_buttons() -> None:
    page = page_of(full_results(2), full_results(2, method="bm25"))
    radios = [a for name, a in page.elements if name == "input"]
    assert len(radios) == 4
    assert sum("checked" in a for a in radios) == 2
    assert len(page.of_class("panel")) == 4
    assert not [a for name, a in page_of(full_results(2)).elements if name == "input"]


def test_queries_of_only_one_method() -> None:
    page = page_of(full_results(1), make_results([], [query("late")], method="bm25"))
    assert len(page.of_class("query")) == 2
    assert page.text.count("This method was not run on this query.") == 2


def test_long_text_is_folded_around_its_hottest_token() -> None:
    n = 2000
    scores = [0.0] * n
    scores[1499] = 5.0
    texts = [f" w{index}" for index in range(n)]
    page = page_of(make_results([row(token_texts=texts, token_scores=scores)]), per_side=1)
    assert re.search(r"1,\d\d\d tokens before", page.text)
    assert re.search(r"\d\d\d tokens after", page.text)
    assert " w1500" in page.text
    assert "only in the results table" in page.text
    assert "w0 " not in page.text


def test_empty_and_missing_parts() -> None:
    assert page_of(make_results(both_sides()[:3])).text.count("None were found.") == 1
    assert page_of(make_results([])).text.count("None were found.") == 2
    assert "The run has no queries." in page_of(make_results([], [])).text
    bare = {"query_id": "q", "prompt": "p", "completion": "c"}
    page = page_of(make_results(both_sides(layer_scores=[]), [bare]))
    assert not page.of_class("facts")
    odd = query(log_probability=float("nan"), n_completion_tokens=0, token_texts=["one"])
    assert "nan nats" in page_of(make_results([], [odd])).text
    with pytest.raises(ValueError, match="at least one method"):
        render_page({})


def test_the_page_stays_light() -> None:
    tokens = [" word"] * 80
    scores = [float((7 * t) % 11 - 5) ** 3 for t in range(80)]
    layers = [(f"h.{n // 2}.mlp.{'in' if n % 2 else 'out'}", n - 7.5) for n in range(24)]
    changes: dict[str, Any] = {
        "token_texts": tokens,
        "token_scores": scores,
        "layer_scores": layers,
    }
    queries = [query(f"q{index}") for index in range(6)]
    rows = [r for q in queries for r in both_sides(q["query_id"], 20, **changes)]
    page = render_page({"ekfac": make_results(rows, queries)})
    pictures = re.findall('<section class="pictured">.*?</section>', page, re.DOTALL)
    assert len(pictures) == len(queries)
    assets = Path(report.__file__).parent / "assets"
    pictures += [(assets / f"pictures.{kind}").read_text("utf-8") for kind in ("css", "js")]
    assert sum(len(one.encode()) for one in pictures) < 300_000
    for one in dict.fromkeys(pictures):
        assert one in page
        page = page.replace(one, "")
    assert len(page.encode()) < 1_000_000
