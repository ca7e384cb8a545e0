"""The methods that there are, by the names that a configuration has for them."""

from __future__ import annotations

from collections.abc import Mapping

from rayinfluence.methods.bm25 import BM25
from rayinfluence.methods.influence import EkfacInfluence, KfacInfluence
from rayinfluence.methods.likeness import Cosine, GradientProduct
from rayinfluence.methods.method import GradientMethod, Method, TextMethod

#: Those that read gradients.
GRADIENT_METHODS: Mapping[str, GradientMethod] = {
    "ekfac": EkfacInfluence(),
    "kfac": KfacInfluence(),
    "gradient_product": GradientProduct(),
    "cosine": Cosine(),
}
#: Those that read texts alone.
TEXT_METHODS: Mapping[str, TextMethod] = {"bm25": BM25()}
METHODS: Mapping[str, Method] = {**GRADIENT_METHODS, **TEXT_METHODS}


def has_token_influences(method: str) -> bool:
    """Whether a score is a derivative of the sequence's log-probability, and so has parts of it."""
    return method in GRADIENT_METHODS and not GRADIENT_METHODS[method].normalised


def needs_factors(method: str) -> bool:
    """Whether a method needs the factors to be fitted."""
    return method in GRADIENT_METHODS and GRADIENT_METHODS[method].needs_factors
