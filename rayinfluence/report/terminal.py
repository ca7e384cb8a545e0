"""The results as tables for a terminal of 80 columns or more."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rich.cells import cell_len
from rich.console import Console
from rich.text import Text

from rayinfluence.display import Column, Part, Table
from rayinfluence.display.coloured import print_coloured
from rayinfluence.report.asked import members, objective, said
from rayinfluence.report.effects import effects_grid
from rayinfluence.report.facts import agreement, carried, rescoring, statistics, together
from rayinfluence.report.heat import LEVELS, heated_tokens, hot_window
from rayinfluence.report.hits import folded
from rayinfluence.report.lines import grid_parts, isolated
from rayinfluence.report.part import filtered_for, selected
from rayinfluence.report.text import (
    BEYOND,
    BY_ITSELF,
    SUSPECT,
    measured,
    one_line,
    percent,
    shorten,
    things,
)
from rayinfluence.report.trust import left_out, looked_at
from rayinfluence.storage.results import Results, Survivor, is_itself
from rayinfluence.storage.results.likelihood import n_counted, per_token_probability
from rayinfluence.text import visible_parts

_NUMBERS_WIDTH = 32
#: What errors of both numbers take besides.
_ERRORS_WIDTH = 16
_SNIPPET_LINES = 2
#: Completions of a set that are shown.
_MEMBERS = 5
_HOT = LEVELS // 2


def render(
    results: Results,
    console: Console,
    n: int = 5,
    queries: Sequence[str] | None = None,
    others: Iterable[Results] = (),
) -> None:
    """Print the strongest proponents and opponents of queries.

    Args:
        results: what one method found.
        console: where to print; its width decides how much text is shown.
        n: how many sequences to show per query and side.
        queries: ids of the queries to show; all when not given.
        others: of the run's methods, whose proponents are compared with these.
    """
    print_coloured(hits(results, console.width, n, queries, others), console)


def hits(
    results: Results,
    width: int,
    n: int = 5,
    queries: Sequence[str] | None = None,
    others: Iterable[Results] = (),
) -> list[Part]:
    """The strongest proponents and opponents of queries.

    Args:
        results: what one method found.
        width: of a line; decides how much text is shown.
        n: how many sequences to show per query and side.
        queries: ids of the queries to show; all when not given.
        others: of the run's methods, whose proponents are compared with these.
    """
    parts: list[Part] = []
    sentences = statistics(results)
    if said := selected(results.manifest):
        parts += [Text(said, "dim"), ""]
    asked = list(results.queries if queries is None else queries)
    results.keep(n, asked)
    for query_id in asked:
        query = results.queries[query_id]
        parts.append(header(query, results.method, width))
        if results.meaning.of_groups:
            parts += [*grid_parts(effects_grid(results, query_id)), ""]
            continue
        sides = [("Proponents", results.proponents(query_id, n))]
        if not results.meaning.of_itself:  # of which no score is negative
            sides.append(("Opponents", results.opponents(query_id, n)))
        parts += [_table(title, found, width, results.meaning.ahead) for title, found in sides]
        for sentence in (
            together(results, query_id),
            agreement(results, others, query_id),
            rescoring(results, query_id),
            sentences.get(query_id),
            filtered_for(results, query_id),
        ):
            if sentence:
                parts.append(Text(sentence, "dim"))
        parts.append("")
    return parts


def of_all(results_by_method: Mapping[str, Results]) -> list[Part]:
    """What holds for all queries: how much was looked at, what was left out, warnings.

    Args:
        results_by_method: of one run.
    """
    parts: list[Part] = []
    for name, text in (
        ("Looked at", looked_at(results_by_method)),
        ("Left out", left_out(results_by_method)),
    ):
        if text:
            parts.append(Text.assemble((f"{name}: ", "bold"), one_line(text)))
    found = (text for results in results_by_method.values() for text in results.warnings)
    parts += [Text(f"Warning: {one_line(text)}", "yellow") for text in dict.fromkeys(found)]
    return parts


def header(query: Mapping[str, Any], method: str, width: int) -> Text:
    """A query, by whom it is answered, and what the model thinks of its completion."""
    text = Text.assemble(
        isolated(Text(one_line(query["query_id"]), "bold")), (f"  by {one_line(method)}", "dim")
    )
    if is_itself(query):
        return text.append_text(Text(f"\n{BY_ITSELF}", "bold"))
    found = members(query)
    for member in found[:_MEMBERS]:
        text.append_text(
            _line(
                f"{member['weight']:g} times ", (member["prompt"], member["completion"], ""), width
            )
        )
    if len(found) > _MEMBERS:
        text.append(f"\nand {len(found) - _MEMBERS:,} more", "dim")
    if not found:
        text.append_text(_line("", said(query), 2 * width))
    for line in filter(None, (objective(query), _probability(query))):
        text.append(f"\n{one_line(line)}", "dim")
    if query.get("warning"):
        text.append(f"\nWarning: {one_line(query['warning'])}", "yellow")
    return text


def _line(before: str, texts: tuple[str, str, str], width: int) -> Text:
    """A line with a prompt, a completion, and what it is asked rather than."""
    prompt = shorten(texts[0], width, keep="end", size=cell_len)
    completion, other = (shorten(text, width, size=cell_len) for text in texts[1:])
    asked, answer = isolated(Text(prompt)), isolated(Text(completion, "bold"))
    line = Text.assemble("\n", before, asked, (" → ", "dim"), answer)
    if other:
        line.append_text(Text.assemble((" rather than ", "dim"), isolated(Text(other))))
    return line


def _probability(query: Mapping[str, Any]) -> str:
    total, other = query.get("log_probability"), query.get("rather_than_log_probability")
    if total is None:
        return "" if members(query) else "log-probability unknown"
    parts = [f"log-probability {total:.2f} nats"]
    if other is not None:
        parts.append(f"of the other {other:.2f}")
    per_token = per_token_probability(query)
    if per_token is not None:
        tokens = n_counted(query)
        parts.append(f"{percent(per_token)} per token ({tokens} token{'s' * (tokens != 1)})")
    if query.get("greedy") is not None:
        parts.append("greedy choice" if query["greedy"] else "not the greedy choice")
    return ", ".join(parts)


def _table(title: str, survivors: Sequence[Survivor], width: int, ahead: int) -> Part:
    if not survivors:
        return Text(f"{title}: none", "dim")
    is_of_seeds = any(survivor.score_se is not None for survivor in survivors)
    left = width - _NUMBERS_WIDTH - _ERRORS_WIDTH * is_of_seeds
    rows = [
        (
            Text(str(first.rank), "dim"),
            Text(measured(first.score, first.score_se), style(first.score)),
            _delta(first),
            _sequence(first, copies, max(20, left), ahead),
        )
        for first, copies in folded(survivors)
    ]
    columns = (
        Column(" #", number=True),
        Column("score", number=True),
        Column("delta nats", number=True),
        Column(f"{title}: source, document, text", wide=True),
    )
    return Table(columns, rows)


def _delta(survivor: Survivor) -> str:
    if survivor.delta_nats is None:
        return ""
    if survivor.beyond_linear:
        return "beyond"
    return measured(survivor.delta_nats, survivor.delta_nats_se)


def _sequence(survivor: Survivor, copies: Sequence[Survivor], width: int, ahead: int) -> Text:
    flags = []
    if survivor.suspect:
        flags.append(SUSPECT)
    if survivor.near_duplicate_of is not None:
        flags.append("near-duplicate of another")
    if copies:
        ranks = ", ".join(f"#{one.rank}" for one in copies)
        flags.append(f"and {things(len(copies), 'near copy', 'near copies')} of it: {ranks}")
    if survivor.beyond_linear:
        flags.append(BEYOND)
    names = [name for name in (survivor.source, survivor.document_id) if name]
    text = isolated(Text(shorten(" · ".join(names), width, size=cell_len), "bold"))
    if flags:
        text.append(f"\n{', '.join(flags)}", "yellow")
    if said := carried(survivor):
        text.append(f"\n{said}", "dim")
    text.append("\n")
    shown = snippet(survivor.token_texts, survivor.token_scores or [], width, ahead)
    return text.append_text(shown)


def snippet(texts: Sequence[str], scores: Sequence[float], width: int, ahead: int) -> Text:
    """The text around the hottest tokens, in one paragraph of two lines, the hot ones coloured.

    Args:
        texts: of tokens.
        scores: theirs.
        width: of a line.
        ahead: of its score a token is so many places.
    """
    budget = _SNIPPET_LINES * width
    tokens = heated_tokens(texts, scores, ahead)
    start, stop = hot_window(tokens, budget - 2, size=cell_len)
    text = Text("…" if start else "")
    parts = visible_parts([token.text for token in tokens[start:stop]])
    for token, shown in zip(tokens[start:stop], parts, strict=True):
        words = " ".join(shown.split())
        if shown[:1].isspace() and text.plain and not text.plain.endswith(" "):
            text.append(" ")
        text.append(words[:budget], style(token.level) if abs(token.level) >= _HOT else "")
        if words and shown[-1:].isspace():
            text.append(" ")
    text.append("…" if stop < len(tokens) else "")
    return isolated(text)


def style(value: float) -> str:
    """Of a number, by its sign."""
    if value > 0:
        return "cyan"
    return "red" if value < 0 else ""
