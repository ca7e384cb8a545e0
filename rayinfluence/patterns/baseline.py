"""Where the line of a token begins: at an embedding that says nothing of the token."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rayinfluence.objective_kinds import MASKED

if TYPE_CHECKING:
    from torch import Tensor, nn
    from transformers import PreTrainedTokenizerFast


def baseline_of(
    model: nn.Module, tokenizer: PreTrainedTokenizerFast, kind: str
) -> tuple[Tensor, str]:
    """The baseline [D] of a model, and what it is in words.

    What stands for a token that is not known is the mask of a masked model, which saw it in
    training, and the unknown token of a tokenizer that has one for nothing else. All other models
    get the mean of what they embed.

    Args:
        model: as above.
        tokenizer: of it.
        kind: of its objective.
    """
    rows_VD = model.get_input_embeddings().weight.detach()  # type: ignore[operator]
    token = tokenizer.mask_token_id if kind == MASKED else _unknown(tokenizer)
    if token is None or token >= len(rows_VD):
        return rows_VD.mean(0), f"the mean of the {len(rows_VD):,} embeddings"
    return rows_VD[token], f"the embedding of {tokenizer.convert_ids_to_tokens(token)}"


def _unknown(tokenizer: PreTrainedTokenizerFast) -> int | None:
    """The token for what is not known, unless it ends or begins texts, too."""
    token = tokenizer.unk_token_id
    others = (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id)
    return None if token in others else token
