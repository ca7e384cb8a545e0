"""documents -> sequences in shards.

One input file, or each part of a large one, becomes one or more shards; nothing is lost in silence.
A file that is not cut is read once: its digest is made of the bytes that are tokenised.
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
from rayinfluence.corpus.documents import (
    NO_TEXT,
    NO_TOKENS,
    ONE_TOKEN,
    BadDocument,
    NoPageDocument,
    file_digest,
    read_documents,
)
from rayinfluence.corpus.features import Features, float_of, why_no_class
from rayinfluence.corpus.forms import Columns, Document, mask, rendered
from rayinfluence.corpus.fragments import FileReport, ShardRecord
from rayinfluence.corpus.long_texts import LONGEST, encoded_in_pieces
from rayinfluence.corpus.metadata import dotted, plain
from rayinfluence.corpus.parts import Part
from rayinfluence.corpus.quarantined_rows import Quarantine
from rayinfluence.corpus.shards import LABEL, LOSS_MASK, ShardWriter, shard_key
from rayinfluence.corpus.sources.source import RAW
from rayinfluence.corpus.spans import Spans
from rayinfluence.corpus.token_files import with_index
from rayinfluence.corpus.token_rows import TokenForm
from rayinfluence.corpus.tokenizer import Encoding, encode, joined, with_ending
from rayinfluence.objective_kinds import CAUSAL, CLASSES_OF_ROWS, CLASSIFICATION, MASKED, SEQ2SEQ
from rayinfluence.storage.digest import canonical_json, digest_bytes
from rayinfluence.storage.reading import DigestedFile
from rayinfluence.storage.store import Store

if TYPE_CHECKING:
    from rayinfluence.corpus.tokenizer import Coding

#: What is encoded at once: an encoding takes some 300 bytes a token, hundreds of long documents
#: more than a worker has. A longer document is encoded by itself.
_BATCH_DOCUMENTS, _BATCH_CHARACTERS = 256, 2**18
#: Tokens after which progress is told of.
_TOLD_TOKENS = 2**16


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
    feature_columns: list[str] | None = None
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
            self.feature_columns or (),
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
    tokenizer: Coding,
    settings: TokenizeSettings,
    write: Callable[[str, bytes], None],
    advance: Callable[[int], None] = lambda tokens: None,
    part: Part | None = None,
) -> tuple[list[ShardRecord], FileReport]:
    """Tokenise a file, or a part of one, into shards ``shards/<digest of the shard>.parquet``.

    Documents longer than the context are cut into chunks of the context's length; a document
    without text or of a single token, which predicts nothing, is counted and skipped, and so is a
    last chunk of one. Rows that are no documents are kept beside the shards as they are.

    Args:
        file: the documents.
        tokenizer: a fast tokenizer.
        settings: columns, context and sizes.
        write: stores a shard, or rows that are no documents, under a key.
        advance: told the number of tokens as they come.
        part: of the file; None for all of it.

    Raises:
        CorpusError: the file cannot be read to its end.
    """
    report = FileReport.of(file.url, with_index(file, file.info()))
    quarantine = Quarantine(report)
    framing = Framing.of(tokenizer, settings.bos, settings.eos)
    shards = _Shards(settings, write, advance)
    with file.open("") as raw:
        digested = DigestedFile(raw)
        documents = read_documents(file, settings.columns, digested, part.cut if part else None)
        for batch in _batches(_good(documents, tokenizer, report, quarantine)):
            for document, pieces in _encoded(tokenizer, batch, settings.kind):
                if _is_without_tokens(document, pieces, settings.kind):
                    report.pass_over(f"{report.url}:{document.row}", NO_TOKENS, "empty_documents")
                    continue
                if why := _why_none(document, pieces, settings, tokenizer):
                    quarantine.refuse(_bad(document, why, report.url))
                    continue
                gave, n_short = False, 0
                for row in _rows(document, pieces, settings, framing, report):
                    if row is None:
                        n_short += 1
                        continue
                    shards.add(row)
                    gave = True
                if not gave:
                    report.pass_over(f"{report.url}:{document.row}", ONE_TOKEN, "short_documents")
                    continue
                report.documents += 1
                report.short_chunks += n_short
                report.count_keys(dotted(document.metadata), document.left_out)
        shards.close()
        report.digest = part.file_digest if part else file_digest(file, digested)
    quarantine.write(write)
    return shards.records, report


class _Shards:
    """Puts sequences into shards, each written when it is full."""

    def __init__(
        self,
        settings: TokenizeSettings,
        write: Callable[[str, bytes], None],
        advance: Callable[[int], None],
    ) -> None:
        self.records: list[ShardRecord] = []
        self._settings = settings
        self._write = write
        self._advance = advance
        self._untold = 0
        self._writer: ShardWriter | None = None

    def add(self, row: dict[str, Any]) -> None:
        """Append a sequence."""
        if self._writer is None:
            self._writer = ShardWriter(self._settings.row_group_tokens)
        self._writer.add(row)
        self._untold += len(row["tokens"])
        if self._untold >= _TOLD_TOKENS:
            self._tell()
        if self._writer.n_tokens >= self._settings.shard_tokens:
            self.close()

    def close(self) -> None:
        """Write the shard that is not full, if there is one."""
        self._tell()
        if self._writer is None:
            return
        writer, self._writer = self._writer, None
        body = writer.finish()
        # By its bytes: who tokenises the same again, or at the same time, writes the same object.
        key = shard_key(digest_bytes(body))
        self._write(key, body)
        self.records.append(ShardRecord(key, len(body), writer.row_groups, writer.bounds))

    def _tell(self) -> None:
        self._advance(self._untold)
        self._untold = 0


def sequences_of(
    document: Document, tokenizer: Coding, settings: TokenizeSettings
) -> tuple[list[dict[str, Any]], int] | str:
    """The rows that one document is in a shard, and how many chunks are none; or why all are."""
    found = rendered(document, tokenizer)
    if isinstance(found, str):
        return found
    if found.is_empty:
        return "it has no text"
    [(_, pieces)] = _encoded(tokenizer, [found], settings.kind)
    if _is_without_tokens(found, pieces, settings.kind):
        return NO_TOKENS
    if why := _why_none(found, pieces, settings, tokenizer):
        return why
    framing = Framing.of(tokenizer, settings.bos, settings.eos)
    report = FileReport("", 0, None, None)
    chunked = list(_rows(found, pieces, settings, framing, report))
    rows = [row for row in chunked if row is not None]
    return (rows, len(chunked) - len(rows)) if rows else ONE_TOKEN


def _encoded(
    tokenizer: Coding, documents: Sequence[Document], kind: str
) -> Iterator[tuple[Document, Iterable[Encoding]]]:
    """Documents with their tokens; those that end a text are there where a model is trained on it.

    A source and its target are a text each, one after the other. A long text comes in pieces, where
    the model does not get it whole.
    """
    if isinstance(tokenizer, Features):
        for document in documents:  # of what is no row :func:`_why_none` speaks
            made = tokenizer.tokens(document.text)
            row = [] if isinstance(made, str) else made
            yield document, [Encoding(row, Spans.nowhere(len(row)))]
        return
    if any(document.tokens is not None for document in documents):
        for document in documents:
            yield document, [as_given(document)]
        return
    if kind in (CAUSAL, MASKED) and len(documents[0].text) > LONGEST:
        [document] = documents
        pieces = encoded_in_pieces(tokenizer, document.text, document.templated)
        yield document, pieces if kind == CAUSAL else map(with_ending, pieces)
        return
    templated = [document.templated for document in documents]
    if kind != SEQ2SEQ:
        found = encode(tokenizer, [document.text for document in documents], templated)
    else:
        borders = [_border(document) for document in documents]
        pairs = list(zip(documents, borders, strict=True))
        sources = encode(tokenizer, [one.text[:border] for one, border in pairs], templated)
        targets = encode(tokenizer, [one.text[border:] for one, border in pairs], templated)
        found = [
            joined(with_ending(source), with_ending(target), border)
            for source, target, border in zip(sources, targets, borders, strict=True)
        ]
    for document, one in zip(documents, found, strict=True):
        yield document, [one if kind in (CAUSAL, SEQ2SEQ) else with_ending(one)]


def as_given(document: Document) -> Encoding:
    """The ids of a document that is no text, which come from no characters."""
    assert document.tokens is not None
    tokens = document.tokens.tokens_T.tolist()
    return Encoding(tokens, Spans.nowhere(len(tokens)))


def _border(document: Document) -> int:
    """Where the target begins in the text; it is one span up to the end."""
    spans = document.counted or ()
    return spans[0][0] if len(spans) == 1 else len(document.text)


def _is_without_tokens(document: Document, pieces: Iterable[Encoding], kind: str) -> bool:
    """Whether nothing is left of a text, such as one of characters that a normalizer takes out.

    One that comes in pieces is longer than that.
    """
    return (
        isinstance(pieces, list)
        and document.tokens is None
        and kind in (CAUSAL, MASKED, CLASSIFICATION)
        and not any(start < end for piece in pieces for start, end in piece.offsets)
    )


def _why_none(
    document: Document,
    pieces: Iterable[Encoding],
    settings: TokenizeSettings,
    tokenizer: Coding,
) -> str | None:
    """Why a document is no sequence of a model that gets it whole."""
    if isinstance(tokenizer, Features):
        return _why_no_row(document, settings, tokenizer)
    if settings.kind not in (SEQ2SEQ, CLASSIFICATION):
        return None
    [encoding] = pieces
    if settings.kind == SEQ2SEQ:
        return _why_no_pair(document, encoding, settings.context)
    if isinstance(label := label_of(document.label, settings.class_names), str):
        return f"{settings.label_column!r} {label}"
    n_tokens = len(encoding.tokens) + len(encoding.ending)
    if not 2 <= n_tokens <= settings.context:
        return (
            f"its text has {n_tokens} tokens, and a classifier gets it whole: from 2 to "
            f"{settings.context} (corpus.context). Cut it as training did"
        )
    return None


def _why_no_row(document: Document, settings: TokenizeSettings, made: Features) -> str | None:
    """Why a document is no row of features with a target."""
    tokens = made.tokens(document.text)
    if isinstance(tokens, str):
        return tokens
    if settings.kind == CLASSES_OF_ROWS and (
        why := why_no_class(float_of(tokens[-1]), len(settings.class_names))
    ):
        return f"{settings.label_column!r} {why}"
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
    pieces: Iterable[Encoding],
    settings: TokenizeSettings,
    framing: Framing,
    report: FileReport,
) -> Iterator[dict[str, Any] | None]:
    """The row of each chunk; None for one of a single token, which is none."""
    metadata = canonical_json(plain(document.metadata))
    label = None  # a row of features has its target among its numbers
    if settings.kind == CLASSIFICATION:
        label = label_of(document.label, settings.class_names)
    parts = ((piece, _mask(document, piece, settings.kind)) for piece in pieces)
    for chunk in chunks(parts, settings.context, settings.overlap, framing):
        if len(chunk.tokens) < 2:
            yield None
            continue
        char_start, char_end = chunk.spans.characters()
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


def _mask(document: Document, piece: Encoding, kind: str) -> list[bool] | None:
    """Which tokens counted; None where the document does not say."""
    if kind == SEQ2SEQ:  # with the tokens that begin and end a target
        return [place >= piece.n_source for place in range(len(piece.tokens))]
    if document.tokens is not None:
        counted = document.tokens.counted_T
        return None if counted is None else counted.tolist()
    return None if document.counted is None else mask(piece.offsets, document.counted)


def _good(
    documents: Iterator[Document | BadDocument],
    tokenizer: Coding,
    report: FileReport,
    quarantine: Quarantine,
) -> Iterator[Document]:
    for one in documents:
        if isinstance(one, NoPageDocument):
            report.pass_over(one.place, one.reason, "no_pages")
            continue
        document = one if isinstance(one, BadDocument) else _as_text(one, tokenizer, report.url)
        if isinstance(document, BadDocument):
            quarantine.refuse(document)
        elif document.is_empty:
            report.pass_over(f"{report.url}:{document.row}", NO_TEXT, "empty_documents")
        else:
            yield document


def _as_text(document: Document, tokenizer: Coding, url: str) -> Document | BadDocument:
    if document.is_empty:
        return document
    found = rendered(document, tokenizer)
    return _bad(document, found, url) if isinstance(found, str) else found


def _bad(document: Document, reason: str, url: str) -> BadDocument:
    """A document that gives no sequence, with what it was to be made of."""
    made_of: Any = document.text
    if document.messages:
        made_of = json.dumps(document.messages, ensure_ascii=False)
    elif document.tokens is not None:
        made_of = json.dumps(document.tokens.tokens_T[:RAW].tolist())
    return BadDocument(f"{url}:{document.row}", reason, raw=made_of[:RAW])


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
