"""documents -> sequences in shards.

One input file becomes one or more shards; nothing is lost in silence.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from typing import TYPE_CHECKING

from rayinfluence.corpus.documents import BadDocument, Document, read_documents
from rayinfluence.corpus.metadata import plain
from rayinfluence.corpus.shards import RowGroup, ShardWriter
from rayinfluence.corpus.tokenizer import Encoding, encode
from rayinfluence.storage.digest import canonical_json, digest_bytes
from rayinfluence.storage.store import Store

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

_BATCH_DOCUMENTS = 256
#: How many rows are named in the manifest; all are counted.
_NAMED_BAD_ROWS = 1000
#: Metadata keys that the manifest names of a file; whoever has as many may have more.
NAMED_KEYS = 1000


@dataclass(frozen=True)
class TokenizeSettings:
    """What decides the bytes of shards, besides the documents and the tokenizer."""

    text_column: str
    id_column: str
    context: int
    row_group_tokens: int
    shard_tokens: int


@dataclass(frozen=True)
class ShardRecord:
    """One shard in the corpus manifest."""

    key: str
    source_digest: str
    row_groups: list[RowGroup]


@dataclass
class FileReport:
    """What became of one file of documents."""

    url: str
    digest: str
    size: int
    modified: float | None
    documents: int = 0
    empty_documents: int = 0
    short_chunks: int = 0
    n_bad: int = 0
    bad: list[BadDocument] = field(default_factory=list)
    #: How many of its documents that gave a sequence have each key, for the first NAMED_KEYS keys.
    metadata_keys: dict[str, int] = field(default_factory=dict)


def tokenize_file(
    file: Store,
    digest: str,
    tokenizer: PreTrainedTokenizerFast,
    settings: TokenizeSettings,
    write: Callable[[str, bytes], None],
    advance: Callable[[int], None] = lambda tokens: None,
) -> tuple[list[ShardRecord], FileReport]:
    """Tokenise one file into shards ``shards/<digest of name and content>-<part>.parquet``.

    Documents longer than the context are cut into chunks of the context's length; a document
    without text is counted and skipped, and so is a last chunk of a single token, which predicts
    nothing.

    Args:
        file: the documents.
        digest: of the file's bytes.
        tokenizer: a fast tokenizer.
        settings: columns, context and sizes.
        write: stores a shard under a key.
        advance: told the number of tokens after each batch of documents.
    """
    about = file.info()
    report = FileReport(file.url, digest, about.size, about.modified)
    records: list[ShardRecord] = []
    stem = shard_stem(file.name, digest)
    writer: ShardWriter | None = None

    def close(writer: ShardWriter) -> None:
        key = f"shards/{stem}-{len(records):04d}.parquet"
        write(key, writer.finish())
        records.append(ShardRecord(key, digest, writer.row_groups))

    for documents in _batches(_good(file, settings, report)):
        n_tokens = 0
        encodings = encode(tokenizer, [document.text for document in documents])
        for document, encoding in zip(documents, encodings, strict=True):
            metadata = canonical_json(plain(document.metadata))
            before = n_tokens
            for start in range(0, len(encoding.tokens), settings.context):
                end = min(start + settings.context, len(encoding.tokens))
                if end - start < 2:
                    report.short_chunks += 1
                    continue
                writer = writer or ShardWriter(settings.row_group_tokens)
                char_start, char_end = _characters(encoding, start, end)
                writer.add(
                    {
                        "tokens": encoding.tokens[start:end],
                        "document_id": document.document_id,
                        "document_row": document.row,
                        "token_start": start,
                        "char_start": char_start,
                        "char_end": char_end,
                        "metadata": metadata,
                    }
                )
                n_tokens += end - start
                if writer.n_tokens >= settings.shard_tokens:
                    close(writer)
                    writer = None
            if n_tokens > before:
                _count_keys(report.metadata_keys, document)
        advance(n_tokens)
    if writer is not None:
        close(writer)
    return records, report


def shard_stem(name: str, digest: str) -> str:
    """What the shards of a file are called, by its name and the digest of its bytes."""
    # The name as well: documents without an id are named after their file.
    return digest_bytes(name.encode(), digest.encode())[:16]


def _good(file: Store, settings: TokenizeSettings, report: FileReport) -> Iterator[Document]:
    for document in read_documents(file, settings.text_column, settings.id_column):
        if isinstance(document, BadDocument):
            report.n_bad += 1
            if len(report.bad) < _NAMED_BAD_ROWS:
                report.bad.append(document)
            continue
        report.documents += 1
        if document.text.strip():
            yield document
        else:
            report.empty_documents += 1


def _batches(documents: Iterator[Document]) -> Iterator[list[Document]]:
    while batch := list(islice(documents, _BATCH_DOCUMENTS)):
        yield batch


def _characters(encoding: Encoding, start: int, end: int) -> tuple[int, int]:
    spans = [span for span in encoding.offsets[start:end] if span[0] < span[1]]
    return (spans[0][0], spans[-1][1]) if spans else (0, 0)


def _count_keys(counts: dict[str, int], document: Document) -> None:
    for key in document.metadata:
        if key in counts or len(counts) < NAMED_KEYS:
            counts[key] = counts.get(key, 0) + 1
