"""Families of models are held against the references of the numeric suite; docs/models.md is kept.

It is written when all families were tried and nothing failed.
"""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "numerics"))
sys.path.insert(0, str(Path(__file__).parent))

_rows: dict[str, dict] = {}


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Keep the row that a family's test made, in whatever process it ran."""
    if report.when == "call" and report.passed:
        _rows.update((row["family"], row) for key, row in report.user_properties if key == "row")


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    """Write the page, in the order of the families."""
    from families import FAMILIES
    from rows import FILE, written

    names = [family.name for family in FAMILIES]
    in_a_worker = hasattr(session.config, "workerinput")
    if exitstatus == 0 and not in_a_worker and _rows.keys() == set(names):
        FILE.write_text(written({name: _rows[name] for name in names}), "utf-8")
