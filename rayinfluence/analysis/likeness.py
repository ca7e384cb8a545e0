"""How alike hits are to their query, run by run.

R run, Q query, N sequence.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rayinfluence.analysis.order import part_means
from rayinfluence.analysis.scale_values import Sized
from rayinfluence.analysis.scores import dense_ids_of, dense_of
from rayinfluence.influence.correlations import area, spearman
from rayinfluence.influence.order import (
    BEYOND_CONTROL,
    FORWARD,
    HELD_OUT,
    LANGUAGE,
    OTHER_SUBJECT,
)
from rayinfluence.influence.rankings import rarities, share_of
from rayinfluence.storage.results import Results

#: First proponents of each query that are looked at.
HITS = 10
OVERLAP = f"rare tokens of the query in its first {HITS} hits"
OWN = f"own sequences among the first {HITS}"
REWORDED = f"own sequences in other words among the first {HITS}"
ABOVE = "own sequences above others of the key (area)"
BY_TEXTS = "Spearman's rho of all scores with BM25's"
PARAPHRASE = "held-out words over forward"
BINDING = "another subject over forward"
IN_LANGUAGE = "another language over forward"
CROSSING = "another language beyond its control, over forward"
#: Figures of texts of no corpus, and the part that each has over forward.
_OF_PARTS = (
    (PARAPHRASE, HELD_OUT),
    (BINDING, OTHER_SUBJECT),
    (IN_LANGUAGE, LANGUAGE),
    (CROSSING, BEYOND_CONTROL),
)

#: A word with content has so many letters at least.
_WORD = re.compile(r"[^\W\d_]{4,}")


@dataclass(frozen=True)
class Ratios:
    """A figure as sums over queries, one over the other.

    Attributes:
        name: of the figure.
        above_RQ, below_RQ: of each query; NaN where it has none.
        beside_Q: the same of BM25, one over one; None where there is none such.
    """

    name: str
    above_RQ: NDArray[np.float64]
    below_RQ: NDArray[np.float64]
    beside_Q: NDArray[np.float64] | None = None


def ratios_of(runs: Sequence[Sized], queries: Sequence[str], by: str | None) -> list[Ratios]:
    """All figures that the runs have something to say on.

    Args:
        runs: of one corpus and the same queries.
        queries: ids of those that figures are of.
        by: the metadata key that says which sequences are a query's own.
    """
    kept = _Kept(runs)
    found = [_mean(OVERLAP, runs, queries, kept.overlap)]
    if by is not None:
        own = kept.own(queries, by)
        other_words = {q: kept.reworded(q, some) for q, some in own.items()}
        for name, wanted in ((OWN, own), (REWORDED, other_words)):
            found.append(_mean(name, runs, queries, _Recall(wanted)))
        above = _above(runs, queries, own)
        if above is not None:
            found.append(above)
    alike = _alike(runs, queries)
    if alike is not None:
        found.append(Ratios(BY_TEXTS, alike, np.ones_like(alike)))
    if all(run.scored for run in runs):
        means = [part_means(run.scored, queries) for run in runs]
        forward_RQ = np.array([one[FORWARD] for one in means])
        for name, part in _OF_PARTS:
            if all(part in one for one in means):
                found.append(Ratios(name, np.array([one[part] for one in means]), forward_RQ))
    return found


def _mean(name: str, runs: Sequence[Sized], queries: Sequence[str], of: Any) -> Ratios:
    """A mean over queries of what is said of the first hits of each."""

    def values(results: Results) -> list[float]:
        return [of(q, results.ids(q, "proponent")[:HITS]) for q in queries]

    above_RQ = np.array([values(run.results) for run in runs])
    texts = runs[0].by_texts
    beside = None if texts is None else np.array(values(texts))
    return Ratios(name, above_RQ, np.ones_like(above_RQ), beside)


class _Recall:
    """Of a query's wanted sequences, the share that is among its first hits, as far as they go."""

    def __init__(self, wanted: Mapping[str, Collection[int]]) -> None:
        self._wanted = wanted

    def __call__(self, query: str, first: Sequence[int]) -> float:
        wanted = self._wanted.get(query, ())
        if not wanted:
            return float("nan")
        return len({*first} & {*wanted}) / min(HITS, len(wanted))


class _Kept:
    """All sequences that a run has kept for some query: what is known of the corpus here."""

    def __init__(self, runs: Sequence[Sized]) -> None:
        self._queries = runs[0].results.queries
        self._tokens: dict[int, list[int]] = {}
        self._texts: dict[int, str] = {}
        self._metadata: dict[int, dict[str, Any]] = {}
        for run in runs:
            table = run.results.sequences.select(["sequence_id", "tokens", "text"])
            for row in table.to_pylist():
                self._tokens[row["sequence_id"]] = row["tokens"]
                self._texts[row["sequence_id"]] = row["text"]
            self._metadata |= run.results.metadata()
        self._rarities = rarities(self._tokens.values())

    def overlap(self, query: str, first: Sequence[int]) -> float:
        """Of the weight of a query's tokens, the share that its first hits have on average."""
        asked = self._queries[query].get("tokens")
        if not asked or not len(first):
            return float("nan")
        return float(np.mean([share_of(asked, self._tokens[i], self._rarities) for i in first]))

    def own(self, queries: Sequence[str], by: str) -> dict[str, list[int]]:
        """By query the kept sequences that have its value of a key."""
        values: dict[Any, list[int]] = {}
        for sequence, metadata in self._metadata.items():
            if by in metadata:
                values.setdefault(repr(metadata[by]), []).append(sequence)
        told = ((q, self._queries[q]["metadata"]) for q in queries)
        return {q: values.get(repr(of[by]), []) for q, of in told if by in of}

    def reworded(self, query: str, own: Sequence[int]) -> list[int]:
        """Of a query's own sequences, those that share no word with it but names.

        Names are words that all of its own sequences have in common.
        """
        if len(own) < 2:
            return []
        words = {sequence: set(self._words(self._texts[sequence])) for sequence in own}
        names = reduce(set.intersection, words.values())
        row = self._queries[query]
        asked = {*self._words(f"{row['prompt']}{row['completion']}")} - names
        return [sequence for sequence, there in words.items() if not there & asked]

    @staticmethod
    def _words(text: str) -> Iterator[str]:
        return (found.group().casefold() for found in _WORD.finditer(text))


def _alike(runs: Sequence[Sized], queries: Sequence[str]) -> NDArray[np.float64] | None:
    """Rank correlations of all scores with BM25's; None where they were not kept."""
    found = []
    for run in runs:
        if run.by_texts is None:
            return None
        of_run = []
        for query in queries:
            ours, theirs = dense_of(run.results, query), dense_of(run.by_texts, query)
            if ours is None or theirs is None or len(ours) != len(theirs):
                return None
            of_run.append(float(spearman(ours[:, None], theirs[:, None])[0]))
        found.append(of_run)
    return np.array(found)


def _above(
    runs: Sequence[Sized], queries: Sequence[str], own: Mapping[str, list[int]]
) -> Ratios | None:
    """How often a query's own sequences have more than kept ones of others, by all scores.

    Others are those that another query has as its own; ties count half, and chance is 0.5. None
    where scores were not kept.
    """
    keyed = sorted({one for some in own.values() for one in some})

    def areas(results: Results) -> list[float] | None:
        found = []
        for query in queries:
            told = dense_ids_of(results, query)
            if told is None:
                return None
            ids_N, scores_N = told
            among_N = np.isin(ids_N, keyed)
            found.append(area(scores_N[among_N], np.isin(ids_N[among_N], own.get(query, []))))
        return found

    of_runs = [areas(run.results) for run in runs]
    told = [one for one in of_runs if one is not None]
    if len(told) < len(runs):
        return None
    above_RQ = np.array(told)
    texts = runs[0].by_texts
    beside = None if texts is None else areas(texts)
    return Ratios(
        ABOVE, above_RQ, np.ones_like(above_RQ), None if beside is None else np.array(beside)
    )
