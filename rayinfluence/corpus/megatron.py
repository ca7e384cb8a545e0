"""Megatron's index, ``.idx``, of a file of ids, ``.bin``: where each sequence is.

The format: ``MMIDIDX`` and two zero bytes; version (uint64); what an id is (uint8); how many
sequences and document borders (uint64 each); tokens of each sequence (int32); its first byte
(int64); and the sequence at which each document begins, and their number (int64). All numbers are
little-endian.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rayinfluence.corpus.sources.source import NotDocumentsError

MAGIC = b"MMIDIDX\0\0"
#: As earlier versions of it had, which nobody writes any more.
_OLD_MAGIC = b"TNTIDX"
_HEADER = struct.Struct("<9sQBQQ")
_DTYPES = {1: "u1", 2: "i1", 3: "i2", 4: "i4", 5: "i8", 8: "u2"}


@dataclass(frozen=True)
class Index:
    """Where sequences are in a file of ids.

    Attributes:
        dtype: of an id.
        starts: the tokens of the file before each sequence, and before the end of the last one.
        document: which document each sequence is of, from 0; None where each is one.
    """

    dtype: np.dtype[np.integer]
    starts: NDArray[np.int64]
    document: NDArray[np.int64] | None

    def __len__(self) -> int:
        return len(self.starts) - 1


def parse_index(body: bytes, size: int) -> Index:
    """Read an index, and see that it is that of a file of ids.

    Args:
        body: the whole index.
        size: of the file of ids, in bytes.

    Raises:
        NotDocumentsError: it is damaged, of another format or of another file; in words that follow
            the address of the index.
    """
    if body.startswith(_OLD_MAGIC):
        raise NotDocumentsError(
            "is an index of Megatron's old format (TNTIDX), which is not read: write the data "
            "again with its `--dataset-impl mmap`."
        )
    if len(body) < _HEADER.size or not body.startswith(MAGIC):
        raise NotDocumentsError(
            "is no index of Megatron: it does not begin with MMIDIDX. It lies beside the file of "
            "ids whose name it has: copy the two again, or move it away if the ids have no index."
        )
    _, version, code, n_sequences, n_borders = _HEADER.unpack_from(body)
    if version != 1:
        raise NotDocumentsError(f"is of version {version} of Megatron's index; version 1 is read.")
    if code not in _DTYPES:
        raise NotDocumentsError(
            f"says that an id is of type {code}, which is none of whole numbers: it is damaged, or "
            "of data that are no tokens."
        )
    needed = _HEADER.size + 12 * n_sequences + 8 * n_borders
    # Of several kinds of data it has a byte for each sequence, at the end.
    if len(body) not in (needed, needed + n_sequences):
        raise NotDocumentsError(
            f"has {len(body):,} bytes, and one of {n_sequences:,} sequences and {n_borders:,} "
            f"borders has {needed:,}: it is cut short or damaged. Copy it again."
        )
    lengths, pointers, first = (
        np.frombuffer(body, kind, count, offset).astype(np.int64)
        for kind, count, offset in (
            ("<i4", n_sequences, _HEADER.size),
            ("<i8", n_sequences, _HEADER.size + 4 * n_sequences),
            ("<i8", n_borders, _HEADER.size + 12 * n_sequences),
        )
    )
    dtype = np.dtype(f"<{_DTYPES[code]}")
    if len(lengths) and lengths.min() < 0:
        raise NotDocumentsError("has a sequence of less than no tokens: it is damaged.")
    starts = np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths)])
    if not np.array_equal(pointers, starts[:-1] * dtype.itemsize):
        wrong = int(np.argmin(pointers == starts[:-1] * dtype.itemsize))
        raise NotDocumentsError(
            f"says that sequence {wrong + 1:,} begins at byte {pointers[wrong]:,}, and those "
            f"before it end at byte {starts[wrong] * dtype.itemsize:,}: it is damaged."
        )
    if (there := int(starts[-1]) * dtype.itemsize) != size:
        raise NotDocumentsError(
            f"disagrees with its file of ids: it has sequences of {there:,} bytes together, and "
            f"the file has {size:,}. One of the two is cut short, or of other data: copy both "
            "again."
        )
    return Index(dtype, starts, _documents(first, n_sequences))


def _documents(first: NDArray[np.int64], n_sequences: int) -> NDArray[np.int64] | None:
    """Which document each sequence is of; None where each is one."""
    if len(first) and not (
        first[0] == 0 and first[-1] == n_sequences and (np.diff(first) >= 0).all()
    ):
        raise NotDocumentsError(
            f"has borders of documents that do not go from 0 to its {n_sequences:,} sequences in "
            "order: it is damaged."
        )
    if len(first) in (0, n_sequences + 1):
        return None
    found: NDArray[np.int64] = np.searchsorted(first, np.arange(n_sequences), "right") - 1
    return found
