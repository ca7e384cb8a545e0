"""A run: configuration, corpus, model and queries together, refused early what can be."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import TYPE_CHECKING

from rayinfluence.config import RunConfig
from rayinfluence.corpus.corpus import Corpus
from rayinfluence.corpus.queries import EncodedQuery, border_warnings, encode_queries
from rayinfluence.corpus.tokenize import TokenizeSettings
from rayinfluence.corpus.tokenizer import tokenizer_digest
from rayinfluence.corpus.tokenizer_files import load_tokenizer, rebuilt_otherwise
from rayinfluence.dataflow import preflight
from rayinfluence.dataflow.early import Inputs, corpus_store
from rayinfluence.dataflow.factors import (
    Factors,
    find_factors,
    shards_fitted_before,
    why_not_reused,
)
from rayinfluence.dataflow.findings import write_results
from rayinfluence.dataflow.fit import fit, refuse_many_bad
from rayinfluence.dataflow.grouping import left_out, refuse_unknown_keys, too_many_values
from rayinfluence.dataflow.jobs import MethodOperands
from rayinfluence.dataflow.manifest import (
    results_fingerprint,
    run_manifest,
    take_up_results,
    write_manifest,
)
from rayinfluence.dataflow.models import ModelRecord
from rayinfluence.dataflow.planning import Plan, plan_run
from rayinfluence.dataflow.progress import ProgressLog
from rayinfluence.dataflow.queries import (
    MethodQueries,
    method_operands,
    plan_banks,
    plan_methods,
    precondition,
    refuse_mixing,
)
from rayinfluence.dataflow.replica import Numerics, Replica
from rayinfluence.dataflow.runner import InlineRunner, Runner, joins_a_cluster
from rayinfluence.dataflow.sample import FitPlan, plan_fit
from rayinfluence.dataflow.scan import Aside, scan
from rayinfluence.dataflow.second_pass import SecondPass, scanned_by_method
from rayinfluence.dataflow.tokenizing import tokenize_files
from rayinfluence.dataflow.tracked import TrackedModel
from rayinfluence.errors import ConfigError, CorpusError, DamagedError
from rayinfluence.guest import as_found
from rayinfluence.methods.preconditioner import WITHOUT_CURVATURE
from rayinfluence.model.identity import model_identity
from rayinfluence.model.preflight import Passed
from rayinfluence.storage.results import Results
from rayinfluence.storage.store import Store

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast


class Run:
    """One run directory under one configuration.

    Use as a context manager; stages may be called in any order.

    Args:
        config: the configuration.
        progress: where progress goes; standard error by default.
        new_run: stages that were run with other settings are run again beside theirs; without it
            they are refused.
        inputs: what the configuration names, if it was read before.
    """

    def __init__(
        self,
        config: RunConfig,
        progress: ProgressLog | None = None,
        new_run: bool = False,
        inputs: Inputs | None = None,
    ) -> None:
        self.config = config
        if inputs is not None:
            self.inputs = inputs
        self._new_run = new_run
        self.progress = progress or ProgressLog()
        self.store = Store(config.run, config.storage.options(config.run))
        self.warnings: list[str] = []
        self.set_aside: list[Aside] = []
        self._has_begun = False
        self._runner: Runner | None = None
        self._factors: Factors | None = None
        self._fit_plan: FitPlan | None = None

    def __enter__(self) -> Run:
        return self

    def __exit__(self, *error: object) -> None:
        if self._runner is not None:
            self._runner.close()
            self._runner = None

    # What a run is made of, each read once and when first needed.

    @cached_property
    def inputs(self) -> Inputs:
        """Queries and documents that the configuration names."""
        return Inputs.of(self.config)

    @cached_property
    def numerics(self) -> Numerics:
        """What decides bits besides model, corpus and queries.

        Raises:
            ConfigError: a CUDA device is asked for and there is none; the cluster is not reached.
        """
        return Numerics.of(self.config, self._workers)

    @cached_property
    def _workers(self) -> str | None:
        """The device of a cluster's workers; None where the work is done on this machine."""
        return self.runner.device() if joins_a_cluster(self.config.runner) else None

    @cached_property
    def tokenizer(self) -> PreTrainedTokenizerFast:
        """The tokenizer of the model, or the one that the configuration names."""
        path = self.config.tokenizer or self.config.model
        trusted = self.config.trust_remote_code
        tokenizer = load_tokenizer(path, trust_remote_code=trusted)
        if other := rebuilt_otherwise(path, tokenizer, trusted):
            self._warn(other)
        return tokenizer

    @cached_property
    def tracked(self) -> TrackedModel:
        """The model with what is tracked of it, on the CPU of this process.

        Raises:
            ModelError: there is no such model, or the module patterns do not fit it.
        """
        found = TrackedModel.load(self.config, self.numerics, lambda: self.tokenizer)
        if found.replica.numerics != self.numerics:
            # Fingerprints and the manifest say what is computed with, not what was asked for.
            self.numerics = found.replica.numerics
            self.progress.note(f"attention    {self.numerics.attention}: this model has no sdpa")
        self.progress.note(self.numerics.place(self._workers))
        return found

    @property
    def replica(self) -> Replica:
        """The model with its tracked modules."""
        return self.tracked.replica

    @cached_property
    def passed(self) -> Passed:
        """The checks that a run starts with.

        Raises:
            ModelError: what is wrong with the model, and what to do.
        """
        if self.config.corpus.documents:
            context = self.context
        else:
            # Sequences that are longer than the model takes are refused by what they are.
            there = self.corpus.manifest.settings.context
            context = min(there, self.replica.context or there)
        return preflight.passed(self.store, self.tracked, self.model_digest, context)

    @cached_property
    def context(self) -> int:
        """Most tokens of a sequence that documents are cut into."""
        wanted, most = self.config.corpus.context, self.replica.context
        context = self.tracked.context(wanted)
        if most is not None and wanted is None and context < most:
            self.progress.note(
                f"context      {context:,} of the model's {most:,}; set corpus.context for another"
            )
        return context

    @property
    def model_digest(self) -> str:
        """The digest of what the model computes."""
        return self.model_record.digest

    @cached_property
    def model_record(self) -> ModelRecord:
        """What the model is, beside those that the run directory was used with before."""
        return ModelRecord(self.store / "models", model_identity(self.replica.model))

    @cached_property
    def corpus(self) -> Corpus:
        """The tokenised corpus, checked against tokenizer and model.

        Raises:
            CorpusError: there is none, it is empty, was tokenised otherwise, or has too many bad
                rows.
        """
        corpus = Corpus.open(self.corpus_store)
        if corpus.manifest.tokenizer != tokenizer_digest(self.tokenizer):
            raise CorpusError(
                f"the corpus at {self.corpus_store.url} was tokenised with another tokenizer than "
                "the model's. "
                "Tokenise it again into another folder, or name its tokenizer under `tokenizer`."
            )
        return corpus

    @cached_property
    def bad_sequences(self) -> dict[int, str]:
        """Sequences that the model cannot be scored on, by id.

        From footers (and rows where those leave doubt).
        """
        bad = self.corpus.check(self.replica.vocabulary, self.replica.context)
        refuse_many_bad(len(bad), self.corpus.n_sequences, bad)
        return bad

    @property
    def n_sequences(self) -> int:
        """Sequences in the corpus that the model can be scored on."""
        return self.corpus.n_sequences - len(self.bad_sequences)

    @property
    def n_training_sequences(self) -> int:
        """N, which scores are divided by: of the training data, which the corpus may be a part of.

        Raises:
            ConfigError: the configuration says fewer than the corpus has.
        """
        given, there = self.config.corpus.n_training_sequences, self.n_sequences
        if given is not None and given < there:
            raise ConfigError(
                f"corpus.n_training_sequences: {given:,}, and the corpus at "
                f"{self.corpus_store.url} has {there:,} sequences. It is how many the model was "
                "trained on, those of the corpus among them; leave it out where the corpus is all "
                "of them."
            )
        return given or there

    @cached_property
    def queries(self) -> list[EncodedQuery]:
        """The queries, as tokens.

        Raises:
            ConfigError: the configuration names none.
            QueryError: one of them is malformed.
        """
        queries, replica = self.inputs.needed_queries, self.replica
        encoded = encode_queries(queries, self.tokenizer, replica.context, replica.vocabulary)
        for text in border_warnings(encoded):
            self._warn(text)
        return encoded

    @property
    def corpus_store(self) -> Store:
        """Where the shards are."""
        return corpus_store(self.config)

    @property
    def runner(self) -> Runner:
        """Where work runs; started when first needed."""
        if self._runner is None:
            make: Callable[[], Replica] = lambda: self.replica  # noqa: E731
            if self.config.runner.name == "inline":
                self._runner = InlineRunner(
                    lambda: Replica(
                        self.replica.model.to(self.numerics.device),
                        self.replica.modules,
                        self.numerics,
                    )
                )
            else:
                with as_found():
                    from rayinfluence.dataflow.cluster import RayRunner

                self._runner = RayRunner(self.config.runner, make, self.store.name)
        return self._runner

    # Stages.

    def begin(self, needs_queries: bool = False) -> None:
        """Refuse whatever can be refused before a document is read, and say what is tracked.

        Raises:
            ConfigError: queries are needed, and none are named.
            QueryError: a query is malformed.
            ModelError: model, tokenizer, modules or their numbers are not what a run relies on.
        """
        if self._has_begun:
            return
        _ = self.inputs
        if not self.config.corpus.documents:
            refuse_unknown_keys(self.config.scan.group_by, Corpus.open(self.corpus_store))
        _ = self.replica
        if needs_queries or self.config.queries is not None:
            _ = self.queries
        self._record_config()
        _ = self.passed
        self.progress.note(self.tracked.line)
        for text in self.tracked.warnings:
            self._warn(text)
        self._has_begun = True

    def tokenize(self) -> Corpus:
        """Documents -> shards; files that are in the corpus already are skipped.

        Raises:
            CorpusError: a file cannot be read, or the corpus holds files that the configuration
                does not list.
        """
        documents = self.inputs.documents  # first: they may not be among what is written
        self._record_config()
        settings = self.config.corpus
        if settings.documents:
            if documents.left_out:
                self.progress.note(
                    f"documents    {len(documents.files):,} files; left out: {documents.line}"
                )
            wanted = TokenizeSettings(
                settings.text_column,
                settings.id_column,
                self.context,
                settings.row_group_tokens,
                settings.shard_tokens,
            )
            tokenize_files(
                lambda: self.runner,
                documents,
                self.corpus_store,
                self.tokenizer,
                wanted,
                self.progress,
            )
            self.__dict__.pop("corpus", None)
        return self.corpus

    def check(self) -> None:
        """Refuse whatever can be refused before work begins: model, modules, corpus, queries."""
        self.begin()
        _ = self.corpus, self.bad_sequences, self.n_training_sequences
        refuse_unknown_keys(self.config.scan.group_by, self.corpus)

    def fit(self) -> Factors:
        """Fit the EK-FAC factors, or find those that were fitted before.

        Factors of an earlier state of the corpus, to which shards were only added since, are used
        as they are, and a warning says so.
        """
        self.check()
        root = self.store / "factors"
        wanted = self.fit_plan()
        earlier = (
            self.fit_plan(n_shards)
            for n_shards in shards_fitted_before(root, len(self.corpus.manifest.shards))
        )
        for plan in (wanted, *earlier):
            factors = find_factors(root, plan)
            if factors is None:
                continue
            if plan is not wanted:
                self._warn(
                    f"the factors were fitted when the corpus had {plan.parts['n_shards']} shards; "
                    f"it has {wanted.parts['n_shards']} now. `rayinfluence clean --stage factors` "
                    "lets the next run, with --new-run, fit them again."
                )
            self.progress.note(f"factors      reused ({factors.n_sequences:,} sequences)")
            self._factors, self._fit_plan = factors, plan
            return factors
        if reasons := why_not_reused(root, wanted, self.model_record.differences):
            if not self._new_run:
                refuse_mixing(self.store, "factors that were", reasons)
            self.progress.note(f"factors      fitted anew: {'; '.join(reasons[:3])}")
        return self._fit(wanted)

    def plan(self, actors: int | None = None) -> Plan:
        """Forecast the run from a few splits, for the configuration's replicas or this many."""
        return plan_run(self, actors or self.config.runner.most_actors)

    def scan(self) -> dict[str, Results]:
        """Find the most influential sequences of every query.

        Writes and returns the results by method.
        """
        self.begin(needs_queries=True)
        self.check()
        methods = self.config.scan.methods
        needs_factors = any(method not in WITHOUT_CURVATURE for method in methods)
        factors = (self._factors or self.fit()) if needs_factors else None
        splits = self.corpus.plan(self.numerics.split_tokens)
        config, numerics = self.config.scan, self.numerics
        modules = list(self.replica.modules)
        prepared = plan_methods(self.store, self.model_digest, modules, factors, config, numerics)
        digests = [query.digest for query in self.queries]
        compare = self.model_record.differences
        banks = plan_banks(self.store, prepared, digests, config, numerics, self._new_run, compare)
        self.model_record.write()
        precondition(self.runner, prepared, self._operands, self.queries, config, self.progress)
        n_training = self.n_training_sequences
        decided = banks, splits, self.queries, n_training, config.by_token
        if take_up_results(self.store, results_fingerprint(*decided)):
            self.progress.note("results      reused")
        else:
            names = {query.digest: query.query.query_id for query in self.queries}
            merged, self.set_aside = scan(
                self.runner, self.corpus, splits, banks, config, self.progress, names
            )
            for aside in self.set_aside:
                self._warn(f"{aside.name} is not in the results: {aside.reason}")
            for key, count in left_out([partial for _, partial in merged]).items():
                self._warn(too_many_values(key, count))
            scanned = scanned_by_method(methods, merged)
            again = SecondPass(
                self.runner,
                self.replica,
                self.corpus_store,
                self.store / "rescored",
                splits,
                self._operands(prepared),
                scanned,
                self.queries,
            )
            written = write_results(
                again,
                self.store,
                prepared[0],
                self.tokenizer,
                config.by_token,
                n_training,
                results_fingerprint(*decided, [one.digest for one in self.set_aside]),
                self.progress,
            )
            if written.warning:
                self._warn(written.warning)
            manifest = run_manifest(self, prepared, factors, splits, scanned, written)
            write_manifest(self.store, manifest)
        return {method: Results.load(self.store, method) for method in methods}

    def all(self) -> dict[str, Results]:
        """tokenize, fit and scan; whatever is done already is skipped."""
        self.begin(needs_queries=True)
        self.tokenize()
        return self.scan()

    def fit_plan(self, n_shards: int | None = None) -> FitPlan:
        """What the factors are fitted on: a sample of the corpus's first shards, or of all."""
        replica = self.replica  # first: loading the model settles the numerics
        return plan_fit(
            self.config.fit,
            self.corpus,
            len(self.corpus.manifest.shards) if n_shards is None else n_shards,
            self.numerics,
            self.model_digest,
            replica.shapes,
        )

    def _fit(self, plan: FitPlan) -> Factors:
        self._fit_plan = plan
        self.model_record.write()
        self._factors = fit(
            self.runner,
            self.corpus_store,
            self.store / "factors",
            plan,
            self.replica.shapes,
            self.progress,
            self.config.runner.checkpoint_seconds,
            self.numerics.device,
        )
        return self._factors

    def _operands(self, methods: Sequence[MethodQueries]) -> list[MethodOperands]:
        """What methods need; damaged factors are first put together again from the fit's sums."""
        try:
            return method_operands(methods, self._factors, self.config.scan)
        except DamagedError as damage:
            assert self._fit_plan is not None
            self._warn(f"{damage} It is made again now, from the sums that it was made of.")
            return method_operands(methods, self._fit(self._fit_plan), self.config.scan)

    def _record_config(self) -> None:
        """Leave the configuration in the run directory: `status` finds the corpus by it."""
        body = json.dumps(self.config.model_dump(), indent=1, ensure_ascii=False)
        self.store.write("config.json", body.encode())

    def _warn(self, text: str) -> None:
        self.warnings.append(text)
        self.progress.note(f"warning: {text}")


def run(config: RunConfig) -> Results:
    """Do everything a configuration says, skip what is done, and return the first method's results.

    Raises:
        RayInfluenceError: with a sentence that says what is wrong, where, and what to do.
    """
    with Run(config) as opened:
        results = opened.all()
    return results[config.scan.methods[0]]
