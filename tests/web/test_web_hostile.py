"""The report of a run whose texts are an attacker's: nothing runs, nothing leaves its box."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest
from browsing import DESK, PHONE, Visit
from hostile_run import hostile_run

from rayinfluence.cli.showing import write_report
from rayinfluence.dataflow.layout import REPORT
from rayinfluence.dataflow.run import Run

Open = Callable[..., Visit]

#: Whatever would be there if markup in a text were markup, and attributes that run.
INJECTED = """() => [...document.querySelectorAll(
  'img, iframe, form[action], base, link, object, embed, [srcdoc], [autofocus], ' +
  '[style]:not([style=""]), a[href^="javascript"]'
)].map((one) => one.outerHTML).concat(
  [...document.querySelectorAll('*')].flatMap((one) =>
    [...one.attributes].filter((attribute) => attribute.name.startsWith('on'))
      .map((attribute) => attribute.name)))"""

#: Texts that stand outside of the card or the box that they are of.
ESCAPED = """() => {
  const found = [];
  const cards = [...document.querySelectorAll('.card')];
  for (const card of cards) card.style.contentVisibility = 'visible'; // all are laid out
  const boxes = '.card, .question, .overview, header, .query > summary';
  const texts = '.text, .origin, .head, .teaser, bdi, dd, dt, h1, h2, td, th';
  for (const box of document.querySelectorAll(boxes)) {
    if (!box.checkVisibility()) continue;
    const outer = box.getBoundingClientRect();
    for (const one of box.querySelectorAll(texts)) {
      const inner = one.getBoundingClientRect();
      if (!one.checkVisibility() || one.parentElement.closest('.scroll, .teaser')) continue;
      if (inner.left < outer.left - 1 || inner.right > outer.right + 1 ||
          inner.top < outer.top - 1 || inner.bottom > outer.bottom + 1) {
        const text = one.textContent.slice(0, 60);
        found.push(`${one.tagName}.${one.className} of ${box.className}: ${text}`);
      }
    }
  }
  for (const card of cards) card.removeAttribute('style');
  return found;
}"""


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("hostile")
    config = hostile_run(folder)
    with Run(config) as run:
        write_report(run.store, run.all())
    return Path(config.run) / REPORT


@pytest.mark.parametrize("width", [DESK, PHONE])
def test_nothing_runs_and_nothing_leaves_its_box(visit: Open, hostile: Path, width: int) -> None:
    """Whichever way it is looked at; the fixture ends with what ran or was asked for: nothing."""
    opened = visit(hostile, width=width)
    page = opened.page
    opened.shoot(f"hostile-{width}-first")
    for query in page.locator("details.query").all():
        query.evaluate("query => (query.open = true)")
    page.evaluate(
        "document.querySelectorAll('.query:first-of-type details')"
        ".forEach((one) => (one.open = true))"
    )
    assert page.evaluate(INJECTED) == []
    assert page.evaluate(ESCAPED) == []
    assert opened.sticking_out() == []
    parts = page.locator("details.query").nth(1).locator("[data-part]")
    parts.first.click()
    page.get_by_label("Search questions, hits, documents").fill("<img src=x onerror=alert(9)>")
    page.get_by_label("Search questions, hits, documents").fill("")
    page.keyboard.press("Escape")
    for query in page.locator("details.query").all()[:3]:
        for card in query.locator(".card:visible").all()[:2]:
            card.locator(":scope > .text").first.click()
        where = query.get_by_label("From", exact=True)
        for option in where.locator("option").all()[:4] if where.is_visible() else []:
            where.select_option(value=option.get_attribute("value"))
    assert page.evaluate(INJECTED) == []
    assert page.evaluate(ESCAPED) == []
    assert opened.sticking_out() == []
    opened.keep_first()
    opened.shoot(f"hostile-{width}-unfolded", whole=True)


def test_a_page_shows_no_character_that_acts(visit: Open, hostile: Path) -> None:
    text = visit(hostile).page.locator("body").inner_text()
    assert "\u202e" not in text
    assert "[U+202E]" in text
    assert not re.search("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]", text)


def test_its_bytes_are_those_of_a_page(hostile: Path) -> None:
    """A word of 10 MB does not make it large."""
    assert hostile.stat().st_size < 15_000_000
