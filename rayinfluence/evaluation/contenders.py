"""Contenders: methods with their settings, and baselines, each with all of its scores.

N sequence, Q query.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rayinfluence.config import RunConfig, ScanConfig
from rayinfluence.corpus.queries import EncodedQuery
from rayinfluence.corpus.splits import Split
from rayinfluence.dataflow import layout, stage_names
from rayinfluence.dataflow.run import Run
from rayinfluence.dataflow.runners.memory import peak_bytes, reset_peak
from rayinfluence.dataflow.stages.scanned import Scanned
from rayinfluence.errors import ConfigError
from rayinfluence.evaluation.baselines import (
    HIDDEN_STATE,
    HIDDEN_VERSION,
    RANDOM,
    HiddenJob,
    random_scores,
)
from rayinfluence.evaluation.passes import pass_over
from rayinfluence.evaluation.shapley.neighbour_job import neighbour_scores
from rayinfluence.methods.registry import (
    LAST_LAYER_METHODS,
    METHODS,
    SELF_METHODS,
    TEXT_METHODS,
    factors_of,
    meaning_of,
)
from rayinfluence.storage.digest import digest
from rayinfluence.storage.results import scores_key
from rayinfluence.storage.store import Store, read_json_if_whole, read_table

#: What is predicted by the derivative of training.
UNROLLED = "unrolled"
#: Values of places in a vote of nearest hidden states, where the configuration says of how many.
KNN = "knn_shapley"
#: Values that trainings on coalitions gave before.
COALITIONS = "coalitions"
#: What banks of an evaluation are for.
USE = "evaluation"
#: Methods that stand beside those of the configuration in any case.
BASELINES = ("bm25", "gradient_product", "cosine")


@dataclass(frozen=True)
class Contender:
    """What is measured beside others.

    Attributes:
        name: as it is shown.
        method: of the registry, or a baseline.
        scan: its settings; None of a baseline that is no method of a scan.
    """

    name: str
    method: str
    scan: ScanConfig | None = None

    @property
    def needs(self) -> tuple[str, ...]:
        """What it takes."""
        if self.method in (HIDDEN_STATE, KNN):
            return ("hidden states",)
        if self.method == COALITIONS:
            return ("trainings",)
        if self.method == RANDOM:
            return ()
        if self.method == UNROLLED:
            return ("recipe",)
        if self.method in TEXT_METHODS:
            return ("texts",)
        if self.method in LAST_LAYER_METHODS:
            return ("a last layer fitted again",)
        return ("factors", "gradients") if factors_of(self.method) else ("gradients",)

    def predicts(self, own: str | None) -> bool:
        """Whether score / N is a predicted change.

        Args:
            own: the function that training maximised, where it is the user's own.
        """
        if self.method == UNROLLED:
            return True
        return self.method in METHODS and meaning_of(self.method, own).predicts


@dataclass(frozen=True)
class Cost:
    """What a contender's scores took.

    Attributes:
        seconds: of its queries and its pass over the corpus.
        peak_bytes: of this process's memory meanwhile; None where the work was done elsewhere.
    """

    seconds: float
    peak_bytes: int | None


def contenders(config: RunConfig) -> list[Contender]:
    """The methods of a configuration, its variants, and the baselines, each once.

    Raises:
        ConfigError: a variant is no method with settings, or is called as something else is.
    """
    assert config.evaluation is not None
    scan, texts = config.scan, not config.model_function
    found = [
        Contender(one.name, one.method, alone(scan, one.method, one.damping_scale))
        for one in scan.scored
        if one.method not in SELF_METHODS
    ]
    found += [_variant(config, name) for name in config.evaluation.variants]
    there = [one.name for one in found]
    found += [
        Contender(name, name, alone(scan, name, None))
        for name in BASELINES
        if name not in there and (texts or name not in TEXT_METHODS)
    ]
    found += [Contender(UNROLLED, UNROLLED)] * config.evaluation.unrolled
    found.append(Contender(HIDDEN_STATE, HIDDEN_STATE))
    if (shapley := config.evaluation.shapley) is not None and shapley.neighbours is not None:
        found.append(Contender(KNN, KNN))
    found.append(Contender(RANDOM, RANDOM))
    names = [one.name for one in found]
    if repeated := [name for name in names if names.count(name) > 1]:
        raise ConfigError(
            f"evaluation.variants: {repeated[0]!r} is what a method or a baseline is called; give "
            "the variant another name."
        )
    return found


def _variant(config: RunConfig, name: str) -> Contender:
    """A method with the settings that a configuration has for it under a name."""
    assert config.evaluation is not None
    place, changes = f"evaluation.variants.{name}", config.evaluation.variants[name]
    values = config.model_dump(exclude_unset=True)
    scan = {**values.get("scan", {}), "methods": config.scan.methods[:1], **changes}
    made = RunConfig.parse({**values, "scan": scan}, place).scan
    if len(made.scored) != 1 or made.methods[0] in SELF_METHODS:
        raise ConfigError(
            f"{place}: it is scored by {', '.join(one.name for one in made.scored)}, and one "
            "method that asks queries, at one damping, is measured at a time; name that alone."
        )
    return Contender(name, made.methods[0], made)


def alone(scan: ScanConfig, method: str, damping_scale: float | None) -> ScanConfig:
    """Settings of a scan by one method at one damping; None is of a method that has none."""
    changes: dict[str, Any] = {"methods": [method]}
    if damping_scale is not None:
        changes["damping_scale"] = damping_scale
    return scan.model_copy(update=changes)


def scored(
    run: Run, contender: Contender, queries: Sequence[EncodedQuery], ids_N: NDArray[np.int64]
) -> tuple[NDArray[np.float32], Cost | None]:
    """All scores of a contender [N, Q], NaN where there is none; and what they took.

    What they took is known where all of the corpus was scored at once, now or in an earlier call.

    Args:
        run: with its model and its corpus.
        contender: whose.
        queries: that are asked.
        ids_N: of the sequences that are wanted, ascending.

    Raises:
        ConfigError: the model has no hidden states, of the baseline that compares them.
    """
    if contender.method == RANDOM:
        columns = [random_scores(ids_N, query.digest, run.config.seed) for query in queries]
        return np.stack(columns, axis=1).astype(np.float32), None
    if contender.scan is not None and (kind := factors_of(contender.method)) is not None:
        run.fit(kind)  # shared by methods, and in nobody's time
    if contender.method == KNN:
        assert run.config.evaluation is not None
        assert run.config.evaluation.shapley is not None
        k = run.config.evaluation.shapley.neighbours
        assert k is not None
        return neighbour_scores(run, queries, ids_N, k).astype(np.float32), None
    before, started = dict(run.progress.timings), time.monotonic()
    inline = run.config.runner.name == "inline"
    reset_peak()
    if contender.scan is None:
        stores = dict.fromkeys((query.digest for query in queries), _hidden(run, queries))
        stage = stage_names.HIDDEN
    else:
        (found,) = run.score_all(contender.scan, USE)
        stores = {query.digest: _store_of(found, query.digest) for query in queries}
        stage = stage_names.SCAN
    cost = Cost(time.monotonic() - started, peak_bytes() if inline else None)
    was, now = (timings.get(stage) for timings in (before, run.progress.timings))
    n_tokens = (now.tokens if now else 0) - (was.tokens if was else 0)
    splits = run.corpus.plan(run.numerics.split_tokens)
    whole = n_tokens >= sum(split.n_tokens for split in splits)
    scores_NQ = _read(stores, queries, splits, ids_N)
    return scores_NQ, cost_known(run.store, [store.url for store in stores.values()], cost, whole)


def _hidden(run: Run, queries: Sequence[EncodedQuery]) -> Store:
    """Where scores by hidden states are, after those that are lacking were made."""
    made_of = {
        "version": HIDDEN_VERSION,
        "model": run.model_digest,
        "queries": [query.digest for query in queries],
        "numerics": asdict(run.numerics),
    }
    store = run.store / layout.EVALUATION / digest(made_of)
    pass_over(run, HiddenJob(run.corpus_store, store, queries), store, scores_key)
    return store


def _store_of(found: Scanned, query_digest: str) -> Store:
    (plan,) = [bank.plan for bank, _ in found.banks if query_digest in bank.plan.query_digests]
    return plan.store


def _read(
    stores: dict[str, Store],
    queries: Sequence[EncodedQuery],
    splits: Sequence[Split],
    ids_N: NDArray[np.int64],
) -> NDArray[np.float32]:
    """Scores by query from where they are kept; NaN of sequences that have none."""
    scores_NQ = np.full((len(ids_N), len(queries)), np.nan, dtype=np.float32)
    for place, query in enumerate(queries):
        store = stores[query.digest]
        there = store.list()
        for split in splits:
            if scores_key(split.digest) not in there:  # it was set aside
                continue
            table = read_table(store, scores_key(split.digest), ["sequence_id", query.digest])
            ids = table["sequence_id"].to_numpy()
            wanted = np.isin(ids, ids_N)
            rows = np.searchsorted(ids_N, ids[wanted])
            scores_NQ[rows, place] = table[query.digest].to_numpy()[wanted]
    return scores_NQ


def cost_known(root: Store, names: Sequence[str], cost: Cost, whole: bool) -> Cost | None:
    """A cost of all of the work, kept for later; or what was kept, where some was done before.

    Args:
        root: of the run.
        names: of what was made.
        cost: of what was done now.
        whole: whether that was all of it.
    """
    store = root / layout.EVALUATION / digest(sorted(set(names)))
    if whole:
        store.write(layout.TOOK, json.dumps(asdict(cost)).encode())
        return cost
    known = read_json_if_whole(store, layout.TOOK)
    return None if known is None else Cost(known["seconds"], known["peak_bytes"])
