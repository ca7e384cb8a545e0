"""What is to be known of means over seeds, in sentences."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from rayinfluence.dataflow.seeds.hits import Hits
from rayinfluence.storage.results import Meaning

#: Names in a sentence.
_NAMED = 5


def description(meaning: Meaning, n_seeds: int, dense: bool, ranks: Collection[Any]) -> str:
    """What scores of a method mean where they are means over seeds."""
    said = (
        f"{meaning.description} Here the mean over {n_seeds} models that differ in their seed, ± "
        "its standard error"
    )
    if meaning.directed:
        said += ": what training on a sequence does on average over seeds, and not for one of them"
    said += "."
    if not dense:
        return f"{said} Over sequences that all runs kept, as they were scored again at full rank."
    cut = [rank for rank in ranks if rank is not None]
    at_rank = f" at rank {min(cut)}" if cut else ""
    return f"{said} Over all sequences that all runs scored, by the pass over the corpus{at_rank}."


def of_a_part(place: str, manifest: Mapping[str, Any]) -> str:
    """That a run scored a part of the corpus; empty where it scored all of it.

    Args:
        place: of the run, as it was named.
        manifest: of its results.
    """
    chosen = (manifest.get("selection") or {}).get("left_out")
    candidates = manifest.get("filter")
    if not (chosen or candidates):
        return ""
    keys = [*(chosen or {}), *(["scan.candidates"] if candidates else [])]
    return (
        f"{place} scored a part of the corpus ({', '.join(keys)}), and means are of no sequence "
        "that it left out."
    )


def warnings_of(
    hits: Mapping[str, Mapping[str, Hits]], dense: bool, left_out: Sequence[str]
) -> list[str]:
    """What a reader has to know before anything else.

    Args:
        hits: by method and query id.
        dense: whether means are of all scores.
        left_out: names of queries that not all runs were asked.
    """
    said = []
    if left_out:
        named = ", ".join(map(repr, left_out[:_NAMED])) + ", ..." * (len(left_out) > _NAMED)
        n = len(left_out)
        some = "1 query, which is" if n == 1 else f"{n:,} queries, which are"
        said.append(f"not all runs were asked {some} left out: {named}.")
    for method, of_queries in hits.items():
        lacking = [one.n_not_by_all for one in of_queries.values()]
        cut = [one.n_cut for one in of_queries.values() if one.n_cut]
        if not dense:
            scored = [one.n_scored for one in of_queries.values()]
            said.append(
                f"{method}: means are over the sequences that all runs kept, {_range(scored)} of a "
                f"query; {_range(lacking)} that some run kept are left out. Such means are biased: "
                "a sequence is kept where its score is large, so that on the whole they are too "
                "far from zero. With `scan.scores: dense` in each run they are exact."
            )
        elif max(lacking, default=0):
            said.append(
                f"{method}: up to {max(lacking):,} sequences of a query have no score by some run, "
                "and are left out."
            )
        if cut:
            said.append(
                f"{method}: of {len(cut):,} queries up to {max(cut):,} hits are not shown, from "
                "the first on whose text no run has kept. A larger `scan.top` in the runs keeps it."
            )
    return said


def _range(counts: Sequence[int]) -> str:
    least, most = min(counts), max(counts)
    return f"{least:,}" if least == most else f"{least:,} to {most:,}"
