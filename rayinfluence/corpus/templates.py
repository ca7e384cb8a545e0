"""Templates of documents: Jinja, in a sandbox, that makes a text of a row's columns.

A template sees the columns by their names, and all of them as ``row`` for names that are none in
Jinja. What stands between ``{% generation %}`` and ``{% endgeneration %}``, as in chat templates,
is what the loss of training counted. The same row always gives the same text: what is random in
Jinja is not there.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any

from jinja2 import Environment, StrictUndefined, TemplateError, TemplateSyntaxError, meta, nodes
from jinja2.ext import Extension
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from rayinfluence.corpus.chat import Span
from rayinfluence.errors import brief

#: All columns of a row.
_ROW = "row"
#: Characters that Unicode has set aside for use within a program, and which no text has.
_BEGINS, _ENDS = "\ufdd0", "\ufdd1"
_MARKS = re.compile(f"[{_BEGINS}{_ENDS}]")
_UNKNOWN = re.compile(r"'(.+)' is undefined")
_RANDOM = {"globals": "lipsum", "filters": "random"}


class TemplateFailed(Exception):
    """Why a template makes no text of a row, as a clause.

    Attributes:
        lacking: the column that the row lacks, where that is why.
    """

    def __init__(self, why: str, lacking: str | None = None) -> None:
        super().__init__(why)
        self.lacking = lacking


class _Generation(Extension):
    """The tags around what counted: they leave marks, which are taken out of the text."""

    tags = {"generation"}  # noqa: RUF012 - as Jinja asks for it

    def parse(self, parser: Parser) -> nodes.Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.CallBlock(self.call_method("marked"), [], [], body).set_lineno(line)

    def marked(self, caller: Callable[[], str]) -> str:
        """What is between the tags, with its marks."""
        return f"{_BEGINS}{caller()}{_ENDS}"


class _NoMarks(_Generation):
    """The same tags, which leave nothing."""

    def marked(self, caller: Callable[[], str]) -> str:
        """What is between the tags."""
        return caller()


@dataclass(frozen=True)
class Template:
    """A template that Jinja understands; see :func:`template_of`."""

    source: str

    @cached_property
    def variables(self) -> frozenset[str]:
        """The columns that it may ask for; all of them where ``row`` is among these."""
        return frozenset(meta.find_undeclared_variables(self._tree))

    @cached_property
    def counts(self) -> bool:
        """Whether it says what the loss of training counted."""
        return any(call.name == "marked" for call in self._tree.find_all(nodes.ExtensionAttribute))

    def render(self, row: Mapping[str, Any]) -> tuple[str, tuple[Span, ...] | None]:
        """The text of a row, and the characters of it that counted; None where it says nothing.

        Null is no text. A string stands as it is, a number as JSON has it.

        Raises:
            TemplateFailed: it asks for what the row lacks, or does not take what is there.
        """
        if self.counts and any(_MARKS.search(text) for text in _texts(row)):
            raise TemplateFailed("there is U+FDD0 or U+FDD1 in the row, which stand for no text")
        try:
            text = self._compiled.render({_ROW: row, **row})
            alone = self._unmarked.render({_ROW: row, **row}) if self.counts else text
        except TemplateFailed:
            raise
        except Exception as error:  # a template is a program, and may fail in any way
            unknown = _UNKNOWN.fullmatch(str(error))
            lacking = unknown[1] if unknown and unknown[1] in self.variables else None
            raise TemplateFailed(brief(error), lacking) from error
        if not self.counts:
            return text, None
        parted, counted = _parted(text)
        if parted != alone:
            raise TemplateFailed(
                "what is between {% generation %} and {% endgeneration %} is changed or looked at "
                "after it was made (by a filter such as trim, by its length), and the marks are in "
                "it: do that before, within these tags"
            )
        return parted, counted

    @cached_property
    def _tree(self) -> nodes.Template:
        return _environment(_Generation).parse(self.source)

    @cached_property
    def _compiled(self) -> Any:
        return _environment(_Generation).from_string(self.source)

    @cached_property
    def _unmarked(self) -> Any:
        return _environment(_NoMarks).from_string(self.source)


@lru_cache(maxsize=8)
def template_of(source: str) -> Template:
    """A template by its text.

    Raises:
        TemplateFailed: Jinja does not understand it; in words that follow its name.
    """
    found = Template(source)
    try:
        _ = found._compiled
        variables = found.variables
    except TemplateSyntaxError as error:
        raise TemplateFailed(f"line {error.lineno} is no Jinja: {error.message}") from error
    except TemplateError as error:
        raise TemplateFailed(f"it is no Jinja: {brief(error)}") from error
    if not variables:
        raise TemplateFailed(
            "it asks for no column, so that all documents would have the same text: name columns "
            "as in {{ instruction }}"
        )
    return found


@lru_cache(maxsize=2)
def _environment(tags: type[_Generation]) -> Environment:
    # Spaces are as in chat templates, but for a newline at the end, which somebody wrote.
    made = ImmutableSandboxedEnvironment(
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        undefined=StrictUndefined,
        finalize=_written,
        extensions=[tags, "jinja2.ext.loopcontrols"],
    )
    for kind, name in _RANDOM.items():
        getattr(made, kind).pop(name)
    made.filters["tojson"] = _as_json
    return made


def _as_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """A value as JSON, as chat templates write it: keys in their order, characters as they are.

    Jinja's own filter is for pages of HTML: it sorts keys, and writes `<`, `'` and letters beyond
    ASCII by their numbers.
    """
    return json.dumps(
        value,
        ensure_ascii=ensure_ascii,
        indent=indent,
        separators=separators,
        sort_keys=sort_keys,
    )


def _written(value: Any) -> Any:
    """What an expression is in the text."""
    if value is None:
        return ""
    if isinstance(value, bool | int | float):
        return json.dumps(value)
    if isinstance(value, list | tuple | dict | bytes):
        kind = {dict: "an object", bytes: "bytes"}.get(type(value), "a list")
        raise TemplateFailed(
            f"an expression gives {kind}, which is no text: pick what is wanted of it, or write "
            "it as JSON by `| tojson`"
        )
    return value


def _parted(text: str) -> tuple[str, tuple[Span, ...]]:
    """A text without its marks, and the characters that stood between them."""
    spans: list[Span] = []
    parts, length, depth, begun = [], 0, 0, 0
    for piece in re.split(f"([{_BEGINS}{_ENDS}])", text):
        if piece == _BEGINS:
            begun = begun if depth else length
            depth += 1
        elif piece == _ENDS:
            depth -= 1
            if not depth and length > begun:
                spans.append((begun, length))
        else:
            parts.append(piece)
            length += len(piece)
    return "".join(parts), tuple(spans)


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list | tuple):
        for inner in value.values() if isinstance(value, dict) else value:
            yield from _texts(inner)
