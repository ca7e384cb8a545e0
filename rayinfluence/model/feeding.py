"""What a model is called with, by the kind of its objective.

B sequence in batch, T token.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from rayinfluence.errors import ModelError
from rayinfluence.model.batches import Batch
from rayinfluence.model.dtype import dtype_of
from rayinfluence.model.load import is_pretrained
from rayinfluence.model.pairs import Pairs
from rayinfluence.model.row_task import row_task
from rayinfluence.objective_kinds import CAUSAL, CLASSIFICATION, SEQ2SEQ, kind_of_class


def kind_of(model: nn.Module) -> str:
    """The kind of objective that a model is made for, by its class; causal unless that tells."""
    if (task := row_task(model)) is not None:
        return task.kind
    has_encoder = getattr(getattr(model, "config", None), "is_encoder_decoder", False) is True
    kinds = (kind_of_class(one.__name__, has_encoder) for one in type(model).__mro__)
    return next((kind for kind in kinds if kind is not None), CAUSAL)


def arguments(model: nn.Module, batch: Batch) -> dict[str, Any]:
    """What a model of transformers is called with, for the tokens of a batch.

    Where tokens see what comes after them, it is told which are real: padding is not one of them.

    Args:
        model: whole, with its head.
        batch: the tokens.

    Raises:
        ModelError: it does not say what its decoder begins with.
    """
    if kind_of(model) == CAUSAL:
        return {"input_ids": batch.tokens_BT, "use_cache": False}
    if kind_of(model) == SEQ2SEQ:
        config: Any = model.config
        start = config.decoder_start_token_id
        if start is None:
            raise ModelError(
                f"{type(model).__name__} has no `decoder_start_token_id` in its config.json, with "
                "which its decoder begins: set it there to what training had."
            )
        return {**Pairs(batch).arguments(start), "use_cache": False}
    tokens_BT = batch.tokens_BT
    padding = getattr(model.config, "pad_token_id", None)
    if kind_of(model) == CLASSIFICATION and isinstance(padding, int):
        # Decoders find a text's last token by it.
        tokens_BT = tokens_BT.masked_fill(batch.real_BT == 0, padding)
    return {"input_ids": tokens_BT, "attention_mask": batch.real_BT}


def sides_of(model: nn.Module, batch: Batch) -> dict[int, Tensor]:
    """The token of each row, by how many rows a sequence has on a side; of one side nothing.

    Of a row of features a layer has one row, which is of the last feature.
    """
    if (task := row_task(model)) is not None:
        return {1: torch.full_like(batch.tokens_BT[:, :1], task.n_features - 1)}
    return Pairs(batch).sides if kind_of(model) == SEQ2SEQ else {}


def called(model: nn.Module, batch: Batch) -> Any:
    """What a model gives for a batch.

    One that is not of transformers maps tokens to logits, or features [B, F] to what it predicts.

    Raises:
        ModelError: a classifier finds no text's last token, as it knows no padding.
    """
    if row_task(model) is not None:
        features_BF = batch.tokens_BT[:, :-1].to(torch.int32).view(torch.float32)
        return model(features_BF.to(dtype_of(model)))
    if not is_pretrained(model):
        return model(batch.tokens_BT)
    try:
        return model(**arguments(model, batch))
    except ValueError as error:
        if kind_of(model) == CLASSIFICATION and model.config.pad_token_id is None:
            raise ModelError(
                f"{type(model).__name__} finds the last token of a text by the token that follows "
                "as padding, and its config.json names none: set `pad_token_id` there to the one "
                "that training padded with."
            ) from error
        raise
