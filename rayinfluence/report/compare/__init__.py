"""Results beside each other: models, checkpoints, settings, methods, or two completions."""

from rayinfluence.report.compare.comparison import SHOWN, Comparison
from rayinfluence.report.compare.page import comparison_page
from rayinfluence.report.compare.sides import Side
from rayinfluence.report.compare.terminal import comparison_parts

__all__ = ["SHOWN", "Comparison", "Side", "comparison_page", "comparison_parts"]
