"""Methods compared: a page in the same style, for the same readers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from browsing import DESK, PHONE, Visit
from made_up_hits import made_up_hits
from playwright.sync_api import expect

from rayinfluence.report.compare import Comparison, Side, comparison_page

Open = Callable[..., Visit]


@pytest.fixture(scope="module")
def comparison(tmp_path_factory: pytest.TempPathFactory) -> Path:
    ekfac, product = made_up_hits().values()
    sides = [Side("A", "runs/one", ekfac), Side("B", "runs/one", product)]
    path = tmp_path_factory.mktemp("comparison") / "comparison.html"
    path.write_text(comparison_page(Comparison.of_sides(sides)), encoding="utf-8")
    return path


@pytest.mark.parametrize("width", [DESK, PHONE])
@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_hits_stand_beside_each_other_for_everybody(
    visit: Open, comparison: Path, width: int, dark: bool
) -> None:
    opened = visit(comparison, width=width, dark=dark)
    page = opened.page
    name = f"comparison-{width}-{'dark' if dark else 'light'}"
    opened.shoot(f"{name}-first")
    fold = page.locator("main details").first
    if fold.get_attribute("open") is None:
        fold.locator("summary").first.click()
    table = fold.locator("table").first
    expect(table).to_be_visible()
    assert opened.sticking_out() == []
    assert opened.barriers() == []
    opened.shoot(f"{name}-unfolded", whole=True)
    head = table.locator("thead th").filter(has=page.get_by_role("button")).first
    head.get_by_role("button").click()
    expect(head).to_have_attribute("aria-sort", "descending")
    ground = "getComputedStyle(document.body).backgroundColor"
    before = page.evaluate(ground)
    page.get_by_role("button", name="Light" if dark else "Dark").click()
    assert page.evaluate(ground) != before
