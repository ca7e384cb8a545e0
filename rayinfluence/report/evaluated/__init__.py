"""Methods beside each other, by what was measured of them: for a terminal, and as a page."""

from rayinfluence.report.evaluated.page import evaluation_page
from rayinfluence.report.evaluated.terminal import evaluation_parts

__all__ = ["evaluation_page", "evaluation_parts"]
