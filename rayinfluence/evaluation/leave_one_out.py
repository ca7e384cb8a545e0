"""Leave-one-out as results of their own: what became of models that were trained without a hit.

A run says which sequences are asked about: what its methods put first. A model is trained without
each of them, with each seed, and what that did to each query stands in tables like those of a run,
so that a report opens and a comparison sets beside each other what was predicted and what came.

    score = f(trained on all) - f(trained without z)        the mean over seeds ± its error

Positive: with z in training the answer is more likely. G what is left out, Q query, R seed.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from rayinfluence.config import RunConfig
from rayinfluence.dataflow.seeds.hits import hits_of_means
from rayinfluence.dataflow.seeds.rows import Asked, measured_rows
from rayinfluence.dataflow.seeds.sequences import sequences_of, write_sequences
from rayinfluence.dataflow.stages.progress import ProgressLog
from rayinfluence.errors import ConfigError
from rayinfluence.evaluation.farm import open_farm
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
from rayinfluence.storage.results import GROUP_SCHEMA, Meaning, Results, seeds_schema
from rayinfluence.storage.store import Store

METHOD = "leave_one_out"


def leave_one_out(
    config: RunConfig, first: int, into: Store, progress: ProgressLog | None = None
) -> dict[str, Any]:
    """Train without each of a run's first hits, and write what came as results; their manifest.

    Args:
        config: of a run that is done, with a section that says how models are trained.
        first: hits of each query, direction and method of the run that are left out, one by one.
        into: a folder that is no run's.
        progress: where progress goes; standard error by default.

    Raises:
        ConfigError: the folder is a run's, there is one seed alone, or nothing to leave out; or
            the run's results are of another corpus or other queries than the configuration.
        InputError: a table of trainings is given, and is of others, or lacks some.
        NumericsError: a model says nothing finite of a query.
    """
    results = opened(config, into)
    ids = chosen(results, first)
    if not len(ids):
        raise ConfigError(f"leave-one-out: {config.run} has no hits that could be left out.")
    begin(into, results, {"sequence_ids": ids.tolist()})
    left = Left("sequence", tuple(map(str, ids.tolist())), tuple((one,) for one in ids.tolist()))
    with open_farm(config, progress) as farm:
        assert config.evaluation is not None
        found = measure(farm, config.evaluation, results, left)
        return _written(into, results, farm.run.store.url, found, ids)


def chosen(results: Sequence[Results], first: int) -> NDArray[np.int64]:
    """The first hits of each query and direction by each method that asks queries, ascending."""
    rows = [
        one.table.filter(pa.compute.less_equal(one.table["rank"], first))
        for one in results
        if not one.meaning.of_itself
    ]
    ids: NDArray[np.int64] = np.unique(
        np.concatenate([np.zeros(0, np.int64), *(one["sequence_id"].to_numpy() for one in rows)])
    )
    return ids


def _meaning(n_seeds: int) -> Meaning:
    return Meaning(
        f"measured, and no estimate: what {n_seeds} models say that were trained on everything, "
        "less what those say that were trained without the sequence, with the same seeds; the mean "
        "± its standard error over seeds. Only sequences that methods of the run put first were "
        "left out: ranks are among these.",
        "that of the query: nats of log-probabilities",
        predicts=False,
        has_layers=False,
        of_predictions=False,
        measured=True,
    )


def _written(
    into: Store,
    results: Sequence[Results],
    source_url: str,
    found: Measured,
    ids: NDArray[np.int64],
) -> dict[str, Any]:
    """Write tables and manifest."""
    source, n_seeds, effects = results[0].manifest, len(found.seeds), found.effects
    meaning = _meaning(n_seeds)
    fingerprint = fingerprint_of(results, found, {"ids": ids.tolist()})
    kind = (source.get("objective") or {}).get("kind")
    asked = [Asked(row, kind, False) for row in rows_asked(results, found.bank).values()]
    asking = [one for one in results if not one.meaning.of_itself]
    tables = write_sequences(asking, ids, into, fingerprint)
    texts = sequences_of(asking, ids)
    pieces = [
        measured_rows(one, hits_of_means(ids, of_G, errors_G, of_G), n_seeds, texts, meaning)
        for one, of_G, errors_G in zip(asked, effects.mean_GQ.T, effects.error_GQ.T, strict=True)
    ]
    said = Said(
        METHOD,
        meaning,
        (seeds_schema(meaning), pieces),
        (GROUP_SCHEMA, ()),
        {"scanned_sequences": len(ids)},
        {
            "candidates": len(ids),
            "sequences": source["n_sequences"],
            "method": ", ".join(one.method for one in asking),
            "run": source_url,
            "recall": {},
        },
        [
            f"of {len(ids):,} sequences, each left out alone, {effects.resolved:.0%} of the "
            "effects are more than two standard errors from zero; the others are not told from "
            "what a seed does."
        ],
    )
    return write_results(into, results, found, said, fingerprint, tables)
