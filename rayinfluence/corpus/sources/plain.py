"""Plain text and Markdown: a file is a document, or each block between blank lines is one."""

from __future__ import annotations

from codecs import BOM_UTF8
from collections.abc import Iterator
from itertools import groupby
from typing import BinaryIO

from rayinfluence.corpus.lines import other_encoding
from rayinfluence.corpus.sources.source import Refused, Row, Wanted


class PlainText:
    """Texts in UTF-8, to the last character; a block has no line break at its end.

    Blocks are numbered in their order.
    """

    endings = (".txt", ".text", ".md", ".markdown", ".rst")
    seeks = False
    is_text = True

    def holds(self, begins: bytes) -> bool:
        """Anything may be text."""
        return False

    def refusal(self, begins: bytes) -> str | None:
        """It is in another encoding, or no text."""
        if other_encoding(begins):
            return (
                "is no text in UTF-8: it is in UTF-16 or UTF-32, or no text at all. Save it as "
                "UTF-8, or leave it out."
            )
        return None

    def rows(self, stream: BinaryIO, wanted: Wanted) -> Iterator[Row]:
        """Texts under the name of the column that is wanted."""
        bodies = _blocks(stream) if wanted.blocks else filter(None, [stream.read()])
        for number, body in enumerate(bodies, start=1):
            whole = body.removeprefix(BOM_UTF8) if number == 1 else body
            try:
                yield number, {wanted.text: whole.decode()}
            except UnicodeDecodeError as error:
                why = f"not UTF-8: it has the byte 0x{body[error.start]:02x}"
                yield number, Refused.of(why, body)


def _blocks(stream: BinaryIO) -> Iterator[bytes]:
    for is_text, lines in groupby(stream, key=lambda line: bool(line.strip())):
        if is_text:
            yield b"".join(lines).removesuffix(b"\n").removesuffix(b"\r")
