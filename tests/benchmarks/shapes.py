"""What is measured: model shapes with random weights, and random tokens."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedConfig,
)

from rayinfluence.model.load import freeze
from rayinfluence.testing.models import linear_for_conv1d

QUERY_TOKENS = 64


@dataclass(frozen=True)
class Shape:
    """A model, and how much is put through it.

    Attributes:
        name: as on the command line.
        model: makes it, with weights drawn from one seed, in float32.
        vocabulary: size of it.
        n_sequences: of the corpus.
        n_tokens: of each sequence.
        device: ``cpu`` or ``cuda``.
        dtype: of weights and activations.
        queries: numbers of queries that are scanned.
        repeats: of each measurement.
    """

    name: str
    model: Callable[[], nn.Module]
    vocabulary: int
    n_sequences: int
    n_tokens: int
    device: str = "cpu"
    dtype: torch.dtype = torch.float32
    queries: tuple[int, ...] = (10, 64, 256)
    repeats: int = 5

    def build(self, attention: str = "sdpa") -> nn.Module:
        """The model, frozen, in eval mode; every contender gets the same weights."""
        torch.manual_seed(0)
        # A billion random numbers are made sooner where they are needed.
        with torch.device(self.device):
            model = self.model()
        model.set_attn_implementation(attention)
        return freeze(model.to(self.dtype)).to(self.device)

    def sequences(self, seed: int = 1, n: int | None = None) -> list[np.ndarray]:
        """Random tokens, all of one length."""
        generator = np.random.default_rng(seed)
        size = (self.n_sequences if n is None else n, self.n_tokens)
        return list(generator.integers(0, self.vocabulary, size))

    def mixed_sequences(self) -> list[np.ndarray]:
        """As many tokens in documents of 5 tokens and more, all lengths alike."""
        generator = np.random.default_rng(3)
        left, found = self.n_sequences * self.n_tokens, []
        while left >= 5:
            length = min(left, int(generator.integers(5, self.n_tokens + 1)))
            found.append(generator.integers(0, self.vocabulary, length))
            left -= length
        return found

    def query_sequences(self, n: int) -> list[np.ndarray]:
        """Random tokens; every token but the first is the completion."""
        generator = np.random.default_rng(2)
        return list(generator.integers(0, self.vocabulary, (n, QUERY_TOKENS)))


def gpt2(width: int, layers: int, heads: int, vocabulary: int, context: int) -> nn.Module:
    """GPT-2 with nn.Linear for its Conv1D, which kronfluence does not track."""
    config = GPT2Config(
        vocab_size=vocabulary,
        n_positions=context,
        n_embd=width,
        n_layer=layers,
        n_head=heads,
        bos_token_id=0,
        eos_token_id=0,
    )
    return linear_for_conv1d(GPT2LMHeadModel(config))


def decoder(
    config_class: type[PreTrainedConfig],
    model_class: Callable[[PreTrainedConfig], nn.Module],
    widths: tuple[int, int],
    layers: int,
    heads: tuple[int, int],
    vocabulary: int,
    context: int,
    tied: bool = False,
) -> nn.Module:
    """A decoder of Llama's make: hidden and inner width, heads and heads of keys and values."""
    config = config_class(
        vocab_size=vocabulary,
        hidden_size=widths[0],
        intermediate_size=widths[1],
        num_hidden_layers=layers,
        num_attention_heads=heads[0],
        num_key_value_heads=heads[1],
        max_position_embeddings=context,
        tie_word_embeddings=tied,
        bos_token_id=0,
        eos_token_id=0,
    )
    return model_class(config)


def llama(
    width: int, inner: int, layers: int, heads: int, kv_heads: int, vocabulary: int, context: int
) -> nn.Module:
    """Llama with an output head of its own."""
    sizes = (width, inner), layers, (heads, kv_heads), vocabulary, context
    return decoder(LlamaConfig, LlamaForCausalLM, *sizes)


SHAPES = {
    shape.name: shape
    for shape in (
        Shape("gpt2-d256", lambda: gpt2(256, 4, 4, 2048, 256), 2048, 192, 256),
        Shape(
            "gpt2-d768",
            lambda: gpt2(768, 3, 12, 8192, 512),
            8192,
            8,
            512,
            queries=(10, 64),
            repeats=3,
        ),
        Shape(
            "llama-d256",
            lambda: llama(256, 704, 4, 8, 4, 2048, 256),
            2048,
            96,
            256,
            queries=(10, 64),
        ),
        Shape(
            "gpt2-small-cuda", lambda: gpt2(768, 12, 12, 50257, 512), 50257, 512, 512, device="cuda"
        ),
        Shape(
            "llama-1b-cuda",
            lambda: llama(2048, 8192, 16, 32, 8, 32000, 512),
            32000,
            512,
            512,
            device="cuda",
            dtype=torch.bfloat16,
        ),
    )
}

#: MLP linear layers, by the end of their names: what every contender tracks.
MLP_PATTERNS = ("*.mlp.*",)
