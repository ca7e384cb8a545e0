"""The formats that documents are read from, and which of them a file's name asks for."""

from __future__ import annotations

from rayinfluence.corpus.sources.compression import CODECS, parted
from rayinfluence.corpus.sources.delimited import Delimited
from rayinfluence.corpus.sources.jsonl import JsonLines
from rayinfluence.corpus.sources.parquet import Parquet
from rayinfluence.corpus.sources.source import Source
from rayinfluence.errors import CorpusError

SOURCES: list[Source] = [
    JsonLines(),
    Delimited((".csv",), ","),
    Delimited((".tsv",), "\t"),
    Parquet(),
]


def find_source(name: str) -> tuple[Source, str | None] | None:
    """The format of a file by its name, in any case, and its codec; None if it is of no format."""
    inner, codec = parted(name.lower())
    for source in SOURCES:
        if inner.endswith(source.endings) and not (codec and source.seeks):
            return source, codec
    return None


def source_of(url: str) -> tuple[Source, str | None]:
    """The same, where there has to be one.

    Raises:
        CorpusError: documents are not read from such files.
    """
    found = find_source(url)
    if found is None:
        raise CorpusError(f"{url}: documents are read from {endings()} files.")
    return found


def claiming(begins: bytes) -> Source | None:
    """The format whose files begin so, and no others do; None where none is known by it."""
    return next((source for source in SOURCES if begins.startswith(source.begins)), None)


def endings() -> str:
    """All endings, in words."""
    streamed = [ending for source in SOURCES if not source.seeks for ending in source.endings]
    others = [ending for source in SOURCES if source.seeks for ending in source.endings]
    return (
        f"{', '.join(streamed)} (each also with {', '.join(CODECS)} after it) "
        f"and {', '.join(others)}"
    )
