"""Findings of a run, for a terminal and as a page."""

from rayinfluence.report.analysed.figures import figures
from rayinfluence.report.analysed.page import analysis_page, analysis_parts

__all__ = ["analysis_page", "analysis_parts", "figures"]
