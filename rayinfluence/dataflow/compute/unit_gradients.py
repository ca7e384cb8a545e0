"""Gradients of length 1, for methods whose scores do not grow with them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from rayinfluence.dataflow.compute.scoring import QueryGradient
from rayinfluence.influence.contraction import Contraction
from rayinfluence.influence.squares import Squares, per_length
from rayinfluence.model.modules import ModuleShape


def per_norm(query: QueryGradient, shapes: Mapping[str, ModuleShape]) -> float:
    """One over the norm of a query's gradient, of all modules together; zero where that is zero."""
    total = 0.0
    for name, (inputs, grads) in query.tokens.items():
        parts = [(inputs[None], grads[None])]
        squares = Squares(parts, shapes[name].bias)
        Contraction().scores(parts, [], squares)
        total += float(squares.sums_n[0])
    return float(per_length(np.array([total]))[0])


def unit_gradient(query: QueryGradient, shapes: Mapping[str, ModuleShape]) -> QueryGradient:
    """A query's gradient over its norm; zero where it is zero."""
    scale = per_norm(query, shapes)
    tokens = {name: (inputs, grads * scale) for name, (inputs, grads) in query.tokens.items()}
    return replace(query, tokens=tokens)
