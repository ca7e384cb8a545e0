"""What groups of sequences are worth: for a terminal, as a page, and in a run's report."""

from rayinfluence.report.valued.page import valued_page
from rayinfluence.report.valued.section import valued_section
from rayinfluence.report.valued.terminal import valued_parts

__all__ = ["valued_page", "valued_parts", "valued_section"]
