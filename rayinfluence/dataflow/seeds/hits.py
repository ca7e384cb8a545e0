"""Which sequences of a query are shown, and by what mean.

Of all scores: the first by their mean, as far as some run has kept their texts. Of survivors: those
that all runs have kept.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import reduce

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from rayinfluence.dataflow.compute.partial import Partial
from rayinfluence.influence.seeds import over_seeds

Ids = NDArray[np.int64]
Scores = NDArray[np.float64]


@dataclass(frozen=True)
class Hits:
    """The hits of a query [H], proponents and then opponents, each from the strongest.

    Attributes:
        ids_H: of the sequences.
        directions_H: 0 of proponents, 1 of opponents.
        ranks_H: from 1, in a direction.
        means_H, errors_H: of their scores, over seeds.
        scan_ranks_H, scan_means_H: the same of the scan's scores.
        n_scored: sequences that all seeds have a score of.
        n_not_by_all: that some have one of, as far as is known.
        n_cut: hits that would follow, and of which no run has kept the text.
    """

    ids_H: Ids
    directions_H: NDArray[np.int8]
    ranks_H: NDArray[np.int32]
    means_H: Scores
    errors_H: Scores
    scan_ranks_H: NDArray[np.int32]
    scan_means_H: Scores
    n_scored: int
    n_not_by_all: int
    n_cut: int = 0


def hits_of_all(
    partial: Partial,
    place: int,
    errors: Mapping[int, float],
    known: Ids,
    n_by_some: int,
) -> Hits:
    """The first of a query by the means of all scores, which are the scan's.

    A list ends before the first sequence of which no run has kept the text: what follows would not
    be the next.

    Args:
        partial: of the means.
        place: of the query in it.
        errors: of the first, by sequence.
        known: ids of sequences with texts, ascending.
        n_by_some: sequences that some seed has a score of.
    """
    ids, means, directions, n_cut = [], [], [], 0
    for code, side in enumerate((partial.proponents, partial.opponents)):
        scores_K, ids_K = side.of_query(place)
        unknown = np.flatnonzero(~np.isin(ids_K, known))
        end = int(unknown[0]) if len(unknown) else len(ids_K)
        n_cut += len(ids_K) - end
        ids.append(ids_K[:end])
        means.append((1 - 2 * code) * scores_K[:end])
        directions.append(np.full(end, code, np.int8))
    ids_H, means_H = np.concatenate(ids), np.concatenate(means)
    ranks_H = np.concatenate([np.arange(1, len(of) + 1, dtype=np.int32) for of in ids])
    n_scored, _ = partial.scored(place)
    return Hits(
        ids_H,
        np.concatenate(directions),
        ranks_H,
        means_H,
        np.array([errors[i] for i in ids_H.tolist()], np.float64),
        ranks_H,
        means_H,
        n_scored,
        max(0, n_by_some - n_scored),
        n_cut,
    )


def hits_of_survivors(rows: Sequence[pa.Table]) -> Hits:
    """What all seeds kept of a query, by the means of scores at full rank.

    Args:
        rows: of each seed, the query's rows of the table of survivors.
    """
    ids = [table["sequence_id"].to_numpy() for table in rows]
    common = reduce(np.intersect1d, ids)
    n_by_all, n_by_some = len(common), len(reduce(np.union1d, ids))
    scores_SN, scanned_SN = (
        np.stack([_of(table, name, common) for table in rows]) for name in ("score", "scan_score")
    )
    (means_N, errors_N), (scan_means_N, _) = over_seeds(scores_SN), over_seeds(scanned_SN)
    return hits_of_means(common, means_N, errors_N, scan_means_N, n_by_some - n_by_all)


def hits_of_means(
    ids_N: Ids, means_N: Scores, errors_N: Scores, scan_means_N: Scores, n_not_by_all: int = 0
) -> Hits:
    """All sequences of a query that have a mean, by it.

    Args:
        ids_N: of the sequences, ascending.
        means_N: of their scores, over seeds.
        errors_N: standard errors of these.
        scan_means_N: the same of the scan's scores.
        n_not_by_all: sequences besides, of which not all seeds have one.
    """
    (there,) = np.nonzero(means_N)  # a mean of zero is of neither direction
    directions_N = (means_N < 0).astype(np.int8)
    order = there[np.lexsort((ids_N[there], -np.abs(means_N[there]), directions_N[there]))]
    ids_H, directions_H, means_H = ids_N[order], directions_N[order], means_N[order]
    return Hits(
        ids_H,
        directions_H,
        _ranks(ids_H, means_H, directions_H),
        means_H,
        errors_N[order],
        _ranks(ids_H, scan_means_N[order], directions_H),
        scan_means_N[order],
        len(ids_N),
        n_not_by_all,
    )


def _of(rows: pa.Table, name: str, ids: Ids) -> Scores:
    """A column of the rows of some sequences, in the order of their ids, ascending."""
    rows = rows.sort_by("sequence_id")
    places = np.searchsorted(rows["sequence_id"].to_numpy(), ids)
    found: Scores = rows[name].to_numpy()[places]
    return found


def _ranks(ids_H: Ids, scores_H: Scores, directions_H: NDArray[np.int8]) -> NDArray[np.int32]:
    """Ranks from 1 in each direction, from the strongest and then by id."""
    ranks_H = np.zeros(len(ids_H), np.int32)
    for code, sign in ((0, 1), (1, -1)):
        (ours,) = np.nonzero(directions_H == code)
        order = ours[np.lexsort((ids_H[ours], -sign * scores_H[ours]))]
        ranks_H[order] = np.arange(1, len(order) + 1)
    return ranks_H
