"""The results' manifest: what was computed from what, and everything that tables must not hold."""

from __future__ import annotations

import json
import platform
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict
from importlib.metadata import version
from typing import Any

from rayinfluence.corpus.queries import EncodedQuery
from rayinfluence.corpus.splits import Split
from rayinfluence.dataflow import layout
from rayinfluence.dataflow.begin import preflight
from rayinfluence.dataflow.begin.parts import Parts
from rayinfluence.dataflow.jobs.banks import BankPlan
from rayinfluence.dataflow.stages.factors import Factors
from rayinfluence.dataflow.stages.progress import Timing
from rayinfluence.dataflow.stages.queries import MethodQueries, query_report
from rayinfluence.dataflow.stages.refine import solver_report
from rayinfluence.dataflow.stages.results import Written
from rayinfluence.dataflow.stages.scan import Aside
from rayinfluence.dataflow.stages.scanned import Scanned
from rayinfluence.errors import DamagedError
from rayinfluence.methods.method import FactorKind
from rayinfluence.methods.registry import GRADIENT_METHODS, meaning_of, refined
from rayinfluence.storage.digest import digest
from rayinfluence.storage.results import (
    MANIFEST,
    SCHEMA_VERSION,
    read_results_manifest,
    table_key,
    version_manifest,
)
from rayinfluence.storage.store import Store, read_json_if_whole
from rayinfluence.storage.tables import is_table

#: Raised whenever the same partials would give other tables.
_TABLES_VERSION = 10
#: What is known of a stage.
_TIMED = {"seconds", "tokens", "tokens_per_second"}
_PACKAGES = ("rayinfluence", "torch", "transformers", "ray", "pyarrow", "numpy")


def results_fingerprint(
    banks: Sequence[BankPlan],
    splits: Sequence[Split],
    queries: Sequence[EncodedQuery],
    n_training: int,
    by_token: int | None,
    influences: int,
    pair_scores: int,
    files: Sequence[str | None],
    around: int,
    part: Mapping[str, Any] | None,
    own: str | None,
    missing: Collection[str] = (),
) -> str:
    """What decides the bytes of the tables, and what is said of the part of the corpus they are of.

    ``files`` are what shards' documents' files are called, ``around`` is how much of a document is
    kept beside a sequence, ``part`` is what the manifest says of
    selecting and filtering, None where all was scanned, ``own`` is the function that training
    maximised, where it is the user's own, and ``missing`` are the digests of splits that the tables
    lack.
    """
    names = [bank.name for bank in banks]
    return digest(
        {
            "version": _TABLES_VERSION,
            "banks": [bank.fingerprint for bank in banks],
            "meanings": [asdict(meaning_of(bank.method, own)) for bank in banks],
            "splits": digest([split.digest for split in splits]),
            "queries": digest([asdict(query.query) for query in queries]),
            "n_training_sequences": n_training,
            "token_scores": by_token,
            "token_influences": influences,
            "pair_scores": pair_scores,
            "files": digest(list(files)),
            "surroundings": around,
            "missing": sorted(missing),
            **({} if part is None else {"part": digest(part)}),
            **({} if all(bank.name == bank.method for bank in banks) else {"names": names}),
        }
    )


def take_up_results(store: Store, fingerprint: str) -> bool:
    """Whether these results are there, whole; they are the current ones then."""
    there = store.list(layout.RESULTS)
    if version_manifest(fingerprint) not in there:
        return False
    try:
        manifest = read_results_manifest(store, fingerprint)
    except DamagedError:
        return False
    tables = {table_key(fingerprint, name): of for name, of in manifest["tables"].items()}
    if not all(key in there and is_table(store, key, of) for key, of in tables.items()):
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
    factors: Mapping[FactorKind, Factors],
    splits: Sequence[Split],
    scanned: Sequence[Scanned],
    written: Written,
    set_aside: Sequence[Aside],
) -> dict[str, Any]:
    """The manifest of a run's results.

    Args:
        run: configuration, model, corpus and queries.
        prepared: the queries of each method.
        factors: that they were preconditioned with, by kind.
        splits: that were scanned.
        scanned: what each method found.
        written: what the tables are.
        set_aside: splits that they lack.
    """
    replica, corpus, folders = run.replica, run.corpus, run.inputs.folders
    aside = {one.digest for one in set_aside}
    return {
        "schema_version": SCHEMA_VERSION,
        "fingerprint": written.fingerprint,
        "tables": written.tables,
        "n_sequences": run.n_sequences,
        "n_training_sequences": run.n_training_sequences,
        "n_tokens": corpus.n_tokens,
        "methods": {
            one.name: _method(run, queries, one, written.rescored[one.name])
            for queries, one in zip(prepared, scanned, strict=True)
        },
        "dense_scores": [split.digest for split in splits if split.digest not in aside]
        if run.config.scan.scores == "dense"
        else None,
        "queries": written.queries,
        "pair_scores": written.paired,
        "model": {
            "path": run.config.model,
            "commit": folders.model.commit,
            "digest": run.model_digest,
            "architecture": type(replica.model).__name__,
            "parameters": sum(weight.numel() for weight in replica.model.parameters()),
            "tracked_parameters": sum(s.n_parameters for s in replica.shapes.values()),
            "reached_parameters": run.tracked.coverage.reached,
            "coverage": run.tracked.coverage.share,
            "modules": list(replica.modules),
            "parameters_by_module": {n: s.n_parameters for n, s in replica.shapes.items()},
            "base": folders.source.weights if folders.source.adapter else None,
            "base_commit": None if folders.base is None else folders.base.commit,
            "frozen_parameters": run.tracked.frozen,
            "untracked": _by_holder(run.tracked.coverage.rest),
        },
        "preflight": preflight.report(run.passed, run.tracked),
        "tokenizer": {"digest": corpus.manifest.tokenizer, "commit": folders.tokenizer.commit},
        "corpus": {
            "url": corpus.store.url,
            "fingerprint": corpus.fingerprint,
            "shards": len(corpus.manifest.shards),
            **{
                name: corpus.manifest.total(key)
                for name, key in (
                    ("documents", "documents"),
                    ("empty_documents", "empty_documents"),
                    ("short_documents", "short_documents"),
                    ("no_pages", "no_pages"),
                    ("short_chunks", "short_chunks"),
                    ("bad_documents", "n_bad"),
                    ("quarantined_rows", "quarantined"),
                )
            },
            "reasons": corpus.manifest.reasons,
            "files_without_rows": corpus.manifest.without_rows,
            "bad_files": [asdict(bad) for bad in corpus.manifest.bad_files],
            "metadata_not_kept": dict(corpus.manifest.not_kept),
            **{name: getattr(corpus.manifest.settings, name) for name in ("bos", "eos", "overlap")},
            "bad_sequences": _quarantined(run.bad_sequences),
        },
        "objective": {
            **run.config.objective.model_dump(),
            "kind": run.inputs.kind,
            "function": run.config.objective.function,
            "mask_rate": run.numerics.masking and run.numerics.masking.rate,
            **asdict(run.counted),
        },
        "factors": _factors(run, factors.get("ekfac")),
        "diagonal_factors": _factors(run, factors.get("diagonal")),
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
    known = {
        name: of
        for name, of in (read_json_if_whole(store, layout.TIMINGS) or {}).items()
        if isinstance(of, dict) and of.keys() == _TIMED
    }
    known |= {
        name: {**asdict(timing), "tokens_per_second": timing.tokens_per_second}
        for name, timing in timings.items()
    }
    store.write(layout.TIMINGS, json.dumps(known, indent=1).encode())
    return known


def _factors(run: Parts, factors: Factors | None) -> dict[str, Any] | None:
    """What factors were fitted on, and how far they are from sure; None where there are none."""
    if factors is None:
        return None
    return {
        "fingerprint": factors.fingerprint,
        "n_sequences": factors.n_sequences,
        "n_tokens": factors.n_tokens,
        "quarantined": factors.manifest["quarantine"],
        "error": factors.error,
        "error_bound": run.config.fit.error_bound,
        "rounds": factors.manifest["rounds"],
        "singular": factors.manifest["singular"],
        "unfitted": factors.unfitted,
    }


def _method(
    run: Parts, queries: MethodQueries, scanned: Scanned, rescored: dict[str, Any]
) -> dict[str, Any]:
    """What a method did, over all of its banks: queries that were added have one of their own.

    A sequence may be quarantined for some queries and not for others.
    """
    asked = scanned.asked(run.queries)
    places = [scanned.of_query(query.digest) for query in asked]
    scored = [partial.scored(place) for partial, place in places]
    meaning = meaning_of(scanned.method, run.config.objective.function)
    solver: dict[str, Any] = {}
    if queries.refinement is not None:
        settings = queries.refinement.settings
        meaning = refined(meaning, scanned.method, settings.name, settings.curvature)
        solver = {"solver": solver_report(queries, run.queries)}
    last_layer: dict[str, Any] = {}
    if queries.refit is not None:
        logits = {one.query.query_id: query_report(queries, one)["logits"] for one in asked}
        last_layer = {"last_layer": {**queries.refit.told(), "queries": logits}}
    return {
        "meaning": asdict(meaning),
        **solver,
        **last_layer,
        "banks": [bank.plan.fingerprint for bank, _ in scanned.banks],
        **({"rank": _largest_rank(run)} if scanned.method in GRADIENT_METHODS else {}),
        "damping": query_report(queries, asked[0]).get("damping"),
        "rescoring": rescored,
        # Of the query that has the least: the others may have scores that it has not.
        "scanned_sequences": min(n_sequences for n_sequences, _ in scored),
        "scanned_tokens": min(n_tokens for _, n_tokens in scored),
        "quarantined": quarantined(asked, scanned),
    }


def _largest_rank(run: Parts) -> int | None:
    """Of a module's queries; None where they are dense."""
    rank = run.config.scan.rank
    if rank == "dense":
        return None
    return max(min(rank, shape.d_out, shape.columns) for shape in run.replica.shapes.values())


def quarantined(queries: Sequence[EncodedQuery], scanned: Scanned) -> list[dict[str, Any]]:
    """The sequences that some query of a method lacks, in the order of their ids.

    ``queries`` says which, by id and in order, where it is not all of them.
    """
    reasons: dict[tuple[int, str], set[int]] = {}
    for bank, partial in scanned.banks:
        places = bank.plan.query_digests
        # The same question may be asked under several ids.
        asked: dict[int, list[int]] = {}
        for number, query in enumerate(queries):
            if query.digest in places:
                asked.setdefault(places.index(query.digest), []).append(number)
        all_of_them = {number for numbers in asked.values() for number in numbers}
        for sequence_id, bad in partial.quarantine.items():
            concerned = (
                all_of_them
                if bad.queries is None
                else {number for place in bad.queries for number in asked.get(place, ())}
            )
            if concerned:
                key = sequence_id, bad.reason
                reasons[key] = reasons[key] | concerned if key in reasons else concerned
    return [
        {"sequence_id": sequence_id, "reason": reason}
        | (
            {"queries": [queries[number].query.query_id for number in sorted(numbers)]}
            if len(numbers) < len(queries)
            else {}
        )
        for (sequence_id, reason), numbers in sorted(reasons.items())
    ]


def _by_holder(sizes: Mapping[str, int]) -> dict[str, int]:
    """Sizes of weights by the name of what holds them, the most first."""
    held: Counter[str] = Counter()
    for name, size in sizes.items():
        held[name.rpartition(".")[0] or name] += size
    return dict(held.most_common())


def _quarantined(bad: dict[int, str]) -> list[dict[str, Any]]:
    return [{"sequence_id": sequence_id, "reason": reason} for sequence_id, reason in bad.items()]
