"""How large temporaries may be, and what moving them costs; a function of shapes alone.

B sequence in batch, T token, I input width, O output width.
"""

from __future__ import annotations

from itertools import pairwise

from torch import Tensor

#: Inputs [B, T, I] and output gradients [B, T, O] of one module for one batch.
Part = tuple[Tensor, Tensor]

#: Most numbers in a temporary.
TILE_NUMBERS = {"cpu": 1 << 23, "cuda": 1 << 27}
#: FLOPs that a device does in the time of moving one byte: about 60 GFLOP/s at 8 GB/s on a core,
#: 600 TFLOP/s at 3 TB/s on a GPU.
FLOPS_PER_BYTE = {"cpu": 8, "cuda": 200}


def slices(length: int, most: int) -> list[slice]:
    """Consecutive slices of at most this many, as even as can be."""
    count = -(-length // most)
    bounds = [length * index // count for index in range(count + 1)]
    return [slice(start, stop) for start, stop in pairwise(bounds)]
