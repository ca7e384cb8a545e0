"""What a file is by its first bytes, whatever its name says."""

from __future__ import annotations

from dataclasses import dataclass

from rayinfluence.corpus.sources import claiming, source_of
from rayinfluence.corpus.sources.parquet import Parquet
from rayinfluence.storage.downloads import why_a_pointer

#: Enough of a file to know it by.
BEGINNING = 32
#: What writers put before a frame of zstd or lz4 that says nothing, such as sizes (pzstd does).
_SKIPPED = tuple(bytes([first]) + b"*M\x18" for first in range(0x50, 0x60))


@dataclass(frozen=True)
class Kind:
    """A kind of files that are not lines of text.

    Attributes:
        name: what people call it.
        begins: how such files begin.
        ending: of the names of documents that are compressed so, after that of a format; empty
            where none are.
        unpack: the command that takes compression away; empty where it is none.
    """

    name: str
    begins: tuple[bytes, ...]
    ending: str = ""
    unpack: str = ""


_KINDS = (
    Kind("gzip", (b"\x1f\x8b",), ".gz", "gunzip"),
    Kind("zstd", (b"(\xb5/\xfd", *_SKIPPED), ".zst", "zstd -d"),
    Kind("bzip2", tuple(b"BZh%d1AY&SY" % level for level in range(1, 10)), ".bz2", "bunzip2"),
    Kind("xz", (b"\xfd7zXZ\0",), unpack="unxz"),
    Kind("zip", (b"PK\3\4", b"PK\5\6"), unpack="unzip"),
    Kind("7z", (b"7z\xbc\xaf'\x1c",), unpack="7z x"),
    Kind("lz4", (b'\4"M\x18',), unpack="lz4 -d"),
    Kind("snappy", (b"\xff\6\0\0sNaPpY",), unpack="snzip -d"),
    Kind("Parquet", Parquet.begins),
    # A stream of it has no name: data sets on disks are such.
    Kind("Arrow", (b"ARROW1", b"\xff\xff\xff\xff")),
    Kind("ORC", (b"ORC",)),
    Kind("Avro", (b"Obj\1",)),
    Kind("SQLite", (b"SQLite format 3\0",)),
)


def kind_of(begins: bytes) -> Kind | None:
    """The kind of a file that begins so, or None where it may be lines of text."""
    return next((kind for kind in _KINDS if begins.startswith(kind.begins)), None)


def why_not_queries(begins: bytes) -> str | None:
    """Why a file that begins so is not read as queries, or None where it may be JSON lines."""
    if pointer := why_a_pointer(begins):
        return f"{pointer}."
    kind = kind_of(begins)
    if kind is None:
        return None
    if kind.unpack:
        return (
            f"is compressed ({kind.name}), whatever its name says, and queries are read as plain "
            f"JSON lines: unpack it (`{kind.unpack}`) and name what is in it."
        )
    return (
        f"is a file of {kind.name}, whatever its name says, and queries are read as JSON lines: "
        "write one {query_id, prompt, completion} a line."
    )


def why_not_documents(begins: bytes, name: str) -> str | None:
    """Why documents are not what their name says, or None where they may be.

    The format of that name decides itself what its files begin with: refused is what no format or
    another one claims.

    Args:
        begins: their first bytes.
        name: theirs, in lower case.
    """
    if pointer := why_a_pointer(begins):
        return f"{pointer}."
    source, _ = source_of(name)
    packed = next((known for known in _KINDS if known.ending and name.endswith(known.ending)), None)
    kind = kind_of(begins)
    if kind is packed if packed else begins.startswith(source.begins):
        return None
    ending = f".{name.rpartition('.')[2]}"
    says = f"its name ends with {ending}"
    what = f"is a file of {kind.name}" if kind else ""
    if kind and kind.ending:
        # A compression follows what it is of, which a name that says another one does not tell.
        of = ".jsonl" if packed or source.seeks else ending
        return f"{what}, and {says}: let its name end with {of}{kind.ending}."
    if (claimed := claiming(begins)) and not (kind and kind.unpack):
        right = claimed.endings[0]
        what = what or f"begins as {right} files do"
        return f"{what}, and {says}: let its name end with {right}."
    if kind:
        how = f"unpack it (`{kind.unpack}`)" if kind.unpack else "write it as JSON lines"
        return f"{what}, and {says}: {how}, and let its name say what it is then."
    lines = begins.removeprefix(b"\xef\xbb\xbf").lstrip().startswith(b"{")
    if lines and (packed or source.begins):
        return f"begins as JSON lines do, and {says}: let its name end with .jsonl."
    return None
