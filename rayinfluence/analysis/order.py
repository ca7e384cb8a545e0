"""Whether the order of words matters: the influence of a sentence, its reverse, and its parts.

Q query.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from rayinfluence.analysis.asked import LEAST, Gate, notes_of, over_queries
from rayinfluence.analysis.order_values import OfPart, Order, Scored, Signs
from rayinfluence.analysis.order_verdicts import verdicts
from rayinfluence.errors import InputError
from rayinfluence.influence.order import (
    BEGINNING,
    FORWARD,
    LANGUAGE,
    PAIRS,
    PARTS,
    REVERSED,
    share,
    sign_test,
)
from rayinfluence.storage.results import Results
from rayinfluence.storage.results.evaluated import Interval

#: In the order in which they are shown.
_NAMES = (*PARTS, *(name for whole, others in PAIRS.items() for name in (whole, *others)))


def analyse_order(results: Results, scored: Sequence[Scored], least: float = LEAST) -> Order:
    """What each part of sentences has of the influence of the whole.

    Args:
        results: of the method that scored.
        scored: texts of each query; a query's beginnings in the order of its reversed sentences.
        least: log-probability per token of a known query, in nats.

    Raises:
        InputError: texts are of queries that the run does not know, or the model knows none.
    """
    asked = list(dict.fromkeys(one.query for one in scored))
    if strange := [one for one in asked if one not in results.queries]:
        raise InputError(f"order: the run has no query {strange[0]!r}, and texts are given for it.")
    gate = Gate.of(results, least).only(asked)
    if not gate.known:
        raise InputError(
            f"order: the model knows none of the queries that texts are given for: {gate.sentence} "
            "What influences say of what it does not know is no evidence; --least sets the limit."
        )
    values = part_means(scored, gate.known)
    names = [one for one in _NAMES if one in values]
    counts = Counter(one.part for one in scored if one.query in gate.known)
    for whole, (_, beyond) in PAIRS.items():
        counts[beyond] = counts[whole]
    differences = [beyond for _, beyond in PAIRS.values()]
    beside = [(whole, less) for whole, (less, _) in PAIRS.items() if whole in values]
    n_training = results.manifest["n_training_sequences"]
    parts = tuple(
        OfPart(
            name,
            counts[name],
            _interval(share(values[name], values[FORWARD])),
            over_queries(values[name] / n_training) if results.meaning.predicts else None,
        )
        for name in names
    )
    signs = tuple(
        Signs(more, less, *found)
        for more, less in [(FORWARD, one) for one in names[1:] if one not in differences] + beside
        if (found := sign_test(values[more], values[less])) is not None
    )
    return Order(
        results.method,
        str(results.manifest.get("fingerprint") or ""),
        gate,
        parts,
        signs,
        {
            query: {name: _or_none(values[name][place]) for name in names}
            for place, query in enumerate(gate.known)
        },
        verdicts(
            {one.name: one.share for one in parts},
            {one.less: one for one in signs if one.more == FORWARD},
        ),
        (*notes_of(results, gate), *_notes(results, scored, asked)),
    )


def part_means(scored: Sequence[Scored], queries: Sequence[str]) -> dict[str, NDArray[np.float64]]:
    """By part, the mean score of its texts for each query [Q]; NaN where a query has none."""
    found: dict[str, NDArray[np.float64]] = {}
    for part in dict.fromkeys(one.part for one in scored):
        by_query: dict[str, list[float]] = {query: [] for query in queries}
        for one in scored:
            if one.part == part and one.query in by_query:
                by_query[one.query].append(one.score)
        found[part] = np.array([np.mean(some) if some else np.nan for some in by_query.values()])
    for whole, (less, beyond) in PAIRS.items():
        if whole in found and less in found:
            found[beyond] = found[whole] - found[less]
    return found


def _interval(found: tuple[float, float | None, float | None, int] | None) -> Interval | None:
    return None if found is None else Interval(*found)


def _or_none(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None


def _notes(results: Results, scored: Sequence[Scored], asked: Sequence[str]) -> list[str]:
    said = [
        "A share is the sum over queries of a part's mean score over that of the forward sentence; "
        "queries are drawn again with both. Texts were scored with the scan's queries, each with "
        "its own, and nothing of the corpus was read.",
    ]
    there = {one.part for one in scored}
    if REVERSED in there:
        said.append(
            "What a reversed sentence has beyond its beginning is what its order leaves of the "
            "relation: the beginning has the same string, and ends after what is asked for."
        )
    if LANGUAGE in there:
        said.append(
            "What a sentence in another language has beyond its control is what it owes to what "
            "it says: the control is in that language, too, and says something else."
        )
    left = len(results.queries) - len(asked)
    if left:
        n = len(results.queries)
        said.append(f"{left:,} of {n:,} queries of the run have no texts, and are left out.")
    pairs = list(
        zip(
            (one for one in scored if one.part == REVERSED),
            (one for one in scored if one.part == BEGINNING),
            strict=True,
        )
    )
    unlike = sum(whole.tokens[: len(first.tokens)] != first.tokens for whole, first in pairs)
    if unlike:
        said.append(
            f"Of {unlike:,} of {len(pairs):,} reversed sentences the beginning is made of other "
            "tokens than in the sentence, so it is no match there."
        )
    return said
