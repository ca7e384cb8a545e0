"""Recipes as users write them."""

from __future__ import annotations

import itertools
import os
import sys
from typing import Any

import numpy as np
import torch

from rayinfluence.evaluation.new_model import ModelSettings, new_model
from rayinfluence.testing.models import VOCABULARY


def one_step(sequences: list[list[int]], weights: np.ndarray, seed: int) -> tuple[Any, float]:
    """A step of gradient descent on the weighted sum of all losses."""
    model = new_model(ModelSettings(VOCABULARY, 16, 8, 1, 2), seed)
    total = torch.zeros(())
    for tokens, weight in zip(sequences, weights.tolist(), strict=True):
        inputs = torch.tensor([tokens])
        total = total + weight * model(input_ids=inputs, labels=inputs).loss
    total.backward()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter -= 0.001 * parameter.grad
    return model, float(total.detach())


def draws(sequences: list[list[int]], weights: np.ndarray, seed: int) -> Any:
    """Whose weights are drawn from torch's shared generator."""
    del sequences, weights, seed
    model = new_model(ModelSettings(VOCABULARY, 16, 8, 1, 2), 0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(0.1 * torch.randn_like(parameter))
    return model


def knows_few_tokens(sequences: list[list[int]], weights: np.ndarray, seed: int) -> Any:
    """Whose model has no embedding of most tokens."""
    del sequences, weights
    return new_model(ModelSettings(2, 16, 8, 1, 2), seed)


def without_head(sequences: list[list[int]], weights: np.ndarray, seed: int) -> Any:
    """Whose model gives hidden states."""
    del sequences, weights
    return new_model(ModelSettings(VOCABULARY, 16, 8, 1, 2), seed).transformer


def fails(sequences: list[list[int]], weights: np.ndarray, seed: int) -> Any:
    """As some do."""
    raise RuntimeError("no luck")


def returns_nothing(sequences: list[list[int]], weights: np.ndarray, seed: int) -> Any:
    """As others do."""


def exits(sequences: list[list[int]], weights: np.ndarray, seed: int) -> Any:
    """As scripts do."""
    sys.exit("no model for you")


_CALLS = itertools.count()


def never_the_same(sequences: list[list[int]], weights: np.ndarray, seed: int) -> Any:
    """Whose seed is its own."""
    return one_step(sequences, weights, next(_CALLS))


def leaves_traces(sequences: list[list[int]], weights: np.ndarray, seed: int) -> Any:
    """Which prints, moves, and changes how torch computes."""
    print("training ...")
    found = one_step(sequences, weights, seed)
    os.chdir("/")
    torch.set_num_threads(2)
    torch.set_default_dtype(torch.float64)
    return found
