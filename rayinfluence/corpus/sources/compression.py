"""Files that are compressed as a whole: any format's that is read from its start to its end."""

from __future__ import annotations

import bz2
import io
import lzma
import sys
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from rayinfluence.corpus.sources.source import NotDocumentsError

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

#: What is read ahead, of plain bytes; enough to know a format by.
_BUFFER = 2**20
#: A file that becomes more than as many plain bytes, and than so many times its own, is a bomb:
#: text is far less dense, and a small file may be as dense as it likes.
BOMB_BYTES, BOMB_RATIO = 2**30, 256
#: `zstd --long=31` looks back this far, as a power of two; the default of decoders is 27.
_LONGEST_WINDOW = 31
#: What is read at once of a file of members, of packed bytes.
_PACKED = 2**16
#: What writers put before a frame of zstd that says nothing, such as sizes (pzstd does).
_SKIPPED = tuple(bytes([first]) + b"*M\x18" for first in range(0x50, 0x60))


def _arrow(name: str) -> Callable[[Any], Any]:
    return lambda file: pa.CompressedInputStream(file, name)


def _zstd(file: Any) -> Any:
    options: dict[int, int] = {zstd.DecompressionParameter.window_log_max: _LONGEST_WINDOW}
    return zstd.ZstdFile(file, options=options)


class _Members:
    """Plain bytes of members one after another; what follows one and is none is damage.

    The standard library's readers take it for the end instead, with all that comes after it.

    Args:
        file: the packed bytes.
        decompressor: makes what unpacks one member.
        padding: zero bytes may follow a member, so many at a time; none if 0.
    """

    def __init__(self, file: Any, decompressor: Callable[[], Any], padding: int = 0) -> None:
        self._file, self._decompressor, self._padding = file, decompressor, padding
        self._member = decompressor()

    def read(self, size: int) -> bytes:
        """So many plain bytes or fewer; none at the end."""
        while True:
            packed = b""
            if self._member.eof:
                if not (packed := self._after()):
                    return b""
                self._member = self._decompressor()
            elif self._member.needs_input and not (packed := self._file.read(_PACKED)):
                raise EOFError("it ends within a compressed member")
            if part := self._member.decompress(packed, size):
                return bytes(part)

    def _after(self) -> bytes:
        """What follows a member and its padding."""
        packed: bytes = self._member.unused_data or self._file.read(_PACKED)
        n_zeros = 0
        while self._padding and packed.startswith(b"\0"):
            rest = packed.lstrip(b"\0")
            n_zeros += len(packed) - len(rest)
            packed = rest or self._file.read(_PACKED)
        if self._padding and n_zeros % self._padding:
            raise OSError(f"{n_zeros} zero bytes follow a compressed member")
        return packed


def _bzip2(file: Any) -> Any:
    return _Members(file, bz2.BZ2Decompressor)


def _xz(file: Any) -> Any:
    # The format has padding of a multiple of four bytes.
    return _Members(file, lambda: lzma.LZMADecompressor(lzma.FORMAT_XZ), padding=4)


@dataclass(frozen=True)
class Codec:
    """A way in which a file is compressed.

    Attributes:
        name: what people call it.
        endings: of names, after that of a format; the first is the usual one.
        begins: how such files begin.
        unpack: the command that takes it away.
        open: given a file, one of its plain bytes; several members are one.
    """

    name: str
    endings: tuple[str, ...]
    begins: tuple[bytes, ...]
    unpack: str
    open: Callable[[Any], Any]


CODECS = (
    Codec("gzip", (".gz", ".gzip"), (b"\x1f\x8b",), "gunzip", _arrow("gzip")),
    Codec("zstd", (".zst", ".zstd"), (b"(\xb5/\xfd", *_SKIPPED), "zstd -d", _zstd),
    Codec(
        "bzip2",
        (".bz2",),
        tuple(
            b"BZh%d" % level + end for level in range(1, 10) for end in (b"1AY&SY", b"\x17rE8P\x90")
        ),
        "bunzip2",
        _bzip2,
    ),
    Codec("xz", (".xz",), (b"\xfd7zXZ\0",), "unxz", _xz),
)


def parted(name: str) -> tuple[str, Codec | None]:
    """A name without the ending of a compression, in lower case, and its codec if it had one."""
    name = name.lower()
    for codec in CODECS:
        for ending in codec.endings:
            if name.endswith(ending):
                return name.removesuffix(ending), codec
    return name, None


def codec_of(begins: bytes) -> Codec | None:
    """How a file that begins so is compressed."""
    return next((codec for codec in CODECS if begins.startswith(codec.begins)), None)


def plain(file: Any, codec: Codec | None) -> io.BufferedReader:
    """The bytes that a file holds, decompressed where it is compressed."""
    return io.BufferedReader(_Unpacked(file, codec.open(file)) if codec else file, _BUFFER)


class _Unpacked(io.RawIOBase):
    """Plain bytes of a file, which are refused where they are out of all proportion to it."""

    def __init__(self, packed: Any, unpacked: Any) -> None:
        self._packed, self._unpacked = packed, unpacked
        self._n_bytes = 0

    def readable(self) -> bool:
        """Always."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Fill a buffer, or what of it the file still has bytes for."""
        filled = 0
        try:
            while filled < len(buffer) and (part := self._unpacked.read(len(buffer) - filled)):
                buffer[filled : filled + len(part)] = part
                filled += len(part)
        except (zstd.ZstdError, lzma.LZMAError, zlib.error) as error:
            raise OSError(str(error)) from error
        self._n_bytes += filled
        refuse_bomb(self._n_bytes, self._packed.tell())
        return filled


def refuse_bomb(n_plain: int, n_packed: int) -> None:
    """See that what comes out of a file is in proportion to what was read of it.

    Args:
        n_plain: bytes that came out so far.
        n_packed: bytes that they were made of.

    Raises:
        NotDocumentsError: it is not.
    """
    if n_plain > BOMB_BYTES and n_plain > BOMB_RATIO * n_packed:
        raise NotDocumentsError(
            f"has become {n_plain:,} bytes, of {n_packed:,} that are compressed: more than "
            f"{BOMB_RATIO} times as many is taken for an attack on memory and time. If it is none, "
            "unpack it and name what is in it."
        )
