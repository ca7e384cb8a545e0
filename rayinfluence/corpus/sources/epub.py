"""EPUB: a book as an archive of XHTML; each chapter is a document."""

from __future__ import annotations

import posixpath
import zipfile
import zlib
from collections.abc import Iterator
from typing import Any, BinaryIO
from urllib.parse import unquote

from rayinfluence.corpus.sources.compression import refuse_bomb
from rayinfluence.corpus.sources.html import page
from rayinfluence.corpus.sources.source import (
    NoPage,
    NotDocumentsError,
    Refused,
    Row,
    Wanted,
    lacking_extra,
)

_CONTAINER = "META-INF/container.xml"
_PAGES = ("application/xhtml+xml", "text/html")
_CHUNK = 2**20
#: The names in the description of a book that its chapters have as columns.
_OF_BOOKS = {"title": "book", "creator": "author", "language": "language"}


class Epub:
    """Chapters in the order in which they are read, numbered from 1.

    Nothing is unpacked to a disk, and no name leads out of the archive.
    """

    endings = (".epub",)
    seeks = True
    is_text = False

    def holds(self, begins: bytes) -> bool:
        """By its first member, which has to say so."""
        return begins.startswith(b"PK\3\4") and begins[30:58] == b"mimetypeapplication/epub+zip"

    def refusal(self, begins: bytes) -> str | None:
        """Its end decides."""
        return None

    def rows(self, stream: BinaryIO, wanted: Wanted) -> Iterator[Row]:
        """Texts of chapters, with what the book says of itself."""
        try:
            with zipfile.ZipFile(stream) as archive:
                yield from _Book(archive).rows(wanted)
        except (zipfile.BadZipFile, zlib.error, NotImplementedError, RuntimeError) as error:
            # The last is how it says that a member is encrypted.
            raise OSError(str(error)) from error


class _Book:
    def __init__(self, archive: zipfile.ZipFile) -> None:
        self._archive = archive
        self._n_plain = self._n_packed = 0

    def rows(self, wanted: Wanted) -> Iterator[Row]:
        container = self._parsed(_CONTAINER)
        place = container.xpath("string(//*[local-name()='rootfile']/@full-path)")
        package = self._parsed(place)
        about = {
            column: said
            for name, column in _OF_BOOKS.items()
            if (said := package.xpath(f"string(//*[local-name()='{name}'])").strip())
        }
        items = {item.get("id"): item for item in package.xpath("//*[local-name()='item']")}
        names = package.xpath("//*[local-name()='itemref']/@idref")
        read: set[str] = set()
        for number, name in enumerate(names, start=1):
            item = items.get(name)
            if item is None:
                yield (
                    number,
                    _refused(f"the book has no item {name!r}, which its order names", name),
                )
                continue
            href, kind = item.get("href", ""), item.get("media-type")
            if kind not in _PAGES:
                yield number, NoPage.of(f"the book's item is of the type {kind}", href.encode())
            elif href in read:
                why = "the book's order has it before, and it is read once"
                yield number, NoPage.of(why, href.encode())
            else:
                read.add(href)
                yield number, self._chapter(href, place, about, wanted)

    def _chapter(
        self, href: str, place: str, about: dict[str, Any], wanted: Wanted
    ) -> dict[str, Any] | str:
        member = posixpath.normpath(posixpath.join(posixpath.dirname(place), unquote(href)))
        if member.startswith(("/", "../")):
            return _refused(f"{href!r} leads out of the archive, and is not followed", href)
        try:
            body = self._read(member)
        except KeyError:
            return _refused(f"the archive has no {member!r}, which the book's order names", href)
        found = page(body, wanted)
        return found if isinstance(found, str) else {**about, "chapter": member, **found}

    def _parsed(self, member: str) -> Any:
        try:
            from lxml import etree
        except ImportError as error:
            raise lacking_extra("a book", "html") from error
        try:
            # No entity is followed: one may name a file of this machine, or be a bomb.
            parser = etree.XMLParser(resolve_entities=False, no_network=True)
            return etree.fromstring(self._read(member), parser)
        except (KeyError, etree.XMLSyntaxError) as error:
            raise NotDocumentsError(
                f"is no EPUB that can be read: {member or 'its description'} in it is missing or "
                "damaged. Copy it again, or unpack it and name its pages."
            ) from error

    def _read(self, member: str) -> bytes:
        """A member, by what comes out of it: what an archive says of sizes is not believed."""
        body = bytearray()
        self._n_packed += self._archive.getinfo(member).compress_size
        with self._archive.open(member) as file:
            while part := file.read(_CHUNK):
                body += part
                self._n_plain += len(part)
                refuse_bomb(self._n_plain, self._n_packed)
        return bytes(body)


def _refused(why: str, named: str) -> Refused:
    return Refused.of(why, named.encode())
