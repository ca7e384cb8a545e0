"""documents -> sequences in shards.

One input file becomes one or more shards; nothing is lost in silence. A file is read once: its
digest is made of the bytes that are tokenised.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from rayinfluence.corpus.chunks import AUTO, CHUNK, DOCUMENT, Framing, chunks
from rayinfluence.corpus.classes import Label, label_of
from rayinfluence.corpus.columns import columns_named
from rayinfluence.corpus.documents import BadDocument, file_digest, read_documents
from rayinfluence.corpus.forms import Columns, Document, mask, rendered
from rayinfluence.corpus.fragments import NAMED_KEYS, FileReport, ShardRecord
from rayinfluence.corpus.metadata import dotted, plain
from rayinfluence.corpus.shards import LABEL, LOSS_MASK, ShardWriter, shard_key
from rayinfluence.corpus.token_files import with_index
from rayinfluence.corpus.token_rows import TokenForm
from rayinfluence.corpus.tokenizer import Encoding, encode, joined, with_ending
from rayinfluence.errors import CorpusError
from rayinfluence.objective_kinds import CAUSAL, CLASSIFICATION, SEQ2SEQ
from rayinfluence.storage.digest import canonical_json, digest_bytes
from rayinfluence.storage.reading import DigestedFile
from rayinfluence.storage.store import Store

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

#: What is encoded at once: an encoding takes some 300 bytes a token, hundreds of long documents
#: more than a worker has. A longer document is encoded by itself.
_BATCH_DOCUMENTS, _BATCH_CHARACTERS = 256, 2**18


@dataclass(frozen=True)
class TokenizeSettings:
    """What decides the bytes of shards, besides the documents and the tokenizer.

    ``classes`` are names of a classifier's classes by their ids, as a JSON list;
    ``blocks`` says that those of a plain text are documents; ``tokens`` are the fields of a
    :class:`TokenForm` that a configuration names, where documents are token ids.
    """

    text_column: str | list[str] | dict[str, str | list[str]]
    id_column: str
    context: int
    row_group_tokens: int
    shard_tokens: int
    prompt_column: str | None = None
    mask_column: str | None = None
    kind: str = CAUSAL
    label_column: str | None = None
    classes: str = "[]"
    template: str | None = None
    metadata: list[str] | None = None
    path_columns: str | None = None
    bos: str = AUTO
    eos: str = AUTO
    overlap: int = 0
    blocks: bool = False
    tokens: dict[str, Any] | None = None

    @property
    def columns(self) -> Columns:
        """Of documents."""
        return columns_named(
            self.text_column,
            self.id_column,
            self.prompt_column,
            self.mask_column,
            self.label_column,
            self.template,
            self.metadata,
            self.path_columns,
            self.blocks,
            self._form,
        )

    @property
    def _form(self) -> TokenForm | None:
        """How token ids lie; a window of them leaves room for what frames each sequence."""
        if self.tokens is None:
            return None
        framing = sum(when in (DOCUMENT, CHUNK) for when in (self.bos, self.eos))
        return TokenForm(**self.tokens, context=self.context - framing, overlap=self.overlap)

    @cached_property
    def class_names(self) -> list[str]:
        """Names of a classifier's classes, by their ids."""
        found: list[str] = json.loads(self.classes)
        return found


def tokenize_file(
    file: Store,
    tokenizer: PreTrainedTokenizerFast,
    settings: TokenizeSettings,
    write: Callable[[str, bytes], None],
    advance: Callable[[int], None] = lambda tokens: None,
) -> tuple[list[ShardRecord], FileReport]:
    """Tokenise one file into shards ``shards/<digest of the shard>.parquet``.

    Documents longer than the context are cut into chunks of the context's length; a document
    without text is counted and skipped, and so is a last chunk of a single token, which predicts
    nothing.

    Args:
        file: the documents.
        tokenizer: a fast tokenizer.
        settings: columns, context and sizes.
        write: stores a shard under a key.
        advance: told the number of tokens after each batch of documents.

    Raises:
        CorpusError: the file cannot be read to its end, or was written to meanwhile.
    """
    about = with_index(file, file.info())
    framing = Framing.of(tokenizer, settings.bos, settings.eos)
    report = FileReport.of(file.url, about)
    records: list[ShardRecord] = []
    writer: ShardWriter | None = None

    def close(writer: ShardWriter) -> None:
        body = writer.finish()
        # By its bytes: who tokenises the same again, or at the same time, writes the same object.
        key = shard_key(digest_bytes(body))
        write(key, body)
        records.append(ShardRecord(key, len(body), writer.row_groups, writer.bounds))

    with file.open("") as raw:
        source = DigestedFile(raw)
        documents = read_documents(file, settings.columns, source)
        for batch in _batches(_good(documents, tokenizer, report)):
            n_tokens = 0
            encodings = _encoded(tokenizer, batch, settings.kind)
            for document, encoding in zip(batch, encodings, strict=True):
                before = n_tokens
                if why := _why_none(document, encoding, settings):
                    report.refuse(f"{report.url}:{document.row}", why)
                    continue
                report.documents += 1
                for row in _rows(document, encoding, settings, framing, report):
                    writer = writer or ShardWriter(settings.row_group_tokens)
                    writer.add(row)
                    n_tokens += len(row["tokens"])
                    if writer.n_tokens >= settings.shard_tokens:
                        close(writer)
                        writer = None
                if n_tokens > before:
                    _count_keys(report.metadata_keys, dotted(document.metadata))
                    _count_keys(report.not_kept, document.left_out)
            advance(n_tokens)
        if writer is not None:
            close(writer)
        report.digest = file_digest(file, source)
    if with_index(file, file.info()) != about:
        raise CorpusError(
            f"{file.url} was written to while it was read: what is in the corpus would be neither "
            "the old file nor the new one. Run the same command again when it is whole."
        )
    return records, report


def sequences_of(
    document: Document, tokenizer: PreTrainedTokenizerFast, settings: TokenizeSettings
) -> tuple[list[dict[str, Any]], int] | str:
    """The rows that one document is in a shard, and how many chunks are none; or why all are."""
    found = rendered(document, tokenizer)
    if isinstance(found, str):
        return found
    if found.is_empty:
        return "it has no text"
    [encoding] = _encoded(tokenizer, [found], settings.kind)
    if why := _why_none(found, encoding, settings):
        return why
    framing = Framing.of(tokenizer, settings.bos, settings.eos)
    report = FileReport("", 0, None, None)
    rows = list(_rows(found, encoding, settings, framing, report))
    return (rows, report.short_chunks) if rows else "it has one token, which predicts nothing"


def _encoded(
    tokenizer: PreTrainedTokenizerFast, documents: Sequence[Document], kind: str
) -> list[Encoding]:
    """The tokens of documents, with those that end a text where the model is trained to see them.

    A source and its target are a text each, one after the other.
    """
    if any(document.tokens is not None for document in documents):
        return [as_given(document) for document in documents]
    templated = [document.templated for document in documents]
    if kind != SEQ2SEQ:
        found = encode(tokenizer, [document.text for document in documents], templated)
        return found if kind == CAUSAL else [with_ending(one) for one in found]
    borders = [_border(document) for document in documents]
    pairs = list(zip(documents, borders, strict=True))
    sources = encode(tokenizer, [document.text[:border] for document, border in pairs], templated)
    targets = encode(tokenizer, [document.text[border:] for document, border in pairs], templated)
    return [
        joined(with_ending(source), with_ending(target), border)
        for source, target, border in zip(sources, targets, borders, strict=True)
    ]


def as_given(document: Document) -> Encoding:
    """The ids of a document that is no text, which come from no characters."""
    assert document.tokens is not None
    tokens = document.tokens.tokens_T.tolist()
    return Encoding(tokens, [(0, 0)] * len(tokens))


def _border(document: Document) -> int:
    """Where the target begins in the text; it is one span up to the end."""
    spans = document.counted or ()
    return spans[0][0] if len(spans) == 1 else len(document.text)


def _why_none(document: Document, encoding: Encoding, settings: TokenizeSettings) -> str | None:
    """Why a text and its class are no sequence of a classifier's, which gets it whole."""
    if settings.kind == SEQ2SEQ:
        return _why_no_pair(document, encoding, settings.context)
    if settings.kind != CLASSIFICATION:
        return None
    if isinstance(label := label_of(document.label, settings.class_names), str):
        return f"{settings.label_column!r} {label}"
    n_tokens = len(encoding.tokens) + len(encoding.ending)
    if not 2 <= n_tokens <= settings.context:
        return (
            f"its text has {n_tokens} tokens, and a classifier gets it whole: from 2 to "
            f"{settings.context} (corpus.context). Cut it as training did"
        )
    return None


def _why_no_pair(document: Document, encoding: Encoding, context: int) -> str | None:
    """Why a document is no source with its target, which a model gets whole."""
    if _border(document) == len(document.text):
        return "it has no target after its source, which one text after a prompt is"
    if not 0 < encoding.n_source < len(encoding.tokens):
        return "the tokenizer makes no token of its source, or of its target"
    if len(encoding.tokens) > context:
        return (
            f"source and target have {len(encoding.tokens)} tokens, and are not cut: at most "
            f"{context} (corpus.context). Shorten them as training did"
        )
    return None


def _rows(
    document: Document,
    encoding: Encoding,
    settings: TokenizeSettings,
    framing: Framing,
    report: FileReport,
) -> Iterator[dict[str, Any]]:
    metadata = canonical_json(plain(document.metadata))
    counted = document.counted
    masks = None if counted is None else mask(encoding.offsets, counted)
    if document.tokens is not None and document.tokens.counted_T is not None:
        masks = document.tokens.counted_T.tolist()
    if settings.kind == SEQ2SEQ:  # with the tokens that begin and end a target
        masks = [place >= encoding.n_source for place in range(len(encoding.tokens))]
    label = label_of(document.label, settings.class_names) if settings.label_column else None
    for chunk in chunks(encoding, masks, settings.context, settings.overlap, framing):
        if len(chunk.tokens) < 2:
            report.short_chunks += 1
            continue
        char_start, char_end = _characters(chunk.spans)
        if chunk.masks is not None:
            n_counted = sum(chunk.masks[1:])  # the first is not predicted
            report.masked += 1
            report.counted_tokens += n_counted
            report.uncounted += not n_counted
        yield {
            "tokens": chunk.tokens,
            "document_id": document.document_id,
            "document_row": document.row,
            "token_start": document.token_start + chunk.start,
            "char_start": char_start,
            "char_end": char_end,
            "metadata": metadata,
            LOSS_MASK: chunk.masks,
            LABEL: label.index if isinstance(label, Label) else None,
        }


def _good(
    documents: Iterator[Document | BadDocument],
    tokenizer: PreTrainedTokenizerFast,
    report: FileReport,
) -> Iterator[Document]:
    for one in documents:
        document = one if isinstance(one, BadDocument) else _as_text(one, tokenizer, report.url)
        if isinstance(document, BadDocument):
            report.refuse(document.place, document.reason)
        elif document.is_empty:
            report.documents += 1
            report.empty_documents += 1
        else:
            yield document


def _as_text(
    document: Document, tokenizer: PreTrainedTokenizerFast, url: str
) -> Document | BadDocument:
    found = rendered(document, tokenizer)
    return BadDocument(f"{url}:{document.row}", found) if isinstance(found, str) else found


def _batches(documents: Iterator[Document]) -> Iterator[list[Document]]:
    batch: list[Document] = []
    n_characters = 0
    for document in documents:
        n_characters += document.n_characters
        if batch and (len(batch) == _BATCH_DOCUMENTS or n_characters > _BATCH_CHARACTERS):
            yield batch
            batch, n_characters = [], document.n_characters
        batch.append(document)
    if batch:
        yield batch


def _characters(of_tokens: Sequence[tuple[int, int]]) -> tuple[int, int]:
    spans = [span for span in of_tokens if span[0] < span[1]]
    return (spans[0][0], spans[-1][1]) if spans else (0, 0)


def _count_keys(counts: dict[str, int], keys: Iterable[str]) -> None:
    for key in keys:
        if key in counts or len(counts) < NAMED_KEYS:
            counts[key] = counts.get(key, 0) + 1
