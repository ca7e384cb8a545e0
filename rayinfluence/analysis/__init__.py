"""Findings of an article, asked of the results of a run; docs/findings.md says what each is.

It computes on results alone: no model is loaded, and nothing of the corpus is read.
"""

from rayinfluence.analysis.copies import Copies, analyse_copies
from rayinfluence.analysis.layer_values import Layers
from rayinfluence.analysis.layers import analyse_layers
from rayinfluence.analysis.tail_values import Tails
from rayinfluence.analysis.tails import analyse_tails

__all__ = ["Copies", "Layers", "Tails", "analyse_copies", "analyse_layers", "analyse_tails"]
