"""Causal language models of a few thousand weights, and a tokenizer of whole words."""

from __future__ import annotations

from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from torch import Tensor, nn
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    GptOssConfig,
    GptOssForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    MixtralConfig,
    MixtralForCausalLM,
    OPTConfig,
    OPTForCausalLM,
    PreTrainedTokenizerFast,
)
from transformers.pytorch_utils import Conv1D

from rayinfluence.model.experts import take_apart
from rayinfluence.model.load import freeze

VOCABULARY = 48
CONTEXT = 16


def tiny_gpt2(
    seed: int = 0, dtype: torch.dtype = torch.float64, attention: str = "eager"
) -> nn.Module:
    """GPT-2's shape: Conv1D with bias, learned positions, tied embeddings."""
    config = GPT2Config(
        vocab_size=VOCABULARY,
        n_positions=CONTEXT,
        n_embd=12,
        n_layer=2,
        n_head=2,
        bos_token_id=0,
        eos_token_id=0,
    )
    config._attn_implementation = attention
    return _random(GPT2LMHeadModel(config), seed, dtype)


def linear_for_conv1d(model: nn.Module) -> nn.Module:
    """Put nn.Linear of the same weights in the place of every Conv1D, as some libraries ask."""
    for name, module in list(model.named_modules()):
        if isinstance(module, Conv1D):
            linear = nn.Linear(module.nx, module.nf, dtype=module.weight.dtype)
            linear.weight.data = module.weight.data.T.contiguous()
            linear.bias.data = module.bias.data.clone()
            model.set_submodule(name, linear)
    return model


#: Of models that are of Llama's shape, under their configurations' keys.
LLAMA_SIZES: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "max_position_embeddings": CONTEXT,
    "hidden_size": 16,
    "intermediate_size": 20,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "bos_token_id": 0,
    "eos_token_id": 0,
}


def tiny_llama(
    seed: int = 0, dtype: torch.dtype = torch.float64, attention: str = "eager"
) -> nn.Module:
    """Llama's shape: grouped-query attention, SwiGLU, RMSNorm, rotary positions, no biases."""
    config = LlamaConfig(**LLAMA_SIZES)
    config._attn_implementation = attention
    return _random(LlamaForCausalLM(config), seed, dtype)


def tiny_mixtral(
    seed: int = 0, dtype: torch.dtype = torch.float64, attention: str = "eager"
) -> nn.Module:
    """Mixtral's shape: Llama's attention, and experts of which each token chooses two of four."""
    config = MixtralConfig(
        vocab_size=VOCABULARY,
        max_position_embeddings=CONTEXT,
        hidden_size=12,
        intermediate_size=10,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        num_local_experts=4,
        num_experts_per_tok=2,
        bos_token_id=0,
        eos_token_id=0,
    )
    config._attn_implementation = attention
    return _apart(_random(MixtralForCausalLM(config), seed, dtype))


def tiny_gpt_oss(seed: int = 0, dtype: torch.dtype = torch.float64) -> nn.Module:
    """gpt-oss's shape: experts with biases, whose weights are transposed and interleaved."""
    config = GptOssConfig(
        vocab_size=VOCABULARY,
        max_position_embeddings=CONTEXT,
        hidden_size=12,
        intermediate_size=10,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=6,
        num_local_experts=4,
        num_experts_per_tok=2,
        sliding_window=4,
        rope_parameters={"rope_type": "default", "rope_theta": 10000.0},
        bos_token_id=0,
        eos_token_id=0,
        pad_token_id=0,
    )
    config._attn_implementation = "eager"
    return _apart(_random(GptOssForCausalLM(config), seed, dtype))


class TokenMLP(nn.Module):
    """A language model without attention.

    Each token's embedding through an MLP, one layer of it used twice.
    """

    def __init__(self, vocabulary: int = VOCABULARY, width: int = 10) -> None:
        super().__init__()
        self.embed = nn.Embedding(vocabulary, width)
        self.inner = nn.Linear(width, width)
        self.plain = nn.Linear(width, width, bias=False)
        self.head = nn.Linear(width, vocabulary)

    def forward(self, tokens_BT: Tensor) -> Tensor:
        """Logits [B, T, V]."""
        hidden = torch.tanh(self.inner(self.embed(tokens_BT)))
        hidden = torch.tanh(self.plain(torch.tanh(self.inner(hidden))))
        return self.head(hidden)  # type: ignore[no-any-return]


def tiny_mlp(seed: int = 0, dtype: torch.dtype = torch.float64) -> nn.Module:
    """A bare MLP over tokens, whose layer ``inner`` is called twice."""
    return _random(TokenMLP(), seed, dtype)


class TokenConvolutions(nn.Module):
    """A language model of causal convolutions: each token sees the two before it, and again."""

    def __init__(self, vocabulary: int = VOCABULARY, width: int = 8) -> None:
        super().__init__()
        self.embed = nn.Embedding(vocabulary, width)
        self.first = nn.Conv1d(width, width + 1, 3, padding=2)
        self.second = nn.Conv1d(width + 1, width, 2, bias=False, dilation=2)
        self.head = nn.Linear(width, vocabulary)

    def forward(self, tokens_BT: Tensor) -> Tensor:
        """Logits [B, T, V]."""
        hidden = self.embed(tokens_BT).transpose(1, 2)
        # One pads both ends and cuts off what is too much, the other is given what is padded.
        hidden = torch.tanh(self.first(hidden)[:, :, : tokens_BT.shape[1]])
        hidden = torch.tanh(self.second(nn.functional.pad(hidden, (2, 0))))
        return self.head(hidden.transpose(1, 2))  # type: ignore[no-any-return]


def tiny_convolutions(seed: int = 0, dtype: torch.dtype = torch.float64) -> nn.Module:
    """Convolutions over tokens, with and without bias, padding and dilation."""
    return _random(TokenConvolutions(), seed, dtype)


def tiny_opt(
    seed: int = 0, dtype: torch.dtype = torch.float64, attention: str = "eager"
) -> nn.Module:
    """OPT's shape: MLPs that get the tokens of all sequences in one row."""
    config = OPTConfig(
        vocab_size=VOCABULARY,
        max_position_embeddings=CONTEXT,
        hidden_size=12,
        word_embed_proj_dim=12,
        ffn_dim=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        bos_token_id=0,
        eos_token_id=0,
        pad_token_id=0,
    )
    config._attn_implementation = attention
    return _random(OPTForCausalLM(config), seed, dtype)


def tiny_tokenizer() -> PreTrainedTokenizerFast:
    """One token per word ``w0`` ... ``w46`` (with its leading space), and one for anything else."""
    vocabulary = {"<unk>": 0} | {f"\u2581w{index}": index + 1 for index in range(VOCABULARY - 1)}
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Metaspace()
    backend.decoder = decoders.Metaspace()
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, unk_token="<unk>", model_max_length=CONTEXT
    )


def _apart(model: nn.Module) -> nn.Module:
    take_apart(model)
    return model


def _random(model: nn.Module, seed: int, dtype: torch.dtype) -> nn.Module:
    """Weights large enough that softmax is far from uniform and every term of a test counts."""
    generator = torch.Generator().manual_seed(seed)
    for weight in model.parameters():
        scale = 0.5 if weight.ndim > 1 else 0.2
        centre = 1.0 if weight.ndim == 1 and bool((weight == 1).all()) else 0.0
        weight.data = centre + scale * torch.randn(
            weight.shape, generator=generator, dtype=torch.float64
        )
    return freeze(model.to(dtype))
