"""A report shows token influences on the same text, beside scores by token, where there are any."""

from __future__ import annotations

import re

from made_up_results import make_results, page_of, row

from rayinfluence.report import render_page

ASKED = {
    "output_token_influences": [10.0, 0.0, 110.0, 0.0],
    "input_token_influences": [0.0, 40.0, 0.0, -80.0],
    "embedding_influences": [0.0, 0.0, 9.0, 0.0],
}


def coloured(page: str) -> list[list[tuple[str, str]]]:
    """Of each text of the page, the tokens with a colour, and their numbers."""
    texts = re.findall(r'<div class="text" dir="auto">(.*?)</div>', page, re.DOTALL)
    shown = [re.findall(r'<b class="[pn]\d" title="([^"]*)">([^<]*)</b>', text) for text in texts]
    return [[(token, number) for number, token in text] for text in shown if "</b>" in str(texts)]


def test_each_view_colours_the_tokens_that_it_is_about() -> None:
    """A prediction's number stands on the token that is predicted, another on its own token."""
    page = render_page({"ekfac": make_results([row(**ASKED)])})
    _, by_position, predicted, read, moved = coloured(page)
    assert [token for token, _ in by_position] == [" two", " three", " four"]
    assert predicted == [(" four", "+110")]
    assert read == [(" two", "+40.0"), (" four", "-80.0")]
    assert moved == [(" three", "+9.00")]
    text = page_of(make_results([row(**ASKED)])).text
    assert "by token as it is predicted" in text
    assert "They add up to the score." in text
    assert "by token as it is read" in text
    assert "They do not add up to the score." in text
    assert "by token as it might have been" in text


def test_without_them_a_card_is_what_it_was() -> None:
    absent = dict.fromkeys(ASKED)
    page = render_page({"ekfac": make_results([row(**absent)])})
    assert "by token as it is" not in page


def test_views_are_folded_and_as_short_as_the_text_itself() -> None:
    n = 2000
    scores = [0.0] * n
    scores[1499] = 5.0
    texts = [f" w{index}" for index in range(n)]
    long = row(token_texts=texts, token_scores=scores, **dict.fromkeys(ASKED, scores))
    page = render_page({"ekfac": make_results([long])})
    view = page[page.index("by token as it is predicted") : page.index("by token as it is read")]
    assert 300 < len(view) < 2500
    assert "only in the results table" in view
    assert " w1500" in view  # whose prediction it is
    assert " w1499" in page[page.index("by token as it is read") :]
