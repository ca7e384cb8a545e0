"""Reports for people: tables for the terminal and self-contained HTML pages.

Both read `Results` and nothing else. Positive scores are proponents (training on the sequence
makes the completion more likely), negative scores opponents; `delta_nats` is the score divided by
the number of training sequences. Everything that comes from a corpus, a query or a manifest is
shown as data: it cannot become markup in the page, nor a style or escape sequence in the terminal.
"""

from __future__ import annotations

from rayinfluence.guest import as_found

with as_found():
    from rayinfluence.report.glance import effect_parts, overview_parts
    from rayinfluence.report.overview import Overview
    from rayinfluence.report.page import render_page, render_report
    from rayinfluence.report.probed import probed_parts
    from rayinfluence.report.spreadsheet import effects_csv, survivors_csv
    from rayinfluence.report.terminal import hits, of_all, render

__all__ = [
    "Overview",
    "effect_parts",
    "effects_csv",
    "hits",
    "of_all",
    "overview_parts",
    "probed_parts",
    "render",
    "render_page",
    "render_report",
    "survivors_csv",
]
