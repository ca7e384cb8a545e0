"""The formats that documents are read from, and which of them a file's name asks for."""

from __future__ import annotations

from rayinfluence.corpus.sources.arrow import Arrow
from rayinfluence.corpus.sources.compression import CODECS, parted
from rayinfluence.corpus.sources.delimited import Delimited
from rayinfluence.corpus.sources.epub import Epub
from rayinfluence.corpus.sources.html import Html
from rayinfluence.corpus.sources.jsonl import JsonLines
from rayinfluence.corpus.sources.parquet import Parquet
from rayinfluence.corpus.sources.plain import PlainText
from rayinfluence.corpus.sources.source import Source
from rayinfluence.corpus.sources.warc import Warc

SOURCES: list[Source] = [
    JsonLines(),
    Delimited((".csv",), ","),
    Delimited((".tsv", ".tab"), "\t"),
    Parquet(),
    Arrow(),
    Warc(),
    Epub(),
    Html(),
    PlainText(),
]


def find_source(name: str) -> Source | None:
    """The format that a file's name asks for, in any case; None where it says nothing."""
    inner, codec = parted(name)
    for source in SOURCES:
        if inner.endswith(source.endings) and not (codec and source.seeks):
            return source
    return None


def holding(begins: bytes) -> Source | None:
    """The format whose files begin so, and no others do; None where none is known by it."""
    return next((source for source in SOURCES if source.holds(begins)), None)


def endings() -> str:
    """All endings, in words."""
    streamed = [ending for source in SOURCES if not source.seeks for ending in source.endings]
    others = [ending for source in SOURCES if source.seeks for ending in source.endings]
    packed = ", ".join(codec.endings[0] for codec in CODECS)
    return f"{', '.join(streamed)} (each also with {packed} after it), {', '.join(others)}"
