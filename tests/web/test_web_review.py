"""A sheet that people fill in, in a browser: by keys alone, and what comes back from it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from browsing import DESK, PHONE, Visit
from made_up_results import make_results, query, row
from playwright.sync_api import expect

from rayinfluence.analysis.reviewed import Drawn, Review, chosen, read_sheet
from rayinfluence.report.reviewed import sheet_page

Open = Callable[..., Visit]
HOSTILE = "</script><img src=x onerror=alert(1)>"
#: The page gives a file; it is looked at instead.
_CAUGHT = "URL.createObjectURL = (blob) => { window.caught = blob; return '#'; }"


def review_of(topics: tuple[str, ...]) -> Review:
    made = make_results([row("q", n, token_texts=[f"{HOSTILE} {n}"]) for n in (1, 2)], [query("q")])
    asked = {"q": ("What is it?", " It is this.")}
    return chosen({"ekfac": made}, asked, 2, {"q": [Drawn(1, "at random " * 60)]}, topics, 0)


def written(review: Review, folder: Path) -> Path:
    path = folder / "sheet.html"
    path.write_text(sheet_page(review), encoding="utf-8")
    return path


@pytest.mark.parametrize("width", [DESK, PHONE])
@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_a_sheet_is_filled_in_by_keys(visit: Open, tmp_path: Path, width: int, dark: bool) -> None:
    review = review_of(("a topic", "another"))
    opened = visit(written(review, tmp_path), width=width, dark=dark)
    page = opened.page
    assert opened.sticking_out() == []
    assert opened.barriers() == []
    opened.shoot(f"review-{width}-{'dark' if dark else 'light'}", whole=True)
    page.evaluate(_CAUGHT)
    page.locator("#download").click()
    expect(page.locator("#progress")).to_have_text("Write your name first.")
    expect(page.locator("#rater")).to_be_focused()
    page.keyboard.type('Ada "A"')
    page.locator("#next").press("Enter")
    for place in range(3):
        page.keyboard.press("Space")  # a topic
        page.keyboard.press("Tab")
        page.keyboard.press("Space")
        page.keyboard.press("ArrowDown")  # how it relates
        expect(page.locator("#progress")).to_have_text(f"{place + 1} of 3 answered")
        page.keyboard.press("Tab")
    page.locator("#download").press("Enter")
    text = page.evaluate("window.caught.text()")
    sheet = read_sheet("a.csv", text.encode(), review)
    assert sheet.rater == 'Ada "A"'
    assert dict(sheet.about) == dict.fromkeys(("1", "2", "3"), "a topic")
    assert dict(sheet.relates) == dict.fromkeys(("1", "2", "3"), "topic")


def test_free_answers_come_back_as_text(visit: Open, tmp_path: Path) -> None:
    review = review_of(())
    page = visit(written(review, tmp_path)).page
    page.evaluate(_CAUGHT)
    page.locator("#rater").fill("Bo")
    page.locator(".about input").first.fill("=1+1, a sum")
    expect(page.locator("#progress")).to_have_text("0 of 3 answered")
    page.locator("#download").click()
    sheet = read_sheet("a.csv", page.evaluate("window.caught.text()").encode(), review)
    assert dict(sheet.about) == {"1": "'=1+1, a sum"}
    assert dict(sheet.relates) == {}
