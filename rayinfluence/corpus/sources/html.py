"""HTML and XHTML: a file is a document, its text that of the page as it is laid out."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, BinaryIO

from rayinfluence.corpus.sources.source import Row, Wanted, lacking_extra

_HTML = re.compile(
    rb"(\xef\xbb\xbf)?\s*(<\?xml[^>]*>\s*)?(<!--.*?-->\s*)*<(!doctype\s+html|html)\b", re.I | re.S
)


class Html:
    """Pages in the encoding that they state, UTF-8 otherwise; scripts and styles are no text."""

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
    try:
        tree = parsing.document_fromstring(body, parser=_parser(body, parsing))
    except (etree.LxmlError, ValueError, LookupError) as error:
        return f"no HTML: {error}"
    title = " ".join((tree.findtext(".//title") or "").split())
    text = Inscriptis(tree, ParserConfig()).get_text()
    row = {wanted.text: text.strip("\n")}
    return {**row, "title": title} if title and wanted.text != "title" else row


def _parser(body: bytes, parsing: Any) -> Any:
    """One that takes what is UTF-8 for that; what is not is in the encoding that it states."""
    try:
        body.decode()
    except UnicodeDecodeError:
        return parsing.HTMLParser(huge_tree=True)
    return parsing.HTMLParser(encoding="utf-8", huge_tree=True)
