"""HTML that is safe by construction: text is escaped unless it already is `Html`.

Only this module turns strings into markup. Formatting or joining `Html` by other means yields a
plain string, which is escaped when it is used: a slip shows up as visible tags, never as live ones.
"""

from __future__ import annotations

import html
from collections.abc import Iterable, Sequence

from rayinfluence.text import visible, visible_parts


class Html(str):
    """Markup made by this module; every other string is data."""

    __slots__ = ()


_VOID = frozenset({"input", "meta"})


def escape(text: str) -> Html:
    """Data as markup that shows it, with control characters made visible."""
    return text if isinstance(text, Html) else Html(html.escape(visible(text)))


def escape_parts(texts: Sequence[str]) -> list[Html]:
    """The same of texts that are parts of one, as a token's text is of its sequence's."""
    return [Html(html.escape(shown)) for shown in visible_parts(texts)]


def join(children: Iterable[str], separator: str = "") -> Html:
    """Children one after the other, each escaped unless it is `Html`."""
    return Html(escape(separator).join(map(escape, children)))


def definitions(rows: Iterable[tuple[str, str]]) -> Html:
    """Names and values as a definition list; values may be markup."""
    return tag("dl", *(join((tag("dt", key), tag("dd", value))) for key, value in rows))


def note(text: str) -> Html:
    """A quiet paragraph; nothing where there is nothing to say."""
    return tag("p", text, class_="quiet") if text else Html()


def warning(text: str) -> Html:
    """What to beware of. It may begin with a key or a file's name, so its first letter stays."""
    return tag("p", tag("b", "Warning:"), " ", text, class_="warning")


def tag(name: str, /, *children: str, **attributes: str | float | bool | None) -> Html:
    """An element.

    Args:
        name: the element's name, a constant of the caller.
        *children: text (escaped) or `Html` (kept).
        **attributes: ``class_`` becomes ``class`` and ``aria_label`` ``aria-label``; ``None`` and
            ``False`` leave an attribute out, ``True`` gives it no value.
    """
    parts = [f"<{name}"]
    for key, value in attributes.items():
        if value is None or value is False:
            continue
        parts.append(f" {key.removesuffix('_').replace('_', '-')}")
        if value is not True:
            parts.append(f'="{escape(value if isinstance(value, str) else f"{value:g}")}"')
    parts.append(">")
    if name not in _VOID:
        parts.append(f"{join(children)}</{name}>")
    return Html("".join(parts))
