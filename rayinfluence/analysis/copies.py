"""Whether influence on a passage is memory of its copies, beside texts that say it in other words.

Of a run whose documents say in ``planted`` of which passage they are a copy (``p1 copy``) or a
rewording (``p1 reworded``), by which the run groups sequences, and whose queries have ``passage``
(``p1``) and ``copies`` (how often it is there). Sums over groups are of all scanned sequences, so
nothing has to survive to be counted.

Q query.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from rayinfluence.analysis.asked import LEAST, Gate, Verdict, notes_of, over_queries
from rayinfluence.analysis.findings import COPIES_LEAD, NO_PURE_MEMORY
from rayinfluence.analysis.scores import statistics_of
from rayinfluence.errors import InputError
from rayinfluence.storage.metadata import as_text
from rayinfluence.storage.results import Results, Survivor, ceiling_of, log_probability_of
from rayinfluence.storage.results.evaluated import Interval

#: Keys of documents and of queries, and how the values of the first end.
PLANTED, PASSAGE, COPIES = "planted", "passage", "copies"
_COPY, _REWORDED = " copy", " reworded"
#: A completion of which all copies are predicted to give less is not explained by them.
_HALF = 0.5

#: A row of sums over a group, and those of a query by the group's value.
_Row = Mapping[str, Any]
_Groups = Mapping[str, _Row]


@dataclass(frozen=True)
class OfPassage:
    """What a query's copies and rewordings do.

    Attributes:
        query_id: of the query.
        copies: how often its passage is there.
        copies_share: of all positive scores, what those of copies hold; 0 without any.
        reworded_share: what those of its rewordings hold.
        copy_score: the mean score of a copy; None without any.
        reworded_score: of a rewording; None likewise.
        other_score: of rewordings of other passages, the mean over passages; None likewise.
        copy_rank: of the first copy among the proponents that were kept; None where none was.
        reworded_rank: of the first rewording, likewise.
        kept: how many proponents were kept.
        copies_nats: what all copies are predicted to give together; None without a prediction.
        information: -log p of the completion.
    """

    query_id: str
    copies: int
    copies_share: float | None
    reworded_share: float | None
    copy_score: float | None
    reworded_score: float | None
    other_score: float | None
    copy_rank: int | None
    reworded_rank: int | None
    kept: int
    copies_nats: float | None
    information: float | None

    @property
    def reworded_of_copy(self) -> float | None:
        """The score of a rewording over that of a copy."""
        if self.copy_score is None or self.reworded_score is None or self.copy_score <= 0:
            return None
        return self.reworded_score / self.copy_score

    @property
    def reworded_above_others(self) -> float | None:
        """Whether a rewording is above those of other passages, on average: 1 or 0."""
        if self.reworded_score is None or self.other_score is None:
            return None
        return float(self.reworded_score > self.other_score)


@dataclass(frozen=True)
class OfNumber:
    """Means over the known queries whose passage is there so many times.

    Attributes:
        copies: how many times.
        n_queries: known ones; others are counted in `n_unknown`.
        n_unknown: those that the model does not know.
        copy_first: share of queries whose first proponent is a copy.
        copies_share, reworded_share: of `OfPassage`.
        others_share: what all other sequences hold.
        reworded_of_copy, reworded_above_others: of `OfPassage`.
        copies_of_information: what all copies are predicted to give, over the information.
        copy_rank, reworded_rank: medians of first ranks; None where more than half were not kept.
    """

    copies: int
    n_queries: int
    n_unknown: int
    copy_first: Interval | None
    copies_share: Interval | None
    reworded_share: Interval | None
    others_share: Interval | None
    reworded_of_copy: Interval | None
    reworded_above_others: Interval | None
    copies_of_information: Interval | None
    copy_rank: float | None
    reworded_rank: float | None


@dataclass(frozen=True)
class Copies:
    """What the analysis says.

    Attributes:
        method: whose scores they are.
        fingerprint: of the results.
        gate: which queries it is of.
        numbers: by how often a passage is there.
        queries: one by one, known ones.
        verdicts: by finding.
        notes: on all figures.
    """

    method: str
    fingerprint: str
    gate: Gate
    numbers: tuple[OfNumber, ...]
    queries: tuple[OfPassage, ...]
    verdicts: tuple[Verdict, ...]
    notes: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """As plain values; the reference has the keys."""
        return {"what": "copies", **asdict(self)}


def analyse_copies(results: Results, least: float = LEAST) -> Copies:
    """Copies beside rewordings, by how often a passage is there.

    Args:
        results: of one method.
        least: log-probability per token of a known query, in nats.

    Raises:
        InputError: sequences are not grouped by ``planted``, or no query says its passage.
    """
    gate = Gate.of(results, least)
    numbers = {
        query_id: int(row["metadata"][COPIES])
        for query_id, row in results.queries.items()
        if PASSAGE in row["metadata"] and str(row["metadata"].get(COPIES, "")).isdecimal()
    }
    groups = _groups(results)
    if not numbers or not groups:
        raise InputError(
            f"copies: {'no query has' if not numbers else 'there are no groups by'} "
            + (f"`{PASSAGE}` and `{COPIES}`" if not numbers else f"`{PLANTED}`")
            + f". Documents say `{PLANTED}: p1{_COPY}` or `p1{_REWORDED}`, `scan.group_by` names "
            f"that key, and queries have `{PASSAGE}` and `{COPIES}` in their metadata."
        )
    statistics = statistics_of(results)
    found = tuple(
        _of_query(results, one, numbers[one], groups[one], statistics[one])
        for one in gate.known
        if one in numbers and one in groups and one in statistics
    )
    unknown = [numbers[one] for one in (*gate.unknown, *gate.unmeasured) if one in numbers]
    return Copies(
        results.method,
        str(results.manifest.get("fingerprint") or ""),
        gate,
        tuple(_of_number(k, found, unknown) for k in sorted(set(numbers.values()))),
        found,
        (_first(found), _no_pure_memory(found)),
        (
            *notes_of(results, gate),
            "Shares are of the sum of all positive scores of the scan, and scores are means over "
            "all sequences of a group, whether they survived or not; ranks are among the "
            "proponents that were kept.",
        ),
    )


def _groups(results: Results) -> dict[str, dict[str, _Row]]:
    """By query and value of the key."""
    found: dict[str, dict[str, _Row]] = {}
    for row in results.groups.to_pylist():
        if row["column"] == PLANTED and row["value_type"] == "string":
            found.setdefault(row["query_id"], {})[row["value"]] = row
    return found


def _of_query(
    results: Results, query_id: str, copies: int, groups: _Groups, statistics: _Row
) -> OfPassage:
    query = results.queries[query_id]
    passage = as_text(query["metadata"][PASSAGE])
    copy, reworded = groups.get(passage + _COPY), groups.get(passage + _REWORDED)
    others = [
        float(row["mean_score"])
        for value, row in groups.items()
        if value.endswith(_REWORDED) and row is not reworded and row["mean_score"] is not None
    ]
    hits = results.proponents(query_id)
    total = float(statistics["positive_sum"])
    n = results.manifest.get("n_training_sequences")
    score = _mean(copy)
    nats = None
    if results.meaning.predicts and n and score is not None and copy is not None:
        nats = score * int(copy["n_sequences"]) / int(n)
    log_p = log_probability_of(query)
    kind = (results.manifest.get("objective") or {}).get("kind")
    return OfPassage(
        query_id,
        copies,
        _share(copy, total),
        _share(reworded, total),
        score,
        _mean(reworded),
        float(np.mean(others)) if others else None,
        _rank(hits, passage + _COPY),
        _rank(hits, passage + _REWORDED),
        len(hits),
        nats,
        None if log_p is None else ceiling_of(query, kind) - log_p,
    )


def _rank(hits: Sequence[Survivor], planted: str) -> int | None:
    return next((one.rank for one in hits if one.metadata.get(PLANTED) == planted), None)


def _mean(group: _Row | None) -> float | None:
    return None if group is None or group["mean_score"] is None else float(group["mean_score"])


def _share(group: _Row | None, total: float) -> float | None:
    if total <= 0:
        return None
    return 0.0 if group is None else float(group["positive_sum"]) / total


def _of_number(copies: int, found: Sequence[OfPassage], unknown: Sequence[int]) -> OfNumber:
    ours = [one for one in found if one.copies == copies]
    has = copies > 0
    return OfNumber(
        copies,
        len(ours),
        unknown.count(copies),
        _over([float(one.copy_rank == 1) for one in ours]) if has else None,
        _over([one.copies_share for one in ours]) if has else None,
        _over([one.reworded_share for one in ours]),
        _over([_others_share(one) for one in ours]),
        _over([one.reworded_of_copy for one in ours]) if has else None,
        _over([one.reworded_above_others for one in ours]),
        _over([_explained(one) for one in ours]) if has else None,
        _median([one.copy_rank for one in ours]) if has else None,
        _median([one.reworded_rank for one in ours]),
    )


def _over(values: Sequence[float | None]) -> Interval | None:
    return over_queries(np.array([np.nan if v is None else v for v in values], np.float64))


def _others_share(one: OfPassage) -> float | None:
    if one.copies_share is None or one.reworded_share is None:
        return None
    return 1 - one.copies_share - one.reworded_share


def _explained(one: OfPassage) -> float | None:
    return one.copies_nats / one.information if one.copies_nats and one.information else None


def _median(ranks: Sequence[int | None]) -> float | None:
    """Those that were not kept are beyond all others."""
    if not ranks:
        return None
    middle = float(np.median([np.inf if rank is None else rank for rank in ranks]))
    return middle if np.isfinite(middle) else None


def _first(found: Sequence[OfPassage]) -> Verdict:
    finding = COPIES_LEAD
    share = _over([float(one.copy_rank == 1) for one in found if one.copies])
    if share is None or share.low is None:
        return Verdict(finding, "not asked", "It takes two known queries whose passage is there.")
    why = f"A copy is the first proponent of {share.mean:.0%} of {share.n} queries."
    if share.low > _HALF:
        return Verdict(finding, "reproduces", why)
    return Verdict(finding, "partly" if share.mean >= _HALF else "does not at this size", why)


def _no_pure_memory(found: Sequence[OfPassage]) -> Verdict:
    finding = NO_PURE_MEMORY
    ours = [one for one in found if one.copies]
    share = _over([one.copies_share for one in ours])
    above = _over([one.reworded_above_others for one in ours])
    if share is None or above is None or share.high is None or above.low is None:
        return Verdict(
            finding, "not asked", "It takes two known queries whose passage is there, and reworded."
        )
    why = (
        f"Copies hold {share.mean:.0%} of all positive influence on average, and rewordings are "
        f"above those of other passages for {above.mean:.0%} of {above.n} queries."
    )
    elsewhere, meant = share.high < _HALF, above.low > _HALF
    if elsewhere and meant:
        return Verdict(finding, "reproduces", why)
    return Verdict(finding, "partly" if elsewhere or meant else "does not at this size", why)
