"""What is measured on a device, and toys of the same make for where there is none."""

from __future__ import annotations

import torch
from contenders import BATCH_TOKENS
from flops import peak
from gpu_device import DEVICE, TOY
from shapes import Shape, decoder, llama
from torch import nn
from transformers import Qwen2Config, Qwen2ForCausalLM

BATCH = 64 if TOY else BATCH_TOKENS[DEVICE]
LENGTH = 32 if TOY else 512
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def qwen(width: int, inner: int, layers: int, heads: int, kv_heads: int, words: int) -> nn.Module:
    """A Qwen2.5 with random weights and tied embeddings."""
    sizes = (width, inner), layers, (heads, kv_heads), words, LENGTH
    return decoder(Qwen2Config, Qwen2ForCausalLM, *sizes, tied=True)


#: Width, inner width, layers, heads, heads of keys and values, vocabulary: Qwen2.5's config.json.
_QWEN = {
    "0.5B": (896, 4864, 24, 14, 2, 151936),
    "1.5B": (1536, 8960, 28, 12, 2, 151936),
    "3B": (2048, 11008, 36, 16, 2, 151936),
}
_TOY_QWEN = (16, 40, 2, 4, 2, 64)


def qwen_shape(size: str, dtype: str) -> Shape:
    """64 sequences of 512, to fit and to score."""
    config = _TOY_QWEN if TOY else _QWEN[size]
    return Shape(
        f"qwen-{size}",
        lambda: qwen(*config),
        config[-1],
        4 if TOY else 64,
        LENGTH,
        device=DEVICE,
        dtype=DTYPES[dtype],
        queries=(1, 32),
    )


def _llama(layers: int, width: int, inner: int, n: int, dtype: str) -> Shape:
    config = (16, 40, 2, 4, 2, 64) if TOY else (width, inner, layers, 32, 8, 32000)
    return Shape(
        f"llama-{width}",
        lambda: llama(*config, LENGTH),
        config[-1],
        4 if TOY else n,
        LENGTH,
        device=DEVICE,
        dtype=DTYPES[dtype],
        queries=(10, 256),
    )


#: Whether a pass gives the same bytes again is asked of a few layers.
REPEATED = {dtype: _llama(2, 1024, 2816, 64, dtype) for dtype in DTYPES}
#: 1.0 billion weights.
BILLION = _llama(16, 2048, 8192, 256, "bfloat16")


def device_peak(dtype: torch.dtype) -> float:
    """The rate [FLOP/s] of a large matrix product on the device, now."""
    return peak(DEVICE, dtype, 0.5, 64 if TOY else None)
