"""What all scores of a query are like, and what scoring its survivors again changed, in words."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

from rayinfluence.report.text import count, one_line, percent, prediction, signed
from rayinfluence.storage.results import (
    Direction,
    Results,
    Survivor,
    beyond_linear,
    ceiling_of,
    is_difference,
    log_probability_of,
)

_TOGETHER = 10
_SIDES: tuple[Direction, ...] = ("proponent", "opponent")


def statistics(results: Results) -> dict[str, str]:
    """One sentence per query, by query id: how much influence there is and how few hold it."""
    if told := results.manifest.get("without"):
        return {query_id: one["sentence"] for query_id, one in told["queries"].items()}
    directed = results.meaning.directed and not results.meaning.of_itself
    what = "candidates" if results.manifest.get("filter") else "sequences"
    return {row["query_id"]: _mass(row, directed, what) for row in results.statistics.to_pylist()}


def _mass(row: Mapping[str, Any], directed: bool, what: str) -> str:
    above, below, those = (
        ("that raise", "that lower", "what raises")
        if directed
        else ("above zero", "below zero", "what is above zero")
    )
    parts = [
        f"All {count(row['n_sequences'])} {what}: {signed(row['positive_sum'])} from "
        f"{count(row['n_positive'])} {above} and {signed(row['negative_sum'])} from "
        f"{count(row['n_negative'])} {below}"
    ]
    share, error = row["top_1_percent_share"], row["top_1_percent_share_error"]
    if share is not None:
        # Rounded up, and with what the share itself is rounded by.
        bound = f" ± {math.ceil(1000 * error + 0.5) / 1000:.1%}" if error >= 5e-4 else ""
        largest = f"the 1 % of {what} with the largest scores"
        parts.append(f"{largest} hold {share:.1%}{bound} of {those}")
    return "; ".join(parts) + "."


def carried(survivor: Survivor) -> str:
    """Which token carries a score, in words; empty where none does."""
    if survivor.carrier is None:
        return ""
    place = ", a token of the completion" if survivor.carrier_in_completion else ""
    return f"one token carries it: {_carrier(survivor)}{place}"


def _carrier(survivor: Survivor) -> str:
    """The token that carries a score; one that is a part of a character, by that."""
    text, part = survivor.carrier, ""
    if text == "" and survivor.carried_by is not None:
        text = next(filter(None, survivor.token_texts[survivor.carried_by :]), "")
        part = "a part of "
    return f"{part}“{one_line(text or '') or '␣'}”"


def together(results: Results, query_id: str) -> str:
    """What the first proponents, and opponents, add up to; empty where there are none."""
    query = results.queries[query_id]
    log_probability, odds = log_probability_of(query), is_difference(query)
    ceiling = ceiling_of(query, (results.manifest.get("numerics") or {}).get("objective"))
    sentences = []
    for side in _SIDES:
        deltas = results.deltas(query_id, side, _TOGETHER)
        if first := [delta for delta in deltas if delta is not None]:
            total = sum(first)
            said = prediction(total, beyond_linear(total, log_probability, ceiling), odds)
            plural = "s" * (len(first) != 1)
            sentences.append(f"The first {len(first)} {side}{plural} together: {said}.")
    return " ".join(sentences)


def agreement(results: Results, others: Iterable[Results], query_id: str) -> str:
    """How many of a method's first proponents other methods have too; empty without another.

    Args:
        results: of the method.
        others: of methods that ask the same queries; itself is passed over.
        query_id: of the query.
    """
    said = []
    for other in others:
        if other.method == results.method or query_id not in other.queries:
            continue
        there = other.ids(query_id, "proponent", _TOGETHER)
        both = len({*results.ids(query_id, "proponent", _TOGETHER)} & {*there})
        said.append(
            f"{both} {'is' if both == 1 else 'are'} among the first {len(there)} by {other.method}"
        )
    n = len(results.ids(query_id, "proponent", _TOGETHER))
    return f"Of the first {n} proponents {', '.join(said)}." if said and n else ""


def rescoring(results: Results, query_id: str) -> str:
    """One sentence on how the scores and ranks of the scan held at full rank; empty if unknown."""
    method = (results.manifest.get("methods") or {}).get(results.method) or {}
    found = (method.get("rescoring") or {}).get(query_id)
    if not found:
        return ""
    text = (
        f"Scored again at full rank: scores moved by at most "
        f"{_change(found['largest_relative_difference'])}, "
        f"{_changed(found['changed_ranks'], found['compared_ranks'])}"
    )
    signs = found["changed_signs"]
    if signs:
        text += f", {count(signs)} score{'s' * (signs != 1)} changed sign"
    return text + "."


def _changed(ranks: int, compared: int) -> str:
    """How many of the first ranks are another sequence's than in the scan."""
    if not ranks:
        return f"the first {count(compared)} ranks are as they were"
    hold = "holds" if ranks == 1 else "hold"
    return f"{count(ranks)} of the first {count(compared)} ranks {hold} another sequence"


def _change(change: float) -> str:
    """A relative change as a percentage, which may be more than all."""
    return percent(change) if change <= 1 else f"{change:,.0%}"
