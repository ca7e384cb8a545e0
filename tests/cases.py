"""Cases are data: a new model is one entry here, and every numeric test runs on it."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from adapters import save_adapter
from torch import Tensor, nn
from transformers.models.mixtral.modeling_mixtral import MixtralTopKRouter

from rayinfluence.model.adapters import Source
from rayinfluence.model.load import freeze
from rayinfluence.model.lora import PATTERNS, attach
from rayinfluence.testing import (
    tiny_convolutions,
    tiny_gpt2,
    tiny_gpt_oss,
    tiny_llama,
    tiny_mixtral,
    tiny_mlp,
    tiny_opt,
)
from rayinfluence.testing.models import VOCABULARY


@dataclass(frozen=True)
class Case:
    """A model in float64, and which of its modules are tracked."""

    name: str
    model: Callable[[], nn.Module]
    patterns: tuple[str, ...]
    #: Whether it comes with the families of models, as others have what it shows in part.
    on_demand: bool = False


def exact(model: nn.Module) -> nn.Module:
    """Float64 throughout: norms and softmax of transformers use float32."""
    for name, module in list(model.named_modules()):
        if type(module).__name__.endswith("RMSNorm"):
            norm = nn.RMSNorm(module.weight.shape, eps=module.variance_epsilon)
            norm.weight = module.weight
            model.set_submodule(name, norm.eval())
        elif isinstance(module, MixtralTopKRouter):
            module.forward = partial(_choose, module)
    return model


def lora() -> nn.Module:
    """GPT-2's shape with an adapter of low rank on attention and MLP; the base is frozen."""
    model = tiny_gpt2()
    with tempfile.TemporaryDirectory() as folder:
        layers = ["c_attn", "c_fc"]
        save_adapter(Path(folder), model, target_modules=layers, fan_in_fan_out=True)
        attach(model, Source("base", folder), torch.float64)
    return freeze(model)


def _choose(router: MixtralTopKRouter, hidden: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Mixtral's choice of experts."""
    logits_NE = hidden.reshape(-1, hidden.shape[-1]) @ router.weight.T
    weights_NK, chosen_NK = torch.topk(logits_NE.softmax(dim=-1), router.top_k)
    return logits_NE, weights_NK / weights_NK.sum(dim=-1, keepdim=True), chosen_NK


def llama() -> nn.Module:
    """Llama's shape."""
    return exact(tiny_llama(attention="sdpa"))


GPT2 = Case("gpt2", tiny_gpt2, ("*",))  # Conv1D, biases, tied output embedding
LLAMA = Case("llama", llama, ("*proj",))  # grouped queries, SwiGLU, no biases
TIED = Case("tied", tiny_gpt2, ("*.c_fc", "lm_head"))  # whose weight embeds, too
MLP = Case("mlp", tiny_mlp, ("*",))  # Linear with and without bias, one of them called twice
CASES = [
    GPT2,
    LLAMA,
    MLP,
    Case("opt", lambda: tiny_opt(attention="sdpa"), ("*fc?",)),  # all tokens of a batch in one row
    # Experts that a router chooses for each token; transposed and with biases, interleaved with
    # gates. The routers give more than their logits.
    Case(
        "mixtral",
        lambda: exact(tiny_mixtral(attention="sdpa")),
        ("*.experts.*", "*.o_proj", "*.gate"),
        on_demand=True,
    ),
    Case("gpt-oss", lambda: exact(tiny_gpt_oss()), ("*.experts.*", "*.router"), on_demand=True),
    Case("convolutions", tiny_convolutions, ("*",)),  # patches of tokens, causal by padding
    # Whose A is diagonal.
    Case("embeddings", llama, ("*.down_proj", "model.embed_tokens"), on_demand=True),
    TIED,
    # What is tracked is not W.
    *([Case("lora", lora, PATTERNS, on_demand=True)] if find_spec("peft") else []),
]
#: The cases as parameters of tests. What is special to tied embeddings has tests of its own.
PARAMETERS = [
    pytest.param(
        case,
        id=case.name,
        marks=[pytest.mark.models] * case.on_demand + [pytest.mark.runs] * (case is TIED),
    )
    for case in CASES
]

#: Of the sequences that the tests share; none a multiple of another, and two alike.
LENGTHS = (9, 2, 5, 5, 7, 3, 6)


def token_sequences(seed: int = 0, lengths: tuple[int, ...] = LENGTHS) -> list[np.ndarray]:
    """Sequences of random tokens."""
    generator = np.random.default_rng(seed)
    return [generator.integers(0, VOCABULARY, length) for length in lengths]
