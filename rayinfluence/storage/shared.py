"""Tensors that travel between processes without a copy."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import torch
from torch import Tensor

#: Kernels of the BLAS may sum in another order where an operand is not aligned; every process
#: aligns alike.
ALIGNMENT = 64


class SharedTensors(dict[str, Tensor]):
    """Named CPU tensors that pickle as plain arrays.

    Pickle protocol 5 hands the arrays over out of band, so Ray keeps one copy per node and every
    process reads that copy. They are read-only: writing to a tensor that came out of here is
    undefined.
    """

    def __reduce__(self) -> tuple[Any, ...]:
        arrays = {
            name: (tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy(),
                   tensor.dtype, tuple(tensor.shape))
            for name, tensor in self.items()
        }  # fmt: skip
        return _rebuild, (arrays,)


def _rebuild(
    arrays: dict[str, tuple[np.ndarray[Any, Any], torch.dtype, tuple[int, ...]]],
) -> SharedTensors:
    tensors = SharedTensors()
    for name, (array, dtype, shape) in arrays.items():
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
            flat = torch.from_numpy(array)
        if flat.data_ptr() % ALIGNMENT:
            flat = flat.clone()
        tensors[name] = flat.view(dtype).reshape(shape)
    return tensors
