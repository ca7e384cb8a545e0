"""What follows from sheets: how far people agree, and how relevant each method's first hits are.

Q query, R rater, U item.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rayinfluence.analysis.asked import Verdict, over_queries
from rayinfluence.analysis.findings import RELEVANT
from rayinfluence.analysis.reviewed.items import RANDOM, RELATIONS, Review
from rayinfluence.analysis.reviewed.sheets import Sheet
from rayinfluence.errors import InputError
from rayinfluence.influence.agreement import MISSING, Scale, alpha, coincidences
from rayinfluence.influence.intervals import draws, percentiles
from rayinfluence.storage.results.evaluated import Interval

_IRRELEVANT, _STATES = "irrelevant", "states"
ABOUT, RELATES = "what is it about", "how does it relate"


@dataclass(frozen=True)
class OfRater:
    """How much a person has answered.

    Attributes:
        rater: as their sheet says.
        about: answers to what texts are about.
        relates: answers to how they relate.
        missing: items that lack an answer.
    """

    rater: str
    about: int
    relates: int
    missing: int


@dataclass(frozen=True)
class Agreement:
    """How far people agree on a question.

    Attributes:
        question: `ABOUT` or `RELATES`.
        scale: nominal or ordinal.
        alpha: Krippendorff's, with the ends by drawing queries; None where there is none.
        n_items: that two people at least have answered.
        why: there is none; empty where there is.
    """

    question: str
    scale: Scale
    alpha: Interval | None
    n_items: int
    why: str


@dataclass(frozen=True)
class OfMethod:
    """What people say of a method's first hits.

    Attributes:
        method: its name, or `RANDOM`.
        n_hits: that have an answer.
        n_unanswered: that have none.
        relevant: share that is not irrelevant, the mean over queries.
        states: share that states the answer, likewise.
        over_random: how much more is relevant than of random sequences, of queries that have both;
            None of these themselves, or without them.
    """

    method: str
    n_hits: int
    n_unanswered: int
    relevant: Interval | None
    states: Interval | None
    over_random: Interval | None


@dataclass(frozen=True)
class Reviewed:
    """What the sheets say.

    Attributes:
        export: whose sheets they are.
        fingerprint: of the results.
        n_items: that were asked about.
        n_queries: of how many questions.
        raters: by sheet.
        agreement: by question.
        methods: in the order of the run, random sequences last.
        verdicts: by finding.
        notes: on all figures.
    """

    export: str
    fingerprint: str
    n_items: int
    n_queries: int
    raters: tuple[OfRater, ...]
    agreement: tuple[Agreement, ...]
    methods: tuple[OfMethod, ...]
    verdicts: tuple[Verdict, ...]
    notes: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """As plain values; the reference has the keys."""
        return {"what": "review", **asdict(self)}


def reviewed(review: Review, sheets: Sequence[Sheet]) -> Reviewed:
    """What several people say, or one.

    Raises:
        InputError: two sheets are of one rater, or nobody has answered anything.
    """
    names: dict[str, str] = {}
    for sheet in sheets:
        if sheet.rater in names:
            raise InputError(
                f"{names[sheet.rater]} and {sheet.name} are both of the rater {sheet.rater!r}: "
                "two answers of one person are no agreement. Name one, or correct the column rater."
            )
        names[sheet.rater] = sheet.name
    if not any(sheet.about or sheet.relates for sheet in sheets):
        raise InputError("no sheet has an answer.")
    queries = list(dict.fromkeys(one.query_id for one in review.items))
    methods = _methods(review, sheets, queries)
    raters = tuple(
        OfRater(
            one.rater,
            len(one.about),
            len(one.relates),
            sum(i.item not in one.about or i.item not in one.relates for i in review.items),
        )
        for one in sheets
    )
    return Reviewed(
        review.export,
        review.fingerprint,
        len(review.items),
        len(queries),
        raters,
        (_about(review, sheets, queries), _relates(review, sheets, queries)),
        methods,
        (_verdict(methods),),
        _notes(review, raters),
    )


def _about(review: Review, sheets: Sequence[Sheet], queries: Sequence[str]) -> Agreement:
    if not review.topics:
        both = sum(sum(i.item in one.about for one in sheets) > 1 for i in review.items)
        why = "Answers were written freely, and have no categories: export with --topic."
        return Agreement(ABOUT, "nominal", None, both, why)
    answers = [one.about for one in sheets]
    return _agreement(ABOUT, "nominal", review, answers, review.topics, queries)


def _relates(review: Review, sheets: Sequence[Sheet], queries: Sequence[str]) -> Agreement:
    answers = [one.relates for one in sheets]
    return _agreement(RELATES, "ordinal", review, answers, tuple(RELATIONS), queries)


def _agreement(
    question: str,
    scale: Scale,
    review: Review,
    answers: Sequence[Mapping[str, str]],
    offered: Sequence[str],
    queries: Sequence[str],
) -> Agreement:
    numbers = {one: number for number, one in enumerate(offered)}
    ratings_RU = np.array(
        [[numbers[of[i.item]] if i.item in of else MISSING for i in review.items] for of in answers]
    )
    n_both = int(((ratings_RU != MISSING).sum(axis=0) > 1).sum())
    if len(answers) < 2:
        return Agreement(question, scale, None, 0, "One person agrees with nobody: import two.")
    if not n_both:
        return Agreement(question, scale, None, 0, "No item has answers of two people.")
    found_UCC = coincidences(ratings_RU, len(offered))
    places = {query_id: place for place, query_id in enumerate(queries)}
    found_QCC = np.zeros((len(queries), *found_UCC.shape[1:]))
    np.add.at(found_QCC, [places[i.query_id] for i in review.items], found_UCC)
    value = float(alpha(found_QCC.sum(axis=0)[None], scale)[0])
    if np.isnan(value):
        return Agreement(question, scale, None, n_both, "All answers are the same one.")
    low = high = None
    if len(queries) > 1:
        drawn_BCC = draws(found_QCC.reshape(len(queries), -1).T, 0).T.reshape(
            -1, *found_UCC.shape[1:]
        )
        values_B = alpha(drawn_BCC, scale)
        low, high = percentiles(values_B[np.isfinite(values_B)])
    return Agreement(question, scale, Interval(value, low, high, len(queries)), n_both, "")


def _methods(
    review: Review, sheets: Sequence[Sheet], queries: Sequence[str]
) -> tuple[OfMethod, ...]:
    shares: dict[str, tuple[NDArray[np.float64], NDArray[np.float64]]] = {}
    counts: dict[str, tuple[int, int]] = {}
    for method in review.methods:
        relevant_Q, states_Q = np.full((2, len(queries)), np.nan)
        n_answered = n_unanswered = 0
        for place, query_id in enumerate(queries):
            relevant, states = [], []
            for item in review.items:
                said = [one.relates[item.item] for one in sheets if item.item in one.relates]
                hits = len(item.by.get(method, ())) if item.query_id == query_id else 0
                if said:
                    relevant += [sum(s != _IRRELEVANT for s in said) / len(said)] * hits
                    states += [sum(s == _STATES for s in said) / len(said)] * hits
                else:
                    n_unanswered += hits
            n_answered += len(relevant)
            if relevant:
                relevant_Q[place], states_Q[place] = np.mean(relevant), np.mean(states)
        shares[method], counts[method] = (relevant_Q, states_Q), (n_answered, n_unanswered)
    random = shares.get(RANDOM)
    return tuple(
        OfMethod(
            method,
            *counts[method],
            over_queries(relevant_Q),
            over_queries(states_Q),
            None if random is None or method == RANDOM else over_queries(relevant_Q - random[0]),
        )
        for method, (relevant_Q, states_Q) in shares.items()
    )


def _verdict(methods: Sequence[OfMethod]) -> Verdict:
    finding = RELEVANT
    first = methods[0]
    if first.relevant is None or first.relevant.low is None or first.over_random is None:
        why = "It takes answers on hits of two questions at least, and on random sequences."
        return Verdict(finding, "not asked", why)
    more = first.over_random
    why = (
        f"Of the first hits by {first.method}, {first.relevant.mean:.0%} are not irrelevant, "
        f"{more.mean:+.0%} beside random sequences."
    )
    above = more.low is not None and more.low > 0
    if first.relevant.low > 0.5 and above:
        return Verdict(finding, "reproduces", why)
    return Verdict(finding, "partly" if above else "does not at this size", why)


def _notes(review: Review, raters: Sequence[OfRater]) -> tuple[str, ...]:
    said = [
        f"A hit's share is over the people who answered, a query's over its first {review.top} "
        "hits, and figures are means over queries.",
        "In brackets: 95 % by drawing queries with replacement. They are about other queries like "
        "these, and not about other people.",
    ]
    if lacking := [one for one in raters if one.missing]:
        told = ", ".join(f"{one.rater} {one.missing:,}" for one in lacking)
        said.insert(
            0, f"Items that lack an answer, of {len(review.items):,}: {told}. They are left out."
        )
    if len(raters) == 1:
        said.insert(0, "One person has answered: nothing is known of agreement.")
    return tuple(said)
