"""A new GPT-2, by its sizes and a seed."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from transformers import GPT2Config, GPT2LMHeadModel


@dataclass(frozen=True)
class ModelSettings:
    """Sizes of a model, and of its tokenizer."""

    vocabulary: int = 2048
    context: int = 96
    width: int = 64
    layers: int = 2
    heads: int = 4


def new_model(settings: ModelSettings, seed: int) -> GPT2LMHeadModel:
    """A GPT-2 with random weights and no dropout; the caller's random state is left as it was."""
    config = GPT2Config(
        vocab_size=settings.vocabulary,
        n_positions=settings.context,
        n_embd=settings.width,
        n_layer=settings.layers,
        n_head=settings.heads,
        resid_pdrop=0.0,
        activation_function="gelu_pytorch_tanh",
        embd_pdrop=0.0,
        attn_pdrop=0.0,
        bos_token_id=0,
        eos_token_id=0,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return GPT2LMHeadModel(config)
