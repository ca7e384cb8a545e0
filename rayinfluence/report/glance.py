"""The overview for people: queries in one table, then what they have in common."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich.cells import cell_len
from rich.text import Text

from rayinfluence.display import Column, Part, Table
from rayinfluence.report.effects import agreement_grid, overview_grid
from rayinfluence.report.groups import value_of
from rayinfluence.report.lines import grid_parts, isolated
from rayinfluence.report.overview import FIRST, AskedQuery, LeadingDocument, LeadingGroup, Overview
from rayinfluence.report.terminal import style
from rayinfluence.report.text import count, measured, percent, shorten, things
from rayinfluence.storage.results import Meaning, Results

#: Rows of queries, and of documents and of the groups of a key, that are printed.
_QUERIES, _ROWS = 200, 8
#: Characters of a name, a completion.
_LONGEST = 28


def effect_parts(results: Results) -> list[Part]:
    """Groups that were left out, over all queries, and how sums of scores agree with effects."""
    grids = overview_grid(results), agreement_grid(results)
    return [*(part for grid in grids for part in grid_parts(grid)), ""]


def overview_parts(overview: Overview, meaning: Meaning) -> list[Part]:
    """A table of queries, and of documents and groups over all of them.

    Args:
        overview: of one method.
        meaning: of its scores.
    """
    shown = overview.queries[:_QUERIES]
    predicts, shares = meaning.predicts, _has_shares(overview)
    columns = [
        Column("query"),
        Column("completion"),
        Column("p", number=True),
        Column("first proponent"),
        Column("score", number=True),
        *([Column("delta nats", number=True)] if predicts else []),
        *([Column("top 1", number=True), Column("top 1 %", number=True)] if shares else []),
    ]
    title = f"{things(len(overview.queries), 'query', 'queries')} by {overview.method}"
    parts: list[Part] = [Table(columns, [_row(one, predicts, shares) for one in shown], title)]
    if rest := len(overview.queries) - len(shown):
        parts.append(f"and {count(rest)} more: --json and --csv have all")
    parts += [_legend(overview), ""]
    if overview.documents:
        parts += [_documents(overview), ""]
    for key, groups in overview.groups.items():
        parts += [_groups(key, groups), ""]
    return parts


def _legend(overview: Overview) -> Text:
    said = "p: the geometric mean of the completion's tokens."
    if _has_shares(overview):
        said += (
            " top 1 and top 1 %: the shares of all positive scores that the first sequence and the "
            "largest hundredth have."
        )
    if overview.n_warned:
        said += (
            f" !: {count(overview.n_warned)} of {count(len(overview.queries))} with a warning; "
            "--query ID prints it."
        )
    return Text(said, "dim")


def _has_shares(overview: Overview) -> bool:
    """Whether it is known what all scores add up to: not of results without some sequences."""
    return any(query.top_1_percent_share is not None for query in overview.queries)


def _row(query: AskedQuery, predicts: bool, shares: bool) -> list[Text]:
    probability = query.probability_per_token
    likely = "" if probability is None else percent(probability)
    delta = query.delta_nats
    change = (
        ""
        if delta is None
        else "beyond"
        if query.beyond_linear
        else measured(delta, query.delta_nats_se)
    )
    names = " · ".join(filter(None, (query.source, query.document_id)))
    score = query.score
    return [
        _short(query.query_id, "bold"),
        _short(query.completion),
        Text(f"{likely}!", "yellow") if query.warning else Text(likely),
        _short(names),
        Text("") if score is None else Text(measured(score, query.score_se), style(score)),
        *([Text(change)] if predicts else []),
        *(Text(_share(one)) for one in (query.top_1_share, query.top_1_percent_share) if shares),
    ]


def _documents(overview: Overview) -> Table:
    columns = [
        Column("document"),
        Column("queries", number=True),
        Column("first in", number=True),
    ]
    rows = [_document(one) for one in overview.documents[:_ROWS]]
    title = (
        f"Documents that most queries have among their first {FIRST} proponents, of "
        f"{count(overview.n_documents)}"
    )
    return Table(columns, rows, title)


def _document(one: LeadingDocument) -> list[Text]:
    names = " · ".join(filter(None, (one.source, one.document_id)))
    return [_short(names, longest=60), Text(count(one.n_queries)), Text(count(one.n_first))]


def _groups(key: str, groups: Sequence[LeadingGroup]) -> Table:
    columns = [
        Column(key),
        Column("sequences", number=True),
        Column("of the corpus", number=True),
        Column("of the tops", number=True),
        Column("lift", number=True),
        Column("first in", number=True),
    ]
    rows = [_group(one) for one in groups[:_ROWS]]
    rest = len(groups) - len(rows)
    more = f"; {rest} more in --json" if rest > 0 else ""
    return Table(columns, rows, f"By {key}, over all queries{more}")


def _group(one: LeadingGroup) -> list[Text]:
    cells: list[Any] = [
        count(one.n_sequences),
        percent(one.share_of_corpus),
        percent(one.share_of_top),
        f"{one.lift:.2f}",
        count(one.n_leading),
    ]
    return [_short(value_of(one.value, one.value_type)), *map(Text, cells)]


def _share(value: float | None) -> str:
    return "" if value is None else percent(value)


def _short(text: str, look: str = "", longest: int = _LONGEST) -> Text:
    return isolated(Text(shorten(text, longest, size=cell_len), look))
