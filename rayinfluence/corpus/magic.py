"""What a file is by its first bytes, whatever its name says."""

from __future__ import annotations

from dataclasses import dataclass

from rayinfluence.corpus.lines import is_binary, may_be_json
from rayinfluence.corpus.sources import endings, find_source, holding
from rayinfluence.corpus.sources.compression import CODECS, Codec, parted
from rayinfluence.corpus.sources.jsonl import JsonLines
from rayinfluence.corpus.sources.source import NotDocumentsError, Source
from rayinfluence.corpus.token_files import ENDINGS as TOKENS
from rayinfluence.storage.downloads import why_a_pointer
from rayinfluence.text import visible_line

#: Enough of a file to know it by.
BEGINNING = 4096


@dataclass(frozen=True)
class Kind:
    """A kind of files that are not lines of text.

    Attributes:
        name: what people call it.
        begins: how such files begin.
        unpack: the command that takes compression away; empty where it is none.
        endings: of formats that are such files inside.
    """

    name: str
    begins: tuple[bytes, ...]
    unpack: str = ""
    endings: tuple[str, ...] = ()


_KINDS = (
    *(Kind(codec.name, codec.begins, codec.unpack) for codec in CODECS),
    Kind("zip", (b"PK\3\4", b"PK\5\6"), unpack="unzip", endings=(".epub",)),
    Kind("7z", (b"7z\xbc\xaf'\x1c",), unpack="7z x"),
    Kind("lz4", (b'\4"M\x18',), unpack="lz4 -d"),
    Kind("snappy", (b"\xff\6\0\0sNaPpY",), unpack="snzip -d"),
    Kind("Parquet", (b"PAR1", b"PARE")),
    # A stream of it has no name: data sets on disks are such.
    Kind("Arrow", (b"ARROW1", b"\xff\xff\xff\xff")),
    Kind("ORC", (b"ORC",)),
    Kind("Avro", (b"Obj\1",)),
    Kind("SQLite", (b"SQLite format 3\0",)),
)


_TAR = Kind("tar", (), unpack="tar -xf")
#: Where the first header of tar says what it is; its member's name is at its start.
_USTAR, _NAME = slice(257, 262), slice(0, 100)


def kind_of(begins: bytes) -> Kind | None:
    """The kind of a file that begins so, or None where it may be lines of text."""
    if begins[_USTAR] == b"ustar":
        return _TAR
    found = next((kind for kind in _KINDS if begins.startswith(kind.begins)), None)
    return found if found and (found.unpack or is_binary(begins)) else None


def why_not_queries(begins: bytes) -> str | None:
    """Why a file that begins so is not read as queries, or None where it may be text."""
    if pointer := why_a_pointer(begins):
        return f"{pointer}."
    kind = kind_of(begins)
    if kind is None:
        return None
    if kind.unpack:
        return (
            f"is compressed ({kind.name}), whatever its name says, and queries are read as plain "
            f"text: unpack it (`{kind.unpack}`) and name what is in it."
        )
    return (
        f"is a file of {kind.name}, whatever its name says, and queries are read as JSON, CSV or "
        "YAML: write one {prompt, completion} a line, as JSON."
    )


def format_of(begins: bytes, name: str, codec: Codec | None = None) -> Source:
    """The format of a file: what its first bytes say, and where they do not tell its name.

    A text that people read is none of the formats of data, so its bytes say nothing against a name;
    and under the name of a text only what is JSON as far as it is seen is taken for that.

    Args:
        begins: its first plain bytes.
        name: of the file.
        codec: how it is compressed.

    Raises:
        NotDocumentsError: documents are not read from such files.
    """
    if pointer := why_a_pointer(begins):
        raise NotDocumentsError(f"{pointer}.")
    named, found = find_source(name), holding(begins)
    if named is not None and found is not None:
        is_prose = named.is_text and isinstance(found, JsonLines) and not may_be_json(begins)
        if is_prose or (found.is_text and not named.is_text):
            found = None
    if found is None:
        found = named
        kind = kind_of(begins)
        if kind and not name.lower().endswith(kind.endings):
            within = f"holds {kind.name} within {codec.name}" if codec else ""
            what = within or f"is a file of {kind.name}"
            how = f"unpack it (`{kind.unpack}`)" if kind.unpack else "write it as JSON lines"
            that = "that"
            if kind is _TAR:
                member = begins[_NAME].rstrip(b"\0").decode(errors="replace")
                that = f"what was in it, such as {visible_line(member)}"
            raise NotDocumentsError(f"{what}, whatever its name says: {how}, and name {that}.")
        said = parted(name)[1]
        if said and not codec:
            raise EOFError(f"it does not begin as files of {said.name} do")
    if found is None and parted(name)[0].endswith(TOKENS):
        raise NotDocumentsError(
            "may hold token ids, which are read where corpus.tokens says how they lie; texts are "
            f"read from {endings()} files."
        )
    if found is None:
        raise NotDocumentsError(
            f"is of no format that is known by its first bytes or by its name: documents are read "
            f"from {endings()} files. Let its name say what it is."
        )
    if codec and found.seeks:
        raise NotDocumentsError(
            f"is compressed ({codec.name}) as a whole, and {found.endings[0]} files are read here "
            f"and there: unpack it (`{codec.unpack}`) and name what is in it."
        )
    if why := found.refusal(begins):
        raise NotDocumentsError(why)
    return found
