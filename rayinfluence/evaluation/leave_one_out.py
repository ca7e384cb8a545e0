"""Leave-one-out as results of their own: what became of models that were trained without a hit.

A run says which sequences are asked about: what its methods put first. A model is trained without
each of them, with each seed, and what that did to each query stands in tables like those of a run,
so that a report opens and a comparison sets beside each other what was predicted and what came.

    score = f(trained on all) - f(trained without z)        the mean over seeds ± its error

Positive: with z in training the answer is more likely. G what is left out, Q query, R seed.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from rayinfluence.config import RunConfig
from rayinfluence.dataflow.layout import CONFIG
from rayinfluence.dataflow.manifest import write_manifest
from rayinfluence.dataflow.seeds.hits import hits_of_means
from rayinfluence.dataflow.seeds.rows import Asked, measured_rows
from rayinfluence.dataflow.seeds.sequences import sequences_of, write_sequences
from rayinfluence.dataflow.stages.progress import ProgressLog
from rayinfluence.dataflow.stages.results import write_queries
from rayinfluence.errors import ConfigError, NumericsError
from rayinfluence.evaluation.bank import Bank
from rayinfluence.evaluation.farm import open_farm
from rayinfluence.evaluation.leave_out import Effects, effects
from rayinfluence.evaluation.subsets import Subset, without
from rayinfluence.storage.digest import digest
from rayinfluence.storage.results import (
    GROUP_SCHEMA,
    QUERIES,
    STATISTICS_SCHEMA,
    TAIL_SCHEMA,
    Meaning,
    Results,
    in_version,
    method_tables,
    of_method,
    seeds_schema,
    table_key,
)
from rayinfluence.storage.store import Store
from rayinfluence.storage.tables import writing_table

METHOD = "leave_one_out"
#: What is left out, of which results; there from the beginning.
BEGUN = "left_out.json"
#: Raised whenever the same trainings would make other results.
_VERSION = 2
#: Of the table of queries, what the manifest says of each.
_OF_A_QUERY = ("query_id", "digest", "objective", "unit", "value", "log_probability", "warning")
#: What the manifest of a run says of its own scores.
_OF_SCORES = ("dense_scores", "pair_scores", "selection", "filter", "set_aside", "stages")


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
        ConfigError: the folder is a run's, there is one seed alone, or nothing to leave out.
        NumericsError: a model says nothing finite of a query.
    """
    if into.exists(CONFIG):
        raise ConfigError(
            f"--into: {into.url} is the directory of a run, whose results these would not be. Name "
            "a folder of their own."
        )
    if config.evaluation is not None and len(config.evaluation.seeds) < 2:
        raise ConfigError(
            f"evaluation.seeds: {config.evaluation.seeds}, and what leaving one sequence out does "
            "is mostly less than what a seed does: without a second one nobody could tell. Name "
            "two or more."
        )
    store = Store(config.run, config.storage.options(config.run))
    results = _of_all(store)
    ids = chosen(results, first)
    if not len(ids):
        raise ConfigError(f"leave-one-out: {store.url} has no hits that could be left out.")
    # First of all, as hours of training should not end where nothing can be written.
    begun = {"of": results[0].manifest["fingerprint"], "sequence_ids": ids.tolist()}
    into.write(BEGUN, json.dumps(begun).encode())
    with open_farm(config, progress) as farm:
        subsets = [
            without([one], index, seed)
            for seed in farm.seeds
            for index, one in enumerate(ids.tolist())
        ]
        bank, seeds = farm.bank(subsets), farm.seeds
    found = measured(bank, ids, seeds)
    return _written(into, results, store.url, bank, found, ids, len(seeds))


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


def measured(bank: Bank, ids: NDArray[np.int64], seeds: Sequence[int]) -> Effects:
    """What leaving each sequence out did to each query, over seeds.

    Args:
        bank: with a training on all sequences, and one without each, for every seed.
        ids: of what was left out [G].
        seeds: of the trainings [R].

    Raises:
        NumericsError: a model says nothing finite of a query.
    """
    at = {(subset.seed, subset.dropped): row for row, subset in enumerate(bank.subsets)}
    bad_S, bad_Q = np.nonzero(~np.isfinite(bank.values_SQ))
    if len(bad_S):
        raise NumericsError(
            f"leave-one-out: {_named(bank.subsets[bad_S[0]])} gives "
            f"{bank.values_SQ[bad_S[0], bad_Q[0]]} for query {bank.about.query_ids[bad_Q[0]]!r}: "
            "no difference can be made of that. Leave the query out, or let the recipe train "
            "more gently."
        )
    full_RQ = np.stack([bank.values_SQ[at[seed, ()]] for seed in seeds])
    without_RGQ = np.stack(
        [[bank.values_SQ[at[seed, (one,)]] for one in ids.tolist()] for seed in seeds]
    )
    return effects(full_RQ, without_RGQ)


def _named(subset: Subset) -> str:
    if subset.is_full:
        return f"the model of all sequences with seed {subset.seed}"
    return f"the model without sequence {subset.dropped[0]} with seed {subset.seed}"


def _of_all(store: Store) -> list[Results]:
    first = Results.load(store)
    return [Results.load(store, name) for name in first.manifest["methods"]]


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
    store: Store,
    results: Sequence[Results],
    source_url: str,
    bank: Bank,
    found: Effects,
    ids: NDArray[np.int64],
    n_seeds: int,
) -> dict[str, Any]:
    """Write tables and manifest."""
    source, meaning = results[0].manifest, _meaning(n_seeds)
    fingerprint = digest(
        {
            "version": _VERSION,
            "of": source["fingerprint"],
            "recipe": bank.about.recipe,
            "effects": [found.mean_GQ.tolist(), found.error_GQ.tolist()],
            "ids": ids.tolist(),
        }
    )
    kind = (source.get("objective") or {}).get("kind")
    rows = {row["digest"]: row for one in results for row in one.queries.values()}
    asked = {query: Asked(rows[query], kind, False) for query in bank.about.query_digests}
    hits = {
        query: hits_of_means(ids, of_G, errors_G, of_G)
        for query, of_G, errors_G in zip(asked, found.mean_GQ.T, found.error_GQ.T, strict=True)
    }
    asking = [one for one in results if not one.meaning.of_itself]
    tables = write_sequences(asking, ids, store, fingerprint)
    texts = sequences_of(asking, ids)
    pieces = [
        measured_rows(asked[query], one, n_seeds, texts, meaning) for query, one in hits.items()
    ]
    tables |= _tables(store, fingerprint, pieces, meaning)
    key = table_key(fingerprint, QUERIES)
    tables[QUERIES] = write_queries(store, key, [one.row for one in asked.values()], fingerprint)
    manifest = {
        **{name: value for name, value in source.items() if name not in _OF_SCORES},
        "fingerprint": fingerprint,
        "tables": tables,
        "methods": {
            METHOD: {
                "meaning": asdict(meaning),
                "banks": [],
                "damping": {},
                "scanned_sequences": len(ids),
                "resolved": found.resolved,
                "of": source["fingerprint"],
            }
        },
        "queries": [{name: one.row.get(name) for name in _OF_A_QUERY} for one in asked.values()],
        "factors": None,
        "diagonal_factors": None,
        "dense_scores": None,
        "filter": {
            "candidates": len(ids),
            "sequences": source["n_sequences"],
            "method": ", ".join(one.method for one in asking),
            "run": source_url,
            "recall": {},
        },
        "set_aside": [],
        "seeds": {"n": n_seeds},
        "warnings": [
            f"of {len(ids):,} sequences, each left out alone, {found.resolved:.0%} of the effects "
            "are more than two standard errors from zero; the others are not told from what a "
            "seed does."
        ],
    }
    write_manifest(store, manifest)
    return manifest


def _tables(
    store: Store, fingerprint: str, pieces: list[pa.Table], meaning: Meaning
) -> dict[str, str]:
    """Write those of the method; their digests by name. Sums of all scores there are none of."""
    parts: list[tuple[pa.Schema, list[pa.Table]]] = [
        (seeds_schema(meaning), pieces),
        (GROUP_SCHEMA, []),
        (STATISTICS_SCHEMA, []),
        (TAIL_SCHEMA, []),
    ]
    written = {}
    for name, (schema, some) in zip(method_tables(METHOD), parts, strict=True):
        schema = in_version(of_method(schema, meaning), fingerprint)
        with writing_table(store, table_key(fingerprint, name), schema) as writer:
            writer.extend(some)
        written[name] = writer.digest
    return written
