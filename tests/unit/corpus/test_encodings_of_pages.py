"""Pages in the encodings that they and their servers state, and packed as servers send them."""

from __future__ import annotations

import gzip
import io
import zlib
from pathlib import Path

import pytest

pytest.importorskip("inscriptis")
pytest.importorskip("fastwarc")
pytest.importorskip("trafilatura")

from rayinfluence.corpus.documents import BadDocument, NoPageDocument, read_documents
from rayinfluence.corpus.forms import Columns, Document
from rayinfluence.corpus.sources import compression
from rayinfluence.errors import CorpusError
from rayinfluence.storage.store import Store

ACCENTS = "caf\u00e9 \u201cq\u201d"
WORDS = "These are the words of a caf\u00e9 that says something at some length. " * 5
PAGE = f"<html><body><p>{WORDS}</p></body></html>"
HALVES = (PAGE.encode()[:99], PAGE.encode()[99:])
TYPE = "Content-Type: text/html; charset=utf-8\r\n"


def read(path: Path) -> list[Document | BadDocument]:
    return list(read_documents(Store(str(path)), Columns("text", "id")))


@pytest.mark.parametrize(
    ("head", "encoding", "text"),
    [
        ('<?xml version="1.0" encoding="iso-8859-1"?><html>', "cp1252", ACCENTS),
        ("<?xml version='1.0' encoding='windows-1251' ?><html>", "cp1251", "\u043f\u0440\u0438"),
        ('<html><meta charset="latin1">', "cp1252", ACCENTS),
        ("<html>", "cp1252", ACCENTS),
        ('<html><meta charset="no such one">', "cp1252", ACCENTS),
        ('<html><meta charset="punycode">', "utf-8", ACCENTS),
        ('<?xml version="1.0" encoding="iso-8859-1"?><html>', "utf-8", ACCENTS),
        # A mark at the beginning counts before all that is said.
        ("\ufeff<html>", "utf-16-le", ACCENTS),
        ("\ufeff<html>", "utf-16-be", ACCENTS),
        ("\ufeff<html>", "utf-32-le", ACCENTS),
        ("\ufeff<html>", "utf-32-be", ACCENTS),
        ('\ufeff<html><meta charset="latin1">', "utf-8", ACCENTS),
        ('\ufeff<?xml version="1.0" encoding="utf-16"?><html>', "utf-16-be", ACCENTS),
        ('<?xml version="1.0" encoding="utf-16"?><html>', "utf-16-le", ACCENTS),
        ("<html>", "utf-16-be", ACCENTS),
        ('<html><meta charset="gb2312">', "gb18030", "\u4e2d\u6587\u9555"),
        (
            '<html><meta http-equiv="content-type" content="text/html; charset=koi8-r">',
            "koi8-r",
            "\u043f\u0440\u0438",
        ),
    ],
)
def test_a_page_is_read_in_the_encoding_that_browsers_take(
    tmp_path: Path, head: str, encoding: str, text: str
) -> None:
    path = tmp_path / "a.html"
    path.write_bytes(f"{head}<body><p>{text}</p></body></html>".encode(encoding))
    [found] = read(path)
    assert isinstance(found, Document)
    assert found.text.strip() == text


def test_a_page_of_too_many_levels_is_a_bad_row(tmp_path: Path) -> None:
    path = tmp_path / "a.html"
    path.write_text("<html><body>" + "<div>" * 3000 + "x" + "</div>" * 3000)
    [found] = read(path)
    assert isinstance(found, BadDocument)
    assert "nested more deeply" in str(found)


def archive(*responses: bytes) -> bytes:
    """An archive of responses, each with its head."""
    from fastwarc.warc import WarcRecord, WarcRecordType

    sink = io.BytesIO()
    for response in responses:
        record = WarcRecord()
        record.init_headers(WarcRecordType.response)
        record.headers["Content-Type"] = "application/http; msgtype=response"
        record.set_bytes_content(response)
        record.write(sink)
    return sink.getvalue()


def response(headers: str, body: bytes) -> bytes:
    return f"HTTP/1.1 200 OK\r\n{headers}\r\n".encode() + body


def chunked(body: bytes) -> bytes:
    parts = [body[start : start + 50] for start in range(0, len(body), 50)]
    return b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in parts) + b"0\r\n\r\n"


PLAIN = response(TYPE, PAGE.encode())
CHUNKED = "Transfer-Encoding: chunked\r\n"


def of_archive(tmp_path: Path, body: bytes) -> list[Document | BadDocument]:
    path = tmp_path / "a.warc"
    path.write_bytes(body)
    return read(path)


@pytest.mark.parametrize(
    ("headers", "body"),
    [
        (CHUNKED, chunked(PAGE.encode())),
        (f"{CHUNKED}Content-Encoding: gzip\r\n", chunked(gzip.compress(PAGE.encode()))),
        ("content-encoding: GZIP\r\n", gzip.compress(PAGE.encode())),
        ("Content-Encoding: deflate\r\n", zlib.compress(PAGE.encode())),
        ("Content-Encoding: identity\r\n", PAGE.encode()),
        ("Content-Encoding: x-gzip, identity\r\n", gzip.compress(PAGE.encode())),
        ("Content-Encoding: deflate, gzip\r\n", gzip.compress(zlib.compress(PAGE.encode()))),
        ("Content-Encoding: gzip\r\n", b"".join(map(gzip.compress, HALVES))),
    ],
)
def test_responses_are_unpacked_and_the_next_is_read(
    tmp_path: Path, headers: str, body: bytes
) -> None:
    found = of_archive(tmp_path, archive(response(TYPE + headers, body), PLAIN))
    assert [d.text.strip() for d in found if isinstance(d, Document)] == [WORDS.strip()] * 2


def test_brotli_is_unpacked(tmp_path: Path) -> None:
    brotli = pytest.importorskip("brotli")
    headers = f"{TYPE}Content-Encoding: br\r\n"
    [found] = of_archive(tmp_path, archive(response(headers, brotli.compress(PAGE.encode()))))
    assert isinstance(found, Document)
    assert found.text.strip() == WORDS.strip()


@pytest.mark.parametrize(
    "headers", ["Content-Encoding: gzip\r\n", "Content-Encoding: none-such\r\n", CHUNKED]
)
def test_a_response_that_cannot_be_decoded_is_a_bad_row(tmp_path: Path, headers: str) -> None:
    bad, last = of_archive(tmp_path, archive(response(TYPE + headers, PAGE.encode()), PLAIN))
    assert isinstance(bad, BadDocument)
    assert "cannot be decoded" in str(bad)
    assert isinstance(last, Document)


@pytest.mark.parametrize(
    ("headers", "body"),
    [
        ("Content-Encoding: gzip\r\n", gzip.compress(PAGE.encode())),
        ("Content-Encoding: deflate\r\n", zlib.compress(PAGE.encode())),
        (f"{CHUNKED}Content-Encoding: gzip\r\n", gzip.compress(PAGE.encode())),
    ],
)
def test_a_response_that_is_cut_short_is_a_bad_row(
    tmp_path: Path, headers: str, body: bytes
) -> None:
    for cut in (3, 12, len(body) // 2):
        part = body[:-cut]
        sent = b"%x\r\n%s\r\n" % (len(part), part) if CHUNKED in headers else part
        bad, last = of_archive(tmp_path, archive(response(TYPE + headers, sent), PLAIN))
        assert isinstance(bad, BadDocument)
        assert "cannot be decoded" in str(bad)
        assert isinstance(last, Document)


def test_a_response_that_is_a_bomb_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compression, "BOMB_BYTES", 2**20)
    body = gzip.compress(b"<html>" + b" " * 2**23)
    with pytest.raises(CorpusError, match="is taken for an attack on memory and time"):
        of_archive(tmp_path, archive(response(f"{TYPE}Content-Encoding: gzip\r\n", body)))


@pytest.mark.parametrize(
    ("headers", "body", "text"),
    [
        ("Content-Type: Text/HTML; charset=utf-8\r\n", PAGE.encode(), WORDS),
        ('content-type: TEXT/html ;charset="latin-1"\r\n', PAGE.encode("latin-1"), WORDS),
        ("Content-Type: text/html\r\n", PAGE.encode("latin-1"), WORDS),
        # What its own first bytes say counts before its server's word.
        ("Content-Type: text/html; charset=utf-8\r\n", PAGE.encode("utf-16"), WORDS),
        ("Content-Type: text/plain; charset=latin-1\r\n", WORDS.encode("utf-8-sig"), WORDS),
        # What comes after a page's end is of the page.
        (
            "Content-Type: text/html; charset=utf-8\r\n",
            b"<html><body></body></html>" + PAGE.encode(),
            WORDS,
        ),
        ("", b"<!doctype html>" + PAGE.encode(), WORDS),
        ("Content-Type: Text/Plain; charset=latin-1\r\n", WORDS.encode("latin-1"), WORDS),
        ("Content-Type: text/plain\r\n", b"<p> as it is", "<p> as it is"),
        ("", WORDS.encode(), WORDS),
    ],
)
def test_pages_and_texts_are_known_by_their_types_or_content(
    tmp_path: Path, headers: str, body: bytes, text: str
) -> None:
    [found] = of_archive(tmp_path, archive(response(headers, body)))
    assert isinstance(found, Document)
    assert found.text.strip() == text.strip()


@pytest.mark.parametrize(
    ("headers", "said"),
    [("Content-Type: Image/PNG\r\n", "of the type image/png"), ("", "of no type, and no page")],
)
def test_other_types_are_no_pages(tmp_path: Path, headers: str, said: str) -> None:
    [found] = of_archive(tmp_path, archive(response(headers, b"\x89PNG\0")))
    assert isinstance(found, NoPageDocument)
    assert said in str(found)
