"""Queries: made by each method, and put together into banks.

Queries that are added to a run get a bank of their own, so all that was computed before stays
valid.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from types import MappingProxyType
from typing import Any, NoReturn

from rayinfluence.config import ScanConfig
from rayinfluence.corpus.queries import EncodedQuery
from rayinfluence.dataflow import stage_names
from rayinfluence.dataflow.compute.partial import FORMAT
from rayinfluence.dataflow.compute.replica import Numerics
from rayinfluence.dataflow.compute.texts import TermCounts
from rayinfluence.dataflow.jobs.banks import BankPlan
from rayinfluence.dataflow.jobs.handles import Handle, read_stored
from rayinfluence.dataflow.jobs.query import MethodOperands, QueryJob, SharedCurvature
from rayinfluence.dataflow.layout import (
    BANKS,
    MANIFEST,
    QUERIES,
    REFINED,
    named,
    query_key,
    with_manifest,
)
from rayinfluence.dataflow.runners.base import Runner
from rayinfluence.dataflow.stages.ensure import Lacking, Place, Stage, ensure
from rayinfluence.dataflow.stages.factors import Factors
from rayinfluence.dataflow.stages.progress import ProgressLog, StageProgress
from rayinfluence.dataflow.stages.refinement import Refinement
from rayinfluence.dataflow.stages.refit import RefitPlan
from rayinfluence.errors import ConfigError, DamagedError
from rayinfluence.methods.method import FactorKind
from rayinfluence.methods.registry import (
    LAST_LAYER_METHODS,
    REFINABLE,
    SELF_METHODS,
    TEXT_METHODS,
    asked,
    asks,
    factors_needed,
    factors_of,
)
from rayinfluence.storage.digest import Differences, differences, digest, sealed
from rayinfluence.storage.shared import SharedTensors
from rayinfluence.storage.store import Store, read_json
from rayinfluence.storage.tensors import read_header

#: Queries whose gradients are held at once, and solved together, module by module. Company does not
#: change a bit of theirs.
_BLOCK = 16
#: What of a bank's manifest its fingerprint is of.
_DECIDE_A_BANK = ("base", "query_digests", "corpus")
#: Differences that are a version's, and no setting's: what it counts as the same numerics, and what
#: its fingerprints lack.
_OF_A_VERSION = re.compile(
    r"they are an earlier version's"
    r"|(queries\.)?numerics\.version: "
    r"|(queries\.)?(fit|numerics|stopping)[.\w]*: (absent, was .*|.*, was absent)$",
    re.DOTALL,
)


@dataclass(frozen=True)
class MethodQueries:
    """The queries of one method: where they are kept and the fingerprint of how they were made.

    Attributes:
        method: its name.
        name: what its results are called.
        fingerprint: of all that decides them.
        parts: what was chosen of that.
        store: where they are.
        corpus: fingerprint of the corpus, where it decides them too; another one is no other
            choice.
        refinement: by what they are refined, if they are.
        whole: where they are at full rank then.
        refit: of the last layer, of a method that reads what that sees.
    """

    method: str
    name: str
    fingerprint: str
    parts: dict[str, Any]
    store: Store
    corpus: str | None = None
    refinement: Refinement | None = None
    whole: Store | None = None
    refit: RefitPlan | None = None

    def lacks(self, queries: Sequence[EncodedQuery]) -> bool:
        """Whether one of some queries, of those that the method asks, is not made yet."""
        there, ours = self.store.list(), asked(self.method, queries)
        return any(query_key(query.digest) not in there for query in ours)


def plan_methods(
    root: Store,
    model_digest: str,
    modules: Sequence[str],
    factors: Mapping[FactorKind, Factors],
    config: ScanConfig,
    numerics: Numerics,
    corpus: str,
    refinements: Mapping[str, Refinement] = MappingProxyType({}),
) -> list[MethodQueries]:
    """Where the queries of each method are, and what decides them.

    ``corpus`` is a fingerprint; ``refinements`` are of methods whose queries are refined.
    """
    planned = []
    for scored in config.scored:
        method = scored.method
        kind, texts = factors_of(method), method in TEXT_METHODS
        itself, last = method in SELF_METHODS, method in LAST_LAYER_METHODS
        parts = {
            "method": method,
            # Texts need no model, but what it thinks of a query is kept beside them.
            "model": model_digest,
            "modules": None if texts or last else list(modules),
            "factors": factors[kind].fingerprint if kind else None,
            "damping_scale": scored.damping_scale,
            "damping": config.damping if kind else None,
            "rank": None if texts or itself or last else config.rank,
            "numerics": {k: v for k, v in asdict(numerics).items() if k != "split_tokens"},
        }
        refined = refinements.get(method)
        if refined is not None:  # others have the fingerprints that they had before there were any
            parts["solver"] = refined.parts
        refit = None
        if last:
            refit = RefitPlan.plan(root, config.representer, model_digest, numerics, corpus)
            parts["last_layer"] = refit.parts
        of_corpus = corpus if texts or last else None
        fingerprint = queries_fingerprint(parts, of_corpus)
        store = root / QUERIES / fingerprint
        whole = root / REFINED / fingerprint if refined is not None else None
        planned.append(
            MethodQueries(
                method, scored.name, fingerprint, parts, store, of_corpus, refined, whole, refit
            )
        )
    return planned


def queries_fingerprint(parts: Mapping[str, Any], corpus: str | None) -> str:
    """Where the queries of a method are, by what was chosen and the corpus, where that decides."""
    return digest(parts if corpus is None else {**parts, "corpus": corpus})


def precondition(
    runner: Runner,
    methods: Sequence[MethodQueries],
    operands: Callable[[Sequence[MethodQueries]], Sequence[MethodOperands]],
    queries: Sequence[EncodedQuery],
    config: ScanConfig,
    progress: ProgressLog,
) -> None:
    """Precondition every query by every method that has not done so, and commit each.

    ``operands`` reads what some methods need. Those that are refined are none of them.
    """
    methods = [one for one in methods if one.refinement is None]

    def work(lacking: Sequence[Lacking[EncodedQuery]], stage: StageProgress) -> Iterator[Any]:
        wanted = [
            (one.item, [asking(one.item)[place] for place in one.outcomes]) for one in lacking
        ]
        # Methods that lack nothing need no operator.
        active = sorted({index for _, ours in wanted for index in ours})
        job = QueryJob(operands([methods[index] for index in active]), rank)
        items = [(query, tuple(map(active.index, ours))) for query, ours in wanted]
        blocks = [items[start : start + _BLOCK] for start in range(0, len(items), _BLOCK)]
        return runner.replicas(job, blocks, stage.advance)

    def asking(query: EncodedQuery) -> list[int]:
        return [place for place, one in enumerate(methods) if asks(one.method, query.digest)]

    def places(query: EncodedQuery) -> list[Place]:
        return [Place(methods[index].store, query_key(query.digest)) for index in asking(query)]

    rank = None if config.rank == "dense" else config.rank
    # The same question may be asked under several ids.
    distinct = {query.digest: query for query in queries}
    ensure(
        Stage(
            stage_names.QUERIES,
            list(distinct.values()),
            places,
            work,
            n_tokens=lambda query: query.n_tokens,
        ),
        progress,
    )


def method_operands(
    runner: Runner,
    methods: Sequence[MethodQueries],
    factors: Mapping[FactorKind, Factors],
    counts: TermCounts | None = None,
) -> list[MethodOperands]:
    """What methods need to make queries; factors stay where workers find them.

    Raises:
        DamagedError: a factor file is damaged or of other factors.
    """
    shared = {
        kind: _shared(runner, factors[kind])
        for kind in factors_needed([one.method for one in methods])
    }
    return [
        MethodOperands(
            one.method,
            one.name,
            one.store,
            _curvature(shared[kind], factors[kind], one)
            if (kind := factors_of(one.method))
            else None,
            counts if one.method in TEXT_METHODS else None,
            one.whole,
            None if one.refit is None else runner.share(read_stored, [one.refit.fitted])[0],
        )
        for one in methods
    ]


def _shared(runner: Runner, factors: Factors) -> dict[str, Handle[SharedTensors]]:
    parts = factors.parts()
    handles = runner.share(read_stored, list(parts.values()), factors.is_small)
    return dict(zip(parts, handles, strict=True))


def _curvature(
    shared: Mapping[str, Handle[SharedTensors]], factors: Factors, method: MethodQueries
) -> SharedCurvature:
    return SharedCurvature(
        shared,
        factors.n_tokens,
        factors.n_sequences,
        method.parts["damping_scale"],
        method.parts["damping"],
        factors.n_routed,
    )


def plan_banks(
    root: Store,
    methods: Sequence[MethodQueries],
    query_digests: Sequence[str],
    config: ScanConfig,
    numerics: Numerics,
    new_run: bool = False,
    compare: Differences = differences,
    use: str | None = None,
) -> list[BankPlan]:
    """Group each method's queries into banks: those of earlier runs, and one for what is new.

    Banks of one use are not those of another; None is what results are made of.

    Of planners that want the same new bank at once, one makes it and the others take it.

    Raises:
        ConfigError: the method's banks were all made otherwise, and this is not to be a new run
            beside theirs.
    """
    needed = list(dict.fromkeys(query_digests))
    keys = (root / BANKS).list()
    there = with_manifest(keys)
    # Of a bank whose queries could not be made nothing was scanned that others might mix with.
    begun = {key.partition("/")[0] for key in keys if not key.endswith(f"/{MANIFEST}")}
    manifests = {
        fingerprint: _bank(root / BANKS, fingerprint, key) for fingerprint, key in there.items()
    }
    banks: list[BankPlan] = []
    for method in methods:
        base = {
            "queries": method.parts,
            "top": config.top,
            "group_by": config.grouped_by,
            "format": FORMAT,
            "scores": config.scores,
            "numerics": asdict(numerics),
            **({} if use is None else {"use": use}),
        }
        others = [
            [_set_as(reason, method.method) for reason in compare(base, manifest["base"])]
            for fingerprint, manifest in manifests.items()
            if fingerprint in begun
            and manifest["method"] == method.method
            # Of a list each damping is there beside the others, as methods are.
            and (method.name == method.method or _scale(manifest["base"]) == _scale(base))
            and (manifest["base"].get("format"), manifest["base"].get("use")) == (FORMAT, use)
        ]
        if others and all(others) and not new_run:
            refuse_mixing(root, f"a scan by {method.name} that was", min(others, key=len))
        left = [query for query in needed if asks(method.method, query)]
        dense = config.scores == "dense"
        # A bank of which a query was never made, or is no longer, cannot be scanned with.
        known = {*needed, *map(named, method.store.list())}
        for fingerprint, manifest in sorted(manifests.items(), key=lambda item: item[1]["ordinal"]):
            members = tuple(manifest["query_digests"])
            same = (manifest["base"], manifest.get("corpus")) == (base, method.corpus)
            if same and set(members) & set(left) and set(members) <= known:
                store = root / BANKS / fingerprint
                banks.append(
                    BankPlan(
                        method.method, method.name, fingerprint, members, method.store, store, dense
                    )
                )
                left = [query for query in left if query not in members]
        if left:
            corpus = {} if method.corpus is None else {"corpus": method.corpus}
            decides = {"base": base, "query_digests": left, **corpus}
            fingerprint = digest(decides)
            store = root / BANKS / fingerprint
            manifest = {"method": method.method, "ordinal": len(manifests), **decides}
            body = json.dumps(sealed(manifest), indent=1, sort_keys=True).encode()
            # The ordinal is about the banks that we saw; another planner may have seen others.
            made = store.create(MANIFEST, body)
            manifests[fingerprint] = manifest if made else read_json(store, MANIFEST)
            members = tuple(left)
            banks.append(
                BankPlan(
                    method.method, method.name, fingerprint, members, method.store, store, dense
                )
            )
    return banks


def _set_as(reason: str, method: str) -> str:
    """A difference of solvers by the key that a configuration has for it."""
    before = "queries.solver."
    if not reason.startswith(before):
        return reason
    return f"scan.{REFINABLE[method]}.{reason.removeprefix(before)}"


def _scale(base: Mapping[str, Any]) -> Any:
    return base["queries"].get("damping_scale")


def _bank(root: Store, fingerprint: str, key: str) -> dict[str, Any]:
    """The manifest of a bank; of another format it is nobody's here.

    Raises:
        DamagedError: it is damaged, or another bank's.
    """
    manifest = read_json(root, key)
    decides = {part: manifest[part] for part in _DECIDE_A_BANK if part in manifest}
    if manifest["base"].get("format") == FORMAT and digest(decides) != fingerprint:
        raise DamagedError(f"{root.url}/{key} is damaged: it is another bank's. Delete it.")
    return manifest


def refuse_mixing(store: Store, what: str, reasons: Sequence[str]) -> NoReturn:
    """Refuse to go on in a run directory with other settings than it was begun with.

    Raises:
        ConfigError: with the differences.
    """
    theirs = [reason for reason in reasons if _OF_A_VERSION.match(reason)]
    shown = [*theirs, *(reason for reason in reasons if reason not in theirs)][:5]
    helps = (
        "That is another version of rayinfluence, and this one cannot go on with it. Add --new-run "
        "to begin anew beside it: nothing is deleted."
        if theirs
        else "Set the configuration back to go on with it, or add --new-run to begin anew beside "
        "it: nothing is deleted, and each is found again by its settings."
    )
    raise ConfigError(f"{store.url} holds {what} made otherwise: {'; '.join(shown)}. {helps}")


def query_report(method: MethodQueries, query: EncodedQuery) -> dict[str, Any]:
    """What the model thinks of a completion: log-probabilities [nats] and ranks of its tokens."""
    return read_header(method.store, query_key(query.digest))
