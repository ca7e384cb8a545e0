"""The text of a hit: its hottest part, what is around it in folds, and the rest counted."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from rayinfluence.report.heat import HeatedToken, hot_window
from rayinfluence.report.markup import Html, escape_parts, join, tag
from rayinfluence.report.text import count, signed
from rayinfluence.storage.results import Survivor
from rayinfluence.text import visible_parts

_WINDOW = 700
_LINE_COST = 40


class HitText(NamedTuple):
    """Markup, and which tokens of the hit it has."""

    markup: Html
    start: int
    stop: int


def hit_text(tokens: Sequence[HeatedToken], fold: int, *, parted: bool = False) -> HitText:
    """The hottest part in full, what is around it folded away, and what is further off counted.

    Args:
        tokens: of the whole sequence.
        fold: how many characters of text to keep, folded away, on each side.
        parted: whether to say where each token ends, for who colours them by something else.
    """
    if not tokens:
        return HitText(tag("p", "This method gives no scores per token.", class_="quiet"), 0, 0)
    start, stop = hot_window(tokens, _WINDOW, _LINE_COST)
    # A short rest is not worth a fold.
    if _size(tokens[:start]) + _size(tokens[stop:]) < _WINDOW // 3:
        start, stop = 0, len(tokens)
    first = start - _taken(list(reversed(tokens[:start])), fold)
    last = stop + _taken(tokens[stop:], fold)
    parts = (
        _folded(tokens, first, start, start, "before", parted) if start else "",
        _text(tokens, start, stop, parted),
        _folded(tokens, stop, last, len(tokens) - stop, "after", parted)
        if stop < len(tokens)
        else "",
    )
    return HitText(join(parts), first, last)


def in_document(hit: Survivor, n_characters: int) -> Html:
    """What stands around a hit in its document, folded away; nothing where that is not known.

    Args:
        hit: the hit.
        n_characters: of either side, at most.
    """
    before = (hit.text_before or "")[-n_characters:] if n_characters else ""
    after = (hit.text_after or "")[:n_characters]
    if not before and not after:
        return Html()
    place = tag("span", "\u2009[ this sequence ]\u2009", class_="quiet")
    begins = "" if hit.token_start else "The document begins here. "
    parts = (before or tag("span", begins, class_="quiet"), place, after)
    text = tag("div", *parts, class_="text around", dir="auto")
    return tag("details", tag("summary", "In its document"), text, class_="fold")


def _text(tokens: Sequence[HeatedToken], start: int, stop: int, parted: bool) -> Html:
    shown = tokens[start:stop]
    cuts = None
    if parted:
        ends = (len(text.encode("utf-16-le")) // 2 for text in visible_parts(_marked(shown)))
        cuts = ",".join(map(str, ends))
    return tag(
        "div",
        heat_markup(shown),
        class_="text",
        dir="auto",
        data_start=str(start) if parted else None,
        data_sizes=cuts,
    )


def _folded(
    tokens: Sequence[HeatedToken], start: int, stop: int, beside: int, side: str, parted: bool
) -> Html:
    whole = tokens[:beside] if side == "before" else tokens[len(tokens) - beside :]
    kept = tokens[start:stop]
    rest = _n_tokens(whole) - _n_tokens(kept)
    label = f"{said_tokens(_n_tokens(whole))} {side}"
    if rest:
        label += f", {count(rest)} of them only in the results table"
    if not kept:
        return tag("p", label, class_="quiet")
    text = _text(tokens, start, stop, parted)
    return tag("details", tag("summary", label), text, class_="fold")


def _taken(tokens: Sequence[HeatedToken], budget: int) -> int:
    """How many of some tokens, from the first, a budget of characters has room for."""
    size = 0
    for taken, token in enumerate(tokens):
        size += len(token.text)
        if size > budget:
            return taken
    return len(tokens)


def heat_markup(tokens: Sequence[HeatedToken]) -> Html:
    """Tokens as text, with an element only where there is heat to see."""
    parts = []
    for token, text in zip(tokens, escape_parts(_marked(tokens)), strict=True):
        if token.level == 0 or token.score is None:
            parts.append(text)
            continue
        level = f"p{token.level}" if token.level > 0 else f"n{-token.level}"
        parts.append(tag("b", text, class_=level, title=signed(token.score)))
    return join(parts)


def said_tokens(n: int) -> str:
    """A number of tokens."""
    return f"{count(n)} token{'s' * (n != 1)}"


def _marked(tokens: Sequence[HeatedToken]) -> list[str]:
    """Texts in which a hot newline can be seen."""
    return [token.text.replace("\n", "↵\n") if token.level else token.text for token in tokens]


def _n_tokens(tokens: Sequence[HeatedToken]) -> int:
    return sum(token.n_tokens for token in tokens)


def _size(tokens: Sequence[HeatedToken]) -> int:
    return sum(len(token.text) + _LINE_COST * token.text.count("\n") for token in tokens)
