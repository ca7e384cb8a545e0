"""Which tokens carry the scores of the shown hits, summed over all places where they stand."""

from __future__ import annotations

from collections import defaultdict

from rayinfluence.report.heat import heated_tokens
from rayinfluence.report.pictures.figure import Figure, categories, linear
from rayinfluence.report.pictures.seen import Seen, some
from rayinfluence.report.pictures.signed_bars import SignedBar, signed_bars
from rayinfluence.report.text import count, one_line, shorten, signed

_BARS = 20


def tokens(seen: Seen) -> Figure | None:
    """Bars of the tokens with the largest sums; None where the hits have no scores by token."""
    hits = [hit for hit in seen.hits if hit.token_scores]
    scores: dict[str, list[float]] = defaultdict(list)
    for hit in hits:
        ahead = seen.results.meaning.ahead
        for token in heated_tokens(hit.token_texts, hit.token_scores or [], ahead):
            if token.score is not None:
                scores[token.text].append(token.score)
    ordered = sorted(scores, key=lambda text: (-_size(scores[text]), text))
    if not ordered:
        return None
    shown = sorted(ordered[:_BARS], key=lambda text: -sum(scores[text]))
    bars = [_bar(text, scores[text]) for text in shown]
    names = [_name(text) for text in shown]
    notes = [
        "Scores by token show where to look: a place also carries the predictions after it, so "
        "the sign of a single token says little."
        if seen.results.meaning.of_predictions
        else "A token's score is what it adds to the likeness.",
    ]
    if rest := ordered[_BARS:]:
        net = sum(sum(scores[text]) for text in rest)
        notes.append(
            f"{count(len(rest))} other tokens, which have {signed(net)} together, are in the table."
        )
    if lacking := len(seen.hits) - len(hits):
        notes.append(f"{count(lacking)} of the hits shown have no scores by token.")
    most = ordered[0]
    among = scores[most]
    places = f"{count(len(among))} place{'s' * (len(among) != 1)}"
    return Figure(
        "tokens",
        f"“{_name(most)}” carries most of the {_who(seen)} shown: {signed(sum(among))} in {places}",
        linear(
            f"sum of scores by token, {seen.results.meaning.unit}",
            [end for bar in bars for end in (bar.above, bar.below)],
        ),
        categories("token", names[::-1]),
        signed_bars(bars, "net"),
        tuple(notes),
        ("token", "places", "positive sum", "negative sum", "net"),
        tuple(
            (text, len(scores[text]), *_sides(scores[text]), sum(scores[text])) for text in ordered
        ),
    )


def _who(seen: Seen) -> str:
    return " and ".join(some(side) for side in (seen.proponents, seen.opponents) if side)


def _size(values: list[float]) -> float:
    return sum(map(abs, values))


def _sides(values: list[float]) -> tuple[float, float]:
    return sum(max(value, 0.0) for value in values), sum(min(value, 0.0) for value in values)


def _bar(text: str, values: list[float]) -> SignedBar:
    above, below = _sides(values)
    says = (
        f"{_name(text)}: {signed(above)} and {signed(below)}, net {signed(above + below)}, in "
        f"{count(len(values))} places"
    )
    return SignedBar(above, below, says)


def _name(text: str) -> str:
    return shorten(one_line(text) or "␣", 22)
