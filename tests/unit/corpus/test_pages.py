"""Pages, books and archives of the web, made here with what writes such files."""

from __future__ import annotations

import gzip
import io
import zipfile
from pathlib import Path

import pytest

pytest.importorskip("inscriptis")
pytest.importorskip("fastwarc")
pytest.importorskip("trafilatura")

from rayinfluence.corpus.documents import BadDocument, NoPageDocument, read_documents
from rayinfluence.corpus.forms import Columns, Document
from rayinfluence.corpus.limits import STRICT
from rayinfluence.corpus.sources import compression
from rayinfluence.corpus.sources.html import Html
from rayinfluence.corpus.tokenize import TokenizeSettings, tokenize_file
from rayinfluence.errors import CorpusError
from rayinfluence.storage.store import Store
from rayinfluence.testing import tiny_tokenizer

PAGE = (
    "<html><head><title>A  \n title</title><style>p {}</style><script>let x</script></head>"
    "<body><h1>Head</h1><p>One <b>b\u00f6ld</b> word.</p><p>Two &amp; three</p></body></html>"
)
XHTML = (
    '<?xml version="1.0" encoding="utf-8"?>\n<!DOCTYPE html>\n'
    '<html xmlns="http://www.w3.org/1999/xhtml"><head><title>I</title></head>'
    "<body><p>Chapter {}.</p></body></html>"
)
OPF = """<?xml version="1.0"?>
<package xmlns="http://www.idpf.org/2007/opf" version="3.0">
<metadata xmlns:dc="http://purl.org/dc/elements/1.1/"><dc:title>Book</dc:title>
<dc:creator>Somebody</dc:creator><dc:language>en</dc:language></metadata>
<manifest>{}</manifest><spine>{}</spine></package>"""
CONTAINER = (
    '<container xmlns="urn:oasis:names:tc:opendocument:xmlns:container" version="1.0"><rootfiles>'
    '<rootfile full-path="OEBPS/book.opf" media-type="application/oebps-package+xml"/>'
    "</rootfiles></container>"
)


def read(path: Path) -> list[Document | BadDocument]:
    return list(read_documents(Store(str(path)), Columns("text", "id")))


@pytest.mark.parametrize("name", ["a.html", "a.HTM", "a.xhtml", "a.html.gz", "a", "a.txt"])
def test_a_page_is_its_text(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    body = PAGE.encode()
    path.write_bytes(gzip.compress(body) if name.endswith("gz") else body)
    [found] = read(path)
    assert isinstance(found, Document)
    lines = [line for line in found.text.splitlines() if line]
    assert lines == ["Head", "One b\u00f6ld word.", "Two & three"]
    assert found.metadata == {"title": "A title"}


@pytest.mark.parametrize(
    ("page", "lines"),
    [
        ("<html><body>one</body></html><p>two</p>", ["one", "two"]),
        ("<body><p>one</p></BODY ></html>two", ["one", "two"]),
        ("<html><body>one</body></html>\n<html><body><p>two</p></body></html>", ["one", "two"]),
        ("<html><body>one</body><!-- x --><div>two</div></html>", ["one", "two"]),
    ],
)
def test_what_comes_after_the_end_of_a_page_is_of_the_page(
    tmp_path: Path, page: str, lines: list[str]
) -> None:
    (tmp_path / "a.html").write_text(page)
    [found] = read(tmp_path / "a.html")
    assert isinstance(found, Document)
    assert found.text.split() == lines


#: Of references to characters, and the characters themselves; how each is written in a page.
REFERENCES = "&amp;lt;b&amp;gt; &#38;copy; &#x26;amp; A&T &lt;i&gt; a?b=1&amp;region=2 &amp;amp;lt;"
SHOWN = "&lt;b&gt; &copy; &amp; A&T <i> a?b=1&region=2 &amp;lt;"


def test_what_a_page_says_of_references_is_resolved_once(tmp_path: Path) -> None:
    body = f"<title>{REFERENCES}</title><p>{REFERENCES}</p><pre>{REFERENCES}</pre>"
    (tmp_path / "a.html").write_text(f"<html>{body}</html>")
    [found] = read(tmp_path / "a.html")
    assert isinstance(found, Document)
    assert found.text == f"{SHOWN}\n\n{SHOWN}"
    assert found.metadata["title"] == SHOWN
    article = ARTICLE.replace("at some length. </p>", f"at some length. {REFERENCES}</p>")
    assert article != ARTICLE
    responses = [("response", OF_HTTP, http("text/html", article.encode()))]
    (tmp_path / "a.warc").write_bytes(warc(responses))
    [found] = read(tmp_path / "a.warc")
    assert isinstance(found, Document)
    assert SHOWN in found.text


@pytest.mark.parametrize("begins", ['<?xml version="1.0"?><html>', '<html lang="en" xmlns="x">'])
def test_literal_text_of_xhtml_is_text(tmp_path: Path, begins: str) -> None:
    page = f"{begins}<style><![CDATA[p]]></style><p>1 <![CDATA[<b> &amp; 2]]> 3</p></html>"
    (tmp_path / "a.xhtml").write_text(page)
    [found] = read(tmp_path / "a.xhtml")
    assert isinstance(found, Document)
    assert found.text == "1 <b> &amp; 2 3"


def test_a_page_is_in_the_encoding_that_it_states(tmp_path: Path) -> None:
    path = tmp_path / "a.html"
    path.write_bytes('<html><meta charset="latin-1"><p>caf\u00e9</p></html>'.encode("latin-1"))
    [found] = read(path)
    assert isinstance(found, Document)
    assert found.text.strip() == "caf\u00e9"


def test_a_page_of_xhtml_states_an_encoding_before_it_begins(tmp_path: Path) -> None:
    path = tmp_path / "a.xhtml"
    path.write_text(XHTML.format("\u00e9"), "utf-8")
    [found] = read(path)
    assert isinstance(found, Document)
    assert found.text.strip() == "Chapter \u00e9."


def epub(path: Path, chapters: dict[str, str], lacking: tuple[str, ...] = ()) -> None:
    """A book; chapters by their addresses, some of which are in no member."""
    items = "".join(
        f'<item id="i{n}" href="{href}" media-type="application/xhtml+xml"/>'
        for n, href in enumerate(chapters)
    )
    order = "".join(f'<itemref idref="i{n}"/>' for n in range(len(chapters)))
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("mimetype", "application/epub+zip", zipfile.ZIP_STORED)
        archive.writestr("META-INF/container.xml", CONTAINER)
        archive.writestr("OEBPS/book.opf", OPF.format(items, order))
        for href, body in chapters.items():
            if href not in lacking:
                archive.writestr(f"OEBPS/{href.replace('%20', ' ')}", body)


@pytest.mark.parametrize("name", ["book.epub", "book", "book.zip"])
def test_a_book_is_its_chapters_in_their_order(tmp_path: Path, name: str) -> None:
    chapters = {f"text/c%20{n}.xhtml": XHTML.format(n) for n in (2, 1, 3)}
    epub(tmp_path / name, chapters)
    found = read(tmp_path / name)
    assert [d.text.strip() for d in found if isinstance(d, Document)] == [
        f"Chapter {n}." for n in (2, 1, 3)
    ]
    assert isinstance(found[0], Document)
    assert found[0].metadata == {
        "author": "Somebody",
        "book": "Book",
        "chapter": "OEBPS/text/c 2.xhtml",
        "language": "en",
        "title": "I",
    }


def test_chapters_that_are_elsewhere_are_not_read(tmp_path: Path) -> None:
    """Neither out of the archive, nor where nothing is; the others are."""
    out = ("../../../../etc/passwd", "/etc/passwd", "file:///etc/passwd", "gone.xhtml")
    path = tmp_path / "book.epub"
    epub(path, dict.fromkeys((*out, "a.xhtml"), XHTML.format(1)), lacking=out)
    *bad, last = read(path)
    assert all(isinstance(one, BadDocument) for one in bad)
    assert len(bad) == 4
    assert "leads out of the archive" in str(bad[0])
    assert "the archive has no 'OEBPS/gone.xhtml'" in str(bad[3])
    assert isinstance(last, Document)


def test_entities_of_a_book_name_no_file_of_this_machine(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("a secret")
    path = tmp_path / "book.epub"
    entity = f'<!DOCTYPE x [<!ENTITY e SYSTEM "{secret}">]>'
    chapter = XHTML.replace("<!DOCTYPE html>", entity).format("&e;")
    epub(path, {"a.xhtml": chapter})
    assert "a secret" not in str(read(path))


def test_a_chapter_that_is_named_twice_is_read_once(tmp_path: Path) -> None:
    """And one that is a picture is none; neither is a fault of the book."""
    path = tmp_path / "book.epub"
    epub(path, {"a.xhtml": XHTML.format(1), "b.xhtml": XHTML.format(2)})
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name).decode() for name in archive.namelist()}
    book = members["OEBPS/book.opf"]
    picture_item = '<item id="p" href="p.svg" media-type="image/svg+xml"/></manifest>'
    book = book.replace("</manifest>", picture_item)
    book = book.replace("</spine>", '<itemref idref="p"/><itemref idref="i0"/></spine>')
    with zipfile.ZipFile(path, "w") as archive:
        for name, body in members.items():
            archive.writestr(name, book if name.endswith(".opf") else body)
    *chapters, picture, again = read(path)
    assert [one.text.strip() for one in chapters if isinstance(one, Document)] == [
        "Chapter 1.",
        "Chapter 2.",
    ]
    assert isinstance(picture, NoPageDocument)
    assert picture.reason == "the book's item is of the type image/svg+xml"
    assert isinstance(again, NoPageDocument)
    assert (again.place, "read once" in again.reason) == (f"{path}:4", True)


@pytest.mark.parametrize(
    ("definitions", "text"),
    [
        ('<!ENTITY who "Some &#98;ody">', "by Some body"),
        ("<!ENTITY who 'a'> <!ENTITY who 'b'>", "by a"),
        ('<!-- ]> <!ENTITY who "no"> --> <!ENTITY who "]>">', "by ]>"),
        ('<!ENTITY who "">', "by"),
        ('<!ATTLIST p x CDATA #IMPLIED> <!ENTITY other SYSTEM "/etc/passwd">', "by &who;"),
    ],
)
def test_short_texts_that_a_page_defines_are_written_out(
    tmp_path: Path, definitions: str, text: str
) -> None:
    path = tmp_path / "a.xhtml"
    page = XHTML.replace("<!DOCTYPE html>", f"<!DOCTYPE html [{definitions}]>")
    path.write_text(page.replace("Chapter {}.", "by &who;"))
    [found] = read(path)
    assert isinstance(found, Document)
    assert found.text.strip() == text


@pytest.mark.parametrize(
    "definition",
    [
        'SYSTEM "/etc/passwd"',
        'PUBLIC "x" "/etc/passwd"',
        '"&b;&b;"',
        '"<b>x</b>"',
        f'"{"x" * 101}"',
    ],
)
def test_other_entities_of_a_page_are_not_followed(tmp_path: Path, definition: str) -> None:
    path = tmp_path / "a.xhtml"
    dtd = f'<!DOCTYPE html [<!ENTITY who {definition}><!ENTITY b "x">]>'
    path.write_text(XHTML.replace("<!DOCTYPE html>", dtd).format("&who;"))
    [found] = read(path)
    assert isinstance(found, BadDocument)
    assert "its entity &who; stands for more than a short text" in found.reason
    assert found.raw.startswith("<?xml")


def test_many_comments_before_a_page_take_no_time() -> None:
    assert not Html().holds(b"<!-- a -->" * 400 + b"<div>")
    assert Html().holds(b"<!-- a -->" * 400 + b"<html>")


def test_a_book_that_is_a_bomb_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compression, "BOMB_BYTES", 2**20)
    path = tmp_path / "book.epub"
    epub(path, {"a.xhtml": "<html><p>" + " " * 2**22})
    with pytest.raises(CorpusError, match="is taken for an attack on memory and time"):
        read(path)


def test_books_that_are_damaged_are_errors(tmp_path: Path) -> None:
    path = tmp_path / "book.epub"
    epub(path, {"a.xhtml": XHTML.format(1)})
    whole = path.read_bytes()
    path.write_bytes(whole[:-30])
    with pytest.raises(CorpusError, match="cannot be read to its end"):
        read(path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a.txt", "no book")
    with pytest.raises(CorpusError, match="is no EPUB that can be read: META-INF/container"):
        read(path)


def warc(records: list[tuple[str, dict[str, str], bytes]]) -> bytes:
    """An archive, as fastwarc writes it."""
    from fastwarc.warc import WarcRecord, WarcRecordType

    sink = io.BytesIO()
    for number, (kind, headers, body) in enumerate(records):
        record = WarcRecord()
        record.init_headers(getattr(WarcRecordType, kind))
        record.headers["WARC-Record-ID"] = f"<urn:uuid:{number}>"
        for name, value in headers.items():
            record.headers[name] = value
        record.set_bytes_content(body)
        record.write(sink)
    return sink.getvalue()


def http(kind: str, body: bytes, status: str = "200 OK") -> bytes:
    return f"HTTP/1.1 {status}\r\nContent-Type: {kind}\r\n\r\n".encode() + body


WORDS = "These are the words of an article that says something at some length. " * 5
ARTICLE = (
    "<html><body><nav><a href='/'>Home</a> <a href='/b'>Menu</a></nav>"
    f"<article><h1>An article</h1><p>{WORDS}</p><p>{WORDS}</p></article></body></html>"
)
ABOUT = {"WARC-Target-URI": "http://a.example/b"}
OF_HTTP = {**ABOUT, "Content-Type": "application/http; msgtype=response"}


@pytest.mark.parametrize("name", ["a.warc", "a.warc.gz", "a"])
def test_an_archive_gives_what_its_pages_are_about(tmp_path: Path, name: str) -> None:
    body = warc(
        [
            ("warcinfo", {}, b"software: none\r\n"),
            ("request", OF_HTTP, b"GET /b HTTP/1.1\r\n\r\n"),
            ("response", OF_HTTP, http("text/html; charset=utf-8", ARTICLE.encode())),
            ("response", OF_HTTP, http("image/png", b"\x89PNG")),
            ("response", OF_HTTP, http("text/html", ARTICLE.encode(), "404 Not Found")),
            ("response", OF_HTTP, http("text/html", b"", "301 Moved")),
        ]
    )
    (tmp_path / name).write_bytes(gzip.compress(body) if name.endswith("gz") else body)
    page, image, *others = read(tmp_path / name)
    assert isinstance(page, Document)
    assert isinstance(image, NoPageDocument)
    assert [(type(one), one.reason) for one in others if isinstance(one, BadDocument)] == [
        (NoPageDocument, f"its response is of the status {status}") for status in (404, 301)
    ]
    assert "the words of an article" in page.text
    assert "Menu" not in page.text
    assert page.document_id == "<urn:uuid:2>"
    assert page.metadata["url"] == "http://a.example/b"
    assert page.row == 3
    assert "its response is of the type image/png" in str(image)


def test_what_is_no_page_is_counted_by_its_kind_and_under_no_limit(tmp_path: Path) -> None:
    path = tmp_path / "a.warc"
    kinds = ["image/png"] * 30 + ["application/pdf"] * 20 + ["text/html"] * 10
    others = [
        (
            "response",
            OF_HTTP,
            http(kind, b"%", "404 Not Found" if kind == "text/html" else "200 OK"),
        )
        for kind in kinds
    ]
    page = ("response", OF_HTTP, http("text/html", ARTICLE.encode()))
    path.write_bytes(warc([*others, page]))
    settings = TokenizeSettings("text", "id", 16, 48, 200)
    _, report = tokenize_file(Store(str(path)), tiny_tokenizer(), settings, lambda *_: None)
    assert (report.documents, report.n_bad, report.no_pages, report.n_rows) == (1, 0, 60, 61)
    assert report.why_passed_over == {
        "its response is of the type image/png": 30,
        "its response is of the type application/pdf": 20,
        "its response is of the status 404": 10,
    }
    assert STRICT.why_bad(report, settings.columns) is None
    assert report.passed_over[0].place == f"{path}:1"


def test_an_archive_of_texts_gives_them_as_they_are(tmp_path: Path) -> None:
    path = tmp_path / "a.warc.wet.gz"
    texts = ["one\n\u00e9", " two ", "three"]
    members = [
        gzip.compress(warc([("conversion", {**ABOUT, "Content-Type": "text/plain"}, t.encode())]))
        for t in texts
    ]
    path.write_bytes(b"".join(members))
    assert [d.text for d in read(path) if isinstance(d, Document)] == texts


def test_an_archive_that_is_cut_short_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "a.warc"
    body = warc([("conversion", ABOUT, b"one " * 100), ("conversion", ABOUT, b"two " * 100)])
    for cut in (len(body) - 50, len(body) // 2 - 50):
        path.write_bytes(body[:cut])
        with pytest.raises(CorpusError, match="cannot be read to its end"):
            read(path)


def test_an_archive_that_is_cut_short_anywhere_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "a.warc"
    kinds = ("conversion", "request", "conversion")
    ends, body = [0], b""
    for kind in kinds:
        # What is between two records has to be there for the next alone.
        one = warc([(kind, ABOUT, f"{kind} of words".encode())])
        ends += [len(body) + len(one) - n for n in range(5)]
        body += one
    for cut in range(20, len(body)):
        if cut in ends:
            continue
        path.write_bytes(body[:cut])
        with pytest.raises(CorpusError, match="cannot be read to its end"):
            read(path)


def test_headers_without_their_ends_are_damaged(tmp_path: Path) -> None:
    path = tmp_path / "a.warc"
    path.write_bytes(warc([("conversion", ABOUT, b"one two")] * 2).replace(b"\r\n", b"\n"))
    with pytest.raises(CorpusError, match="the headers of record 1 are cut short or damaged"):
        read(path)


def test_records_that_are_not_read_are_counted_by_their_kind(tmp_path: Path) -> None:
    path = tmp_path / "a.warc"
    parts = [
        ("warcinfo", {}, b"software: none\r\n"),
        ("resource", {**ABOUT, "Content-Type": "text/plain"}, b"a log"),
        ("revisit", OF_HTTP, b""),
        ("response", {**OF_HTTP, "WARC-Segment-Number": "1"}, http("text/plain", b"the first")),
        ("continuation", {**ABOUT, "WARC-Segment-Number": "2"}, b" and the second half"),
        ("metadata", ABOUT, b"a: b"),
        ("response", OF_HTTP, http("text/plain", b"whole")),
    ]
    path.write_bytes(warc(parts))
    resource, revisit, *segments, whole = read(path)
    for one, kind in ((resource, "resource"), (revisit, "revisit")):
        assert isinstance(one, NoPageDocument)
        assert one.reason == f"its record is of the kind {kind}"
    for one in segments:
        assert type(one) is BadDocument
        assert one.reason == "it is one of several segments of a record, which are not joined"
    assert isinstance(whole, Document)
    assert (whole.text, whole.row) == ("whole", 7)


def test_bad_utf_8_of_a_text_is_told(tmp_path: Path) -> None:
    path = tmp_path / "a.wet"
    path.write_bytes(warc([("conversion", ABOUT, b"\xff"), ("conversion", ABOUT, b"two")]))
    bad, last = read(path)
    assert bad == BadDocument(f"{path}:1", "not UTF-8, as texts of an archive are")
    assert isinstance(last, Document)


@pytest.mark.parametrize(
    ("name", "lacking", "extra"),
    [("a.html", "inscriptis", "html"), ("a.warc", "fastwarc.warc", "warc")],
)
def test_without_the_packages_the_extra_is_named(
    tmp_path: Path, name: str, lacking: str, extra: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / name
    path.write_bytes(PAGE.encode() if extra == "html" else warc([("conversion", ABOUT, b"x")]))
    monkeypatch.setitem(__import__("sys").modules, lacking, None)
    with pytest.raises(CorpusError, match=rf"pip install 'rayinfluence\[{extra}\]'"):
        read(path)
