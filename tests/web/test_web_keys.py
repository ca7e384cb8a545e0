"""Reports by keyboard alone."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from browsing import Visit
from playwright.sync_api import Page, expect

Open = Callable[..., Visit]

IN_FOCUS = "document.activeElement"


@pytest.fixture
def page(visit: Open, made_up: Path) -> Page:
    return visit(made_up).page


def focused(page: Page, of: str) -> str:
    return str(page.evaluate(f"{IN_FOCUS}.{of}"))


def tab_to(page: Page, selector: str, most: int = 60) -> None:
    """Press Tab until something has the focus, as who has no pointer does."""
    for _ in range(most):
        page.keyboard.press("Tab")
        assert page.evaluate(f"{IN_FOCUS} !== document.body"), "the focus was lost"
        if page.evaluate(f"{IN_FOCUS}.matches({selector!r})"):
            assert (
                page.evaluate(f"{{const style = getComputedStyle({IN_FOCUS}); style.outlineStyle}}")
                != "none"
            ), "the focus is not seen"
            return
    raise AssertionError(f"{selector} is not reached by {most} tabs")


def test_the_first_tab_leads_past_the_top(page: Page) -> None:
    page.keyboard.press("Tab")
    assert focused(page, "textContent") == "Skip to the hits"
    page.keyboard.press("Enter")
    assert focused(page, "id") == "main"


def test_hits_are_gone_through_opened_and_left(page: Page) -> None:
    page.keyboard.press("j")
    first = focused(page, "id")
    page.keyboard.press("j")
    assert focused(page, "id") != first
    page.keyboard.press("k")
    assert focused(page, "id") == first
    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowUp")
    assert focused(page, "id") == first
    more = page.locator(f"#{first} > .foot > .more")
    page.keyboard.press("o")
    expect(more).to_have_attribute("open", "")
    page.keyboard.press("o")
    expect(more).not_to_have_attribute("open", "")


def test_tokens_of_a_hit_say_their_numbers_and_what_they_moved(page: Page) -> None:
    page.keyboard.press("j")
    card = page.locator(f"#{focused(page, 'id')}")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    expect(card.locator(":scope > .number")).to_be_visible()
    expect(card.locator(".text .here")).to_have_count(1)
    page.keyboard.press("Enter")
    expect(page.locator(".moved").first).to_contain_text("of hit 1")
    page.keyboard.press("Escape")
    expect(page.locator(".text .here")).to_have_count(0)


def test_a_span_of_the_answer_is_chosen(page: Page) -> None:
    tab_to(page, "[data-part]")
    page.keyboard.press("Enter")
    pressed = page.locator("details.query").first.locator("[aria-pressed=true]")
    expect(pressed).to_have_count(1)
    page.keyboard.press("Shift+ArrowRight")
    expect(pressed).to_have_count(2)
    page.keyboard.press("Escape")
    expect(pressed).to_have_count(0)


def test_copying_a_citation_is_said(page: Page) -> None:
    page.keyboard.press("j")
    page.keyboard.press("c")
    expect(page.locator(".tools > [role=status]").first).to_have_text("Citation copied.")


def test_what_is_typed_into_a_search_is_no_key(page: Page) -> None:
    page.keyboard.press("/")
    assert focused(page, "type") == "search"
    page.keyboard.type("jock?")
    assert focused(page, "value") == "jock?"
    expect(page.get_by_role("dialog")).to_be_hidden()


def test_help_opens_closes_and_turns_keys_off(page: Page) -> None:
    page.keyboard.press("?")
    expect(page.get_by_role("dialog")).to_be_visible()
    page.keyboard.press("Escape")
    expect(page.get_by_role("dialog")).to_be_hidden()
    page.keyboard.press("?")
    page.get_by_role("button", name="Turn keys off").focus()
    page.keyboard.press("Enter")
    page.keyboard.press("Escape")
    before = focused(page, "outerHTML")
    page.keyboard.press("j")
    assert focused(page, "outerHTML") == before


def test_the_controls_are_reached_and_work(page: Page) -> None:
    tab_to(page, ".overview thead button")
    page.keyboard.press("Space")
    expect(page.locator(".overview th[aria-sort]")).to_have_count(1)
    tab_to(page, ".query select[aria-label=Order]")
    page.keyboard.press("ArrowDown")
    card = page.locator("details.query").first.locator(".panel:visible .card .document").first
    expect(card).to_have_text("proponent-12")
    tab_to(page, ".pick")
    page.keyboard.press("ArrowRight")
    expect(page.locator(".pick:checked").first).not_to_have_value("ekfac")
