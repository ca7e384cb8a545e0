"""What leaving something out did, sequences or groups of them, as results of a folder of their own.

A finished run says what was asked; models are trained without each of what is left out, with each
seed, and what that did to each query stands in tables beside a manifest, as those of a run do.

G what is left out, Q query, R seed.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from rayinfluence.config import RunConfig
from rayinfluence.config_evaluation import EvaluationConfig
from rayinfluence.dataflow.layout import CONFIG
from rayinfluence.dataflow.manifest import write_manifest
from rayinfluence.dataflow.stages.results import write_queries
from rayinfluence.errors import ConfigError, InputError
from rayinfluence.evaluation.asked import (
    Answers,
    BySeed,
    distinct,
    refuse_not_finite,
    with_seeds,
)
from rayinfluence.evaluation.bank import Bank
from rayinfluence.evaluation.farm import Farm
from rayinfluence.evaluation.given import asked_before, given_bank, seeds_of
from rayinfluence.evaluation.leave_out import Effects, effects
from rayinfluence.evaluation.subsets import without
from rayinfluence.storage.digest import digest
from rayinfluence.storage.results import (
    QUERIES,
    STATISTICS_SCHEMA,
    TAIL_SCHEMA,
    Meaning,
    Results,
    in_version,
    method_tables,
    of_method,
    table_key,
)
from rayinfluence.storage.store import Store
from rayinfluence.storage.tables import writing_table

#: What is left out, of which results; there from the beginning.
BEGUN = "left_out.json"
#: Raised whenever the same trainings would make other results.
_VERSION = 2
#: Of the table of queries, what the manifest says of each.
_OF_A_QUERY = ("query_id", "digest", "objective", "unit", "value", "log_probability", "warning")
#: What the manifest of a run says of its own scores.
_OF_SCORES = ("dense_scores", "pair_scores", "selection", "filter", "set_aside", "stages")


@dataclass(frozen=True)
class Left:
    """What is left out, each by itself.

    Attributes:
        what: each is, in messages: "sequence" or "group".
        names: of each [G].
        members: ids of its sequences.
    """

    what: str
    names: tuple[str, ...]
    members: tuple[tuple[int, ...], ...]


@dataclass(frozen=True)
class Measured:
    """What became of models.

    Attributes:
        bank: the trainings.
        seeds: with which each was made [R].
        effects: of each that was left out, on each query [G, Q].
    """

    bank: Bank
    seeds: tuple[int, ...]
    effects: Effects


def opened(config: RunConfig, into: Store) -> list[Results]:
    """The results of a run by each of its methods, after it was seen that it can be asked.

    Args:
        config: of a run that is done, with a section that says how models are trained.
        into: the folder that results are to go to.

    Raises:
        ConfigError: the folder is a run's, or there is one seed alone.
        StorageError: the run has no results.
    """
    if into.exists(CONFIG):
        raise ConfigError(
            f"--into: {into.url} is the directory of a run, whose results these would not be. Name "
            "a folder of their own."
        )
    if config.evaluation is not None and config.evaluation.bank is None:
        _refuse_one(config.evaluation.seeds, "Name two or more.")
    store = Store(config.run, config.storage.options(config.run))
    first = Results.load(store)
    return [Results.load(store, name) for name in first.manifest["methods"]]


def begin(into: Store, results: Sequence[Results], told: Mapping[str, Any]) -> None:
    """Note what is left out, before hours of training end where nothing can be written.

    Args:
        into: the folder that results are to go to.
        results: of the run.
        told: what is left out.
    """
    begun = {"of": results[0].manifest["fingerprint"], **told}
    into.write(BEGUN, json.dumps(begun).encode())


def measure(
    farm: Farm, wanted: EvaluationConfig, results: Sequence[Results], left: Left
) -> Measured:
    """Train without each of what is left out, or look into a table that is given.

    Args:
        farm: of the run.
        wanted: its section.
        results: of the run, by each of its methods.
        left: what is left out.

    Raises:
        ConfigError: results are of another corpus or other queries, or of one seed alone.
        InputError: a table of trainings is of others, or lacks some.
        NumericsError: a training diverged, or a model says nothing finite of a query.
    """
    _refuse_others(farm, results)
    given, _ = given_bank(farm, wanted)
    seeds = farm.seeds if given is None else seeds_of(given)
    subsets = _subsets(left, seeds)
    if given is None:
        # What was asked for before stays in the table that is written.
        flat = [subset for row in subsets for subset in row]
        bank = farm.bank(distinct([*flat, *asked_before(farm)]))
    else:
        _refuse_one(seeds, "The table of evaluation.bank has one; leave the key out.")
        bank = given
        lacking = sum(not Answers(given).has([subset]) for row in subsets for subset in row)
        if lacking:
            raise InputError(
                f"evaluation.bank: the table lacks {lacking:,} of {len(seeds) * len(subsets[0]):,} "
                f"trainings without a {left.what}. Leave the key out to have models trained here."
            )
    return Measured(bank, seeds, measured(bank, left, seeds))


def measured(bank: Bank, left: Left, seeds: Sequence[int]) -> Effects:
    """What leaving each out did to each query, over seeds.

    Args:
        bank: with a training on all sequences, and one without each, for every seed.
        left: what was left out.
        seeds: of the trainings.

    Raises:
        NumericsError: a model says nothing finite of a query.
    """
    answers = Answers(bank)
    full_RQ, without_RGQ = answers.full(seeds), answers.by_seed(_subsets(left, seeds))
    for seed, full_Q, without_GQ in zip(seeds, full_RQ, without_RGQ, strict=True):
        models = ["of all sequences", *(f"without {left.what} {name}" for name in left.names)]
        refuse_not_finite(
            np.concatenate([full_Q[None], without_GQ]),
            [f"{one} with seed {seed}" for one in models],
            bank.about.query_ids,
            "leave-one-out",
        )
    return effects(full_RQ, without_RGQ)


def _subsets(left: Left, seeds: Sequence[int]) -> BySeed:
    """Without each, with each seed."""
    subsets = [without(ids, index, seeds[0]) for index, ids in enumerate(left.members)]
    return with_seeds(subsets, seeds)


@dataclass(frozen=True)
class Said:
    """What is said of what was measured.

    Attributes:
        method: what the results are called by.
        meaning: of their scores.
        survivors, groups: the schema of each table, and pieces of it.
        of_method: what the manifest says of the method besides.
        filter: which sequences there was anything to be said of, as the manifest has it; None of
            all.
        warnings: in sentences.
    """

    method: str
    meaning: Meaning
    survivors: tuple[pa.Schema, Sequence[pa.Table]]
    groups: tuple[pa.Schema, Sequence[pa.Table]]
    of_method: Mapping[str, Any]
    filter: Mapping[str, Any] | None
    warnings: Sequence[str]


def write_results(
    into: Store,
    results: Sequence[Results],
    found: Measured,
    said: Said,
    fingerprint: str,
    tables: Mapping[str, str],
) -> dict[str, Any]:
    """Write the tables that are lacking, and the manifest, which is returned.

    Args:
        into: the folder.
        results: of the run, by each of its methods.
        found: what became of models.
        said: what is said of it.
        fingerprint: of these results.
        tables: digests of those that are written already, by name.
    """
    source = results[0].manifest
    rows = rows_asked(results, found.bank)
    key = table_key(fingerprint, QUERIES)
    # Of all scores there is nothing.
    parts = (said.survivors, said.groups, (STATISTICS_SCHEMA, ()), (TAIL_SCHEMA, ()))
    written = {**tables, QUERIES: write_queries(into, key, list(rows.values()), fingerprint)}
    for name, (schema, some) in zip(method_tables(said.method), parts, strict=True):
        schema = in_version(of_method(schema, said.meaning), fingerprint)
        with writing_table(into, table_key(fingerprint, name), schema) as writer:
            writer.extend(some)
        written[name] = writer.digest
    manifest = {
        **{name: value for name, value in source.items() if name not in _OF_SCORES},
        "fingerprint": fingerprint,
        "tables": written,
        "methods": {
            said.method: {
                "meaning": asdict(said.meaning),
                "banks": [],
                "damping": {},
                "resolved": found.effects.resolved,
                "of": source["fingerprint"],
                **said.of_method,
            }
        },
        "queries": [{name: row.get(name) for name in _OF_A_QUERY} for row in rows.values()],
        "factors": None,
        "diagonal_factors": None,
        "dense_scores": None,
        "filter": said.filter,
        "set_aside": [],
        "seeds": {"n": len(found.seeds)},
        "warnings": list(said.warnings),
    }
    write_manifest(into, manifest)
    return manifest


def fingerprint_of(results: Sequence[Results], found: Measured, more: Mapping[str, Any]) -> str:
    """Of results: of what run, by which recipe, and what was measured.

    Args:
        results: of the run.
        found: what became of models.
        more: that they say besides.
    """
    return digest(
        {
            "version": _VERSION,
            "of": results[0].manifest["fingerprint"],
            "recipe": found.bank.about.recipe,
            "effects": [found.effects.mean_GQ.tolist(), found.effects.error_GQ.tolist()],
            **more,
        }
    )


def rows_asked(results: Sequence[Results], bank: Bank) -> dict[str, Mapping[str, Any]]:
    """Of each query of a table of trainings its row in the run's results, by digest."""
    rows = {row["digest"]: row for one in results for row in one.queries.values()}
    return {query: rows[query] for query in bank.about.query_digests}


def _refuse_others(farm: Farm, results: Sequence[Results]) -> None:
    """See that results are of the corpus and the queries that models are trained on and asked."""
    run, manifest = farm.run, results[0].manifest
    advice = "`rayinfluence run` makes those of now; then do this again."
    if manifest["corpus"]["fingerprint"] != run.corpus.fingerprint:
        raise ConfigError(
            f"leave-one-out: the results in {run.store.url} are of another corpus than the "
            f"configuration names. {advice}"
        )
    known = {row["digest"] for one in results for row in one.queries.values()}
    for query in farm.queries:
        if query.digest not in known:
            raise ConfigError(
                f"leave-one-out: the results in {run.store.url} are not of query "
                f"{query.query.query_id!r} as it is asked now. {advice}"
            )


def _refuse_one(seeds: Sequence[int], advice: str) -> None:
    if len(seeds) < 2:
        raise ConfigError(
            f"evaluation.seeds: {list(seeds)}, and what leaving something out does is mostly less "
            f"than what a seed does: without a second one nobody could tell. {advice}"
        )
