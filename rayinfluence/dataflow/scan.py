"""The scan stage: queries into banks, every split against every bank that lacks it, merging.

    <run>/queries/<fingerprint>/<query digest>.safetensors   a query preconditioned by one method
    <run>/scan/<bank fingerprint>/manifest.json              which queries, in which order, under
    which settings
                                  partials/<split digest>.safetensors

Queries that are added to a run get a bank of their own, and shards that are added get partials of
their own, so all that was computed before stays valid.
"""

from __future__ import annotations

import json
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from rayinfluence.config import ScanConfig
from rayinfluence.corpus.corpus import Corpus, Split
from rayinfluence.corpus.queries import EncodedQuery
from rayinfluence.dataflow.factors import Factors
from rayinfluence.dataflow.fit import refuse_many_bad
from rayinfluence.dataflow.jobs import (
    BankOperands,
    BankPlan,
    MethodOperands,
    QueryJob,
    ScanJob,
    partial_key,
    query_key,
)
from rayinfluence.dataflow.partial import FAN_IN, Partial, merge_all
from rayinfluence.dataflow.progress import ProgressLog
from rayinfluence.dataflow.replica import Numerics
from rayinfluence.dataflow.runner import Pending, Runner
from rayinfluence.errors import DamagedError
from rayinfluence.methods.preconditioner import WITHOUT_CURVATURE
from rayinfluence.storage.digest import digest
from rayinfluence.storage.shared import SharedTensors
from rayinfluence.storage.store import Store, read_json
from rayinfluence.storage.tensors import read_header

MANIFEST = "manifest.json"


@dataclass(frozen=True)
class MethodQueries:
    """The queries of one method: where they are kept and the fingerprint of how they were made."""

    method: str
    fingerprint: str
    parts: dict[str, Any]
    store: Store


def precondition(
    runner: Runner,
    root: Store,
    model_digest: str,
    modules: Sequence[str],
    factors: Factors | None,
    queries: Sequence[EncodedQuery],
    config: ScanConfig,
    numerics: Numerics,
    progress: ProgressLog,
) -> list[MethodQueries]:
    """Precondition every query by every method that has not done so, and commit each."""
    rank = None if config.rank == "dense" else config.rank
    prepared = []
    factor_tensors = SharedTensors()
    for method in config.methods:
        curved = method not in WITHOUT_CURVATURE
        parts = {
            "method": method,
            "model": model_digest,
            "modules": list(modules),
            "factors": factors.fingerprint if curved and factors else None,
            "damping": [config.damping_scale, config.damping] if curved else None,
            "rank": rank,
            "numerics": {k: v for k, v in asdict(numerics).items() if k != "split_tokens"},
        }
        prepared.append(
            MethodQueries(method, digest(parts), parts, root / "queries" / digest(parts))
        )
    by_digest = {query.digest: query for query in queries}
    missing = [
        [d for d in by_digest if query_key(d) not in keys]
        for keys in (prepared_one.store.list() for prepared_one in prepared)
    ]
    if factors and any(
        lacking
        for lacking, p in zip(missing, prepared, strict=True)
        if p.method not in WITHOUT_CURVATURE
    ):
        factor_tensors = factors.tensors()
    operands = [
        MethodOperands(
            one.method,
            one.store,
            SharedTensors() if one.method in WITHOUT_CURVATURE else factor_tensors,
            config.damping_scale,
            config.damping,
            factors.n_tokens if factors else 0,
            factors.n_sequences if factors else 0,
        )
        for one in prepared
    ]
    # Methods that lack nothing need no operator.
    active = [index for index, lacking in enumerate(missing) if lacking]
    items = [
        (query, tuple(place for place, index in enumerate(active) if d in missing[index]))
        for d, query in by_digest.items()
        if any(d in missing[index] for index in active)
    ]
    if items:
        job = QueryJob([operands[index] for index in active], rank)
        with progress.stage("queries", sum(len(q.tokens) for q, _ in items)) as stage:
            for _ in runner.replicas(job, items, stage.advance):
                pass
    return prepared


def plan_banks(
    root: Store,
    methods: Sequence[MethodQueries],
    query_digests: Sequence[str],
    config: ScanConfig,
    numerics: Numerics,
) -> list[BankPlan]:
    """Group each method's queries into banks: those of earlier runs, and one for what is new.

    Of planners that want the same new bank at once, one makes it and the others take it.
    """
    needed = list(dict.fromkeys(query_digests))
    manifests = {
        key.split("/")[0]: read_json(root / "scan", key)
        for key in (root / "scan").list()
        if key.count("/") == 1 and key.endswith(MANIFEST)
    }
    banks: list[BankPlan] = []
    for method in methods:
        base = {
            "queries": method.fingerprint,
            "top": config.top,
            "group_by": config.group_by,
            "numerics": asdict(numerics),
        }
        left = list(needed)
        for fingerprint, manifest in sorted(manifests.items(), key=lambda item: item[1]["ordinal"]):
            if manifest["base"] == base and set(manifest["query_digests"]) & set(left):
                members = tuple(manifest["query_digests"])
                store = root / "scan" / fingerprint
                banks.append(BankPlan(method.method, fingerprint, members, method.store, store))
                left = [query for query in left if query not in members]
        if left:
            fingerprint = digest({"base": base, "query_digests": left})
            store = root / "scan" / fingerprint
            manifest = {
                "method": method.method,
                "base": base,
                "query_digests": left,
                "ordinal": len(manifests),
            }
            body = json.dumps(manifest, indent=1, sort_keys=True).encode()
            # The ordinal is about the banks that we saw; another planner may have seen others.
            made = store.create(MANIFEST, body)
            manifests[fingerprint] = manifest if made else read_json(store, MANIFEST)
            banks.append(BankPlan(method.method, fingerprint, tuple(left), method.store, store))
    return banks


def scan(
    runner: Runner,
    corpus: Corpus,
    splits: Sequence[Split],
    banks: Sequence[BankPlan],
    config: ScanConfig,
    progress: ProgressLog,
) -> list[tuple[BankOperands, Partial]]:
    """Score all splits that lack a partial of a bank, and merge the partials of each bank.

    A partial that turns out to be damaged when it is merged is discarded and its split scored
    again.

    Returns:
        Per bank, the operands that the explain pass needs, and the merged partial.
    """
    operands = [BankOperands.load(bank) for bank in banks]
    job = ScanJob(corpus.store, operands, config.top, tuple(config.group_by))
    merged: list[Partial | None] = [None] * len(banks)
    while True:
        # One listing of each ledger: a partial that is there is done.
        ledgers = [bank.store.list("partials") for bank in banks]
        pending: list[Pending] = []
        for split in splits:
            lacking = tuple(
                index
                for index, ledger in enumerate(ledgers)
                if partial_key(split.digest) not in ledger
            )
            if lacking:
                pending.append((split, lacking))
        if pending:
            with progress.stage("scan", sum(split.n_tokens for split in splits)) as stage:
                done = {split.index for split, _ in pending}
                stage.skip(sum(s.n_tokens for s in splits if s.index not in done))
                for _ in runner.scan(job, pending, stage.advance):
                    pass
        with progress.stage("merge"):
            damaged = 0
            for index, bank in enumerate(banks):
                merged[index], bad = merge(runner, bank, splits, config.top)
                damaged += len(bad)
                for key in bad:
                    bank.store.delete(key)
        if not damaged:
            break
        progress.note(f"{damaged} damaged partials were discarded; their splits are scored again.")
    results = [(bank, partial) for bank, partial in zip(operands, merged, strict=True) if partial]
    for _, partial in results:
        n_bad = len(partial.quarantine)
        refuse_many_bad(n_bad, partial.n_sequences + n_bad, partial.quarantine)
    return results


def merge(
    runner: Runner, bank: BankPlan, splits: Sequence[Split], top: int
) -> tuple[Partial, list[str]]:
    """Merge a bank's partials in one fixed tree of fan-in 64 over the splits.

    Returns:
        The merged partial, and the keys of partials that are damaged (left out of it).
    """
    leaves = [(bank, tuple(splits[i : i + FAN_IN]), top) for i in range(0, len(splits), FAN_IN)]
    # A single leaf is not worth a task.
    outcomes = (
        [merge_leaf(leaf) for leaf in leaves]
        if len(leaves) == 1
        else [*runner.tasks(merge_leaf, leaves)]
    )
    level = [partial for partial, _ in outcomes]
    while len(level) > 1:
        level = list(
            runner.tasks(merge_all, [level[i : i + FAN_IN] for i in range(0, len(level), FAN_IN)])
        )
    return level[0], [key for _, bad in outcomes for key in bad]


def merge_leaf(item: tuple[BankPlan, tuple[Split, ...], int]) -> tuple[Partial, list[str]]:
    """Read and merge the partials of neighbouring splits."""
    bank, splits, top = item
    merged = Partial.empty(len(bank.query_digests), top)
    damaged = []
    for split in splits:
        try:
            merged = merged.merge(
                Partial.read(bank.store, partial_key(split.digest), bank.about(split.digest))
            )
        except DamagedError:
            damaged.append(partial_key(split.digest))
    return merged, damaged


def query_report(method: MethodQueries, query: EncodedQuery) -> dict[str, Any]:
    """What the model thinks of a completion: log-probabilities [nats] and ranks of its tokens."""
    return read_header(method.store, query_key(query.digest))


def survivors_by_split(
    splits: Sequence[Split], partial: Partial, queries: Sequence[int]
) -> list[tuple[Split, tuple[tuple[int, int], ...]]]:
    """The (query, sequence id) pairs that survived, by the split that holds the sequence."""
    starts = [split.first_sequence_id for split in splits]
    pairs: dict[int, set[tuple[int, int]]] = {}
    for query in queries:
        for side in (partial.proponents, partial.opponents):
            for sequence_id in side.of_query(query)[1].tolist():
                place = bisect_right(starts, sequence_id) - 1
                pairs.setdefault(place, set()).add((query, sequence_id))
    return [(splits[place], tuple(sorted(pairs[place]))) for place in sorted(pairs)]
