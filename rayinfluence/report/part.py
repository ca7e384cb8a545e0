"""Of which part of the corpus results are, in words: what was selected, and what a filter left."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rayinfluence.report.text import count, one_line, percent
from rayinfluence.storage.results import Results

Manifest = Mapping[str, Any]


def selected(manifest: Manifest) -> str:
    """What the configuration left of the corpus to be scanned; empty where that is all of it."""
    told = manifest.get("selection") or {}
    left_out = told.get("left_out") or {}
    if not left_out:
        return ""
    there = told["corpus_sequences"]
    text = (
        f"{count(told['sequences'])} of the corpus's {count(there)} sequences were to be scanned; "
        + ", ".join(f"{one_line(key)} left out {count(n)}" for key, n in left_out.items())
        + "."
    )
    whole, share = told.get("sampled_from"), told.get("best_is_among_top_share")
    if whole and share is not None and told["sequences"] < whole:
        text += (
            f" They are a random sample: any sequence of the {count(whole)}, the most influential "
            f"ones too, is among them with a probability of {percent(told['sequences'] / whole)}, "
            "so that this is no top of the whole. The first of the sample is (with 95%) among the "
            f"first {percent(share)} of the whole, or {count(round(share * whole))} sequences."
        )
    return text


def filtered(results: Results) -> str:
    """What a filter left, and how much of the top is sure to be among it; empty without one."""
    told = results.manifest.get("filter")
    if not told:
        return ""
    run = f" (survivors of the run {one_line(told['run'])})" if told.get("run") else ""
    text = (
        f"{count(told['candidates'])} of {count(told['sequences'])} sequences were candidates by "
        f"{told['method']}{run}, and no other was scored."
    )
    known = told["recall"].get(results.method) or {}
    if known:
        sides = {side for of in known.values() for side in of}
        said = [
            f"of each query's first {count(told['top_sequences'])} {side}s they have at least "
            f"{_least([of[side] for of in known.values() if side in of])}"
            for side in ("proponent", "opponent")
            if side in sides
        ]
        text += (
            f" By {count(told['sampled'])} sequences at random, {' and '.join(said)} (the least of "
            f"all queries; each bound holds with {percent(told['confidence'])})."
        )
    return text


def _least(known: Sequence[Manifest]) -> str:
    return percent(min(one["at_least"] for one in known))


def filtered_for(results: Results, query_id: str) -> str:
    """The same of one query, and what was seen; empty without a filter."""
    told = results.manifest.get("filter")
    known = ((told or {}).get("recall") or {}).get(results.method) or {}
    if not told or query_id not in known:
        return ""
    said = [
        f"{percent(one['estimate'])} of its first {side}s seen, at least {percent(one['at_least'])}"
        for side, one in known[query_id].items()
    ]
    return (
        f"Of {count(told['candidates'])} candidates by {told['method']} among "
        f"{count(told['sequences'])} sequences; of the first {count(told['top_sequences'])} they "
        f"have: {'; '.join(said)} (with {percent(told['confidence'])})."
    )
