"""Cases are data: a new model is one entry here, and every numeric test runs on it."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from adapters import save_adapter
from torch import nn
from transformers.models.llama.modeling_llama import LlamaRMSNorm

from rayinfluence.model.adapters import Source
from rayinfluence.model.load import freeze
from rayinfluence.model.lora import PATTERNS, attach
from rayinfluence.testing import tiny_convolutions, tiny_gpt2, tiny_llama, tiny_mlp, tiny_opt
from rayinfluence.testing.models import VOCABULARY


@dataclass(frozen=True)
class Case:
    """A model in float64, and which of its modules are tracked."""

    name: str
    model: Callable[[], nn.Module]
    patterns: tuple[str, ...]


def llama() -> nn.Module:
    """Llama's shape in float64 throughout: transformers' norm and eager softmax use float32."""
    model = tiny_llama(attention="sdpa")
    norms = [(n, m) for n, m in model.named_modules() if isinstance(m, LlamaRMSNorm)]
    for name, norm in norms:
        exact = nn.RMSNorm(norm.weight.shape, eps=norm.variance_epsilon)
        exact.weight = norm.weight
        model.set_submodule(name, exact.eval())
    return model


def lora() -> nn.Module:
    """GPT-2's shape with an adapter of low rank on attention and MLP; the base is frozen."""
    model = tiny_gpt2()
    with tempfile.TemporaryDirectory() as folder:
        layers = ["c_attn", "c_fc"]
        save_adapter(Path(folder), model, target_modules=layers, fan_in_fan_out=True)
        attach(model, Source("base", folder), torch.float64)
    return freeze(model)


GPT2 = Case("gpt2", tiny_gpt2, ("*",))  # Conv1D, biases, tied output embedding
LLAMA = Case("llama", llama, ("*proj",))  # grouped queries, SwiGLU, no biases
MLP = Case("mlp", tiny_mlp, ("*",))  # Linear with and without bias, one of them called twice
CASES = [
    GPT2,
    LLAMA,
    MLP,
    Case("opt", lambda: tiny_opt(attention="sdpa"), ("*fc?",)),  # all tokens of a batch in one row
    Case("convolutions", tiny_convolutions, ("*",)),  # patches of tokens, causal by padding
    # Whose A is diagonal.
    Case("embeddings", llama, ("*.down_proj", "model.embed_tokens")),
    *([Case("lora", lora, PATTERNS)] if find_spec("peft") else []),  # what is tracked is not W
]

#: Of the sequences that the tests share; none a multiple of another, and two alike.
LENGTHS = (9, 2, 5, 5, 7, 3, 6)


def token_sequences(seed: int = 0, lengths: tuple[int, ...] = LENGTHS) -> list[np.ndarray]:
    """Sequences of random tokens."""
    generator = np.random.default_rng(seed)
    return [generator.integers(0, VOCABULARY, length) for length in lengths]
