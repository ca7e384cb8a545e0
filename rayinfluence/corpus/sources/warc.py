"""WARC: pages of a crawl, or their texts (WET), as web archives keep them."""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import Any, BinaryIO

import pyarrow as pa

from rayinfluence.corpus.sources.compression import refuse_bomb
from rayinfluence.corpus.sources.html import Html, decoded, for_extractors
from rayinfluence.corpus.sources.source import (
    NoPage,
    NotDocumentsError,
    Refused,
    Row,
    Wanted,
    lacking_extra,
)

#: Kinds of records that say how others came about.
_ABOUT_OTHERS = ("warcinfo", "request", "metadata")
_PAGES = ("text/html", "application/xhtml+xml")
_TEXT = "text/plain"
_CHUNK = 2**20
#: Ways of packing a response that zlib tells apart by their beginning.
_OF_ZLIB = {"gzip", "x-gzip", "deflate"}


class Warc:
    """Records, numbered as they stand; those of responses and of conversions are documents.

    The text of a page is its main content, without menus and the like, that of plain text is all of
    it. A response of another type, and one that says that there is no page (a status that is none
    of success), is none, and nor is a record of another kind, such as what another archive has.
    Requests and records about others are passed over.
    """

    endings = (".warc", ".wet")
    seeks = False
    is_text = False

    def holds(self, begins: bytes) -> bool:
        """By its version."""
        return begins.startswith(b"WARC/")

    def refusal(self, begins: bytes) -> str | None:
        """It has no record at its start."""
        return None if self.holds(begins) else "does not begin with a record of WARC."

    def rows(self, stream: BinaryIO, wanted: Wanted) -> Iterator[Row]:
        """Texts, with ``id``, ``url``, ``date`` and ``content_type`` of their records."""
        try:
            import trafilatura  # noqa: F401 - both, before the first record
            from fastwarc.warc import ArchiveIterator
        except ImportError as error:
            raise lacking_extra("an archive of the web", "warc") from error
        number = 0
        forward = _Forward(stream)
        for number, record in enumerate(ArchiveIterator(forward, parse_http=False), start=1):
            kind = record.headers.get("WARC-Type")
            body = record.reader.read()
            if forward.error:
                raise forward.error
            # Both have to be there (WARC 1.1, 5.3 and 5.5), so headers without one have no end.
            if kind is None or not (record.headers.get("Content-Length") or "").isdecimal():
                raise EOFError(f"the headers of record {number} are cut short or damaged")
            if len(body) < record.content_length:
                raise EOFError(f"record {number} is cut short")
            if kind not in _ABOUT_OTHERS:
                yield number, _row(record, kind, body, wanted)
        if forward.error:
            raise forward.error
        if not number:
            raise EOFError("it has no record that is whole")


def _row(record: Any, kind: str, body: bytes, wanted: Wanted) -> dict[str, Any] | str:
    """The row of a record, or why it is none."""
    if record.headers.get("WARC-Segment-Number") is not None:
        return Refused.of("it is one of several segments of a record, which are not joined", body)
    of_content = record.headers.get("Content-Type")
    if kind == "response":
        of_content, text = _response(body, of_content)
    elif kind == "conversion":
        text = _conversion(body)
    else:
        return NoPage.of(f"its record is of the kind {kind}", body)
    if isinstance(text, Refused):
        return text
    return {
        "id": record.record_id,
        "url": record.headers.get("WARC-Target-URI"),
        "date": record.headers.get("WARC-Date"),
        "content_type": of_content,
        wanted.text: text,
    }


class _Forward:
    """A stream as the iterator of records takes it: it asks for places, and cannot stand errors."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self._place = 0
        self.error: Exception | None = None

    def read(self, size: int = -1) -> bytes:
        """Bytes; none from where an error is, which is kept."""
        try:
            part = self._stream.read(size)
        except (OSError, EOFError, NotDocumentsError) as error:
            self.error = error
            return b""
        self._place += len(part)
        return part

    def tell(self) -> int:
        """How many bytes have been read."""
        return self._place

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Where it is already."""
        wanted = offset + (self._place if whence == io.SEEK_CUR else 0)
        if whence == io.SEEK_END or wanted != self._place:
            raise io.UnsupportedOperation("an archive is read from its start to its end")
        return self._place

    def close(self) -> None:
        """Leave it to whoever opened it."""


def _response(block: bytes, of_record: str | None) -> tuple[str | None, str]:
    """The type of what a server sent, and its text or why it has none."""
    from fastwarc.warc import ArchiveIterator

    kind, charset, body, status = of_record, None, block, None
    if (of_record or "application/http").lower().startswith("application/http"):
        # By itself: where a body cannot be decoded, or ends early, the archive goes on after it.
        head = f"WARC/1.1\r\nWARC-Type: response\r\nContent-Length: {len(block)}\r\n"
        head += "Content-Type: application/http\r\n\r\n"
        alone = io.BytesIO(head.encode() + block + b"\r\n\r\n")
        try:
            for record in ArchiveIterator(alone, auto_decode="transfer"):
                kind, charset = record.http_content_type, record.http_charset
                status = record.http_headers.status_code
                body = _content(record, alone.getvalue(), len(block))
        except OSError as error:
            return kind, Refused.of(f"its response cannot be decoded: {error}", block)
    if status is not None and not 200 <= status < 300:
        return kind, NoPage.of(f"its response is of the status {status}", block)
    named = (kind or "").partition(";")[0].strip().lower()
    if named in _PAGES or (not named and Html().holds(body)):
        return kind, _main_text(decoded(body, charset))
    if named == _TEXT or (not named and _is_text(body)):
        return kind, decoded(body, charset)
    what = f"of the type {named}" if named else "of no type, and no page or text by its bytes"
    return kind, NoPage.of(f"its response is {what}", block)


def _content(record: Any, response: bytes, n_packed: int) -> bytes:
    """The body of a response, unpacked as its headers say.

    Args:
        record: of the response, as it was sent.
        response: the archive that it alone is.
        n_packed: bytes of the response.

    Raises:
        OSError: it cannot be unpacked to its end.
    """
    from fastwarc.warc import ArchiveIterator

    said = (record.http_headers.get("Content-Encoding") or "").lower().split(",")
    packings = [packing for one in said if (packing := one.strip()) not in ("", "identity")]
    if not _OF_ZLIB.issuperset(packings):
        unpacked = ArchiveIterator(io.BytesIO(response), auto_decode="all")
        return _whole(next(unpacked).reader, n_packed)
    body = _whole(record.reader, n_packed)
    for _ in packings:
        # fastwarc itself takes what there is of a body that is cut short for all of it.
        body = _whole(pa.CompressedInputStream(io.BytesIO(body), "gzip"), n_packed)
    return body


def _whole(reader: Any, n_packed: int) -> bytes:
    body = bytearray()
    while part := reader.read(_CHUNK):
        body += part
        refuse_bomb(len(body), n_packed)
    return bytes(body)


def _is_text(body: bytes) -> bool:
    try:
        return "\0" not in body.decode()
    except UnicodeDecodeError:
        return False


def _main_text(page: str) -> str:
    """What a page is about; nothing where it says nothing."""
    from trafilatura import extract

    return extract(for_extractors(page)) or ""


def _conversion(body: bytes) -> str:
    try:
        return body.decode()
    except UnicodeDecodeError:
        return Refused.of("not UTF-8, as texts of an archive are", body)
