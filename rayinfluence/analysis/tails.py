"""How few sequences carry the influence on a query, and by which law the largest ones fall off."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from rayinfluence.analysis.asked import LEAST, Gate, notes_of, over_queries
from rayinfluence.analysis.scores import dense_of, statistics_of, tail_of
from rayinfluence.analysis.tail_values import REJECTED, Fitted, QueryTail, Tails
from rayinfluence.analysis.tail_verdicts import verdicts
from rayinfluence.errors import InputError
from rayinfluence.influence.against import against_others
from rayinfluence.influence.concentration import (
    share_of_largest,
    share_of_noise,
    shares_of_random_signs,
)
from rayinfluence.influence.largest import Largest, best_fit, plausibility
from rayinfluence.influence.needed import TOP, held_out_ratio, sequences_needed
from rayinfluence.storage.results import Results, ceiling_of, log_probability_of
from rayinfluence.storage.results.evaluated import Interval

#: Fewer scores cannot tell laws apart.
FEWEST = 500
#: The tail: one sequence in so many.
_ONE_IN = 100
#: Starts of the law that are tried, samples that it is tested by, and throws of all coins.
_STARTS, _SAMPLES, _THROWS = 12, 200, 200
#: Of the text methods whose tenth hit sequences are counted against, the first that a run has.
_BY_TEXTS = ("tfidf", "bm25")


def analyse_tails(
    results: Results, others: Mapping[str, Results] | None = None, least: float = LEAST
) -> Tails:
    """Tails and concentration of all known queries.

    Args:
        results: of the method that is looked at.
        others: of the run's methods, by name: the tenth hit of a method by texts says which score
            is wanted.
        least: log-probability per token of a known query, in nats.

    Raises:
        InputError: nothing is known of the scores that were not kept.
    """
    gate = Gate.of(results, least)
    statistics = statistics_of(results)
    if not statistics:
        raise InputError(
            f"tails: these results say of {results.method} what was kept, and nothing of all "
            "scores, which tails and shares are of. Name the directory of a run that scanned a "
            "corpus; of `merge`, runs that kept all (`scan.scores: dense`)."
        )
    asked = [query_id for query_id in gate.known if query_id in statistics]
    found = tuple(_of_query(results, others or {}, one, statistics[one]) for one in asked)
    dense = results.manifest.get("dense_scores") is not None
    summary, noise = _summary(found), share_of_noise(1 / _ONE_IN)
    return Tails(
        results.method,
        str(results.manifest.get("fingerprint") or ""),
        "all scores of the scan, one by one"
        if dense
        else "histograms of all scores of the scan, in bins of 4.4 % (`scan.scores: dense` keeps "
        "them one by one)",
        gate,
        found,
        noise,
        _refused(results, found),
        summary,
        verdicts(found, summary, noise),
        notes_of(results, gate),
    )


def _of_query(
    results: Results, others: Mapping[str, Results], query_id: str, row: Mapping[str, Any]
) -> QueryTail:
    positive, negative = (tail_of(results, query_id, sign) for sign in (1, -1))
    n = int(row["n_sequences"])
    k = -(-n // _ONE_IN)
    share, error = share_of_largest(positive, k) or (None, None)
    null = None
    if positive.count and negative.count:
        shares = shares_of_random_signs(positive, negative, np.array([k]), _THROWS, 0)[:, 0]
        low, middle, high = np.nanquantile(shares, (0.025, 0.5, 0.975))
        null = float(low), float(middle), float(high)
    query = results.queries[query_id]
    first = next(iter(results.deltas(query_id, "proponent", 1)), None)
    held, _ = share_of_largest(positive, 1) or (None, None)
    log_p = log_probability_of(query)
    kind = (results.manifest.get("objective") or {}).get("kind")
    information = None if log_p is None else ceiling_of(query, kind) - log_p
    law = _fitted(results, others, query_id, n, Largest.of_tail(positive)) if k >= FEWEST else None
    return QueryTail(query_id, n, share, error, null, held, first, information, law)


def _fitted(
    results: Results, others: Mapping[str, Results], query_id: str, n: int, tail: Largest
) -> Fitted | None:
    scores_N = dense_of(results, query_id)
    largest = (tail if scores_N is None else Largest.of_scores(scores_N)).first(-(-n // _ONE_IN))
    if largest.count < FEWEST:
        return None
    numbers = np.unique(np.geomspace(FEWEST, largest.count, _STARTS).astype(np.int64))
    fit = best_fit(largest, numbers)
    if fit is None:
        return None
    law = fit.law
    wanted, by = _wanted(results, others, query_id)
    needed = None
    if wanted is not None and wanted >= law.start:
        needed = sequences_needed(law, n, wanted)
    return Fitted(
        law.exponent,
        law.error,
        law.start,
        law.count,
        fit.distance,
        plausibility(largest, fit, numbers, _SAMPLES, 0),
        against_others(fit),
        needed,
        wanted,
        by,
        None if scores_N is None else held_out_ratio(scores_N, law.start, 0),
    )


def _wanted(
    results: Results, others: Mapping[str, Results], query_id: str
) -> tuple[float | None, str]:
    """The tenth largest score among the hits of a method by texts, or of all."""
    name = next((one for one in _BY_TEXTS if one in others and one != results.method), None)
    if name is not None and results.manifest.get("dense_scores") is not None:
        table = results.scores(query_id)
        theirs = np.isin(table["sequence_id"].to_numpy(), others[name].ids(query_id, "proponent"))
        scores = np.sort(table["score"].to_numpy()[theirs])
        if len(scores) >= TOP:
            return float(scores[-TOP]), name
    rows = results.rows(query_id)
    scores = np.sort(rows["scan_score"].to_numpy())
    return (float(scores[-TOP]) if len(scores) >= TOP else None), results.method


def _refused(results: Results, found: tuple[QueryTail, ...]) -> str:
    """Why no law is fitted, and how many scores are missing."""
    lacking = [one for one in found if one.law is None]
    if not lacking:
        return ""
    n = min(one.n_sequences for one in lacking)
    there = -(-n // _ONE_IN)
    text = f"No law is fitted to {len(lacking):,} of {len(found):,} queries: "
    if there >= FEWEST:
        return f"{text}fewer than {FEWEST} of their largest 1 % of scores are above zero."
    return (
        f"{text}the tail is the largest 1 % of scores, {there:,} of {n:,}, and laws cannot be told "
        f"apart by fewer than {FEWEST}. {FEWEST - there:,} more are needed: scan "
        f"{_ONE_IN * FEWEST - n:,} sequences more."
    )


def _summary(found: tuple[QueryTail, ...]) -> dict[str, Interval | None]:
    def mean(values: list[float | None]) -> Interval | None:
        return over_queries(np.array([np.nan if v is None else v for v in values], np.float64))

    laws = [one.law for one in found if one.law is not None]
    names = [one.law for one in laws[0].against] if laws else []
    beats = {
        f"power law beats {name}": mean(
            [float({a.law: a.better for a in law.against}[name] == "power law") for law in laws]
        )
        for name in names
    }
    beaten = {
        f"{name} beats power law": mean(
            [float({a.law: a.better for a in law.against}[name] == "other") for law in laws]
        )
        for name in names
    }
    signs = [
        None
        if one.top_share is None or one.random_signs is None
        else float(one.top_share > one.random_signs[2])
        for one in found
    ]
    return {
        "exponent": mean([law.exponent for law in laws]),
        "power law rejected": mean([float(law.p <= REJECTED) for law in laws]),
        "power law holds": mean([float(law.holds) for law in laws]),
        **beats,
        **beaten,
        "held-out ratio of sequences needed": mean([law.held_out for law in laws]),
        "top 1 % share": mean([one.top_share for one in found]),
        "above random signs": mean(signs),
        "largest sequence's share": mean([one.largest_share for one in found]),
        "largest sequence, nats": mean([one.largest_nats for one in found]),
        "largest sequence over information": mean([one.largest_of_information for one in found]),
    }
