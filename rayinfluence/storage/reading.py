"""Files that do more than read: again when the connection breaks off, or with a digest."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable
from typing import Any, BinaryIO

from rayinfluence.storage.digest import DIGEST_CHARACTERS
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


class DigestedFile(io.RawIOBase):
    """A seekable file that is digested while it is read, so that it is not read twice.

    What is read in order is digested as it comes, and so are small gaps between reads (Parquet has
    some); :meth:`digest` reads what is left.

    Args:
        file: that whoever opened it closes.
    """

    _GAP = 2**16
    _BLOCK = 2**22

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._state = hashlib.sha256()
        #: Bytes from the beginning that are digested.
        self._digested = 0

    def readable(self) -> bool:
        """Always."""
        return True

    def seekable(self) -> bool:
        """Always."""
        return True

    def tell(self) -> int:
        """The place of the next read."""
        return self._file.tell()

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Move to another place; see :meth:`io.IOBase.seek`."""
        return self._file.seek(offset, whence)

    def readinto(self, buffer: Any) -> int:
        """Fill a buffer, or what of it the file still has bytes for."""
        start = self._file.tell()
        if 0 < start - self._digested <= self._GAP:
            self._file.seek(self._digested)
            self._take(self._digested, self._file.read(start - self._digested))
            self._file.seek(start)
        part = self._file.read(len(buffer))
        buffer[: len(part)] = part
        self._take(start, part)
        return len(part)

    def digest(self) -> str:
        """The digest of all bytes of the file."""
        self._file.seek(self._digested)
        while part := self._file.read(self._BLOCK):
            self._take(self._digested, part)
        return self._state.hexdigest()[:DIGEST_CHARACTERS]

    def close(self) -> None:
        """Leave it open: decompressors close what they read from, and the digest needs the rest."""

    def _take(self, start: int, part: bytes) -> None:
        known = self._digested - start
        if 0 <= known < len(part):
            self._state.update(memoryview(part)[known:])
            self._digested = start + len(part)
