"""Reports in a browser: that of the demo, and large ones of results that are made up."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from browsing import DESK, Visit, missing, running_browser
from made_up_hits import made_up_hits, written
from playwright.sync_api import Browser

from rayinfluence.cli.showing import write_report
from rayinfluence.dataflow.layout import REPORT
from rayinfluence.demo.run import SMALL, run_demo

Open = Callable[..., Visit]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """All that is here is in a browser; the first test waits for the demo, which trains a model."""
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.web)
            item.add_marker(pytest.mark.timeout(900))


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """The browser of this machine."""
    if lacks := missing():
        pytest.fail(lacks)
    with running_browser() as made:
        yield made


@pytest.fixture
def visit(browser: Browser) -> Iterator[Open]:
    """Opens a page; at the end nothing may have gone wrong on any of them."""
    contexts, visits = [], []

    def opened(at: Path, fragment: str = "", width: int = DESK, dark: bool = False) -> Visit:
        context = browser.new_context(
            viewport={"width": width, "height": 900},
            color_scheme="dark" if dark else "light",
            accept_downloads=False,
        )
        context.set_default_timeout(20_000)
        contexts.append(context)
        visits.append(Visit(context, at, fragment))
        return visits[-1]

    yield opened
    assert [one.wrong for one in visits if one.wrong] == []
    assert [one.alarms() for one in visits if one.alarms()] == []
    for context in contexts:
        context.close()


@pytest.fixture(scope="session")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The report of the demo at its smallest."""
    folder = tmp_path_factory.mktemp("demo")
    outcome = run_demo(folder, "inline", size=SMALL)
    write_report(outcome.store, outcome.results)
    return Path(outcome.store.url) / REPORT


@pytest.fixture(scope="session")
def made_up(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A question whose hits are of all kinds: sources, flags, near copies, two methods."""
    return written(made_up_hits(), tmp_path_factory.mktemp("made-up"))
