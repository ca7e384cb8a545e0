"""WARC: pages of a crawl, or their texts (WET), as web archives keep them."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import BinaryIO

from rayinfluence.corpus.sources.source import Row, Wanted, lacking_extra

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
        for number, record in enumerate(ArchiveIterator(stream), start=1):
            is_page = record.headers.get("WARC-Type") == "response"
            if not is_page and record.headers.get("WARC-Type") != "conversion":
                continue
            n_bytes = record.content_length
            body = record.reader.read()
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
        if not number:
            raise EOFError("it has no record that is whole")


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
