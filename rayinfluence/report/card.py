"""One training sequence as a card: score, origin, text with token heat, layers, details."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from rayinfluence.report.charts import layer_bars, score_bar, sign_class, strongest_blocks
from rayinfluence.report.citation import Cited
from rayinfluence.report.facts import carried
from rayinfluence.report.heat import HeatedToken, heated_tokens, hottest
from rayinfluence.report.hit_text import hit_text, in_document, said_tokens
from rayinfluence.report.markup import Html, join, note, tag
from rayinfluence.report.panes import pane
from rayinfluence.report.text import SUSPECT, measured, one_line, prediction, signed
from rayinfluence.storage.metadata import as_text
from rayinfluence.storage.results import Survivor

_N_HOTTEST = 6
#: Of the kinds of token influences, what they are called and what they say.
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
_MOVED = (
    "by token as it might have been",
    "A coloured token is one with whose embedding the score changes fast, whichever way that is "
    "moved. They have no sign, and do not add up to the score.",
)
#: Of a hit that has scores by pairs of tokens, but not here.
_UNPAIRED = (
    "Its scores by parts of the answer are too many for this page; the results table has them."
)


@dataclass(frozen=True)
class Beside:
    """What a card is shown beside.

    Attributes:
        largest: the largest absolute score beside it, the length of a full bar.
        names: what to call the sequences shown beside it, by sequence id.
        ahead: how far from its score by token a token is.
        odds: whether a change is one of a difference of log-probabilities.
        cited: what its citation says beside the hit.
        fold: how many characters of text to keep, folded away, on each side of the hottest part.
        context: how many characters of its document to show on each side of the hit.
        pairs: how many bytes of scores by pairs of tokens there is room for.
    """

    largest: float
    names: Mapping[int, str]
    ahead: int
    odds: bool
    cited: Cited
    fold: int
    context: int
    pairs: int


def card(hit: Survivor, anchor: str, beside: Beside, copies: str = "") -> Html:
    """A survivor as a list item.

    Args:
        hit: the training sequence.
        anchor: its address in the page.
        beside: what it is shown beside.
        copies: its near copies, where there are any.
    """
    change = prediction(hit.delta_nats, hit.beyond_linear, beside.odds, hit.delta_nats_se)
    tokens = heated_tokens(hit.token_texts or [], hit.token_scores or [], beside.ahead)
    text = hit_text(tokens, beside.fold, parted=bool(hit.pair_scores))
    pairs = pane(hit, text.start, text.stop, beside.ahead, beside.pairs)
    unpaired = _UNPAIRED if hit.pair_scores and not pairs else ""
    name = beside.names.get(hit.sequence_id, str(hit.rank))
    return tag(
        "li",
        tag(
            "p",
            tag("a", str(hit.rank), class_="rank", href=f"#{anchor}", aria_label=f"Link to {name}"),
            tag("b", measured(hit.score, hit.score_se), class_=f"score {sign_class(hit.score)}"),
            tag("span", change, class_="nats"),
            class_="head",
        ),
        score_bar(hit.score, beside.largest),
        tag("p", *_origin(hit), *_flags(hit, beside.names), class_="origin"),
        text.markup,
        in_document(hit, beside.context),
        note(unpaired),
        *_influences(hit),
        tag(
            "div",
            layer_bars(hit.layer_scores),
            _details(hit, tokens, beside.cited.of(hit)),
            class_="foot",
        ),
        copies,
        class_="card",
        id=anchor,
        data_scan=str(hit.scan_rank),
        data_flags=" ".join(_kinds(hit)) or None,
        **pairs,
    )


def _origin(hit: Survivor) -> list[Html]:
    parts = []
    if hit.source:
        parts.append(tag("bdi", one_line(hit.source), class_="source"))
    if hit.document_id:
        parts.append(tag("bdi", one_line(hit.document_id), class_="document"))
    return parts


def _flags(hit: Survivor, names: Mapping[int, str]) -> list[Html]:
    flags = []
    if hit.suspect:
        flags.append(tag("span", SUSPECT, class_="flag"))
    if hit.near_duplicate_of is not None:
        other = names.get(hit.near_duplicate_of, f"sequence {hit.near_duplicate_of}")
        flags.append(tag("span", f"near-duplicate of {other}", class_="flag"))
    if said := carried(hit):
        flags.append(tag("span", said, class_="carrier"))
    return flags


def _kinds(hit: Survivor) -> list[str]:
    """Words for what is to be known of a hit, to choose by."""
    found = {
        "suspect": hit.suspect,
        "copy": hit.near_duplicate_of is not None,
        "carried": hit.carried_by is not None,
        "in-completion": bool(hit.carrier_in_completion),
        "beyond": bool(hit.beyond_linear),
    }
    return [name for name, there in found.items() if there]


def _influences(hit: Survivor) -> list[Html]:
    """The text again and again, coloured by token influences, where there are any.

    The first of them is of predictions, as scores by token are, and the others of tokens as read.
    """
    views = (
        (_PREDICTED, hit.output_token_influences, 1),
        (_READ, hit.input_token_influences, 0),
        (_MOVED, hit.embedding_influences, 0),
    )
    return [
        tag(
            "details",
            tag("summary", label),
            tag("p", about, class_="quiet"),
            hit_text(heated_tokens(hit.token_texts or [], scores, ahead), 0).markup,
            class_="fold",
        )
        for (label, about), scores, ahead in views
        if scores is not None
    ]


def _details(hit: Survivor, tokens: Sequence[HeatedToken], citation: str) -> Html:
    metadata = [
        join((tag("dt", key, class_="key"), tag("dd", as_text(value))))
        for key, value in hit.metadata.items()
        if key != "source"
    ]
    hot = [
        join((tag("q", one_line(token.text) or "␣"), f" {signed(token.score or 0.0)}"))
        for token in hottest(tokens, _N_HOTTEST)
    ]
    rows: list[tuple[str, str]] = [
        *_file(hit),
        ("hottest tokens", join(hot, ", ") or "none"),
        ("strongest blocks", strongest_blocks(hit.layer_scores)),
        ("in the scan", f"rank {hit.scan_rank}, {signed(hit.scan_score)}"),
        ("sequence", f"{hit.sequence_id}, {said_tokens(hit.n_tokens)}"),
        ("place", f"{hit.shard}, row {hit.row}"),
    ]
    facts = [join((tag("dt", name), tag("dd", value))) for name, value in rows if value]
    cited = join((tag("dt", "cite as"), tag("dd", citation, class_="citation")))
    listed = tag("dl", *metadata, *facts, cited)
    return tag("details", tag("summary", "Details"), listed, class_="more")


def _file(hit: Survivor) -> list[tuple[str, str]]:
    """Which file has the document: ids are unique in their file alone."""
    if hit.document_file is None:
        return []
    row = "" if hit.document_row is None else f", row {hit.document_row}"
    return [("file", hit.document_file + row)]
