"""Methods measured: a page in the same style, for the same readers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from browsing import DESK, PHONE, Visit
from measured_methods import FOUND
from playwright.sync_api import expect

from rayinfluence.report.evaluated import evaluation_page

Open = Callable[..., Visit]


@pytest.mark.parametrize("width", [DESK, PHONE])
@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_methods_stand_beside_each_other_for_everybody(
    visit: Open, tmp_path: Path, width: int, dark: bool
) -> None:
    path = tmp_path / "evaluation.html"
    path.write_text(evaluation_page(FOUND), encoding="utf-8")
    opened = visit(path, width=width, dark=dark)
    page = opened.page
    expect(page.get_by_role("heading", level=1)).to_be_visible()
    expect(page.locator("main table").first).to_be_visible()
    assert page.locator("svg.drawing").count() == 2
    assert opened.sticking_out() == []
    assert opened.barriers() == []
    opened.shoot(f"evaluation-{width}-{'dark' if dark else 'light'}", whole=True)
