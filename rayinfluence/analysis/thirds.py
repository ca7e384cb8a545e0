"""How literal first hits are, ranked by a third of the model's blocks at a time.

Rarity-weighted: a word that is everywhere says nothing. First hits of other queries are the
control: what any two texts of the corpus share.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rayinfluence.analysis.asked import Verdict, over_queries
from rayinfluence.analysis.findings import MIDDLE
from rayinfluence.analysis.restricted import THIRDS, restricted
from rayinfluence.influence.rankings import rarities, share_of
from rayinfluence.storage.results import Results
from rayinfluence.storage.results.evaluated import Interval

#: First hits whose tokens are looked at.
FIRST = 10
_ALL, _OTHERS = "all blocks", "hits of other queries"
#: Of each query, the tokens of its first hits.
_Hits = Mapping[str, Sequence[Sequence[int]]]


@dataclass(frozen=True)
class OfThird:
    """Overlap of first hits with their query, by which blocks ranked them.

    Attributes:
        name: of the third, ``all blocks``, or ``hits of other queries``.
        overlap: the share of the query's tokens, by rarity, that a hit has: the mean of the first
            hits, and over queries.
        classes: the same by class of query; empty where all are one class.
        beside_all: what it is more than by all blocks, of the same queries; None of those.
    """

    name: str
    overlap: Interval | None
    classes: Mapping[str, Interval | None]
    beside_all: Interval | None


def overlaps_by_third(
    results: Results, queries: Sequence[str], labels: Sequence[str]
) -> tuple[OfThird, ...]:
    """Of all blocks, of each third, and of hits of other queries.

    Args:
        results: whose survivors have scores of three blocks at least.
        queries: known ones.
        labels: their classes.
    """
    table = results.sequences
    tokens = dict(zip(table["sequence_id"].to_pylist(), table["tokens"].to_pylist(), strict=True))
    weights = rarities(tokens.values())
    rankings = {_ALL: results, **{third: restricted(results, third) for third in THIRDS}}
    hits: dict[str, _Hits] = {
        name: {one: [tokens[i] for i in found.ids(one, "proponent", FIRST)] for one in queries}
        for name, found in rankings.items()
    }
    # The next query of another class, if there is one: those of a class may share words.
    hits[_OTHERS] = {
        one: hits[_ALL][_other(place, queries, labels)] for place, one in enumerate(queries)
    }
    values = {name: _overlaps(results, of, weights) for name, of in hits.items()}
    classes = sorted(set(labels)) if len(set(labels)) > 1 else []
    of_class = {name: np.array([label == name for label in labels]) for name in classes}
    return tuple(
        OfThird(
            name,
            over_queries(values_Q),
            {label: over_queries(values_Q[chosen_Q]) for label, chosen_Q in of_class.items()},
            None if name == _ALL else over_queries(values_Q - values[_ALL]),
        )
        for name, values_Q in values.items()
    )


def middle_is_least_literal(thirds: Sequence[OfThird]) -> Verdict:
    """Whether hits by the middle blocks have fewest of the query's words."""
    finding = MIDDLE
    found = {one.name: one for one in thirds}
    parts = [found[name].overlap for name in THIRDS if name in found]
    known = [one for one in parts if one is not None and one.low is not None]
    if len(known) < len(THIRDS):
        return Verdict(
            finding, "not asked", "It takes three blocks, and two known queries with tokens."
        )
    why = "Of a query's tokens, by rarity, first hits have " + ", ".join(
        f"{one.mean:.1%} ({name})" for name, one in zip(THIRDS, known, strict=True)
    )
    lower, middle, upper = known
    beside = found["middle"].beside_all
    less = beside is not None and beside.high is not None and beside.high < 0
    if less and middle.mean < min(lower.mean, upper.mean):
        apart = middle.high is not None and all(
            end.low is not None and middle.high < end.low for end in (lower, upper)
        )
        return Verdict(finding, "reproduces" if apart else "partly", f"{why}.")
    return Verdict(finding, "does not at this size", f"{why}.")


def _other(place: int, queries: Sequence[str], labels: Sequence[str]) -> str:
    turned = [*range(place + 1, len(queries)), *range(place)]
    others = [one for one in turned if labels[one] != labels[place]]
    found: str = queries[[*others, *turned, place][0]]
    return found


def _overlaps(results: Results, hits: _Hits, weights: Mapping[int, float]) -> NDArray[np.float64]:
    found = []
    for query_id, tokens in hits.items():
        wanted = results.queries[query_id].get("tokens")
        shares = [share_of(wanted, one, weights) for one in tokens] if wanted else []
        found.append(float(np.mean(shares)) if shares else np.nan)
    return np.array(found, np.float64)
