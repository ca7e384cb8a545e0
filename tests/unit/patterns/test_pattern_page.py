"""The page of patterns: pictures, tables behind them, and what others wrote as data."""

from dataclasses import replace

from made_up_patterns import FLOWING, FOUND, PATTERNS, QUESTION
from made_up_results import HOSTILE, Page

from rayinfluence.patterns.page import patterns_page
from rayinfluence.patterns.picture import pattern_figure, skip_figure
from rayinfluence.patterns.refine import Pattern


def test_a_path_is_a_line_of_tokens_by_depth() -> None:
    figure = pattern_figure(FLOWING)
    strongest, other, heads, skips = figure.series
    assert (strongest.name, strongest.tone) == ("1 key: +3.00", "raises")
    assert other.tone == "lowers"
    # The first token is on top, and depth 0 is the input.
    assert [(mark.x[0], mark.y[0]) for mark in strongest.marks] == [
        (0.5, 1.6),
        (1.5, 0.6),
        (2.5, 0.6),
    ]
    # Paths in a row stand apart, so that none hides another.
    assert [mark.y[0] for mark in other.marks] == [2.4, 2.4, 0.4]
    assert [mark.says for mark in heads.marks] == [
        "1 key: block 1 by head 0 to 2 [U+202E]s",
        "0 The: block 2 by head 1 to 2 [U+202E]s",
    ]
    assert [mark.says for mark in skips.marks] == [
        "1 key: block 2 by the skip connection to 2 [U+202E]s",
        "0 The: block 1 by the skip connection to 0 The",
    ]
    assert figure.rows == (("1 key", 3.0, 3.5, 2.0), ("0 The", -1.0, -0.5, -0.2))
    assert figure.title == (
        "The pattern of 1 key takes a head in block 1 and skips in all others: +2.00 of its +3.00 "
        "logits"
    )


def test_shares_of_skip_connections_are_bars() -> None:
    figure = skip_figure(FLOWING)
    assert [mark.y for mark in figure.series[0].marks] == [(0.0, 0.25), (0.0, 0.75)]
    assert figure.rows == ((1, 0.25, 0.5, 1.5), (2, 0.75, 1.5, 0.5))
    assert "50%" in figure.title
    nothing = skip_figure(replace(FLOWING, skip_shares=(None, 0.5)))
    assert nothing.rows[0][1] is None


def test_a_page_is_whole_and_needs_nothing() -> None:
    page = patterns_page(FOUND)
    assert page == patterns_page(FOUND)
    shown = Page(page)
    names = [name for name, _ in shown.elements]
    assert names.count("svg") >= 2
    assert names.count("figure") == names.count("figcaption") == 2
    drawings = shown.of_class("drawing")
    assert all(one["role"] == "group" and one["aria-label"] for one in drawings)
    policies = [one["content"] for name, one in shown.elements if "http-equiv" in one]
    assert policies[0].startswith("default-src 'none'; style-src 'sha256-")
    assert "How to read this" in shown.text
    assert "the mean of the 48 embeddings" in shown.text
    assert "averages over them hold the answer" in shown.text
    assert "The numbers (2 rows)" in shown.text


def test_what_others_wrote_is_data() -> None:
    texts = (HOSTILE, "<b>", "</script>")
    question = replace(QUESTION, query_id=HOSTILE, texts=texts, right_text=HOSTILE)
    page = patterns_page(replace(FOUND, flowing=(replace(FLOWING, question=question),)))
    plain = patterns_page(FOUND)
    assert [name for name, _ in Page(page).elements] == [name for name, _ in Page(plain).elements]
    assert "\u202e" not in page


def test_long_texts_have_a_bounded_picture() -> None:
    many = Pattern((0, 0, 2), (0, 1), 1.0, 1.0, 1.0)
    flowing = replace(FLOWING, patterns=tuple(replace(many, whole=float(n)) for n in range(300)))
    figure = pattern_figure(flowing)
    assert len(figure.rows) == 100
    assert len(figure.series) == 6
    assert "The table has 100 of 300 tokens" in figure.notes[0]
    assert PATTERNS[0] not in flowing.strongest()
