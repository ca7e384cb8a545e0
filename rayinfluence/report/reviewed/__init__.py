"""Sheets for people, and what they said, for a terminal and as a page."""

from rayinfluence.report.reviewed.grids import reviewed_page, reviewed_parts
from rayinfluence.report.reviewed.sheet import sheet_csv, sheet_page

__all__ = ["reviewed_page", "reviewed_parts", "sheet_csv", "sheet_page"]
