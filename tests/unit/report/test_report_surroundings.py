"""The page shows a hit inside its document, as far as the tables have it and there is room."""

from __future__ import annotations

from made_up_results import Page, make_results, row

from rayinfluence.report import render_page


def page_of(context: int | None = None, **changes: object) -> str:
    return render_page({"ekfac": make_results([row(**changes)])}, context=context)


def test_what_stands_around_a_hit_is_in_a_fold_as_data() -> None:
    page = page_of(text_before="Before, <b>bold", text_after="after\u202e it.", token_start=9)
    shown = Page(page)
    assert "In its document" in shown.text
    assert "Before, <b>bold" in shown.text
    assert "after\u202e it." not in page
    assert "The document begins here" not in shown.text


def test_the_beginning_of_a_document_is_told() -> None:
    shown = Page(page_of(text_after=" goes on")).text
    assert "The document begins here." in shown
    assert " goes on" in shown


def test_as_much_is_shown_as_is_asked_for() -> None:
    around = {"text_before": "0123456789", "text_after": "abcdefghij"}
    shown = Page(page_of(4, **around)).text
    assert "6789" in shown
    assert "56789" not in shown
    assert "abcd" in shown
    assert "abcde" not in shown
    assert page_of(0, **around) == page_of(0)
    assert page_of(0) == page_of()
