"""Findings of an article, asked of the results of a run; docs/findings.md says what each is.

It computes on results alone: no model is loaded, and nothing of the corpus is read.
"""

from rayinfluence.analysis.layers import Layers, analyse_layers
from rayinfluence.analysis.tail_values import Tails
from rayinfluence.analysis.tails import analyse_tails

__all__ = ["Layers", "Tails", "analyse_layers", "analyse_tails"]
