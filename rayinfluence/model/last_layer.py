"""The last linear layer of a model: what it sees, where its outputs are the model's logits.

Other than the output head of `head.py` it may be tracked or tied, and may be a classifier's: it is
read by a hook, and not called by itself.

B sequence in batch, T token, N target, D width of what it sees, V class.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from rayinfluence.errors import ModelError
from rayinfluence.model.batches import Batch, unpadded
from rayinfluence.model.feeding import kind_of
from rayinfluence.model.head import forward_logits
from rayinfluence.model.load import context_length, is_pretrained, vocabulary_size
from rayinfluence.model.losses import wide
from rayinfluence.model.pairs import Pairs
from rayinfluence.model.row_task import row_task
from rayinfluence.model.targets import Targets
from rayinfluence.model.tied import has_copy
from rayinfluence.objective_kinds import CLASSIFICATION, OF_ROWS, SEQ2SEQ

_PROBE_TOKENS = 8


@dataclass(frozen=True)
class LastLayer:
    """The layer whose outputs are a model's logits, to the last bit.

    Attributes:
        name: of the layer in the model.
        layer: itself.
        is_tied: whether its weight is an embedding's, too.
    """

    name: str
    layer: nn.Linear
    is_tied: bool

    @classmethod
    def of(cls, model: nn.Module) -> LastLayer:
        """Find it by a few tokens.

        Args:
            model: whole.

        Raises:
            ModelError: there is none, as the logits are made otherwise than by one linear layer.
        """
        batch, seen = _probe(model), dict[str, Tensor]()
        layers = {name: one for name, one in model.named_modules() if isinstance(one, nn.Linear)}

        def keep(name: str) -> Any:
            def hook(_layer: nn.Module, _given: Any, output: Any) -> None:
                seen.pop(name, None)
                seen[name] = output  # the last call is the last of all

            return hook

        handles = [one.register_forward_hook(keep(name)) for name, one in layers.items()]
        try:
            with torch.no_grad():
                logits = forward_logits(model, batch)
        finally:
            for handle in handles:
                handle.remove()
        name = next(reversed(seen), None)
        if name is None or not _is(_placed(model, batch, seen[name]), logits):
            last = "it has no linear layer" if name is None else f"{name!r} is the last of these"
            raise ModelError(
                f"representer: {type(model).__name__} makes its logits by more than one linear "
                f"layer ({last}, and what it gives is not what the model gives): a cap, a scale or "
                "a layer of another kind follows. Logits of such a model are no sum over "
                "representers. Take `representer` out of scan.methods."
            )
        weight = layers[name].weight
        embeddings = [one for one in model.modules() if isinstance(one, nn.Embedding)]
        tied = has_copy(layers[name]) or any(one.weight is weight for one in embeddings)
        return cls(name, layers[name], tied)

    @property
    def weight_VD(self) -> Tensor:
        """Its weights, a bias as the last column, as what it sees ends in a one then."""
        layer = self.layer
        if layer.bias is None:
            return layer.weight
        return torch.cat([layer.weight, layer.bias[:, None]], dim=1)

    def features(self, model: nn.Module, batch: Batch, targets: Targets) -> Tensor:
        """What it sees of each target of a batch [N, D], in float32 or wider.

        Args:
            model: whole.
            batch: sequences.
            targets: of the batch, which say what of it the model is given.
        """
        given, seen = targets.given(batch), list[Tensor]()
        handle = self.layer.register_forward_pre_hook(lambda _layer, args: seen.append(args[0]))
        try:
            with torch.no_grad():
                forward_logits(model, given)
        finally:
            handle.remove()
        rows_BTD = _placed(model, given, seen[-1])
        places_N = targets.places_N.to(rows_BTD.device)
        found_ND = wide(rows_BTD.flatten(0, 1).index_select(0, places_N))
        if self.layer.bias is None:
            return found_ND
        return torch.cat([found_ND, torch.ones_like(found_ND[:, :1])], dim=1)


def _placed(model: nn.Module, batch: Batch, rows: Tensor) -> Tensor:
    """Rows of the last layer [B, T, .] where the model's logits of them are."""
    kind = kind_of(model)
    if kind == SEQ2SEQ:
        return Pairs(batch).at_tokens(rows)
    if kind == CLASSIFICATION or kind in OF_ROWS:
        if rows.ndim == 3:  # a decoder speaks at the last token of a text
            rows = rows[torch.arange(len(rows)), torch.from_numpy(batch.lengths_B - 1)]
        return rows[:, None]
    return rows.unflatten(0, batch.shape) if rows.ndim == 2 else rows


def _is(rows: Tensor, logits: Tensor) -> bool:
    return rows.shape == logits.shape and torch.equal(rows.to(logits), logits)


def _probe(model: nn.Module) -> Batch:
    """A few tokens, or a row of features."""
    there = next(model.parameters()).device
    if (task := row_task(model)) is not None:
        return unpadded(torch.zeros(1, task.n_tokens, dtype=torch.int64, device=there))
    length = _PROBE_TOKENS
    if is_pretrained(model):
        length = min(length, context_length(model) or length)
    n_ids = vocabulary_size(model) or length
    return unpadded(torch.arange(length, device=there)[None] % n_ids)
