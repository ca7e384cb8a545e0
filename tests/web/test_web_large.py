"""200 questions with 100 hits each: pages are small, and how fast they are is written down."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from browsing import SHOTS, Visit
from made_up_hits import many_hits, written

Open = Callable[..., Visit]

LARGEST = 15_000_000

#: Does something, and says after how many ms what it did was drawn.
DRAWN = """async (does) => {
  const start = performance.now();
  new Function(does)();
  await new Promise((done) => requestAnimationFrame(() => setTimeout(done)));
  return performance.now() - start;
}"""

FOUND = "document.querySelector('.query .tools input')"
INTERACTIONS = {
    "search": f"{FOUND}.value = 'river'; {FOUND}.dispatchEvent(new Event('input'))",
    "sort": "const order = document.querySelector('[aria-label=Order]');"
    "order.value = 'scan'; order.dispatchEvent(new Event('input'))",
    "span": "document.querySelector('[data-part]').dispatchEvent(new Event('pointerdown'))",
    "next hit": "document.dispatchEvent(new KeyboardEvent('keydown', {key: 'j', bubbles: true}))",
    "theme": "[...document.querySelectorAll('.tools > button')].at(-2).click()",
}


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Hits of 100 tokens, on a page for each question."""
    results = many_hits(n_queries=200, per_side=50, n_tokens=100)
    return written(results, tmp_path_factory.mktemp("many"), per_side=50)


def measured(visit: Open, path: Path) -> tuple[Visit, dict[str, Any]]:
    start = time.perf_counter()
    opened = visit(path)
    opened.page.evaluate("new Promise((done) => requestAnimationFrame(() => setTimeout(done)))")
    first_view = time.perf_counter() - start
    return opened, {"bytes": path.stat().st_size, "first_view_ms": round(1000 * first_view)}


def test_pages_of_many_hits_are_small_and_how_fast_they_are_is_told(
    visit: Open, many: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pages = sorted((many.parent / "report").glob("*.html"))
    assert len(pages) == 200
    assert max(path.stat().st_size for path in [many, *pages]) < LARGEST
    index, of_index = measured(visit, many)
    assert index.page.locator(".overview tbody tr th a").count() >= 200
    search = "const one = document.querySelector('.tools input'); one.value = 'question-17';"
    of_index["search"] = index.page.evaluate(
        DRAWN, f"{search} one.dispatchEvent(new Event('input'))"
    )
    of_index["sort"] = index.page.evaluate(
        DRAWN, "document.querySelector('.overview thead button').click()"
    )
    opened, of_query = measured(visit, pages[0])
    assert opened.page.locator(".card").count() == 100
    for name, does in INTERACTIONS.items():
        of_query[name] = opened.page.evaluate(DRAWN, does)
    figures = {"index": of_index, "question": of_query, "unit": "ms, but for bytes"}
    SHOTS.mkdir(parents=True, exist_ok=True)
    (SHOTS / "large.json").write_text(json.dumps(figures, indent=1) + "\n")
    with capsys.disabled():
        print(f"\n200 questions x 100 hits: {json.dumps(figures)}")


def test_hits_that_are_too_heavy_for_one_page_have_several(tmp_path: Path) -> None:
    """As few as one page may have, but nearly all of their tokens are coloured."""
    path = written(many_hits(n_queries=150, per_side=10, n_tokens=200), tmp_path, per_side=10)
    pages = list((tmp_path / "report").glob("*.html"))
    assert len(pages) == 150
    assert max(one.stat().st_size for one in [path, *pages]) < LARGEST


def test_from_all_questions_to_one_and_back(visit: Open, many: Path) -> None:
    index = visit(many)
    assert index.sticking_out() == []
    assert index.barriers() == []
    index.shoot("many-index")
    link = index.page.locator(".overview tbody tr th a").nth(3)
    link.click()
    index.page.wait_for_url("**/report/*.html*")
    assert index.page.locator("details.query[open]").count() == 1
    assert index.sticking_out() == []
    assert index.barriers() == []
    index.shoot("many-question")
    index.page.get_by_role("link", name="All questions").click()
    index.page.wait_for_url("**/report.html*")
