"""The results' manifest: what was computed from what, and everything that tables must not hold."""

from __future__ import annotations

import json
import platform
import re
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict
from importlib.metadata import version
from typing import Any

from rayinfluence.corpus.corpus import Split
from rayinfluence.corpus.queries import EncodedQuery
from rayinfluence.dataflow.begin import preflight
from rayinfluence.dataflow.begin.parts import Parts
from rayinfluence.dataflow.compute.replica import Replica
from rayinfluence.dataflow.jobs.banks import BankPlan
from rayinfluence.dataflow.stages.factors import Factors
from rayinfluence.dataflow.stages.progress import Timing
from rayinfluence.dataflow.stages.queries import MethodQueries, query_report
from rayinfluence.dataflow.stages.results import Written
from rayinfluence.dataflow.stages.scan import Aside
from rayinfluence.dataflow.stages.scanned import Scanned
from rayinfluence.errors import DamagedError
from rayinfluence.storage.digest import digest
from rayinfluence.storage.results import (
    MANIFEST,
    SCHEMA_VERSION,
    read_results_manifest,
    table_key,
    version_manifest,
)
from rayinfluence.storage.store import Store, read_json

TIMINGS = "stages.json"
#: Raised whenever the same partials would give other tables.
_TABLES_VERSION = 6
_PACKAGES = ("rayinfluence", "torch", "transformers", "ray", "pyarrow", "numpy")


def results_fingerprint(
    banks: Sequence[BankPlan],
    splits: Sequence[Split],
    queries: Sequence[EncodedQuery],
    n_training: int,
    by_token: int | None,
    files: Sequence[str | None],
    missing: Collection[str] = (),
) -> str:
    """What decides the bytes of the tables.

    ``files`` are what shards' documents' files are called, and ``missing`` the digests of splits
    that the tables lack.
    """
    return digest(
        {
            "version": _TABLES_VERSION,
            "banks": [bank.fingerprint for bank in banks],
            "splits": digest([split.digest for split in splits]),
            "queries": digest([asdict(query.query) for query in queries]),
            "n_training_sequences": n_training,
            "token_scores": by_token,
            "files": digest(list(files)),
            "missing": sorted(missing),
        }
    )


def take_up_results(store: Store, fingerprint: str) -> bool:
    """Whether these results are there, whole; they are the current ones then."""
    there = store.list("results")
    if version_manifest(fingerprint) not in there:
        return False
    try:
        manifest = read_results_manifest(store, fingerprint)
    except DamagedError:
        return False
    if not {table_key(fingerprint, name) for name in manifest["tables"]} <= there.keys():
        return False
    body = store.read(version_manifest(fingerprint))
    if MANIFEST not in there or store.read(MANIFEST) != body:
        store.write(MANIFEST, body)
    return True


def write_manifest(store: Store, manifest: Mapping[str, Any]) -> None:
    """Write the manifest beside its tables, and then as that of the current results."""
    body = json.dumps(manifest, indent=1, ensure_ascii=False).encode()
    for key in (version_manifest(manifest["fingerprint"]), MANIFEST):
        store.write(key, body)


def run_manifest(
    run: Parts,
    prepared: Sequence[MethodQueries],
    factors: Factors | None,
    splits: Sequence[Split],
    scanned: Sequence[Scanned],
    written: Written,
    set_aside: Sequence[Aside],
) -> dict[str, Any]:
    """The manifest of a run's results.

    Args:
        run: configuration, model, corpus and queries.
        prepared: the queries of each method.
        factors: that they were preconditioned with.
        splits: that were scanned.
        scanned: what each method found.
        written: what the tables are.
        set_aside: splits that they lack.
    """
    replica, corpus = run.replica, run.corpus
    files = corpus.manifest.files
    aside = {one.digest for one in set_aside}
    return {
        "schema_version": SCHEMA_VERSION,
        "fingerprint": written.fingerprint,
        "tables": written.tables,
        "n_sequences": run.n_sequences,
        "n_training_sequences": run.n_training_sequences,
        "n_tokens": corpus.n_tokens,
        "methods": {
            one.method: _method(run, queries, one, written.rescored[one.method])
            for queries, one in zip(prepared, scanned, strict=True)
        },
        "dense_scores": [split.digest for split in splits if split.digest not in aside]
        if run.config.scan.scores == "dense"
        else None,
        "queries": written.queries,
        "model": {
            "path": run.config.model,
            "digest": run.model_digest,
            "architecture": type(replica.model).__name__,
            "parameters": sum(weight.numel() for weight in replica.model.parameters()),
            "tracked_parameters": sum(s.n_parameters for s in replica.shapes.values()),
            "coverage": run.tracked.coverage.share,
            "modules": list(replica.modules),
            "untracked": _untracked(replica),
        },
        "preflight": preflight.report(run.passed, run.tracked),
        "tokenizer": {"digest": corpus.manifest.tokenizer},
        "corpus": {
            "url": corpus.store.url,
            "fingerprint": corpus.fingerprint,
            "shards": len(corpus.manifest.shards),
            **{
                name: sum(report[key] for report in files)
                for name, key in (
                    ("documents", "documents"),
                    ("empty_documents", "empty_documents"),
                    ("short_chunks", "short_chunks"),
                    ("bad_documents", "n_bad"),
                )
            },
            "bad_sequences": _quarantined(run.bad_sequences),
        },
        "factors": factors
        and {
            "fingerprint": factors.fingerprint,
            "n_sequences": factors.n_sequences,
            "n_tokens": factors.n_tokens,
            "quarantined": factors.manifest["quarantine"],
            "error": factors.error,
            "error_bound": run.config.fit.error_bound,
            "rounds": factors.manifest["rounds"],
            "singular": factors.manifest["singular"],
        },
        "config": run.config.model_dump(),
        "numerics": asdict(run.numerics),
        "versions": {"python": platform.python_version()}
        | {package: version(package) for package in _PACKAGES},
        "stages": keep_timings(run.store, run.progress.timings),
        "set_aside": [asdict(aside) for aside in set_aside],
        "warnings": run.warnings,
    }


def keep_timings(store: Store, timings: dict[str, Timing]) -> dict[str, Any]:
    """Record this process's stages over those of earlier ones, whose work was reused."""
    known: dict[str, Any] = read_json(store, TIMINGS) if store.exists(TIMINGS) else {}
    known |= {
        name: {**asdict(timing), "tokens_per_second": timing.tokens_per_second}
        for name, timing in timings.items()
    }
    store.write(TIMINGS, json.dumps(known, indent=1).encode())
    return known


def _method(
    run: Parts, queries: MethodQueries, scanned: Scanned, rescored: dict[str, Any]
) -> dict[str, Any]:
    """What a method did, over all of its banks: queries that were added have one of their own.

    A sequence may be quarantined in one bank and not in another: ``queries`` says for which, where
    there are several.
    """
    several = len(scanned.banks) > 1
    names = {query.digest: query.query.query_id for query in run.queries}
    members = [
        [names[digest] for digest in bank.plan.query_digests if digest in names]
        for bank, _ in scanned.banks
    ]
    quarantined = [
        {"sequence_id": sequence_id, "reason": reason, **({"queries": of_bank} if several else {})}
        for of_bank, (_, partial) in zip(members, scanned.banks, strict=True)
        for sequence_id, reason in partial.quarantine.items()
    ]
    return {
        "banks": [bank.plan.fingerprint for bank, _ in scanned.banks],
        "rank": max(
            (bank.rank for bank, _ in scanned.banks if bank.rank is not None), default=None
        ),
        "damping": query_report(queries, run.queries[0]).get("damping"),
        "rescoring": rescored,
        # Of the bank that has the least: the others may have scored what it could not.
        "scanned_sequences": min(partial.n_sequences for _, partial in scanned.banks),
        "scanned_tokens": min(partial.n_tokens for _, partial in scanned.banks),
        "quarantined": sorted(quarantined, key=lambda row: int(row["sequence_id"])),
    }


def _untracked(replica: Replica) -> dict[str, int]:
    """Parameters that no score sees, by the name of what holds them, numbers of blocks as ``*``."""
    tracked = {id(w) for module in replica.modules.values() for w in module.parameters()}
    sizes: Counter[str] = Counter()
    for name, weight in replica.model.named_parameters():
        if id(weight) not in tracked:
            holder = name.rpartition(".")[0] or name
            sizes[re.sub(r"(?<![^.])[0-9]+(?![^.])", "*", holder)] += weight.numel()
    return dict(sizes.most_common())


def _quarantined(bad: dict[int, str]) -> list[dict[str, Any]]:
    return [{"sequence_id": sequence_id, "reason": reason} for sequence_id, reason in bad.items()]
