"""Findings of an article, asked of the results of runs; docs/findings.md says what each is.

It computes on results alone: no model is loaded, and nothing of the corpus is read. Scores of texts
that are in no corpus are given to it.
"""

from rayinfluence.analysis.copies import Copies, analyse_copies
from rayinfluence.analysis.every import Every, One, ask_all, kind_of
from rayinfluence.analysis.layer_values import Layers
from rayinfluence.analysis.layers import analyse_layers
from rayinfluence.analysis.order import analyse_order
from rayinfluence.analysis.order_values import Order, Scored
from rayinfluence.analysis.scale import analyse_scale
from rayinfluence.analysis.scale_values import Scale, Sized
from rayinfluence.analysis.tail_values import Tails
from rayinfluence.analysis.tails import analyse_tails

__all__ = [
    "Copies",
    "Every",
    "Layers",
    "One",
    "Order",
    "Scale",
    "Scored",
    "Sized",
    "Tails",
    "analyse_copies",
    "analyse_layers",
    "analyse_order",
    "analyse_scale",
    "analyse_tails",
    "ask_all",
    "kind_of",
]
