"""The model as a function to log-probabilities: through its output head where that stands apart."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from rayinfluence.model.batches import Batch
from rayinfluence.model.load import context_length, is_pretrained
from rayinfluence.model.losses import Choose, head_log_probabilities, log_probabilities

_PROBE_TOKENS = 8


@dataclass(frozen=True)
class LanguageModel:
    """A causal language model whose log-probabilities are made without logits for all positions.

    Attributes:
        model: maps tokens to logits.
        body: maps tokens to the hidden states that the head turns into logits; None where the
            head does more than one matrix product (a soft cap, a scale) or is tracked itself.
        head: the output layer.
    """

    model: nn.Module
    body: nn.Module | None
    head: nn.Linear | None

    @classmethod
    def of(cls, model: nn.Module, tracked: Collection[nn.Module]) -> LanguageModel:
        """Take a model apart, if its logits on a few tokens are then the same to the last bit."""
        whole = cls(model, None, None)
        if not is_pretrained(model):
            return whole
        body, head = model.base_model, model.get_output_embeddings()
        if body is model or not isinstance(head, nn.Linear) or any(m is head for m in tracked):
            return whole
        embedding = model.get_input_embeddings().weight
        length = min(_PROBE_TOKENS, context_length(model) or _PROBE_TOKENS)
        tokens = torch.arange(length, device=embedding.device) % len(embedding)
        apart = cls(model, body, head)
        with torch.no_grad():
            logits = forward_logits(model, tokens[None])
            try:
                same = torch.equal(head(apart.hidden(tokens[None])), logits)
            except Exception:  # a body that is called otherwise than most
                return whole
        return apart if same else whole

    def hidden(self, tokens_BT: Tensor) -> Tensor:
        """What the head sees [B, T, D]."""
        assert self.body is not None
        output = self.body(input_ids=tokens_BT, use_cache=False)
        return output.last_hidden_state  # type: ignore[no-any-return]

    def log_probabilities(self, batch: Batch, choose: Choose) -> Tensor:
        """Log p(label) of every target of a batch [N], differentiable in tracked modules' outputs.

        Args:
            batch: the tokens.
            choose: gives the labels for the logits of some targets.
        """
        if self.head is None:
            logits = target_logits(forward_logits(self.model, batch.tokens_BT), batch)
            return log_probabilities(logits, choose(logits, slice(0, len(logits))))
        hidden = self.hidden(batch.tokens_BT).flatten(0, 1)
        rows = hidden.index_select(0, batch.predictors_N)
        return head_log_probabilities(rows, self.head.weight, self.head.bias, choose)


def forward_logits(model: nn.Module, tokens_BT: Tensor) -> Tensor:
    """Logits [B, T, V] of a transformers model, or of any module that maps tokens to logits."""
    if is_pretrained(model):
        return model(input_ids=tokens_BT, use_cache=False).logits  # type: ignore[no-any-return]
    output = model(tokens_BT)
    return output.logits if hasattr(output, "logits") else output  # type: ignore[no-any-return]


def target_logits(logits_BTV: Tensor, batch: Batch) -> Tensor:
    """The logits [N, V] that predict the targets: those of the position before each."""
    return logits_BTV.flatten(0, 1).index_select(0, batch.predictors_N)
