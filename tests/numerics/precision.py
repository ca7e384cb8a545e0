"""A whole small job in any dtype on any device, and how far it is from float64 on the CPU.

The model's weights are bfloat16 numbers in every dtype, so what differs is arithmetic alone.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from harness import all_scores, encoded, fit_factors, make_bank
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaForCausalLM

from rayinfluence.corpus.queries import EncodedQuery
from rayinfluence.curvature import products
from rayinfluence.dataflow.compute.replica import Numerics, Replica
from rayinfluence.model.load import freeze
from rayinfluence.model.modules import track

VOCABULARY, LENGTH, N_SEQUENCES, N_QUERIES, TOP = 256, 32, 200, 4, 20
RANK = 32


@contextmanager
def gpu_operands() -> Iterator[None]:
    """A CPU takes the operands that CUDA takes: bfloat16 where the model is."""
    kept = products._NARROW
    products._NARROW = frozenset({"cpu", "cuda"})
    try:
        yield
    finally:
        products._NARROW = kept


def model(layers: int = 3) -> nn.Module:
    """A Llama of width 64 with random weights, in float64 with bfloat16 numbers."""
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        max_position_embeddings=LENGTH,
        hidden_size=64,
        intermediate_size=160,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        bos_token_id=0,
        eos_token_id=0,
    )
    config._attn_implementation = "sdpa"
    built = LlamaForCausalLM(config)
    generator = torch.Generator().manual_seed(0)
    for weight in built.parameters():
        if weight.ndim > 1:
            scale = 1 / weight.shape[1] ** 0.5
            weight.data = scale * torch.randn(weight.shape, generator=generator)
    return freeze(built.bfloat16().double())


def sequences() -> list[np.ndarray]:
    """Random tokens of 4 to 32 a sequence, some of which the queries share."""
    generator = np.random.default_rng(0)
    lengths = generator.integers(4, LENGTH + 1, N_SEQUENCES)
    return [generator.integers(0, VOCABULARY, length) for length in lengths]


def queries() -> list[EncodedQuery]:
    """Prompts of eight random tokens and completions of eight."""
    generator = np.random.default_rng(1)
    return [encoded(generator.integers(0, VOCABULARY, 16), 8) for _ in range(N_QUERIES)]


def replica(dtype: str, device: str, batch_tokens: int = 512, layers: int = 3) -> Replica:
    """The model in a dtype on a device, its MLPs and attention tracked."""
    numerics = Numerics(dtype, device, batch_tokens, 2**17, "sdpa", 0)
    placed = freeze(model(layers).to(device, numerics.torch_dtype))
    return Replica(placed, track(placed, ["*proj"]), numerics)


def scores(dtype: str, device: str, labels: str, folder: Path) -> Tensor:
    """Scores [N, Q] of a whole job: factors, queries at rank 32, scan."""
    made = replica(dtype, device)
    factors = fit_factors(made, sequences(), folder, labels=labels, lanes=2, row_group_tokens=2048)
    return all_scores(made, make_bank(made, factors, queries(), folder, rank=RANK), sequences())


@dataclass(frozen=True)
class Distance:
    """How far scores [N, Q] are from others, the worst of the queries.

    Attributes:
        l2: ||s - s'||_2 / ||s'||_2.
        correlation: Pearson's.
        top: how many of the ``TOP`` highest are the same.
    """

    l2: float
    correlation: float
    top: int

    @classmethod
    def between(cls, found_NQ: Tensor, expected_NQ: Tensor) -> Distance:
        """Of scores from those that are expected."""
        difference = (found_NQ - expected_NQ).norm(dim=0) / expected_NQ.norm(dim=0)
        pairs = list(zip(found_NQ.T, expected_NQ.T, strict=True))
        correlations = [float(torch.corrcoef(torch.stack(pair))[0, 1]) for pair in pairs]
        common = [len(set(top(a)) & set(top(b))) for a, b in pairs]
        return cls(float(difference.max()), min(correlations), min(common))


def top(scores_N: Tensor) -> list[int]:
    """The ``TOP`` highest, in order."""
    order: list[int] = scores_N.argsort(descending=True)[:TOP].tolist()
    return order
