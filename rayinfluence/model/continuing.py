"""What a causal model says after a text, token by token.

T tokens, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np
import torch
from torch import nn

from rayinfluence.model.batches import make_batch
from rayinfluence.model.head import forward_logits


def continuation(
    model: nn.Module,
    tokens: Sequence[int],
    n_new: int,
    ends: Collection[int],
    seed: int | None = None,
) -> list[int]:
    """Tokens that the model says after others, until it ends the text.

    The distribution is the model's own: no temperature, no penalties, nothing cut off, whatever
    its folder says of generating. The text so far is run through it for each token.

    Args:
        model: causal, on any device.
        tokens: what it is given; one at the least.
        n_new: how many it says at most.
        ends: ids with which it ends a text; such a one is not among what it has said.
        seed: of the draws; without it each token is the likeliest, of several the first.
    """
    generator = None if seed is None else torch.Generator().manual_seed(seed)
    device = next(model.parameters()).device
    text = list(tokens)
    with torch.no_grad():
        for _ in range(n_new):
            batch = make_batch([np.array(text)], [0], device)
            logits_V = forward_logits(model, batch)[0, len(text) - 1].double().cpu()
            if generator is None:
                said = int(logits_V.argmax())
            else:
                said = int(torch.multinomial(logits_V.softmax(-1), 1, generator=generator))
            if said in ends:
                break
            text.append(said)
    return text[len(tokens) :]


def ends_of(model: nn.Module, of_tokenizer: int | None) -> set[int]:
    """Ids with which a model ends a text, by its folder; and its tokenizer's.

    Args:
        model: of transformers, or another one, which says nothing.
        of_tokenizer: the id of its end of a sequence, where it has one.
    """
    ends = {of_tokenizer}
    for part in ("config", "generation_config"):
        found = getattr(getattr(model, part, None), "eos_token_id", None)
        ends.update(found if isinstance(found, list) else [found])
    return {one for one in ends if one is not None}
