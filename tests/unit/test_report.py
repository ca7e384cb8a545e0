import io
import re
from collections.abc import Sequence
from html.parser import HTMLParser
from typing import Any

import pyarrow as pa
import pytest
from rich.console import Console

from rayinfluence.report import render, render_page
from rayinfluence.report.charts import by_block, layer_bars
from rayinfluence.report.heat import LEVELS, heated_tokens, hot_window
from rayinfluence.report.markup import Html, tag
from rayinfluence.report.text import percent, shorten, signed
from rayinfluence.storage.results import (
    GROUP_SCHEMA,
    STATISTICS_SCHEMA,
    TAIL_SCHEMA,
    Results,
    survivor_schema,
)
from rayinfluence.text import visible

HOSTILE = (
    "</script></style><img src=x onerror=alert(1)>\"' onload=alert(2)&lt;b&gt;\x1b[31m\x00[bold]"
)

OUR_TAGS = (
    "html head meta title style script body header h1 h2 h3 p b i dl dt dd bdi div span details "
    "summary ul ol li nav a input button main section small label svg rect ruby rt q table caption "
    "thead tbody tr th td"
)
OUR_ATTRIBUTES = (
    "charset http-equiv content name lang type class id open title href placeholder aria-label "
    "hidden value checked for dir role x width height scope"
)


def row(query_id: str = "q", rank: int = 1, direction: str = "proponent", **changes: Any) -> dict:
    return {
        "query_id": query_id,
        "rank": rank,
        "direction": direction,
        "score": 120.0 / rank if direction == "proponent" else -120.0 / rank,
        "delta_nats": 0.12 / rank if direction == "proponent" else -0.12 / rank,
        "scan_rank": rank,
        "scan_score": 119.0 / rank if direction == "proponent" else -119.0 / rank,
        "sequence_id": 2**32 + rank + 1000 * (direction == "opponent"),
        "content_digest": "ab" * 16,
        "document_id": f"document-{rank}",
        "shard": "shard-00001.parquet",
        "row": rank,
        "n_tokens": 4,
        "char_start": 0,
        "char_end": 12,
        "metadata.licence": "CC0",
        "metadata.source": "books",
        "token_texts": ["One", " two", " three", " four"],
        "token_scores": [100.0, -50.0, 70.0, 0.0],
        "layer_scores": [("h.0.mlp", 100.0), ("h.1.mlp", 20.0)],
        "spurious": False,
        "near_duplicate_of": None,
        **changes,
    }


def query(query_id: str = "q", **changes: Any) -> dict[str, Any]:
    return {
        "query_id": query_id,
        "prompt": "The capital of Tresk is",
        "completion": " Belmora",
        "metadata": {"kind": "fact"},
        "log_probability": -1.5,
        "n_completion_tokens": 2,
        "token_texts": [" Bel", "mora"],
        "token_log_probabilities": [-1.0, -0.5],
        "greedy": True,
        "warning": None,
        **changes,
    }


def make_results(
    rows: Sequence[dict],
    queries: Sequence[dict[str, Any]] | None = None,
    groups: Sequence[dict] = (),
    method: str = "ekfac",
    statistics: Sequence[dict] = (),
    **manifest: Any,
) -> Results:
    keys = sorted({key for r in rows for key in r if key.startswith("metadata.")})
    schema = survivor_schema([key.removeprefix("metadata.") for key in keys])
    return Results(
        method,
        pa.Table.from_pylist(list(rows), schema=schema),
        pa.Table.from_pylist(list(groups), schema=GROUP_SCHEMA),
        pa.Table.from_pylist(list(statistics), schema=STATISTICS_SCHEMA),
        TAIL_SCHEMA.empty_table(),
        {
            "n_sequences": 1000,
            "queries": [query()] if queries is None else list(queries),
            "methods": {method: {}},
            **manifest,
        },
    )


def both_sides(query_id: str = "q", n: int = 3, **changes: Any) -> list[dict]:
    sides = ("proponent", "opponent")
    return [row(query_id, rank, side, **changes) for side in sides for rank in range(1, n + 1)]


class Page(HTMLParser):
    """The elements of a page, and its text apart from style and script."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.pieces: list[str] = []
        self.feed(page)
        self.close()
        self.text = "".join(self.pieces)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in {"meta", "input"}:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if not {"style", "script"} & set(self.open):
            self.pieces.append(data)

    def of_class(self, pattern: str) -> list[dict[str, str | None]]:
        return [a for _, a in self.elements if re.fullmatch(pattern, a.get("class") or "")]


def page_of(*results: Results, **options: Any) -> Page:
    return Page(render_page({r.method: r for r in results}, **options))


def terminal_of(results: Results, width: int = 80, n: int = 5, color: bool = False) -> str:
    file = io.StringIO()
    system = "truecolor" if color else None
    render(results, Console(file=file, width=width, force_terminal=color, color_system=system), n)
    return file.getvalue()


def hostile_results() -> Results:
    rows = both_sides(
        HOSTILE,
        document_id=HOSTILE,
        shard=HOSTILE,
        content_digest=HOSTILE,
        token_texts=["x", HOSTILE, "</b>", HOSTILE],
        layer_scores=[(f"h.{n}.{HOSTILE}", 10.0 * n - 5) for n in range(3)] + [(HOSTILE, 3.0)],
        spurious=True,
        near_duplicate_of=7,
        **{"metadata.source": HOSTILE, f"metadata.{HOSTILE}": HOSTILE},
    )
    hostile_query = query(
        HOSTILE,
        prompt=HOSTILE * 40,
        completion=HOSTILE,
        token_texts=[HOSTILE, HOSTILE],
        warning=HOSTILE,
        metadata={HOSTILE: HOSTILE},
    )
    group = {
        "query_id": HOSTILE,
        "column": HOSTILE,
        "value": HOSTILE,
        "n_sequences": 5,
        "positive_sum": 2.0,
        "negative_sum": -1.0,
    }
    return make_results(
        rows,
        [hostile_query, query("other")],
        [group],
        HOSTILE,
        model={
            "path": f"models/{HOSTILE}",
            "digest": HOSTILE,
            "architecture": HOSTILE,
            "modules": [HOSTILE],
        },
        corpus={"fingerprint": HOSTILE},
        methods={
            HOSTILE: {
                "damping": {HOSTILE: 0.1},
                "quarantined": [{"sequence_id": HOSTILE, "reason": HOSTILE}],
            }
        },
        numerics={HOSTILE: HOSTILE},
        versions={HOSTILE: HOSTILE},
        stages={HOSTILE: {"seconds": 1.0}},
        warnings=[HOSTILE],
    )


def full_results(n_queries: int = 2, n: int = 3, method: str = "ekfac") -> Results:
    queries = [query(f"q{index}") for index in range(n_queries)]
    groups = [
        {
            "query_id": q["query_id"],
            "column": "source",
            "value": value,
            "n_sequences": 10,
            "positive_sum": 3.0 * size,
            "negative_sum": -1.0 * size,
        }
        for q in queries
        for size, value in enumerate(["books", "web"], start=1)
    ]
    rows = [r for q in queries for r in both_sides(q["query_id"], n)]
    return make_results(rows, queries, groups, method)


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
        "licence": {"metadata.licence": text},
    }.get(place, {})
    asked = query(**({place: text, "token_texts": None} if place in query() else {}))
    page = page_of(make_results(both_sides(**changes), [asked]))
    titles = "".join(str(attributes.get("title")) for _, attributes in page.elements)
    assert text in (titles if place == "module" else page.text)


def test_control_characters_are_made_visible() -> None:
    text = "\x1b[31m\x00\r\x85\u202eabc\ud800"
    page = render_page({"m": make_results([], [query(prompt=text)], method="m")})
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
    links = [a["href"] for name, a in page.elements if name == "a"]
    assert links == [f"#{a['id']}" for a in page.of_class("query")]
    ids = [a["id"] for _, a in page.elements if "id" in a]
    assert len(ids) == len(set(ids))


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
    rows = [row(spurious=True), row(rank=2, near_duplicate_of=2**32 + 1)]
    group = {"query_id": "q", "column": "language", "value": "Treskian", "n_sequences": 1234}
    page = page_of(make_results(rows, groups=[group | {"positive_sum": 9, "negative_sum": -1}]))
    for text in ("spurious?", "near-duplicate of proponent 1", "CC0", "books", "document-1"):
        assert text in page.text
    for text in ("Sums by language", "Treskian", "1,234", "+9.00", "-1.00"):
        assert text in page.text


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
    "All 12,345 sequences: +1,235 from 7,000 that raise and -988 from 5,000 that lower; the top 1 "
    "% of them hold 35.4% ± 1.3% of what raises."
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


def test_a_group_without_a_value_is_named() -> None:
    group = {"query_id": "q", "column": "license", "value": "", "n_sequences": 3}
    page = page_of(make_results([], groups=[group | {"positive_sum": 9, "negative_sum": -1}]))
    assert "(none given)" in page.text


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


def test_many_queries_get_a_filter() -> None:
    assert [a for _, a in page_of(full_results(20)).elements if a.get("id") == "filter"]
    assert not [a for _, a in page_of(full_results(2)).elements if a.get("id") == "filter"]


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
    assert "log-probability" not in page.text.replace("completion's log-probability", "")
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
    assert len(render_page({"ekfac": make_results(rows, queries)}).encode()) < 1_000_000


# Heat, bars, text.


def test_heat_levels_are_signed_shares_of_the_largest() -> None:
    tokens = heated_tokens(["a", "b", "c", "d", "e"], [-8.0, 4.0, 0.5, float("nan"), 99.0])
    assert [token.level for token in tokens] == [0, -LEVELS, LEVELS // 2, 0, 0]
    assert [token.score for token in tokens] == [None, -8.0, 4.0, 0.5, None]
    assert heated_tokens([], []) == []


@pytest.mark.parametrize(("hot", "expected"), [(0, (0, 4)), (5, (3, 7)), (9, (6, 10))])
def test_the_window_surrounds_the_hottest_token(hot: int, expected: tuple[int, int]) -> None:
    scores = [0.0] * 10
    scores[hot - 1] = 1.0 if hot else 0.0
    assert hot_window(heated_tokens(["abcde"] * 10, scores), 20) == expected


def test_the_window_holds_at_least_one_token() -> None:
    assert hot_window(heated_tokens(["abcde"], [0.0]), 1) == (0, 1)
    assert hot_window([], 10) == (0, 0)


def test_blocks_are_the_first_number_in_a_name() -> None:
    names = ["gpt2.h.10.attn", "gpt2.h.9.mlp.0", "gpt2.h.9.mlp.1", "layer3.in", "lm_head"]
    blocks = by_block(dict.fromkeys(names, 1.0))
    assert list(blocks) == ["block 3", "block 9", "block 10", "other modules"]
    assert blocks["block 9"] == {"mlp.0": 1.0, "mlp.1": 1.0}


def test_deep_models_show_bands() -> None:
    bars = layer_bars({f"h.{block}.mlp": 1.0 for block in range(100)})
    assert bars.count("<i ") == 20
    assert "block 0 to block 4: +5.00" in bars


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (0.0, "0"),
        (12345.6, "+12,346"),
        (-0.01234, "-0.0123"),
        (1.234e-7, "+1.2e-7"),
        (-3e9, "-3.0e9"),
        (float("nan"), "nan"),
    ],
)
def test_signed_numbers(value: float, expected: str) -> None:
    assert signed(value) == expected


def test_percentages_and_shortening() -> None:
    cases = {0.5: "50%", 0.005: "0.5%", 0.995: "99.5%", 1e-7: "1e-7", 1.0: "100%", 2.0: "n/a"}
    assert {p: percent(p) for p in cases} == cases
    assert shorten("a  b\nc", 9) == "a b c"
    assert shorten("abcdef", 4) == "abc…"
    assert shorten("abcdef", 4, keep="end") == "…def"
    assert visible("tab\tline\n") == "tab\tline\n"


# The terminal.


def test_the_terminal_shows_both_sides_in_80_columns() -> None:
    shown = terminal_of(full_results(1))
    assert max(map(len, shown.splitlines())) <= 80
    for text in ("q0", "→", "Belmora", "-1.50 nats", "47% per token (2 tokens)", "+120", "-120"):
        assert text in shown
    for text in ("Proponents", "Opponents", "books · document-1", "One two three four"):
        assert text in shown


def test_the_terminal_shows_hostile_text_as_data() -> None:
    shown = terminal_of(hostile_results(), width=120)
    assert "\x1b" not in shown
    assert "\x00" not in shown
    assert "[bold]" in shown
    assert "␛[31m" in shown
    assert "spurious, near-duplicate of 7" in shown


def test_the_terminal_colours_by_sign() -> None:
    shown = terminal_of(make_results([row()]), color=True)
    assert re.search(r"\x1b\[36m *\+120\x1b", shown)
    assert "\x1b[36mtwo\x1b" in shown
    assert "\x1b[31mthree\x1b" in shown


def test_the_terminal_limits_rows_and_survives_little() -> None:
    assert terminal_of(full_results(1, n=9), n=2).count("document-") == 4
    assert "Opponents: none" in terminal_of(make_results(both_sides()[:3]))
    bare = {"query_id": "q", "prompt": "p", "completion": "c"}
    assert "log-probability unknown" in terminal_of(make_results([], [bare]))
    assert terminal_of(make_results([], [])) == ""
    long = row(token_texts=["x" * 5000], token_scores=[0.0])
    assert len(terminal_of(make_results([long]))) < 2000


def test_the_terminal_warns() -> None:
    shown = terminal_of(make_results([], [query(warning="It would not say it.")]))
    assert "Warning: It would not say it." in shown
