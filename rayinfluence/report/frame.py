"""What surrounds a page: the head with its policy, and styles and scripts, our own alone."""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Iterable, Sequence
from importlib import resources

from rayinfluence.report.markup import Html, tag

#: Put one after the other; a page has a single style and a single script.
_STYLES: tuple[str, ...] = (
    "base.css",
    "top.css",
    "query.css",
    "hit.css",
    "pictures.css",
    "print.css",
)
_SCRIPTS: tuple[str, ...] = (
    "start.js",
    "queries.js",
    "hits.js",
    "tables.js",
    "panes.js",
    "pictures.js",
    "keys.js",
)


def framed(name: str, *body: str, fingerprint: str, own: tuple[str, str] | None = None) -> str:
    """A whole document that needs nothing else.

    Args:
        name: its title.
        *body: what it shows.
        fingerprint: of the results, which stands at the foot of printed pages.
        own: of a page that is no report, a style after the first of ours, and its only script.
    """
    styles, scripts = _STYLES, _SCRIPTS
    if own is not None:
        styles, scripts = (_STYLES[0], own[0]), (own[1],)
    head = _head(name, fingerprint, styles, scripts)
    page = tag("html", head, tag("body", *body), lang="en")
    return f"<!doctype html>\n{page}\n"


def measured_page(
    heading: str, about: Iterable[str], drawn: Sequence[Html], *sections: Html, fingerprint: str
) -> str:
    """A page of what was measured: the first table, pictures if there are any, and all else.

    Args:
        heading: its title.
        about: lines of what it is about; they may name what others wrote.
        drawn: pictures.
        *sections: the first stands before the pictures.
        fingerprint: of the results, if it is of some.
    """
    first, *others = sections
    lines = (tag("p", tag("bdi", line), class_="quiet") for line in about)
    head = tag("header", tag("h1", heading), *lines)
    pictures = tag("section", tag("h2", "Pictures"), tag("div", *drawn, class_="pictures"))
    between = [pictures] if drawn else []
    main = tag("main", first, *between, *others, id="main")
    return framed(heading, head, main, fingerprint=fingerprint)


def _head(name: str, fingerprint: str, styles: tuple[str, ...], scripts: tuple[str, ...]) -> Html:
    style = Html("".join(map(_resource, styles)) + _foot(fingerprint))
    script = Html("".join(map(_resource, scripts)))
    policy = (
        f"default-src 'none'; style-src '{_digest(style)}'; script-src '{_digest(script)}'; "
        "base-uri 'none'; form-action 'none'"
    )
    return tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", http_equiv="Content-Security-Policy", content=policy),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", name="referrer", content="no-referrer"),
        tag("title", name),
        tag("style", style),
        tag("script", script, type="module"),
    )


def _foot(fingerprint: str) -> str:
    """The fingerprint at the foot of printed pages, if it is one: a style is no place for data."""
    if not re.fullmatch("[0-9a-f]{32}", fingerprint):
        return ""
    return f'@page {{ @bottom-left {{ content: "rayinfluence results {fingerprint}"; }} }}\n'


def _resource(name: str) -> str:
    """A file of this package, as it is: our own text, the only markup that is not made by `tag`."""
    return (resources.files(__package__) / "assets" / name).read_text(encoding="utf-8")


def _digest(text: str) -> str:
    digest = hashlib.sha256(text.encode()).digest()
    return f"sha256-{base64.b64encode(digest).decode()}"
