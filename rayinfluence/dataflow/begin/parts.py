"""Configuration, corpus, model and queries of a run together, refused early what can be."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Self

from torch import nn

from rayinfluence.config import RunConfig
from rayinfluence.corpus.corpus import Corpus
from rayinfluence.corpus.queries import (
    EncodedQuery,
    border_warnings,
    encode_queries,
    rendered,
)
from rayinfluence.corpus.query_forms import Query
from rayinfluence.corpus.tokenizer import tokenizer_digest
from rayinfluence.corpus.tokenizer_files import load_tokenizer
from rayinfluence.corpus.tokenizer_made import made_of_vocabulary, rebuilt_otherwise
from rayinfluence.dataflow import layout
from rayinfluence.dataflow.begin import preflight
from rayinfluence.dataflow.begin.counted import Counted, counted
from rayinfluence.dataflow.begin.early import Inputs, corpus_store
from rayinfluence.dataflow.begin.fetched import note_commits
from rayinfluence.dataflow.begin.last_layer import refuse_no_last_layer
from rayinfluence.dataflow.begin.lost import lost_rows, lost_sequences
from rayinfluence.dataflow.begin.models import ModelRecord
from rayinfluence.dataflow.begin.narrowing import earlier_results, refuse_unknown_conditions
from rayinfluence.dataflow.begin.objective import classes_of, classes_of_rows, masking_of
from rayinfluence.dataflow.begin.solver import refuse_unsolvable, solvers_of, without_pairs
from rayinfluence.dataflow.begin.tracked import TrackedModel, ordinary_numbers, ordinary_tokens
from rayinfluence.dataflow.begin.unknown_keys import refuse_unknown_keys
from rayinfluence.dataflow.compute.devices import devices_here, so_many_gpus
from rayinfluence.dataflow.compute.quarantine import refuse_many_bad
from rayinfluence.dataflow.compute.replica import Numerics, Replica
from rayinfluence.dataflow.runners.base import Runner, joins_a_cluster
from rayinfluence.dataflow.runners.inline import InlineRunner
from rayinfluence.dataflow.stages.progress import ProgressLog
from rayinfluence.dataflow.stages.sample import FitPlan, plan_fit
from rayinfluence.errors import ConfigError, CorpusError
from rayinfluence.guest import as_found, own_arithmetic
from rayinfluence.methods.method import ITSELF, FactorKind
from rayinfluence.methods.registry import LAST_LAYER_METHODS, SELF_METHODS
from rayinfluence.model.identity import model_identity
from rayinfluence.model.own_objective_checks import refuse_unfit
from rayinfluence.model.placement import dealt
from rayinfluence.model.preflight import Passed
from rayinfluence.model.pretrained import why_other_attention
from rayinfluence.model.row_task import RowTask
from rayinfluence.model.second_derivatives import refuse_no_second_derivatives
from rayinfluence.model.weight_files import read_config
from rayinfluence.objective_kinds import CLASSES_OF_ROWS, CLASSIFICATION, MASKED
from rayinfluence.storage.store import Store

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

    from rayinfluence.corpus.tokenizer import Coding


class Parts:
    """What a run is made of, each read once and when first needed, and refused early.

    Args:
        config: the configuration.
        progress: where progress goes; standard error by default.
        inputs: what the configuration names, if it was read before.
        new_run: stages that were run with other settings, or another commit of a model on a hub,
            are run again beside them; without it settings are refused and the commit is kept.
    """

    def __init__(
        self,
        config: RunConfig,
        progress: ProgressLog | None = None,
        inputs: Inputs | None = None,
        new_run: bool = False,
    ) -> None:
        self.config = config
        self._new_run = new_run
        if inputs is not None:
            self.inputs = inputs
        self.progress = progress or ProgressLog()
        self.store = Store(config.run, config.storage.options(config.run))
        self.warnings: list[str] = []
        self.has_begun = False
        self._runner: Runner | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        if self._runner is not None:
            self._runner.close()
            self._runner = None

    @cached_property
    def inputs(self) -> Inputs:
        """Queries, documents and folders that the configuration names."""
        return Inputs.of(self.config, self.progress.note, self._new_run)

    @cached_property
    def numerics(self) -> Numerics:
        """What decides bits besides model, corpus and queries.

        Raises:
            ConfigError: a CUDA device is asked for and there is none; the cluster is not reached.
            ModelError: the tokenizer of a masked language model has no mask.
        """
        kind = self.inputs.kind
        masking = masking_of(self.config, self.tokenizer) if kind == MASKED else None
        return Numerics.of(self.config, self._workers, kind, masking, self.inputs.trained_on)

    @cached_property
    def _workers(self) -> str | None:
        """The device of a cluster's workers; None where the work is done on this machine."""
        return self.runner.device() if joins_a_cluster(self.config.runner) else None

    @cached_property
    def coding(self) -> Coding:
        """What makes tokens of documents: the tokenizer, or features in its place."""
        return self.inputs.features or self.tokenizer

    @cached_property
    def tokenizer(self) -> PreTrainedTokenizerFast:
        """The tokenizer of the model, or the one that the configuration names."""
        path = self.inputs.folders.tokenizer.path
        trusted = self.config.trust_remote_code
        tokenizer = load_tokenizer(path, trust_remote_code=trusted)
        said = made_of_vocabulary(path, tokenizer) or rebuilt_otherwise(path, tokenizer, trusted)
        if said:
            self._warn(said)
        return tokenizer

    @cached_property
    def tracked(self) -> TrackedModel:
        """The model with what is tracked of it, on the CPU of this process.

        Raises:
            ModelError: there is no such model, or the module patterns do not fit it.
        """
        folders = self.inputs.folders
        base = None if folders.base is None else folders.base.path
        paths = {"model": folders.model.path, "base_model": base}
        here = self.config.model_copy(update=paths)
        found = TrackedModel.load(here, self.numerics, self._ordinary, self._row_task)
        if found.replica.numerics != self.numerics:
            # Fingerprints and the manifest say what is computed with, not what was asked for.
            self.numerics = found.replica.numerics
            why = why_other_attention(read_config(folders.source.weights))
            self.progress.note(f"attention    {self.numerics.attention}: {why}")
        self.progress.note(self.numerics.place(self._workers))
        return found

    @property
    def _row_task(self) -> RowTask | None:
        """What the model is built for, where it takes rows of features."""
        inputs = self.inputs
        if inputs.builder is None or inputs.features is None:
            return None
        return RowTask(inputs.kind, inputs.features.n_features, inputs.builder)

    def _ordinary(self, model: nn.Module) -> Sequence[int]:
        """Ids that made-up sequences are drawn from; of rows bits of numbers."""
        return (
            ordinary_numbers() if self.inputs.features else ordinary_tokens(self.tokenizer, model)
        )

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of a classifier's classes by their ids; none of another model."""
        if self.inputs.kind == CLASSES_OF_ROWS:
            return classes_of_rows(self.replica.model)
        if self.inputs.kind != CLASSIFICATION:
            return ()
        return classes_of(self.replica.model)

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
        found, before = preflight.passed(self.store, self.tracked, self.model_digest, context)
        self.progress.note(preflight.line(found, before))
        return found

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
        return ModelRecord(self.store / layout.MODELS, model_identity(self.replica.model))

    @cached_property
    def corpus(self) -> Corpus:
        """The tokenised corpus, checked against tokenizer and model.

        Raises:
            CorpusError: there is none, it is empty, was tokenised otherwise, or has too many bad
                rows.
        """
        corpus = Corpus.open(self.corpus_store)
        if corpus.manifest.tokenizer != tokenizer_digest(self.coding):
            raise CorpusError(
                f"the corpus at {self.corpus_store.url} was tokenised with another tokenizer than "
                "the model's. "
                "Tokenise it again into another folder, or name its tokenizer under `tokenizer`."
            )
        return corpus

    @cached_property
    def bad_sequences(self) -> dict[int, str]:
        """Sequences that the model cannot be scored on, by id.

        From the corpus's manifest (and rows where its bounds say that there are some).
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
    def counted(self) -> Counted:
        """What of the corpus is predicted under the objective of training.

        Raises:
            ConfigError, CorpusError: the corpus does not say what counts, or nothing does.
        """
        return counted(self.config, self.corpus, self.inputs.kind)

    @cached_property
    def rendered_queries(self) -> list[Query]:
        """The queries, their messages as text: what needs the tokenizer, and no model."""
        queries = self.inputs.needed_queries
        if not any(answer.messages for query in queries for answer in query.answers):
            return queries
        return rendered(queries, self.tokenizer)

    @cached_property
    def queries(self) -> list[EncodedQuery]:
        """The queries, as tokens; and the one that stands for the sequences themselves.

        Raises:
            ConfigError: the configuration names none.
            QueryError: one of them is malformed.
        """
        replica = self.replica
        encoded = encode_queries(
            self.rendered_queries,
            self.coding,
            replica.context,
            replica.vocabulary,
            self.inputs.function,
            self.inputs.kind,
            self.classes,
        )
        for text in border_warnings(encoded):
            self._warn(text)
        methods = self.config.scan.methods
        if self.config.queries is not None and not self.inputs.asks_queries:
            self._warn(
                f"queries: {self.config.queries} is not asked, as {', '.join(methods)} has each "
                "sequence for its own query; name a method that asks queries beside it, or leave "
                "the file out."
            )
        return [*encoded, *[ITSELF] * any(method in SELF_METHODS for method in methods)]

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
                self._runner = InlineRunner(self._placed)
            else:
                with as_found():
                    from rayinfluence.dataflow.runners.ray.runner import RayRunner

                self._runner = RayRunner(self.config.runner, make, self.store.name)
        return self._runner

    def _placed(self) -> Replica:
        """The replica on the devices of this machine."""
        here = self.replica
        gpus = self.config.runner.gpus_per_actor
        devices = devices_here(self.numerics.device, gpus, here.model)
        if len(devices) > 1:
            self.progress.note(f"model        its blocks are dealt over {len(devices)} GPUs")
        return Replica.over(devices, here.model, here.modules, self.numerics, here.shapes)

    @own_arithmetic()
    def begin(self, needs_queries: bool = False) -> None:
        """Refuse whatever can be refused before a document is read, and say what is tracked.

        Raises:
            ConfigError: queries are needed, and none are named.
            QueryError: a query is malformed.
            ModelError: model, tokenizer, modules or their numbers are not what a run relies on.
        """
        if self.has_begun:
            return
        _ = self.inputs
        if not self.config.corpus.documents:
            self._refuse_corpus(Corpus.open(self.corpus_store))
        asks = needs_queries or self.config.queries is not None
        if asks:
            _ = self.rendered_queries
        _ = self.replica
        gpus = self.config.runner.gpus_per_actor or 1
        if gpus > 1:  # fewer blocks than that are refused
            dealt(self.replica.model, so_many_gpus(gpus))
        if asks:
            _ = self.queries
        self._record_config()
        for store in (self.store, self.corpus_store):
            store.sweep()
        _ = self.passed
        self._try_own_objective()
        if self.config.scan.token_influences:
            replica = self.replica
            refuse_no_second_derivatives(
                replica.model, replica.modules, replica.shapes, self.tracked.ordinary
            )
        for method, settings in solvers_of(self.config.scan).items():
            refuse_unsolvable(method, settings, self.replica, self.tracked.ordinary)
        if asks and not self.inputs.features and (said := without_pairs(self.config.scan)):
            self.progress.note(said)
        has_representers = LAST_LAYER_METHODS.keys() & set(self.config.scan.fitted_for)
        if has_representers and (said := refuse_no_last_layer(self.replica)):
            self._warn(said)
        self._note_commits()
        self.progress.note(self.tracked.line)
        for text in self.tracked.warnings:
            self._warn(text)
        self.has_begun = True

    @own_arithmetic()
    def check(self) -> None:
        """Refuse whatever can be refused before work begins: model, modules, corpus, queries."""
        self.begin()
        _ = self.corpus, self.bad_sequences, self.n_training_sequences, self.counted
        self._warn_of_lost_rows()
        for text in lost_sequences("all that follows", self.bad_sequences.items()):
            self._warn(text)
        self._refuse_corpus(self.corpus)

    @own_arithmetic()
    def fit_plan(self, n_shards: int | None = None, kind: FactorKind = "ekfac") -> FitPlan:
        """What factors are fitted on: a sample of the corpus's first shards, or of all."""
        replica = self.replica  # first: loading the model settles the numerics
        return plan_fit(
            self.config.fit,
            self.corpus,
            len(self.corpus.manifest.shards) if n_shards is None else n_shards,
            self.numerics,
            self.model_digest,
            replica.shapes,
            kind,
        )

    def _refuse_corpus(self, corpus: Corpus) -> None:
        """Refuse a corpus that lacks what the configuration names of it."""
        refuse_unknown_keys(self.config.scan.group_by, corpus)
        if self.config.corpus.documents:
            refuse_unknown_keys(self.config.corpus.metadata, corpus, "corpus.metadata")
        refuse_unknown_conditions(self.inputs.conditions, corpus)
        earlier_results(self.config, corpus)

    def _try_own_objective(self) -> None:
        """See that a function that training maximised is a sum over sequences with a gradient."""
        replica = self.replica
        if replica.own_objective is not None:
            refuse_unfit(
                replica.own_objective,
                replica.model,
                replica.trained_on,
                self.tracked.ordinary,
                self.passed.context,
                self.numerics.loss != "all",
            )

    def _record_config(self) -> None:
        """Leave the configuration in the run directory: `status` finds the corpus by it."""
        body = json.dumps(self.config.model_dump(), indent=1, ensure_ascii=False)
        self.store.write(layout.CONFIG, body.encode())

    def _note_commits(self) -> None:
        """Leave in the run directory which commits it is used with, once it goes on with them."""
        note_commits(self.store, self.config, self.inputs.folders)

    def _warn_of_lost_rows(self) -> None:
        for text in lost_rows(self.corpus.manifest):
            self._warn(text)

    def _warn(self, text: str) -> None:
        if text in self.warnings:  # work that is done again after damage says it again
            return
        self.warnings.append(text)
        self.progress.warn(text)
