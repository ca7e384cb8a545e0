"""Values of groups by nearest hidden states, beside those by training: nothing is trained."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from rayinfluence.dataflow.run import Run
from rayinfluence.evaluation.shapley.game import Column, Players
from rayinfluence.evaluation.shapley.neighbour_job import neighbour_scores
from rayinfluence.methods.method import ITSELF
from rayinfluence.storage.results.valued import GroupValue, GroupValues

#: How values were found, as it is shown.
NEIGHBOURS = "neighbours"


def values_by_neighbours(
    run: Run, players: Players, columns: Sequence[Column], k: int
) -> GroupValues:
    """Sums over groups of the values of their places, for utilities that are of queries.

    Args:
        run: with its model.
        players: the groups.
        columns: the utilities; a validation file has no such values.
        k: how many places vote.

    Raises:
        ConfigError: the model predicts no next tokens, or there are too many of them.
    """
    queries = [query for query in run.queries if query is not ITSELF]
    ids_N = np.sort(
        np.concatenate([split.sequence_ids for split in run.corpus.plan(run.numerics.split_tokens)])
    )
    scores_NQ = neighbour_scores(run, queries, ids_N, k)
    sums_GQ = np.stack(
        [scores_NQ[np.searchsorted(ids_N, members)].sum(axis=0) for members in players.members]
    )
    values = [
        [
            None
            if column.kind == "validation"
            else GroupValue(float(sums_Q[list(column.queries)].mean()), None, None, None, None)
            for column in columns
        ]
        for sums_Q in sums_GQ
    ]
    return GroupValues(f"knn({k})", NEIGHBOURS, 0, 0, values)
