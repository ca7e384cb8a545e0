"""HTML and XHTML: a file is a document, its text that of the page as it is laid out."""

from __future__ import annotations

import codecs
import contextlib
import re
from collections.abc import Iterator
from html import escape, unescape
from typing import Any, BinaryIO

from rayinfluence.corpus.sources.doctype import BEFORE, without_definitions
from rayinfluence.corpus.sources.source import Refused, Row, Wanted, lacking_extra

_HTML = re.compile(
    rb"(?:\xef\xbb\xbf)?" + BEFORE.encode() + rb"<(?:!doctype\s+html|html)\b", re.I | re.S
)
#: Where a page states its encoding; one that shows it in single bytes is in none of two or four.
_STATED = re.compile(
    rb"<(?:\?xml[^>]*?encoding|meta[^>]*?charset)\s*=\s*[\"']?\s*(?!utf-?(?:16|32))([\w.:-]+)",
    re.I | re.A,
)
_HEAD_BYTES = 4096
#: How a page begins whose encoding its own first bytes tell, before all that is said of it: marks,
#: of which the first of two that hold is meant.
_MARKED = {
    codecs.BOM_UTF8: "utf-8",
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}
#: The same without a mark: its first character is `<`, and the next is a Latin one, too.
_UNMARKED = {b"<\0": "utf-16-le", b"\0<": "utf-16-be"}
#: Ends that end nothing: what comes after them is of the body, as browsers have it, and not of the
#: tree that a parser makes.
_ENDS = re.compile(r"</(?:body|html)\s*>", re.I)
#: Ampersands that are written out: extractors resolve what stands in their text once more.
_AMPERSAND = re.compile(r"&(?:amp|#0*38|#x0*26)(?:;|(?![\w]))", re.I)
#: Text of XML that has no elements in it, which a parser of HTML takes for a comment.
_LITERAL = re.compile(r"<!\[CDATA\[(.*?)\]\]>", re.S)
_XHTML = re.compile(r"\s*<\?xml\b|<html\b[^>]*\sxmlns\s*=", re.I)
#: What browsers take the names of older encodings for (https://encoding.spec.whatwg.org, 4.2).
_OF_BROWSERS = {
    "ascii": "cp1252",
    "iso8859-1": "cp1252",
    "iso8859-9": "cp1254",
    "iso8859-11": "cp874",
    "tis-620": "cp874",
    "gb2312": "gb18030",
    "gbk": "gb18030",
    "shift_jis": "cp932",
    "euc_kr": "cp949",
}


class Html:
    """Pages in UTF-8 or the encoding that they state, or windows-1252 if in neither.

    Scripts and styles are no text.
    """

    endings = (".html", ".htm", ".xhtml")
    seeks = False
    is_text = True

    def holds(self, begins: bytes) -> bool:
        """By its first element."""
        return _HTML.match(begins) is not None

    def refusal(self, begins: bytes) -> str | None:
        """A parser of HTML takes anything."""
        return None

    def rows(self, stream: BinaryIO, wanted: Wanted) -> Iterator[Row]:
        """The text, and the title where there is one."""
        if body := stream.read():
            yield 1, page(body, wanted)


def page(body: bytes, wanted: Wanted) -> dict[str, Any] | str:
    """The row of a page, or why it is none.

    Raises:
        NotDocumentsError: the extra is not installed.
    """
    try:
        from inscriptis import Inscriptis
        from inscriptis.model.config import ParserConfig
        from lxml import etree
        from lxml import html as parsing
    except ImportError as error:
        raise lacking_extra("a page of HTML", "html") from error
    text, unfollowed = without_definitions(decoded(body))
    if unfollowed is not None:
        why = f"its entity &{unfollowed}; stands for more than a short text, and is not followed"
        return Refused.of(why, body)
    if _XHTML.search(text[:_HEAD_BYTES]):
        text = _LITERAL.sub(lambda literal: escape(literal[1]), text)
    try:
        parser = parsing.HTMLParser(encoding="utf-8", huge_tree=True)
        tree = parsing.document_fromstring(for_extractors(text).encode(), parser=parser)
    except (etree.LxmlError, ValueError, LookupError) as error:
        return Refused.of(f"no HTML: {error}", body)
    title = " ".join(unescape(tree.findtext(".//title") or "").split())
    try:
        text = Inscriptis(tree, ParserConfig()).get_text()
    except RecursionError:
        why = "its elements are nested more deeply than a page is laid out"
        return Refused.of(why, body)
    row = {wanted.text: text.strip("\n")}
    return {**row, "title": title} if title and wanted.text != "title" else row


def for_extractors(page: str) -> str:
    """A page of which extractors give all that it says, and as it says it.

    Of one that goes on after the end of its body they would leave out the rest, and what it says of
    character references (`&amp;lt;`) they would resolve.
    """
    return _AMPERSAND.sub("&amp;amp;", _ENDS.sub("", page))


def decoded(body: bytes, charset: str | None = None) -> str:
    """The characters of a page or a text, as browsers find them; what has none is U+FFFD.

    Args:
        body: its bytes.
        charset: that its server says, which counts before all but a mark at the beginning, if there
            is such a one.
    """
    stated = _STATED.search(body[:_HEAD_BYTES])
    labels = [
        next((label for mark, label in _MARKED.items() if body.startswith(mark)), None),
        charset,
        _UNMARKED.get(body[:2]),
        _utf_8(body),
        stated and stated[1].decode(),
        "cp1252",
    ]
    for label in filter(None, labels):
        with contextlib.suppress(LookupError, ValueError):
            codec = codecs.lookup(label.strip("\"' ")).name
            text = body.decode(_OF_BROWSERS.get(codec, codec), errors="replace")
            return text.removeprefix("\ufeff")
    raise AssertionError("the last of them takes any byte")


def _utf_8(body: bytes) -> str | None:
    """Its name where bytes are that: hardly anything else is by chance."""
    try:
        body.decode()
    except UnicodeDecodeError:
        return None
    return "utf-8"
