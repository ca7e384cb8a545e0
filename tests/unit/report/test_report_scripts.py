"""Scripts of all directions, joined signs and characters of several tokens, page and terminal."""

import re

import pytest
from made_up_results import Page, make_results, page_of, query, row, terminal_of
from rich.cells import cell_len

from rayinfluence.report import render_page
from rayinfluence.report.heat import LEVELS, heated_tokens
from rayinfluence.report.text import drawn_together, isolates, shorten

FAMILY = ["👨", "\u200d", "👩", "\u200d", "👧"]
PERSIAN = ["می", "\u200c", "خواهم"]
HINDI = ["क", "\u094d", "\u200d", "ष"]
ARABIC = ["مدر", "سة", " جديدة"]
HEBREW = [" שלום", " עולם"]


def found(texts: list[str]) -> dict:
    scores = [100.0, -90.0, 80.0, -70.0, 60.0]
    return row(token_texts=texts, token_scores=scores[: len(texts)])


@pytest.mark.parametrize("texts", [FAMILY, PERSIAN, HINDI, ARABIC, HEBREW], ids=str)
def test_what_is_written_with_joiners_reads_as_it_was_written(texts: list[str]) -> None:
    """Whatever its tokens are, and whichever of them are hot."""
    results = make_results([found(["see", *texts])])
    assert "".join(texts) in page_of(results).text
    assert "".join(texts).strip() in terminal_of(results)
    coloured = re.sub(r"\x1b\[[0-9;]*m", "", terminal_of(results, color=True))
    assert "".join(texts).strip() in coloured


def test_joiners_that_hide_are_shown_across_tokens_too() -> None:
    results = make_results([found(["pass", "\u200d", "word"])])
    assert "pass[U+200D]word" in page_of(results).text
    assert "pass[U+200D]word" in terminal_of(results)


def test_tokens_that_make_one_character_are_shown_as_one_with_the_sum_of_their_scores() -> None:
    texts = ["a", "", "", "😀", "b"]
    tokens = heated_tokens(texts, [2.0, 3.0, 1.0, -4.0, 9.0])
    assert [(token.text, token.score, token.n_tokens) for token in tokens] == [
        ("a", None, 1),
        ("😀", 6.0, 3),
        ("b", -4.0, 1),
    ]
    assert [token.level for token in tokens] == [0, LEVELS, int(-LEVELS * 4 / 6)]
    results = make_results([row(token_texts=texts, token_scores=[2.0, 3.0, 1.0, -4.0, 9.0])])
    assert f'a<b class="p{LEVELS}" title="+6.00">😀</b>' in render_page({"ekfac": results})
    assert "\x1b[36m😀\x1b" in terminal_of(results, color=True)


def test_no_score_of_a_part_of_a_character_is_lost() -> None:
    tokens = heated_tokens(["a", "", ""], [2.0, 3.0, 1.0])
    assert [(token.text, token.score) for token in tokens] == [("a", None), ("", 5.0)]


def test_tokens_around_the_hottest_are_counted_one_by_one() -> None:
    texts = ["x", *["", "", "中"] * 2000]
    scores = [0.0] * len(texts)
    scores[3000] = 1.0
    page = render_page({"ekfac": make_results([row(token_texts=texts, token_scores=scores)])})
    sides = dict(re.findall(r">([\d,]+) tokens (before|after)", page))
    around = sum(int(n.replace(",", "")) for n in sides)
    assert sorted(sides.values()) == ["after", "before"]
    # 700 characters of three tokens each are in the middle.
    assert around == len(texts) - 2100


def test_a_part_of_a_character_that_carries_a_score_is_named_by_the_character() -> None:
    texts = ["a", "", "", "😀", "b"]
    results = make_results([row(token_texts=texts, carried_by=1, carrier_in_completion=False)])
    for text in (page_of(results).text, terminal_of(results)):
        assert "one token carries it: a part of “😀”" in text


def completion_of(texts: list[str], prompt: str = "Say it:") -> str:
    log_ps = [-0.5] * len(texts)
    asked = query(
        prompt=prompt,
        completion="".join(texts),
        token_texts=texts,
        token_log_probabilities=log_ps,
    )
    page = render_page({"ekfac": make_results([], [asked])})
    return page[page.index('class="question"') :].split("</dl>")[0]


@pytest.mark.parametrize("texts", [ARABIC, PERSIAN, HINDI, FAMILY], ids=str)
def test_letters_that_join_are_not_set_apart_by_what_is_written_beneath(texts: list[str]) -> None:
    shown = completion_of(texts)
    assert "<ruby>" not in shown
    assert shown.count('title="61%, -0.50 nats"') == len(texts)
    assert "".join(texts) in Page(shown).text


@pytest.mark.parametrize("texts", [HEBREW, [" Bel", "mora"], ["中", "文"]], ids=str)
def test_tokens_that_stand_apart_have_their_probability_beneath(texts: list[str]) -> None:
    assert completion_of(texts).count("<rt>61%</rt>") == len(texts)


def test_a_completion_has_its_own_direction_beside_a_prompt() -> None:
    """The boxes with probabilities would stand in the prompt's order."""
    assert '<span class="completion" dir="auto"><ruby>' in completion_of(HEBREW)
    # Alone, it gives its direction to the paragraph.
    assert '<span class="completion"><ruby>' in completion_of(HEBREW, prompt="")


def test_a_terminal_s_line_isolates_what_runs_the_other_way() -> None:
    asked = query(prompt="שאלה", completion=" מענה", token_texts=None)
    results = make_results([found(["א ", "ב"])], [asked])
    shown = terminal_of(results)
    assert "\u2068שאלה\u2069 → \u2068מענה\u2069" in shown
    assert "\u2068א ב\u2069" in shown
    assert shown.count("\u2068") == shown.count("\u2069") == 3
    assert not set("\u2068\u2069") & set(terminal_of(make_results([row()])))
    assert isolates("12 + 中") == ("", "")


def test_wide_characters_take_two_columns() -> None:
    many = ["中文", "字符"] * 300
    asked = query(prompt="中" * 400, completion="文" * 400, token_texts=None)
    results = make_results([row(token_texts=many, token_scores=[1.0] * len(many))], [asked])
    lines = terminal_of(results, width=80).splitlines()
    assert max(map(cell_len, lines)) <= 80
    assert sum("中" in line or "文" in line for line in lines) <= 8


def test_texts_are_cut_between_what_is_drawn_as_one() -> None:
    assert shorten("xy" + "".join(FAMILY), 6) == "xy…"
    assert shorten("e\u0301e\u0301e\u0301", 4) == "e\u0301…"
    assert shorten("e\u0301e\u0301e\u0301", 4, keep="end") == "…e\u0301"
    assert shorten("👍🏽👍🏽", 3) == "👍🏽…"
    assert drawn_together(["a", "", "\u0301"])
    assert not drawn_together(["a", "b", "", "c"])
