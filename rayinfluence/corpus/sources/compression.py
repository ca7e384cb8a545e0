"""Files that are compressed as a whole: any format's that is read from its start to its end."""

from __future__ import annotations

import io
from typing import Any

import pyarrow as pa

#: What is read ahead, of plain bytes.
_BUFFER = 2**20
#: By the last ending of a name, what pyarrow calls it.
CODECS = {".gz": "gzip", ".zst": "zstd", ".bz2": "bz2"}


def parted(name: str) -> tuple[str, str | None]:
    """A name without the ending of a compression, and its codec if it had one."""
    for ending, codec in CODECS.items():
        if name.endswith(ending):
            return name.removesuffix(ending), codec
    return name, None


def plain(file: Any, codec: str | None) -> io.BufferedReader:
    """The bytes that a file holds, decompressed where it is compressed."""
    # It is read like a raw file, which typeshed does not know.
    raw: Any = pa.CompressedInputStream(file, codec) if codec else file
    return io.BufferedReader(raw, _BUFFER)
