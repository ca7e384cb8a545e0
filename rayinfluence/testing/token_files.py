"""Files of token ids as trainers write them, at their smallest; Megatron's by its description."""

from __future__ import annotations

import itertools
import struct
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from rayinfluence.corpus.megatron import MAGIC

_CODES = {"uint8": 1, "int8": 2, "int16": 3, "int32": 4, "int64": 5, "uint16": 8}


def write_megatron(
    path: Path,
    sequences: Sequence[Sequence[int]],
    dtype: str = "uint16",
    documents: Sequence[int] | None = None,
) -> Path:
    """Write a .bin and the .idx beside it; the path of the first.

    Args:
        path: of the .bin.
        sequences: of ids.
        dtype: of an id.
        documents: the sequence that each document begins with, and their number; by default each
            is one.
    """
    kind = np.dtype(dtype).newbyteorder("<")
    first = np.arange(len(sequences) + 1) if documents is None else np.asarray(documents)
    lengths = [len(one) for one in sequences]
    ends = [0, *itertools.accumulate(lengths)]
    path.write_bytes(b"".join(np.asarray(one, kind).tobytes() for one in sequences))
    path.with_suffix(".idx").write_bytes(
        MAGIC
        + struct.pack("<QBQQ", 1, _CODES[dtype], len(sequences), len(first))
        + np.asarray(lengths, "<i4").tobytes()
        + (np.asarray(ends[:-1], "<i8") * kind.itemsize).tobytes()
        + first.astype("<i8").tobytes()
    )
    return path
