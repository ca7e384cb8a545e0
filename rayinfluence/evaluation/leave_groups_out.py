"""Leave-one-out of groups as results of their own, beside the run's sums of scores over each.

A group are the sequences whose documents have the same value of a metadata key. A model is trained
without each of the largest, with each seed.

    effect = f(trained on all) - f(trained without the group)      the mean over seeds ± its error

Positive: with the group in training the answer is more likely. Where scores predict changes, their
sum over the group, divided by N, is the same to first order.

G group, Q query.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import pyarrow as pa

from rayinfluence.config import RunConfig
from rayinfluence.config_evaluation import GroupsConfig
from rayinfluence.dataflow.seeds.sequences import write_sequences
from rayinfluence.dataflow.stages.progress import ProgressLog
from rayinfluence.evaluation.farm import Farm, open_farm
from rayinfluence.evaluation.largest_groups import largest_groups
from rayinfluence.evaluation.left_out import (
    Left,
    Measured,
    Said,
    begin,
    fingerprint_of,
    measure,
    opened,
    rows_asked,
    write_results,
)
from rayinfluence.evaluation.shapley.beside import sums_beside
from rayinfluence.evaluation.shapley.game import Column, Players
from rayinfluence.storage.results import Meaning, Results, effects_schema, survivor_schema
from rayinfluence.storage.results.evaluated import Interval
from rayinfluence.storage.results.valued import Sums
from rayinfluence.storage.store import Store

METHOD = "leave_group_out"


def leave_groups_out(
    config: RunConfig, wanted: GroupsConfig, into: Store, progress: ProgressLog | None = None
) -> dict[str, Any]:
    """Train without each of the largest groups, and write what came as results; their manifest.

    Args:
        config: of a run that is done, with a section that says how models are trained.
        wanted: the key that groups, and how many are left out.
        into: a folder that is no run's.
        progress: where progress goes; standard error by default.

    Raises:
        ConfigError: the folder is a run's, there is one seed alone, documents have no such key or
            fewer than two values of it; or the run's results are of another corpus or other
            queries than the configuration.
        InputError: a table of trainings is given, and is of others, or lacks some.
        NumericsError: a model says nothing finite of a query.
    """
    results = opened(config, into)
    with open_farm(config, progress) as farm:
        assert config.evaluation is not None
        groups = largest_groups(
            farm,
            wanted.key,
            wanted.most,
            "leave-one-out --groups",
            "groups that are left out are compared with each other",
        )
        begin(into, results, {"group_by": wanted.key, "groups": list(groups)})
        left = Left("group", tuple(groups), tuple(map(tuple, groups.values())))
        found = measure(farm, config.evaluation, results, left)
        return _written(into, results, farm, wanted.key, found, left)


def _meaning(key: str, n_seeds: int) -> Meaning:
    return Meaning(
        f"measured, and no estimate: what {n_seeds} models say that were trained on everything, "
        f"less what those say that were trained without a group (documents with the same {key}), "
        "with the same seeds; the mean ± its standard error over seeds.",
        "that of the query: nats of log-probabilities",
        predicts=False,
        has_layers=False,
        of_predictions=False,
        measured=True,
        of_groups=True,
    )


def _written(
    into: Store, results: Sequence[Results], farm: Farm, key: str, found: Measured, left: Left
) -> dict[str, Any]:
    """Write tables and manifest."""
    source, effects, n_seeds = results[0].manifest, found.effects, len(found.seeds)
    meaning = _meaning(key, n_seeds)
    sums = _sums(farm, key, found, left)
    fingerprint = fingerprint_of(
        results, found, {"key": key, "groups": left.members, "sums": [one.sums for one in sums]}
    )
    sizes_G = np.array([len(ids) for ids in left.members])
    types = {one.group: one.group_type for one in farm.sequences(key)}
    names = [row["query_id"] for row in rows_asked(results, found.bank).values()]
    pieces = [
        _rows(name, place, key, left, types, sizes_G / len(farm.ids_N), found, sums)
        for place, name in enumerate(names)
    ]
    warnings = [
        f"of {len(left.names):,} groups by {key}, each left out alone, {effects.resolved:.0%} of "
        "the effects are more than two standard errors from zero; the others are not told from "
        "what a seed does."
    ]
    if not sums:
        warnings.append(
            f"no sums of scores stand beside the effects: the run's results have none by {key}. "
            f"Put it into scan.group_by, run, and do this again: nothing is trained anew."
        )
    n = int(sizes_G.sum())
    asking = [one for one in results if not one.meaning.of_itself]
    said = Said(
        METHOD,
        meaning,
        (survivor_schema(meaning), ()),
        (effects_schema(meaning), pieces),
        {
            "scanned_sequences": n,
            "group_by": key,
            "n_groups": len(left.names),
            "beside": [
                {"method": one.method, "unit": one.unit, "agreement": _plain(one.agreement[METHOD])}
                for one in sums
            ],
        },
        None
        if n == source["n_sequences"]
        else {
            "candidates": n,
            "sequences": source["n_sequences"],
            "method": f"their group, one of the {len(left.names):,} largest by {key}",
            "run": None,
            "recall": {},
        },
        warnings,
    )
    nothing = np.zeros(0, np.int64)
    tables = write_sequences(asking, nothing, into, fingerprint)
    return write_results(into, results, found, said, fingerprint, tables)


def _plain(interval: Interval | None) -> dict[str, Any] | None:
    """The mean over queries of rank correlations over groups, as JSON has it."""
    return None if interval is None else asdict(interval)


def _sums(farm: Farm, key: str, found: Measured, left: Left) -> tuple[Sums, ...]:
    """Sums of the run's scores over the groups, with how they agree with effects."""
    players = Players(key, left.names, left.members, len(farm.ids_N) - sum(map(len, left.members)))
    columns = [
        Column(query.query.query_id, "queries", query.unit, (place,), query.digest)
        for place, query in enumerate(farm.queries)
    ]
    return sums_beside(farm.run, players, columns, {METHOD: found.effects.mean_GQ})


def _rows(
    query_id: str,
    place: int,
    key: str,
    left: Left,
    types: Mapping[str | None, str | None],
    shares_G: Any,
    found: Measured,
    sums: Sequence[Sums],
) -> pa.Table:
    """The groups of a query, the largest effect first."""
    schema = effects_schema(_meaning(key, len(found.seeds)))
    effects_G, errors_G = (
        values_GQ[:, place] for values_GQ in (found.effects.mean_GQ, found.effects.error_GQ)
    )
    rows = [
        {
            "query_id": query_id,
            "column": key,
            "value": left.names[g],
            "value_type": types[left.names[g]],
            "n_sequences": len(left.members[g]),
            "share_of_corpus": float(shares_G[g]),
            "effect": float(effects_G[g]),
            "effect_se": float(errors_G[g]),
            "n_seeds": len(found.seeds),
            "sums": [
                (one.method, value) for one in sums if (value := one.sums[g][place]) is not None
            ],
        }
        for g in np.argsort(-effects_G, kind="stable").tolist()
    ]
    return pa.Table.from_pylist(rows, schema=schema)
