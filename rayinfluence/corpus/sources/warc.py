"""WARC: pages of a crawl, or their texts (WET), as web archives keep them."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterator
from typing import BinaryIO

from rayinfluence.corpus.sources.source import NotDocumentsError, Row, Wanted, lacking_extra

_PAGES = ("text/html", "application/xhtml+xml")


class Warc:
    """Records, numbered as they stand; those of responses and of conversions are documents.

    The text of a page is its main content, without menus and the like; a response that is none has
    no text. Requests and records about others are no documents.
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
        for number, record in enumerate(ArchiveIterator(forward), start=1):
            is_page = record.headers.get("WARC-Type") == "response"
            if not is_page and record.headers.get("WARC-Type") != "conversion":
                continue
            n_bytes = record.content_length
            body = record.reader.read()
            if forward.error:
                raise forward.error
            if len(body) < n_bytes:
                raise EOFError(f"record {number} is cut short")
            kind = record.http_content_type if is_page else record.headers.get("Content-Type")
            text = _main_text(body, kind, record.http_charset) if is_page else _decoded(body)
            if text is None:
                yield number, "not UTF-8, as texts of an archive are"
                continue
            yield (
                number,
                {
                    "id": record.record_id,
                    "url": record.headers.get("WARC-Target-URI"),
                    "date": record.headers.get("WARC-Date"),
                    "content_type": kind,
                    wanted.text: text,
                },
            )
        if forward.error:
            raise forward.error
        if not number:
            raise EOFError("it has no record that is whole")


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


def _main_text(body: bytes, kind: str | None, charset: str | None) -> str:
    """What a page is about; nothing where it is no page, or says nothing."""
    from trafilatura import extract

    if kind not in _PAGES:
        return ""
    page: str | bytes = body
    with contextlib.suppress(LookupError, UnicodeDecodeError):
        page = body.decode(charset or "utf-8")
    return extract(page) or ""


def _decoded(body: bytes) -> str | None:
    try:
        return body.decode()
    except UnicodeDecodeError:
        return None
