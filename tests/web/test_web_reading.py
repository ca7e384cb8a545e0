"""What a reader does with the hits of a question: choose, search, sort, unfold, cite."""

from __future__ import annotations

import base64
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from browsing import Visit
from playwright.sync_api import Locator, Page, expect

Open = Callable[..., Visit]


@pytest.fixture
def page(visit: Open, made_up: Path) -> Page:
    return visit(made_up).page


def first_query(page: Page) -> Locator:
    return page.locator("details.query").first


def shown_documents(query: Locator) -> list[str]:
    """The documents of the hits that are seen, near copies apart, in their order."""
    cards = query.locator(".panel:visible .side > ol > .card:visible > .origin > .document")
    return cards.all_text_contents()


def sums(card: Locator) -> list[float]:
    """A hit's score by part of the answer, as the page has them."""
    return [float(one) for one in (card.get_attribute("data-sums") or "").split(",")]


def test_a_part_of_the_answer_colours_the_hits_by_what_it_alone_comes_from(page: Page) -> None:
    query = first_query(page)
    card = query.locator(".card[data-pairs]:visible").first
    before = card.locator(":scope > .text").inner_html()
    parts = query.locator("[data-part]")
    parts.nth(0).click()
    expect(parts.nth(0)).to_have_attribute("aria-pressed", "true")
    expect(parts.nth(1)).to_have_attribute("aria-pressed", "false")
    expect(query.locator(".moved")).to_contain_text("“Bel” alone")
    score = card.locator(":scope > .head > .part-score")
    alone = score.inner_text()
    assert float(alone.replace(",", "").split()[-1]) == pytest.approx(sums(card)[0], rel=0.01)
    steps = np.frombuffer(base64.b64decode(card.get_attribute("data-pairs") or ""), np.int8)
    first = steps.reshape(len(sums(card)), -1)[0]
    most = int(np.abs(first).argmax())
    token = card.locator(":scope > .text > b").nth(most)
    assert token.get_attribute("class") == ("p8" if first[most] > 0 else "n8")
    # A span: the sums are those of both parts, which is the score by token once more.
    parts.nth(1).click(modifiers=["Shift"])
    expect(query.locator("[aria-pressed=true]")).to_have_count(2)
    expect(score).not_to_have_text(alone)  # a hit out of sight is painted a moment later
    both = float(score.inner_text().replace(",", "").split()[-1])
    assert both == pytest.approx(sum(sums(card)), rel=0.01, abs=0.01)
    page.keyboard.press("Escape")
    expect(query.locator(".part-score")).to_have_count(0)
    assert re.sub("<[^>]*>", "", card.locator(":scope > .text").inner_html()) == re.sub(
        "<[^>]*>", "", before
    )


def test_hits_are_sorted_by_the_part_that_is_chosen(page: Page) -> None:
    query = first_query(page)
    query.locator("[data-part]").nth(1).click()
    query.get_by_label("Order").select_option("part")
    cards = query.locator(".panel:visible .proponents > ol > .card[data-sums]")
    scores = [abs(sums(card)[1]) for card in cards.all()]
    assert len(scores) >= 3
    assert scores == sorted(scores, reverse=True)


def test_a_training_token_shows_what_it_moved_in_the_answer(page: Page) -> None:
    query = first_query(page)
    card = query.locator(".card[data-pairs]:visible").first
    card.locator(":scope > .text").click(position={"x": 60, "y": 12})
    expect(card.locator(":scope > .text .here")).to_have_count(1)
    expect(query.locator(".moved")).to_contain_text("of hit 1")
    place = card.locator(":scope > .text > b").evaluate_all(
        "tokens => tokens.findIndex((token) => token.classList.contains('here'))"
    )
    steps = np.frombuffer(base64.b64decode(card.get_attribute("data-pairs") or ""), np.int8)
    moved = steps.reshape(len(sums(card)), -1)[:, place]
    most = query.locator("[data-part]").nth(int(np.abs(moved).argmax()))
    assert most.get_attribute("class") == ("p8" if moved[np.abs(moved).argmax()] > 0 else "n8")
    expect(card.locator(":scope > .number")).to_be_visible()


def test_a_permalink_leads_to_its_hit_and_unfolds_what_is_around_it(
    visit: Open, made_up: Path
) -> None:
    page = visit(made_up).page
    query = page.locator("details.query").last
    other = query.locator(".panel").last.locator(".card").nth(2)
    link = other.locator(":scope > .head > .rank").get_attribute("href")
    assert link is not None
    there = visit(made_up, link).page
    target = there.locator(link)
    expect(target).to_be_visible()
    expect(target).to_be_in_viewport()
    expect(target).to_be_focused()
    # The other way to it: the link of the hit itself.
    own = target.locator(":scope > .head > .rank")
    own.click()
    assert there.url.endswith(link)


def test_a_citation_is_copied_as_it_stands(visit: Open, made_up: Path) -> None:
    page = visit(made_up).page
    page.evaluate(
        "Object.defineProperty(navigator, 'clipboard', "
        "{value: {writeText: async (text) => (window.copied = text)}})"
    )
    card = first_query(page).locator(".card:visible").first
    card.locator(":scope > .foot > .more > summary").click()
    card.get_by_role("button", name="Copy").first.click()
    expect(card.get_by_role("button", name="Copied")).to_be_visible()
    copied = page.evaluate("window.copied")
    assert copied.startswith("proponent-1 in books.jsonl, row 1, characters 0 to 12; proponent 1")
    assert "query capital" in copied
    assert copied == card.locator(".citation").first.evaluate("one => one.firstChild.data")


def test_where_there_is_no_clipboard_a_citation_is_copied_too(page: Page) -> None:
    """As on pages that are opened from a disk in some browsers."""
    page.evaluate(
        "Object.defineProperty(navigator, 'clipboard', {value: undefined});"
        "document.execCommand = (what) => "
        "(window.copied = `${what} ${document.activeElement.value}`)"
    )
    first_query(page).locator(".card:visible").first.focus()
    page.keyboard.press("c")
    assert page.evaluate("window.copied").startswith("copy proponent-1 in books.jsonl")


def test_search_source_and_flag_choose_among_the_hits(page: Page) -> None:
    query = first_query(page)
    everything = shown_documents(query)
    assert len(everything) == 20  # of 24, two a side are near copies of others
    query.get_by_label("From", exact=True).select_option(label="wiki")
    chosen = shown_documents(query)
    assert chosen
    assert all(int(one.split("-")[1]) % 3 == 2 or one.endswith(("-1", "-2")) for one in chosen)
    expect(query.get_by_role("status").filter(has_text="shown")).to_contain_text("hits of 24 shown")
    query.get_by_label("From", exact=True).select_option(label="from anywhere")
    query.get_by_label("Flags").select_option("suspect")
    assert shown_documents(query) == ["proponent-2", "opponent-2"]
    query.get_by_label("Which side").select_option("opponents")
    assert shown_documents(query) == ["opponent-2"]
    query.get_by_label("Which side").select_option("")
    query.get_by_label("Flags").select_option("")
    query.get_by_label("Search the hits of this question").fill("OPPONENT-7")
    assert shown_documents(query) == ["opponent-7"]
    query.get_by_label("Search the hits of this question").fill("")
    assert shown_documents(query) == everything


def test_hits_are_sorted_by_scan_and_back(page: Page) -> None:
    query = first_query(page)
    before = shown_documents(query)
    query.get_by_label("Order").select_option("scan")
    after = shown_documents(query)
    assert sorted(after) == sorted(before)
    assert after[0] == "proponent-12"
    assert after[1] == "proponent-11"
    query.get_by_label("Order").select_option("place")
    assert shown_documents(query) == before


def test_near_copies_are_folded_and_unfold(page: Page) -> None:
    card = first_query(page).locator(".card:visible").first
    copies = card.locator(":scope > .copies")
    expect(copies.locator(".card")).to_be_hidden()
    copies.get_by_text("and 1 near copy").click()
    expect(copies.locator(".card .document")).to_have_text("proponent-4")
    expect(copies.locator(".card")).to_be_visible()


def test_search_over_all_questions_and_the_table_of_them(page: Page) -> None:
    search = page.get_by_label("Search questions, hits, documents")
    search.fill("river of Tresk is")
    expect(page.locator("details.query:visible")).to_have_count(1)
    search.fill("nowhere to be found")
    expect(page.locator("details.query:visible")).to_have_count(0)
    search.fill("")
    expect(page.locator("details.query:visible")).to_have_count(2)
    table = page.locator(".overview table.sortable").first
    heads = table.locator("thead th")
    heads.first.get_by_role("button").click()
    expect(heads.first).to_have_attribute("aria-sort", "descending")
    rows = table.locator("tbody tr th")
    down = rows.all_text_contents()
    heads.first.get_by_role("button").click()
    assert rows.all_text_contents() == down[::-1]


def test_a_method_chosen_for_one_question_is_chosen_for_all(page: Page) -> None:
    for query in page.locator("details.query").all():
        if query.get_attribute("open") is None:
            query.locator("summary").first.click()
    first_query(page).locator(".pick + label").last.click()
    picked = page.locator(".pick:checked").evaluate_all("picks => picks.map((one) => one.value)")
    assert len(picked) == 2
    assert len(set(picked)) == 1


def test_bars_of_groups_choose_the_hits_of_a_group(page: Page) -> None:
    query = first_query(page)
    bar = query.locator('.panel:visible .mark[data-value="wiki"]').first
    if not bar.is_visible():
        for fold in query.locator("details:not([open])").filter(has=bar).all():
            fold.locator("summary").first.click()
    before = shown_documents(query)
    bar.scroll_into_view_if_needed()
    bar.hover()
    expect(query.locator(".read-out").filter(has_text="wiki").first).to_be_visible()
    bar.click()
    assert 0 < len(shown_documents(query)) < len(before)
    bar.click()
    assert shown_documents(query) == before


def test_the_theme_is_switched_and_switched_back(page: Page) -> None:
    ground = "getComputedStyle(document.body).backgroundColor"
    light = page.evaluate(ground)
    page.get_by_role("button", name="Dark").click()
    assert page.evaluate(ground) != light
    page.get_by_role("button", name="Light").click()
    assert page.evaluate(ground) == light
