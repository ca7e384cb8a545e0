"""Conversations as text: what the tokenizer's chat template makes of messages, and who said what.

A template is Jinja, which transformers runs in a sandbox. What it gives is a text like any other:
it is tokenised by :func:`rayinfluence.corpus.tokenizer.encode`, which adds no special tokens to it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from typing import TYPE_CHECKING

from rayinfluence.errors import ChatError, brief

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

Message = Mapping[str, str]
Span = tuple[int, int]

_ASSISTANT = "assistant"
_KEYS = ("role", "content")
#: A text with the day of its rendering in it would be another one tomorrow, and nothing that was
#: computed of it would be found again. This one is what Llama's templates take where none is given.
_TODAY = date(2024, 7, 26)
_ASKS_FOR_TODAY = re.compile(r"""strftime_now\(\s*(["'])(.*?)\1\s*\)""")
_GENERATION = re.compile(r"\{%-?\s*generation\s*-?%\}")

#: Why it is not told where the assistant speaks, and what to do; as clauses.
UNTOLD = (
    "the chat template does not tell where the assistant speaks (it writes the messages up to a "
    "turn otherwise when others follow, or begins an answer otherwise than it writes one)"
)
MARKS = (
    "`{% generation %}` and `{% endgeneration %}` in the template, around what the assistant says, "
    "tell it"
)


@dataclass(frozen=True)
class Conversation:
    """A conversation as text.

    Attributes:
        text: what the template makes of all messages.
        assistant: characters of each of the assistant's turns, which it was trained to say, in
            order: from where the model goes on by itself to the end of the turn, marks of its
            end included as far as the template counts them in. None where that is not told.
    """

    text: str
    assistant: tuple[Span, ...] | None


def messages_of(value: object) -> tuple[Message, ...] | str:
    """The messages of a list; or why a value is none, as a clause.

    Keys beside role and content that are null or empty are none: a column of Parquet has all keys
    in every message.

    Args:
        value: as it was read.
    """
    if not isinstance(value, list) or not value:
        return 'must be a list of messages, each {"role": ..., "content": ...}'
    for place, message in enumerate(value):
        if not isinstance(message, dict):
            return f"has a message {place} that is no object with the keys role and content"
        for key in _KEYS:
            if key not in message:
                return f"has a message {place} without {key}"
            if not isinstance(message[key], str):
                return (
                    f"has a message {place} whose {key} is no string; contents of several parts, "
                    "and calls of tools, are not rendered: give that conversation as text"
                )
        said = {key for key, said in message.items() if said not in (None, "", [], {})}
        if unknown := sorted(said - set(_KEYS)):
            return (
                f"has a message {place} with the key {unknown[0]!r}; of messages only role and "
                "content are rendered"
            )
    return tuple({key: message[key] for key in _KEYS} for message in value)


def render(
    tokenizer: PreTrainedTokenizerFast,
    messages: Sequence[Message],
    *,
    generation_prompt: bool = False,
) -> str:
    """The text that the tokenizer's chat template makes of messages.

    Args:
        tokenizer: with its template.
        messages: each with a role and a content.
        generation_prompt: end with what begins an answer of the assistant.

    Raises:
        ChatError: there is no template, or it does not take these messages; the caller says whose.
    """
    return _rendered(tokenizer, messages, generation_prompt)[0]


def conversation(tokenizer: PreTrainedTokenizerFast, messages: Sequence[Message]) -> Conversation:
    """Messages as one text, and where in it the assistant speaks.

    Where a template marks what the assistant says (``{% generation %}``), that is it. Otherwise the
    first messages are rendered up to each of its turns, and up to the turn's end: the turn is what
    is between, where both are beginnings of the whole.

    Raises:
        ChatError: as :func:`render` does.
    """
    text, marked = _rendered(tokenizer, messages)
    if _GENERATION.search(_template(tokenizer)):
        return Conversation(text, tuple((start, end) for start, end in marked if start < end))
    spans = []
    for place, message in enumerate(messages):
        if message["role"] != _ASSISTANT:
            continue
        try:
            through = render(tokenizer, messages[: place + 1])
            before = _before(tokenizer, messages[: place + 1])
        except ChatError:  # it takes the whole, and not what is up to there
            return Conversation(text, None)
        if not (text.startswith(through) and through.startswith(before)):
            return Conversation(text, None)
        spans.append((len(before), len(through)))
    return Conversation(text, tuple(spans))


def _before(tokenizer: PreTrainedTokenizerFast, messages: Sequence[Message]) -> str:
    """The text from whose end the model says the last of messages by itself.

    Raises:
        ChatError: it is not told.
    """
    *earlier, last = messages
    try:
        return render(tokenizer, earlier, generation_prompt=True)
    except ChatError:
        if earlier:
            raise
    # A template that looks at the first message takes no empty list: what begins an answer after
    # this one is looked for before it, as it may stand behind what the template says by itself.
    begun = render(tokenizer, [last], generation_prompt=True)
    begins = begun.removeprefix(render(tokenizer, [last]))
    text, start = last_content(tokenizer, [last])
    place = text.rfind(begins, 0, start)
    if not begins or begins == begun or place < 0:
        raise ChatError("the chat template of the tokenizer does not tell where an answer begins")
    return text[: place + len(begins)]


def last_content(
    tokenizer: PreTrainedTokenizerFast, messages: Sequence[Message]
) -> tuple[str, int]:
    """A conversation up to the end of its last message's content, and where that content begins.

    What the template puts after it, to end the turn, is left out.

    Args:
        tokenizer: with its template.
        messages: the last of them the assistant's.

    Raises:
        ChatError: as :func:`render` does; or the last message is not from the assistant, or the
            template writes its content otherwise than it is.
    """
    *earlier, last = messages
    if last["role"] != _ASSISTANT:
        raise ChatError(
            f"the last message is from {last['role']!r}, and what is asked about is what the "
            "assistant says: end with a message of the role 'assistant'"
        )
    text, content = render(tokenizer, messages), last["content"]
    # In the place of the content stands something else once, so that what is around it shows: a
    # content that is short may stand elsewhere, too.
    other = "content"
    while other in text:
        other += "s"
    around = render(tokenizer, [*earlier, {**last, "content": other}]).split(other)
    # Templates mostly strip contents.
    for said in dict.fromkeys([content, content.strip(), content.lstrip(), content.rstrip()]):
        if said and len(around) == 2 and text == said.join(around):
            return text[: len(around[0]) + len(said)], len(around[0])
    raise ChatError(
        "the chat template of the tokenizer writes the content of the last message otherwise than "
        "it is, so that it is not told which tokens count: give the messages before it as `prompt`,"
        " and what the assistant says, as the model would write it, as `completion`"
    )


def _template(tokenizer: PreTrainedTokenizerFast) -> str:
    try:
        template: str = tokenizer.get_chat_template()
    except ValueError as error:
        raise ChatError(
            "the tokenizer has no chat template, so messages cannot be made a text: name the "
            "folder of one that has under `tokenizer` (chat_template.jinja, or chat_template in "
            "tokenizer_config.json), or give the text as the model was trained on it"
        ) from error
    return _ASKS_FOR_TODAY.sub(lambda found: repr(_TODAY.strftime(found[2])), template)


def _rendered(
    tokenizer: PreTrainedTokenizerFast, messages: Sequence[Message], generation_prompt: bool = False
) -> tuple[str, list[Span]]:
    """The text of messages, and the spans that the template says are the assistant's."""
    from transformers.utils.chat_template_utils import render_jinja_template

    template = _template(tokenizer)
    marks = _GENERATION.search(template) is not None
    try:
        [text], spans = render_jinja_template(
            conversations=[list(map(dict, messages))],
            chat_template=template,
            return_assistant_tokens_mask=marks,
            add_generation_prompt=generation_prompt,
            **tokenizer.special_tokens_map,
        )
    except Exception as error:  # a template is a program, and may fail in any way
        raise ChatError(
            f"the chat template of the tokenizer does not take these messages: {brief(error)}"
        ) from error
    return text, spans[0] if marks else []
