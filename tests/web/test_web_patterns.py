"""Influence patterns: their page in the report's style, for the same readers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from browsing import DESK, PHONE, Visit
from made_up_patterns import FOUND
from playwright.sync_api import expect

from rayinfluence.patterns.page import patterns_page

Open = Callable[..., Visit]


@pytest.fixture(scope="module")
def patterns(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("patterns") / "patterns.html"
    path.write_text(patterns_page(FOUND), encoding="utf-8")
    return path


@pytest.mark.parametrize("width", [DESK, PHONE])
@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_paths_are_seen_and_told(visit: Open, patterns: Path, width: int, dark: bool) -> None:
    opened = visit(patterns, width=width, dark=dark)
    page = opened.page
    assert opened.sticking_out() == []
    assert opened.barriers() == []
    opened.shoot(f"patterns-{width}-{'dark' if dark else 'light'}", whole=True)
    picture = page.locator("figure.of-pattern")
    expect(picture.locator("svg.drawing")).to_be_visible()
    picture.locator("[tabindex='0'].mark").first.focus()
    expect(picture.locator(".read-out")).to_contain_text("by head 0")
    picture.locator("summary").click()
    expect(picture.locator("table")).to_be_visible()
