"""Sums of a run's own scores over groups, beside what groups are worth.

G group, U utility.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from rayinfluence.dataflow.begin.parts import Parts
from rayinfluence.errors import StorageError
from rayinfluence.evaluation.intervals import mean_interval
from rayinfluence.evaluation.shapley.game import Column, Players
from rayinfluence.influence.correlations import spearman
from rayinfluence.storage.results import Results
from rayinfluence.storage.results.valued import Sums


def sums_beside(
    run: Parts,
    players: Players,
    columns: Sequence[Column],
    values: Mapping[str, NDArray[np.float64]],
) -> tuple[Sums, ...]:
    """Sums by each method of the run's current results, as far as they are of these groups.

    Results of another corpus, and those without sums by the key (`scan.group_by`), have none.

    Args:
        run: with its results, if any.
        players: the groups.
        columns: the utilities; sums are of those that are a single query.
        values: by name, of groups and utilities [G, U].
    """
    try:
        first = Results.load(run.store)
    except StorageError:
        return ()
    if players.key is None or first.manifest["corpus"]["fingerprint"] != run.corpus.fingerprint:
        return ()
    found = []
    for name in first.manifest["methods"]:
        results = first if name == first.method else Results.load(run.store, name)
        rows: Counter[tuple[str, str]] = Counter()  # 1 and "1" are one group of those
        for row in results.groups.to_pylist():
            if row["column"] == players.key and row["value_type"] not in ("missing", "other"):
                net = row["positive_sum"] + row["negative_sum"]
                rows[row["query_id"], row["value"]] += net
        predicts = results.meaning.predicts
        scale = 1 / results.manifest["n_training_sequences"] if predicts else 1.0
        sums_GU = np.full((len(players.names), len(columns)), np.nan)
        for u, column in enumerate(columns):
            # A query of the same id may ask something else by now.
            if column.digest == results.queries.get(column.name, {}).get("digest", ""):
                for g, group in enumerate(players.names):
                    sums_GU[g, u] = scale * rows.get((column.name, group), np.nan)
        if np.isnan(sums_GU).all():
            continue
        agreement = {
            other: mean_interval(spearman(sums_GU, values_GU))
            for other, values_GU in values.items()
        }
        told = [[None if np.isnan(one) else one for one in row] for row in sums_GU.tolist()]
        unit = "nats" if predicts else results.meaning.unit
        found.append(Sums(name, unit, told, agreement))
    return tuple(found)
