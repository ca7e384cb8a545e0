"""Pages in a browser, as a person has them: what goes wrong on one is remembered."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from playwright.sync_api import Browser, BrowserContext, sync_playwright

ROOT = Path(__file__).parents[2]
AXE = ROOT / ".tools" / "axe" / "axe.min.js"
#: Where pictures of pages are put, to be looked at.
SHOTS = ROOT / ".tools" / "shots"

DESK, PHONE = 1400, 390

#: What runs in every page before its own script: what text of others calls for if it runs, and
#: whatever would leave the page.
_TRAPS = """
window.alarms = [];
for (const name of ["alert", "confirm", "prompt", "open"]) window[name] = () => alarms.push(name);
"""

#: Elements that stick out of the window, though nothing around them scrolls or cuts them.
_STICKING_OUT = """() => {
  const wide = document.documentElement.clientWidth;
  const cut = (element) => {
    for (let at = element.parentElement; at; at = at.parentElement) {
      if (getComputedStyle(at).overflowX !== "visible") return true;
    }
    return false;
  };
  return [...document.body.querySelectorAll("*")].filter((element) => {
    const box = element.getBoundingClientRect();
    return box.width && box.height && box.left > -1 && box.right > wide + 1 && !cut(element);
  }).map((element) => element.outerHTML.slice(0, 200));
}"""


def missing() -> str | None:
    """What the tests need and this machine does not have, in a sentence."""
    if executable() is None:
        return "chromium is not on the path: apt-get install chromium (Debian), or set CHROMIUM"
    if not AXE.exists():
        return "axe-core is missing: run `make test-web`, which fetches it into .tools/"
    return None


def executable() -> str | None:
    """The browser that is on this machine; none is ever fetched."""
    named = [os.environ.get("CHROMIUM"), "chromium", "chromium-browser", "google-chrome"]
    return next(filter(None, (shutil.which(name) for name in named if name)), None)


@contextmanager
def running_browser() -> Iterator[Browser]:
    """A browser without a window."""
    # As root, in a container, it has no sandbox to enter.
    sandbox = os.geteuid() != 0
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=executable(), chromium_sandbox=sandbox, args=["--disable-dev-shm-usage"]
        )
        yield browser
        browser.close()


class Visit:
    """A page that is open in a window of its own, and what went wrong on it.

    Attributes:
        page: as playwright has it.
        wrong: errors of scripts, lines of the console, and requests for anything but pages beside
            the first.
    """

    def __init__(self, context: BrowserContext, at: Path, fragment: str = "") -> None:
        self.wrong: list[str] = []
        context.add_init_script(_TRAPS)
        context.on("request", lambda request: self._asked(request.url, at.parent))
        self.page = context.new_page()
        self.page.on("pageerror", lambda error: self.wrong.append(f"error: {error}"))
        self.page.on("console", lambda said: self.wrong.append(f"console: {said.text}"))
        self.page.on("dialog", lambda dialog: self.wrong.append(f"dialog: {dialog.message}"))
        self.page.goto(at.as_uri() + fragment)

    def _asked(self, url: str, folder: Path) -> None:
        if not url.startswith(f"{folder.as_uri()}/") or not re.search(r"\.html(#|$)", url):
            self.wrong.append(f"request: {url}")

    def alarms(self) -> list[str]:
        """What text of others made run."""
        return list(self.page.evaluate("window.alarms"))

    def sticking_out(self) -> list[str]:
        """What makes the page wider than the window, if anything does."""
        page = self.page
        page.evaluate("scrollTo(1e6, scrollY)")
        scrolled = page.evaluate("scrollX")
        page.evaluate("scrollTo(0, scrollY)")
        if not scrolled:
            return []
        return [f"the page scrolls sideways by {scrolled} px", *page.evaluate(_STICKING_OUT)]

    def keep_first(self) -> None:
        """Take all questions but the first from the page: to look at each takes too long."""
        self.page.evaluate(
            "[...document.querySelectorAll('.query ~ .query')].forEach((one) => one.remove())"
        )

    def barriers(self) -> list[str]:
        """What axe-core finds serious or critical, each with the first place where it is."""
        self.page.evaluate(AXE.read_text(encoding="utf-8"))
        run = "axe.run(document, {resultTypes: ['violations']})"
        found: list[dict[str, Any]] = self.page.evaluate(run)["violations"]
        said = []
        for one in found:
            if one["impact"] in ("serious", "critical"):
                first = one["nodes"][0]
                said.append(
                    f"{one['impact']}: {one['id']}, {len(one['nodes'])} times: "
                    f"{first['html'][:200]} ({first['failureSummary'][:300]})"
                )
        return said

    def shoot(self, name: str, *, whole: bool = False) -> Path:
        """Take a picture of what the window shows, or of the whole page."""
        SHOTS.mkdir(parents=True, exist_ok=True)
        path = SHOTS / f"{name}.png"
        self.page.screenshot(path=path, full_page=whole)
        return path
