"""Forms of documents: what of a row is the text, and which of its characters training counted.

A text, a prompt with what was trained to follow it, messages that the tokenizer's chat template
makes a text of, or what a template makes of several columns.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from rayinfluence.corpus.chat import Message, Span, conversation, messages_of
from rayinfluence.corpus.features import Features, text_of, why_no_numbers
from rayinfluence.corpus.metadata import chosen, plain, small
from rayinfluence.corpus.paths import matches
from rayinfluence.corpus.templates import TemplateFailed, template_of
from rayinfluence.corpus.token_rows import (
    PADDING,
    POSITIONS,
    TokenForm,
    TokenRow,
    cuts_of,
    tokens_of,
)
from rayinfluence.errors import ChatError
from rayinfluence.storage.digest import canonical_json

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

    from rayinfluence.corpus.tokenizer import Coding


@dataclass(frozen=True)
class Columns:
    """The columns or keys of a row that have a meaning; of all others metadata are chosen.

    Attributes:
        text: of the text, or of messages.
        identity: of what names a document.
        prompt: of what stands before the text and was not trained to be said; None where there is
            nothing.
        counted: of the characters of the text that the loss counted, as ``[[start, end], ...]``;
            None where no column tells.
        label: of the class; it is metadata as well.
        other_texts: of the text where a row has no ``text``: the first that it has.
        texts_by_file: globs of files, each with the names that its texts have; of the first that
            holds for a file. Where there are some, ``text`` is of no file.
        template: makes the text of other columns, in place of ``text``; None where it is a column.
        metadata: dotted keys of what is kept with a document; None keeps what is small.
        path: a pattern of addresses, whose named parts are columns; None where none are named.
        blocks: whether each block between blank lines of a plain text is a row.
        features: of the numbers that a module takes in the place of a text; none where there is
            one.
        tokens: how token ids lie, where documents are those and no texts; ``text`` is their column.
    """

    text: str
    identity: str
    prompt: str | None = None
    counted: str | None = None
    label: str | None = None
    other_texts: tuple[str, ...] = ()
    texts_by_file: tuple[tuple[str, tuple[str, ...]], ...] = ()
    template: str | None = None
    metadata: tuple[str, ...] | None = None
    path: str | None = None
    blocks: bool = False
    features: tuple[str, ...] = ()
    tokens: TokenForm | None = None

    @property
    def texts(self) -> tuple[str, ...]:
        """Of the text, in order of preference; none where a template or features make it."""
        made = self.template is not None or self.features
        return () if made else (self.text, *self.other_texts)

    @property
    def named(self) -> frozenset[str]:
        """All that have a meaning, or are metadata by their names."""
        used = {*self.texts, self.identity, self.prompt, self.counted, self.label, *self.features}
        if self.template is not None:
            used |= template_of(self.template).variables
        if self.tokens is not None:
            used |= {PADDING, POSITIONS}
        # A dotted key is a column of that name, or in one of the name up to a dot.
        parts = [key.split(".") for key in self.metadata or ()]
        tops = {".".join(part[: n + 1]) for part in parts for n in range(len(part))}
        return frozenset(name for name in used | tops if name is not None)

    @property
    def wanted(self) -> frozenset[str] | None:
        """All that is read of a row, where that is known; None is all that there is."""
        of_template = template_of(self.template).variables if self.template is not None else ()
        return None if self.metadata is None or "row" in of_template else self.named

    def of_file(self, url: str) -> Columns:
        """Those of one file; as they are where no glob has a say, or none holds for it."""
        for pattern, (text, *others) in self.texts_by_file:
            if matches(url, pattern):
                return replace(self, text=text, other_texts=tuple(others), texts_by_file=())
        return self


@dataclass(frozen=True)
class Document:
    """One document: its text, an id that is unique in its file, other columns as metadata.

    Attributes:
        document_id: as above.
        text: of the whole; empty where messages have to be rendered first.
        metadata: as above.
        row: its line or row in the file, from 1.
        counted: characters of the text that the loss of training counted; None where the document
            does not say.
        messages: that the text is made of.
        n_before: how many of those are the prompt.
        templated: whether a chat template made the text.
        label: what names its class, as it stands there.
        left_out: columns that would be metadata, and are not small.
        tokens: its ids, where it is no text.
        token_start: how many ids of its row are before them.
    """

    document_id: str
    text: str
    metadata: dict[str, Any] = field(default_factory=dict)
    row: int | None = None
    counted: tuple[Span, ...] | None = None
    messages: tuple[Message, ...] = ()
    n_before: int = 0
    templated: bool = False
    label: Any = None
    left_out: tuple[str, ...] = ()
    tokens: TokenRow | None = None
    token_start: int = 0

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing in it."""
        if self.tokens is not None:
            return not len(self.tokens.tokens_T)
        return not (self.text.strip() or any(one["content"].strip() for one in self.messages))

    @property
    def n_characters(self) -> int:
        """Of its text, or of its messages; its tokens, where it is no text."""
        if self.tokens is not None:
            return len(self.tokens.tokens_T)
        return len(self.text) + sum(len(one["content"]) for one in self.messages)


@dataclass(frozen=True)
class Lacks:
    """That a row is no document, as it has no column of a name.

    Attributes:
        column: that name.
        reason: why it is no document.
    """

    column: str
    reason: str


def document_of(
    row: Mapping[str, Any], columns: Columns, name: str, number: int
) -> Document | Lacks | str:
    """The document of a row, or why it is none.

    Args:
        row: by column.
        columns: which have a meaning.
        name: of the file.
        number: of the row, from 1.
    """
    there = [column for column in columns.texts if row.get(column) is not None]
    of_text = there[0] if there else columns.text
    used = {*columns.texts, columns.identity, columns.prompt, columns.counted, *columns.features}
    if columns.template is not None:
        used |= template_of(columns.template).variables
    if columns.tokens is not None:
        used |= {PADDING, POSITIONS}
    if columns.metadata is None:
        others = {
            key: value for key, value in row.items() if key not in used or key == columns.label
        }
        metadata, left_out = small(others)
    else:
        metadata, left_out = chosen(row, columns.metadata), []
    document_id = named_by(row.get(columns.identity)) or f"{name}:{number}"
    label = None if columns.label is None else row.get(columns.label)
    found = Document(document_id, "", metadata, number, label=label, left_out=tuple(left_out))
    if columns.features:
        return _of_features(found, row, columns)
    if columns.template is not None:
        return _of_template(found, row, columns.template)
    if columns.tokens is not None:
        return _of_tokens(found, row, columns)
    text = row.get(of_text)
    prompt = None if columns.prompt is None else row.get(columns.prompt)
    spans = None if columns.counted is None else row.get(columns.counted)
    if of_text != columns.text:
        columns = replace(columns, text=of_text)
    is_null = text is None and any(name in row for name in (of_text, *columns.other_texts))
    if columns.prompt is None and (is_null or text == []):
        return found  # which has no text, as one whose text is empty
    if isinstance(text, list):
        return _of_messages(found, text, prompt, columns)
    if not isinstance(text, str):
        return _why_no_string(columns.text, text)
    if columns.prompt is not None:
        if not isinstance(prompt, str):
            return _why_no_string(columns.prompt, prompt)
        whole = prompt + text
        return replace(found, text=whole, counted=((len(prompt), len(whole)),))
    if columns.counted is not None:
        if why := _why_no_spans(spans, len(text)):
            return f"{columns.counted!r} {why}"
        return replace(found, text=text, counted=tuple((start, end) for start, end in spans or ()))
    return replace(found, text=text)


def _why_no_string(column: str, value: Any) -> str:
    """Why a value is none; of a column of strings come bytes where they are not UTF-8."""
    if isinstance(value, bytes):
        try:
            value.decode()
        except UnicodeDecodeError as error:
            return f"{column!r} is not UTF-8: it has the byte 0x{value[error.start]:02x}"
        return f"{column!r} is of bytes, and not a string"
    return f"{column!r} is not a string"


def _of_features(found: Document, row: Mapping[str, Any], columns: Columns) -> Document | str:
    """A document of numbers, or why it is none."""
    for name in columns.features:
        if why := why_no_numbers(row[name]):
            return f"{name!r} {why}"
    if isinstance(found.label, list) or (why := why_no_numbers(found.label)):
        return f"{columns.label!r} {'is a list' if isinstance(found.label, list) else why}"
    text = text_of({name: row[name] for name in columns.features}, found.label)
    return replace(found, text=text)


def _of_tokens(found: Document, row: Mapping[str, Any], columns: Columns) -> Document | str:
    """A document of ids, or why it is none; what is said of each id is no metadata of a row."""
    tokens = tokens_of(row, columns.text, columns.counted)
    if isinstance(tokens, str):
        return tokens
    n_ids = len(row[columns.text])
    metadata = {
        key: value
        for key, value in found.metadata.items()
        if columns.metadata is not None or not (isinstance(value, list) and len(value) == n_ids)
    }
    return replace(found, tokens=tokens, metadata=metadata)


def named_by(identity: Any) -> str | None:
    """What a value of the column of ids calls a document; None where it is no name.

    Nothing, white space and NaN, which tables have in the place of nothing, are none; an object or
    a list is called by its JSON.
    """
    if isinstance(identity, dict | list | bool | bytes):
        identity = plain(identity)
        identity = identity if isinstance(identity, str) else canonical_json(identity)
    if identity is None or identity != identity or not str(identity).strip():
        return None
    return str(identity)


def separated(document: Document, form: TokenForm) -> Iterator[Document] | str:
    """The documents that a row of ids is packed of, or why that cannot be told."""
    assert document.tokens is not None
    cuts = cuts_of(document.tokens, form)
    if isinstance(cuts, str):
        return cuts
    row = document.tokens
    return (
        replace(document, tokens=row.part(start, end), token_start=start) for start, end in cuts
    )


def _of_template(found: Document, row: Mapping[str, Any], source: str) -> Document | Lacks | str:
    """A document whose text a template makes, or why there is none."""
    try:
        text, counted = template_of(source).render(row)
    except TemplateFailed as error:
        why = f"corpus.template makes no text of it: {error}"
        return why if error.lacking is None else Lacks(error.lacking, why)
    return replace(found, text=text, counted=counted)


def _of_messages(
    found: Document, messages: list[Any], prompt: Any, columns: Columns
) -> Document | str:
    """A document of messages, or why it is none."""
    said = messages_of(messages)
    if isinstance(said, str):
        return f"{columns.text!r} {said}"
    if columns.counted is not None:
        return f"{columns.counted!r} counts characters of a text, and {columns.text!r} are messages"
    if columns.prompt is None or prompt == []:
        return replace(found, messages=said)
    before = messages_of(prompt)
    if isinstance(before, str):
        return f"{columns.prompt!r} {before}, as {columns.text!r} is"
    return replace(found, messages=(*before, *said), n_before=len(before))


def rendered(document: Document, tokenizer: Coding) -> Document | str:
    """A document as a text, or why its messages cannot be made one.

    What counts of messages is what the assistant says; after a prompt only there. Where that is not
    told, the text is one of which nothing says what counts, as a loss on all of it needs no more.
    Ids that are given stay as they are, if the tokenizer has a text for them.
    """
    if isinstance(tokenizer, Features):
        return document
    if document.tokens is not None:
        return _why_unknown(document.tokens, tokenizer) or document
    if not document.messages:
        return document
    try:
        whole = conversation(tokenizer, document.messages)
    except ChatError as error:
        return str(error)
    turns = [n for n, one in enumerate(document.messages) if one["role"] == "assistant"]
    n_given = sum(n < document.n_before for n in turns)
    counted = whole.assistant
    if counted is not None and n_given:
        # Of fewer or more turns that are marked it is not told which are the prompt's.
        counted = counted[n_given:] if len(counted) == len(turns) else None
    return replace(
        document, text=whole.text, counted=counted, messages=(), n_before=0, templated=True
    )


def _why_unknown(row: TokenRow, tokenizer: PreTrainedTokenizerFast) -> str | None:
    """Why ids are of another tokenizer than this one; None where they need not be."""
    highest = int(row.tokens_T.max(initial=0))
    if highest < 2**31 and tokenizer.backend_tokenizer.id_to_token(highest) is not None:
        return None
    return (
        f"it has the token id {highest:,}, and the tokenizer, of {len(tokenizer):,} tokens, has "
        "none of that number: another tokenizer made it (name that under `tokenizer`), or its ids "
        "are of another type (corpus.tokens.dtype)"
    )


def mask(offsets: Sequence[Span], counted: Sequence[Span]) -> list[bool]:
    """Which tokens counted: those that have a character which did.

    A token that holds the end of a prompt and the start of what follows it counts, as it had to be
    predicted.

    Args:
        offsets: characters of each token, in their order; those of added ones are empty.
        counted: characters that the loss counted.
    """
    spans = sorted((start, end) for start, end in counted if start < end)
    found, place = [], 0
    for start, end in offsets:
        while place < len(spans) and start < end and spans[place][1] <= start:
            place += 1
        found.append(start < end and place < len(spans) and spans[place][0] < end)
    return found


def _why_no_spans(value: Any, length: int) -> str | None:
    if not isinstance(value, list) or not all(
        isinstance(one, list | tuple)
        and len(one) == 2
        and all(isinstance(number, int) and not isinstance(number, bool) for number in one)
        for one in value
    ):
        return "is not a list of [start, end] in characters of the text"
    for start, end in value:
        if not 0 <= start <= end <= length:
            return f"has [{start}, {end}], and the text has {length} characters"
    return None
