"""Remote files whose reads are repeated when the connection breaks off."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

from rayinfluence.storage.retry import ShortReadError

#: Bytes fetched beyond what is asked for: documents are read in lines, shards in row groups.
READ_AHEAD = 2**22


class PatientFile(io.RawIOBase):
    """A seekable file of fsspec, each of whose reads goes through a retry loop.

    Args:
        file: the remote file; knows its size in bytes.
        retry: does an operation, again if need be.
    """

    def __init__(self, file: Any, retry: Callable[[Callable[[], bytes]], bytes]) -> None:
        self._file = file
        self._retry = retry

    def readable(self) -> bool:
        """Always."""
        return True

    def seekable(self) -> bool:
        """Always."""
        return True

    def tell(self) -> int:
        """The place of the next read."""
        return int(self._file.tell())

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Move to another place; see :meth:`io.IOBase.seek`."""
        return int(self._file.seek(offset, whence))

    def readinto(self, buffer: Any) -> int:
        """Fill a buffer, or what of it the file still has bytes for."""
        start = self.tell()
        wanted = min(len(buffer), max(int(self._file.size) - start, 0))

        def fetch() -> bytes:
            self._file.seek(start)
            part: bytes = self._file.read(wanted)
            if len(part) != wanted:
                raise ShortReadError(f"{len(part)} of {wanted} bytes came")
            return part

        if wanted:
            buffer[:wanted] = self._retry(fetch)
        return wanted

    def close(self) -> None:
        """Close the remote file too."""
        self._file.close()
        super().close()
