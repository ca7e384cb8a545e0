"""How reports look: on a desk and on a telephone, in light and dark, and on paper."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from browsing import DESK, PHONE, Visit
from playwright.sync_api import expect

Open = Callable[..., Visit]

WIDTHS = pytest.mark.parametrize("width", [DESK, PHONE])
THEMES = pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
REPORTS = pytest.mark.parametrize("which", ["demo", "made_up"])


@WIDTHS
@THEMES
@REPORTS
def test_nothing_sticks_out_and_nobody_is_kept_out(
    which: str, width: int, dark: bool, visit: Open, request: pytest.FixtureRequest
) -> None:
    """As it is opened, with a part of the answer chosen, and with a whole question unfolded."""
    opened = visit(request.getfixturevalue(which), width=width, dark=dark)
    name = f"{which}-{width}-{'dark' if dark else 'light'}"
    opened.shoot(f"{name}-first")
    assert opened.sticking_out() == []
    opened.keep_first()
    assert opened.barriers() == []
    query = opened.page.locator("details.query").first
    # Answers of a single token, as the demo's are at this size, have no parts to choose.
    if which == "made_up":
        query.locator("[data-part]").first.click()
    query.evaluate("query => query.scrollIntoView()")
    opened.shoot(f"{name}-chosen")
    query.evaluate(
        "query => query.querySelectorAll('details').forEach((fold) => (fold.open = true))"
    )
    assert opened.sticking_out() == []
    assert opened.barriers() == []
    opened.shoot(f"{name}-unfolded", whole=True)


@THEMES
@REPORTS
def test_paper_has_all_of_it_in_light(
    which: str, dark: bool, visit: Open, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    opened = visit(request.getfixturevalue(which), dark=dark)
    page = opened.page
    opened.keep_first()  # hundreds of sheets of paper take minutes
    page.emulate_media(media="print")
    assert page.evaluate("getComputedStyle(document.documentElement).colorScheme") == "light"
    expect(page.get_by_role("button", name="Keys")).to_be_hidden()
    page.evaluate("dispatchEvent(new Event('beforeprint'))")
    assert page.locator("details:not([open])").count() == 0
    assert opened.sticking_out() == []
    page.evaluate("dispatchEvent(new Event('afterprint'))")
    printed = page.pdf(prefer_css_page_size=True)
    assert printed.startswith(b"%PDF")
    assert len(printed) > 20_000


def test_one_question_is_printed_alone(visit: Open, made_up: Path) -> None:
    page = visit(made_up).page
    page.evaluate("window.print = () => (window.printed = document.body.className)")
    page.get_by_role("button", name="Print this question").first.click()
    assert page.evaluate("window.printed") == "one-query"
    page.emulate_media(media="print")
    expect(page.locator("details.query").first).to_be_visible()
    expect(page.locator("details.query").last).to_be_hidden()
    expect(page.locator("header")).to_be_hidden()
    page.evaluate("dispatchEvent(new Event('afterprint'))")
    expect(page.locator("details.query").last).to_be_visible()


def test_without_script_it_is_all_there(browser, demo: Path) -> None:  # type: ignore[no-untyped-def]
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(demo.as_uri())
    expect(page.locator(".card").first).to_be_visible()
    query = page.locator("details.query").last
    query.locator("summary").first.click()
    expect(query.locator(".question")).to_be_visible()
    label = query.locator(".pick + label").last
    label.click()
    expect(label.locator("xpath=following-sibling::*[1]")).to_be_visible()
    context.close()
