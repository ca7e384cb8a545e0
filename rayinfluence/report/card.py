"""One training sequence as a card: score, origin, text with token heat, layers, details."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rayinfluence.report.charts import layer_bars, score_bar, sign_class
from rayinfluence.report.facts import carried
from rayinfluence.report.heat import HeatedToken, heated_tokens, hot_window, hottest
from rayinfluence.report.markup import Html, escape_parts, join, tag
from rayinfluence.report.text import SUSPECT, count, one_line, prediction, signed
from rayinfluence.storage.metadata import as_text
from rayinfluence.storage.results import Survivor

_WINDOW = 700
_LINE_COST = 40
_N_HOTTEST = 6
#: Of the two kinds of token influences, what they are called and what they say.
_PREDICTED = (
    "by token as it is predicted",
    "A coloured token is one that raises or lowers the completion where it is learnt by itself, "
    "after the tokens before it. They add up to the score.",
)
_READ = (
    "by token as it is read",
    "A coloured token is one that the score comes by when it is read: with more of it the score "
    "would be further up or down. They do not add up to the score.",
)


def card(
    survivor: Survivor,
    largest: float,
    fold: int,
    shown: Mapping[int, str],
    ahead: int,
    odds: bool = False,
) -> Html:
    """A survivor as a list item.

    Args:
        survivor: the training sequence.
        largest: the largest absolute score on the query's page, the length of a full bar.
        fold: how many characters of text to keep, folded away, on each side of the hottest part.
        shown: what to call the sequences shown beside it, by sequence id.
        ahead: how far from its score by token a token is.
        odds: whether a change is one of a difference of log-probabilities.
    """
    change = prediction(survivor.delta_nats, survivor.beyond_linear, odds)
    tokens = heated_tokens(survivor.token_texts or [], survivor.token_scores or [], ahead)
    return tag(
        "li",
        tag(
            "p",
            tag("span", str(survivor.rank), class_="rank"),
            tag("b", signed(survivor.score), class_=f"score {sign_class(survivor.score)}"),
            tag("span", change, class_="nats"),
            class_="head",
        ),
        score_bar(survivor.score, largest),
        tag("p", *_origin(survivor), *_flags(survivor, shown), class_="origin"),
        _text(tokens, fold),
        *_influences(survivor),
        tag("div", layer_bars(survivor.layer_scores), _details(survivor, tokens), class_="foot"),
        class_="card",
    )


def _origin(survivor: Survivor) -> list[Html]:
    parts = []
    if survivor.source:
        parts.append(tag("bdi", one_line(survivor.source), class_="source"))
    if survivor.document_id:
        parts.append(tag("bdi", one_line(survivor.document_id), class_="document"))
    return parts


def _flags(survivor: Survivor, shown: Mapping[int, str]) -> list[Html]:
    flags = []
    if survivor.suspect:
        flags.append(tag("span", SUSPECT, class_="flag"))
    if survivor.near_duplicate_of is not None:
        other = shown.get(survivor.near_duplicate_of, f"sequence {survivor.near_duplicate_of}")
        flags.append(tag("span", f"near-duplicate of {other}", class_="flag"))
    if said := carried(survivor):
        flags.append(tag("span", said, class_="carrier"))
    return flags


def _text(tokens: Sequence[HeatedToken], fold: int) -> Html:
    """The hottest part in full, what is around it folded away, and what is further off counted."""
    if not tokens:
        return tag("p", "This method gives no scores per token.", class_="quiet")
    start, stop = hot_window(tokens, _WINDOW, _LINE_COST)
    # A short rest is not worth a fold.
    if _size(tokens[:start]) + _size(tokens[stop:]) < _WINDOW // 3:
        start, stop = 0, len(tokens)
    return join(
        (
            _folded(tokens[:start], fold, "before") if start else "",
            tag("div", heat_markup(tokens[start:stop]), class_="text", dir="auto"),
            _folded(tokens[stop:], fold, "after") if stop < len(tokens) else "",
        )
    )


def _influences(survivor: Survivor) -> list[Html]:
    """The text twice more, coloured by token influences, where there are any.

    The first of them is of predictions, as scores by token are, and the second of tokens as read.
    """
    views = (
        (_PREDICTED, survivor.output_token_influences, 1),
        (_READ, survivor.input_token_influences, 0),
    )
    return [
        tag(
            "details",
            tag("summary", label),
            tag("p", about, class_="quiet"),
            _text(heated_tokens(survivor.token_texts or [], scores, ahead), 0),
            class_="fold",
        )
        for (label, about), scores, ahead in views
        if scores is not None
    ]


def _folded(tokens: Sequence[HeatedToken], budget: int, side: str) -> Html:
    kept = list(tokens if side == "after" else reversed(tokens))
    size = taken = 0
    while taken < len(kept) and size + len(kept[taken].text) <= budget:
        size += len(kept[taken].text)
        taken += 1
    kept = kept[:taken] if side == "after" else kept[:taken][::-1]
    rest = sum(token.n_tokens for token in tokens) - sum(token.n_tokens for token in kept)
    label = f"{_n_tokens(sum(token.n_tokens for token in tokens))} {side}"
    if rest:
        label += f", {count(rest)} of them only in the results table"
    if not kept:
        return tag("p", label, class_="quiet")
    text = tag("div", heat_markup(kept), class_="text", dir="auto")
    return tag("details", tag("summary", label), text, class_="fold")


def heat_markup(tokens: Sequence[HeatedToken]) -> Html:
    """Tokens as text, with an element only where there is heat to see."""
    texts = [token.text.replace("\n", "↵\n") if token.level else token.text for token in tokens]
    parts = []
    for token, text in zip(tokens, escape_parts(texts), strict=True):
        if token.level == 0 or token.score is None:
            parts.append(text)
            continue
        level = f"p{token.level}" if token.level > 0 else f"n{-token.level}"
        parts.append(tag("b", text, class_=level, title=signed(token.score)))
    return join(parts)


def _details(survivor: Survivor, tokens: Sequence[HeatedToken]) -> Html:
    metadata = [(k, as_text(value)) for k, value in survivor.metadata.items() if k != "source"]
    place = f"{survivor.shard}, row {survivor.row}"
    if survivor.char_end is not None:
        place += f", characters {survivor.char_start} to {survivor.char_end}"
    hot = [
        join((tag("q", one_line(token.text) or "␣"), f" {signed(token.score or 0.0)}"))
        for token in hottest(tokens, _N_HOTTEST)
    ]
    rows: list[tuple[str, str]] = [
        *metadata,
        *_file(survivor),
        ("hottest tokens", join(hot, ", ") or "none"),
        ("sequence", f"{survivor.sequence_id}, {_n_tokens(survivor.n_tokens)}"),
        ("place", place),
    ]
    return tag("details", tag("summary", "Details"), definitions(rows), class_="more")


def _file(survivor: Survivor) -> list[tuple[str, str]]:
    """Which file has the document: ids are unique in their file alone."""
    if survivor.document_file is None:
        return []
    row = "" if survivor.document_row is None else f", row {survivor.document_row}"
    return [("file", survivor.document_file + row)]


def definitions(rows: Sequence[tuple[str, str]]) -> Html:
    """Names and values as a definition list; values may be markup."""
    return tag(
        "dl",
        *(join((tag("dt", key), tag("dd", value))) for key, value in rows),
    )


def _size(tokens: Sequence[HeatedToken]) -> int:
    return sum(len(token.text) + _LINE_COST * token.text.count("\n") for token in tokens)


def _n_tokens(n: int) -> str:
    return f"{count(n)} token{'s' * (n != 1)}"
