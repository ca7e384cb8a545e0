"""Forms of documents: what of a row is the text, and which of its characters training counted.

A text, a prompt with what was trained to follow it, or messages that the tokenizer's chat template
makes a text of.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from rayinfluence.corpus.chat import Message, Span, conversation, messages_of
from rayinfluence.errors import ChatError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast


@dataclass(frozen=True)
class Columns:
    """The columns or keys of a row that have a meaning; all others are metadata.

    Attributes:
        text: of the text, or of messages.
        identity: of what names a document.
        prompt: of what stands before the text and was not trained to be said; None where there is
            nothing.
        counted: of the characters of the text that the loss counted, as ``[[start, end], ...]``;
            None where no column tells.
        label: of the class; it is metadata as well.
        blocks: whether each block between blank lines of a plain text is a row.
    """

    text: str
    identity: str
    prompt: str | None = None
    counted: str | None = None
    label: str | None = None
    blocks: bool = False


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

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing in it."""
        return not (self.text.strip() or any(one["content"].strip() for one in self.messages))

    @property
    def n_characters(self) -> int:
        """Of its text, or of its messages."""
        return len(self.text) + sum(len(one["content"]) for one in self.messages)


def document_of(row: dict[str, Any], columns: Columns, name: str, number: int) -> Document | str:
    """The document of a row, or why it is none.

    Args:
        row: by column; what has a meaning is taken out of it.
        columns: which have one.
        name: of the file.
        number: of the row, from 1.
    """
    text, identity = row.pop(columns.text, None), row.pop(columns.identity, None)
    prompt = None if columns.prompt is None else row.pop(columns.prompt, None)
    spans = None if columns.counted is None else row.pop(columns.counted, None)
    metadata = {key: value for key, value in row.items() if value is not None}
    document_id = f"{name}:{number}" if identity is None else str(identity)
    label = None if columns.label is None else row.get(columns.label)
    found = Document(document_id, "", metadata, number, label=label)
    if isinstance(text, list):
        return _of_messages(found, text, prompt, columns)
    if not isinstance(text, str):
        return f"{columns.text!r} is not a string"
    if columns.prompt is not None:
        if not isinstance(prompt, str):
            return f"{columns.prompt!r} is not a string"
        whole = prompt + text
        return replace(found, text=whole, counted=((len(prompt), len(whole)),))
    if columns.counted is not None:
        if why := _why_no_spans(spans, len(text)):
            return f"{columns.counted!r} {why}"
        return replace(found, text=text, counted=tuple((start, end) for start, end in spans or ()))
    return replace(found, text=text)


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


def rendered(document: Document, tokenizer: PreTrainedTokenizerFast) -> Document | str:
    """A document as a text, or why its messages cannot be made one.

    What counts of messages is what the assistant says; after a prompt only there. Where that is not
    told, the text is one of which nothing says what counts, as a loss on all of it needs no more.
    """
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
