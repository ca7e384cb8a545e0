"""What a page of XHTML defines before it begins: a parser of HTML takes that for text."""

from __future__ import annotations

import re

#: What may stand before a page's own elements; a comment ends where it first can.
BEFORE = r"\s*+(?:<\?xml[^>]*>\s*+)?(?><!--.*?-->\s*+)*+"
#: A doctype with definitions between brackets; what is quoted or in a comment ends none.
_SUBSET = re.compile(
    BEFORE + r"<!DOCTYPE\s[^\[>]*\[((?:<!--.*?-->|\"[^\"]*\"|'[^']*'|(?!<!--)[^\]\"'])*+)\]\s*>",
    re.I | re.S,
)
_COMMENT = re.compile(r"<!--.*?-->", re.S)
_ENTITY = re.compile(r"<!ENTITY\s+([\w.:-]+)\s+(?:\"([^\"]*)\"|'([^']*)'|\w)", re.I)
_USED = re.compile(r"&([A-Za-z_:][\w.:-]*);")
#: Of what an entity stands for: text, characters by their numbers, and not much of it, as a page
#: may name it as often as it likes.
_PLAIN = re.compile(r"(?:[^&<%]|&#\w+;){0,100}")


def without_definitions(page: str) -> tuple[str, str | None]:
    """A page whose own entities are the short texts that it defines them to be.

    Others, which stand for files, for elements or for further entities, are not followed: a page
    may name a file of this machine so, or grow out of all proportion.

    Args:
        page: its characters.

    Returns:
        The page, and the first entity of its own that it uses and that is not followed.
    """
    found = _SUBSET.match(page)
    if found is None:
        return page, None
    entities: dict[str, str | None] = {}
    for one in _ENTITY.finditer(_COMMENT.sub("", found[1])):
        text = one[3] if one[2] is None else one[2]
        # Of two definitions the first holds (XML 1.0, 4.2).
        is_short = text is not None and _PLAIN.fullmatch(text)
        entities.setdefault(one[1], text if is_short else None)
    body = page[found.end() :]
    used = (name for name in _USED.findall(body) if name in entities)
    if unfollowed := next((name for name in used if entities[name] is None), None):
        return page, unfollowed
    return _USED.sub(lambda one: entities.get(one[1], one[0]) or "", body), None
