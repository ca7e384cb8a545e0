"""Who is measured: each runs stages on one shape, in a process of its own.

The stages are ``plain`` (one forward and backward pass, weight gradients included),
``covariance``, ``lambda``, ``scan-<Q>`` for Q queries at rank 32, and what only some have:
``dense-<Q>`` without the low rank; ``mixed-<Q>``, a scan of as many tokens in documents of all
lengths; ``rescore-<Q>``, token and layer scores of the survivors.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import torch
from shapes import Shape

#: Of a batch, the same for everyone: rayinfluence's defaults.
BATCH_TOKENS = {"cpu": 2048, "cuda": 16384}
RANK = 32
TOP = 20


class Contender(Protocol):
    """Something that runs stages."""

    stages: tuple[str, ...]

    def prepare(self, stage: str) -> None:
        """Whatever has to be there before a stage; not timed."""

    def run(self, stage: str) -> None:
        """The stage; timed."""


class Plain:
    """What a training step costs: forward and backward with all weight gradients, no optimiser."""

    stages = ("plain",)

    def __init__(self, shape: Shape) -> None:
        self.model = shape.build()
        for weight in self.model.parameters():
            weight.requires_grad_(True)
        tokens = torch.as_tensor(shape.sequences()).to(shape.device)
        self.batches = tokens.split(max(1, BATCH_TOKENS[shape.device] // shape.n_tokens))

    def prepare(self, stage: str) -> None:
        """Nothing."""

    def run(self, stage: str) -> None:
        """All batches."""
        for batch in self.batches:
            logits = self.model(input_ids=batch, use_cache=False).logits
            loss = torch.nn.functional.cross_entropy(
                logits[:, :-1].flatten(0, 1).float(), batch[:, 1:].flatten(), reduction="sum"
            )
            loss.backward()
            for weight in self.model.parameters():
                weight.grad = None


def _ours(shape: Shape) -> Contender:
    from ours import Ours

    return Ours(shape)


def _kronfluence(shape: Shape) -> Contender:
    from peer_kronfluence import Kronfluence

    return Kronfluence(shape)


def _bergson(shape: Shape) -> Contender:
    from peer_bergson import Bergson

    return Bergson(shape)


def _dattri(shape: Shape) -> Contender:
    from peer_dattri import Dattri

    return Dattri(shape)


CONTENDERS: dict[str, Callable[[Shape], Contender]] = {
    "plain": Plain,
    "ours": _ours,
    "kronfluence": _kronfluence,
    "bergson": _bergson,
    "dattri": _dattri,
}
