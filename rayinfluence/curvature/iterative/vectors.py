"""Vectors of all tracked weights: matrices [O, J] by module, and their arithmetic.

O output width, J input width, with the bias column. Inner products are summed in float64; the order
of modules is that of their names, in which order ever a vector holds them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

#: [O, J] by module.
Vectors = Mapping[str, Tensor]


def inner(left: Vectors, right: Vectors) -> float:
    """<left, right>."""
    return math.fsum(float((left[name].double() * right[name]).sum()) for name in left)


def norm(vector: Vectors) -> float:
    """The Euclidean norm."""
    return math.sqrt(inner(vector, vector))


def plus(left: Vectors, scale: float, right: Vectors) -> dict[str, Tensor]:
    """A linear combination: left + scale right."""
    return {name: one.add(right[name], alpha=scale) for name, one in left.items()}


def times(scale: float, vector: Vectors) -> dict[str, Tensor]:
    """A multiple."""
    return {name: one * scale for name, one in vector.items()}


def flat(vector: Vectors) -> Tensor:
    """One vector [D] in float64, module after module."""
    return torch.cat([vector[name].flatten().double() for name in sorted(vector)])


def unflat(flat_D: Tensor, like: Vectors) -> dict[str, Tensor]:
    """The inverse of :func:`flat`, with the shapes, dtypes and devices of another vector."""
    parts = flat_D.split([like[name].numel() for name in sorted(like)])
    return {
        name: part.reshape(like[name].shape).to(like[name])
        for name, part in zip(sorted(like), parts, strict=True)
    }


def random_like(vector: Vectors, seed: int, number: int) -> dict[str, Tensor]:
    """Normal numbers that depend on (seed, number) and the shapes alone."""
    size = sum(one.numel() for one in vector.values())
    drawn = np.random.Generator(np.random.Philox(key=[seed, number])).standard_normal(size)
    return unflat(torch.from_numpy(drawn), vector)
