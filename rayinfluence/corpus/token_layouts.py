"""Where ids are in a file that holds nothing else: after a header that says it, or from the start.

NumPy's .npy; the .bin of llm.c, which has a header of 256 integers; and bare ids, of which a
configuration says how large one is (nanoGPT's ``train.bin``, OLMo's .npy, which have no header).
"""

from __future__ import annotations

import io
import struct
from dataclasses import dataclass
from typing import Any

import numpy as np

from rayinfluence.corpus.megatron import MAGIC
from rayinfluence.corpus.sources.source import NotDocumentsError

_NPY = b"\x93NUMPY"
_LLM_C = {20240520: "<u2", 20240801: "<u4"}
_LLM_C_BYTES = 1024


@dataclass(frozen=True)
class Layout:
    """Where the ids of a file are.

    Attributes:
        dtype: of an id.
        n_bytes_before: of the file, before the first id.
        n_tokens: ids in all.
        n_columns: of a table of ids, whose rows stand one after the other; None where it is none.
    """

    dtype: np.dtype[Any]
    n_bytes_before: int
    n_tokens: int
    n_columns: int | None = None


def layout_of(begins: bytes, size: int, dtype: str | None) -> Layout:
    """Where the ids of a file are, by how it begins.

    Args:
        begins: its first bytes.
        size: of the file, in bytes.
        dtype: of an id, where a configuration says it; a header's own has to be the same.

    Raises:
        NotDocumentsError: it is cut short, or nothing says what an id is; in words that follow the
            file's address.
    """
    if begins.startswith(MAGIC):
        raise NotDocumentsError(
            "is an index of Megatron, whatever its name says: name the .bin beside it."
        )
    if begins.startswith(_NPY):
        found = _of_numpy(begins)
    elif (number := int.from_bytes(begins[:4], "little")) in _LLM_C:
        n_tokens = struct.unpack_from("<i", begins.ljust(12, b"\0"), 8)[0]
        found = Layout(np.dtype(_LLM_C[number]), _LLM_C_BYTES, n_tokens)
    elif dtype is None:
        raise NotDocumentsError(
            "has no header, so nothing says how many bytes a token id has: set corpus.tokens.dtype "
            "to what it was written as (mostly uint16 where the vocabulary has at most 65,536 "
            "tokens, and uint32 where it has more)."
        )
    else:
        bare = np.dtype(dtype).newbyteorder("<")
        if size % bare.itemsize:
            raise NotDocumentsError(
                f"has {size:,} bytes, which is no whole number of ids of {dtype} "
                f"({bare.itemsize} bytes each, corpus.tokens.dtype): it is cut short, or of "
                "another type."
            )
        return Layout(bare, 0, size // bare.itemsize)
    if dtype is not None and np.dtype(dtype).newbyteorder("<") != found.dtype:
        raise NotDocumentsError(
            f"says itself that its ids are {found.dtype.name}, and corpus.tokens.dtype is {dtype}: "
            "leave it out, or list files of one type."
        )
    needed = found.n_bytes_before + found.n_tokens * found.dtype.itemsize
    if size != needed:
        raise NotDocumentsError(
            f"has {size:,} bytes, and its header speaks of {needed:,}: it is cut short or damaged. "
            "Copy it again."
        )
    return found


def _of_numpy(begins: bytes) -> Layout:
    stream = io.BytesIO(begins)
    try:
        version = np.lib.format.read_magic(stream)
        read = np.lib.format.read_array_header_1_0
        if version != (1, 0):
            read = np.lib.format.read_array_header_2_0
        shape, is_fortran, dtype = read(stream)
    except ValueError as error:
        raise NotDocumentsError(
            f"begins as NumPy's files do, and its header is none ({error}): copy it again."
        ) from error
    if dtype.kind not in "iu" or dtype.byteorder == ">":
        raise NotDocumentsError(
            f"is an array of {dtype}, and token ids are little-endian integers: save it as such "
            "(`array.astype('<u4')`)."
        )
    if not 1 <= len(shape) <= 2 or (is_fortran and len(shape) == 2):
        raise NotDocumentsError(
            f"is an array of shape {shape}{' in the order of columns' * is_fortran}: ids are in "
            "one of one axis, or in rows of one of two (`numpy.ascontiguousarray`)."
        )
    n_tokens = int(np.prod(shape))
    return Layout(dtype, stream.tell(), n_tokens, shape[1] if len(shape) == 2 else None)
