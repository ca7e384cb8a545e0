"""A run: configuration, corpus, model and queries together, refused early what can be."""

from __future__ import annotations

import json
import platform
from collections.abc import Callable
from functools import cached_property
from importlib.metadata import version
from typing import Any

from transformers import PreTrainedTokenizerFast

from rayinfluence.config import RunConfig
from rayinfluence.corpus.corpus import Corpus
from rayinfluence.corpus.documents import find_files
from rayinfluence.corpus.queries import EncodedQuery, encode_queries, read_queries
from rayinfluence.corpus.tokenize import TokenizeSettings
from rayinfluence.corpus.tokenizer import load_tokenizer, tokenizer_digest
from rayinfluence.dataflow.findings import (
    explain_survivors,
    query_manifest,
    write_method,
)
from rayinfluence.dataflow.fit import (
    Factors,
    find_factors,
    fit,
    plan_fit,
    refuse_many_bad,
    why_not_reused,
)
from rayinfluence.dataflow.progress import ProgressLog
from rayinfluence.dataflow.replica import Numerics, Replica
from rayinfluence.dataflow.runner import InlineRunner, Runner
from rayinfluence.dataflow.scan import MethodQueries, plan_banks, precondition, query_report, scan
from rayinfluence.dataflow.tokenizing import tokenize_files
from rayinfluence.errors import ConfigError, CorpusError, ModelError
from rayinfluence.methods.preconditioner import WITHOUT_CURVATURE
from rayinfluence.model.load import context_length, load_model, model_digest, vocabulary_size
from rayinfluence.model.modules import coverage, track
from rayinfluence.storage.results import Results
from rayinfluence.storage.store import Store

_PACKAGES = ("rayinfluence", "torch", "transformers", "ray", "pyarrow", "numpy")


class Run:
    """One run directory under one configuration.

    Use as a context manager; stages may be called in any order.

    Args:
        config: the configuration.
        progress: where progress goes; standard error by default.
    """

    def __init__(self, config: RunConfig, progress: ProgressLog | None = None) -> None:
        self.config = config
        self.progress = progress or ProgressLog()
        self.numerics = Numerics.of(config)
        self.store = self._open(config.run)
        self.warnings: list[str] = []
        self._runner: Runner | None = None
        self._factors: Factors | None = None

    def __enter__(self) -> Run:
        return self

    def __exit__(self, *error: object) -> None:
        if self._runner is not None:
            self._runner.close()
            self._runner = None

    # What a run is made of, each read once and when first needed.

    @cached_property
    def tokenizer(self) -> PreTrainedTokenizerFast:
        """The tokenizer of the model, or the one that the configuration names."""
        path = self.config.tokenizer or self.config.model
        return load_tokenizer(path, trust_remote_code=self.config.trust_remote_code)

    @cached_property
    def replica(self) -> Replica:
        """The model with its tracked modules, on the CPU of this process.

        Raises:
            ModelError: the model, its tokenizer or the module patterns do not fit together.
        """
        model = load_model(
            self.config.model,
            self.numerics.torch_dtype,
            attention=self.config.attention,
            trust_remote_code=self.config.trust_remote_code,
        )
        rows = vocabulary_size(model)
        if rows is not None and len(self.tokenizer) > rows:
            raise ModelError(
                f"the tokenizer knows {len(self.tokenizer)} tokens and the model embeds {rows}: "
                "they do not "
                "belong together. Name the right one under `tokenizer`."
            )
        return Replica(model, track(model, self.config.modules), self.numerics)

    @cached_property
    def model_digest(self) -> str:
        """The digest of the model's weights and architecture."""
        return model_digest(self.replica.model)

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

    @cached_property
    def queries(self) -> list[EncodedQuery]:
        """The queries, as tokens.

        Raises:
            ConfigError: the configuration names none.
            QueryError: one of them is malformed.
        """
        path = self.config.queries
        if path is None:
            raise ConfigError(
                "queries: name a queries.jsonl with one {query_id, prompt, completion} a line."
            )
        file = self._open(path)
        if not file.exists(""):
            raise ConfigError(f"queries: there is no file {path}.")
        return encode_queries(read_queries(file), self.tokenizer, self.replica.context)

    @property
    def corpus_store(self) -> Store:
        """Where the shards are."""
        path = self.config.corpus.path
        return self._open(path) if path else self.store / "corpus"

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
                from rayinfluence.dataflow.cluster import RayRunner

                self._runner = RayRunner(self.config.runner, make)
        return self._runner

    # Stages.

    def tokenize(self) -> Corpus:
        """Documents -> shards; files that are in the corpus already are skipped.

        Raises:
            CorpusError: a file cannot be read, or the corpus holds files that the configuration
                does not list.
        """
        settings = self.config.corpus
        if settings.documents:
            wanted = TokenizeSettings(
                settings.text_column,
                settings.id_column,
                settings.context or self._model_context(),
                settings.row_group_tokens,
                settings.shard_tokens,
            )
            tokenize_files(
                lambda: self.runner,
                find_files(settings.documents, self.config.storage.options),
                self.corpus_store,
                self.tokenizer,
                wanted,
                self.progress,
            )
            self.__dict__.pop("corpus", None)
        return self.corpus

    def check(self) -> None:
        """Refuse whatever can be refused before work begins: model, modules, corpus, queries."""
        _ = self.replica, self.corpus, self.bad_sequences
        if self.config.queries is not None:
            _ = self.queries

    def fit(self) -> Factors:
        """Fit the EK-FAC factors, or find those that were fitted before.

        Factors of an earlier state of the corpus, to which shards were only added since, are used
        as they are, and a warning says so.
        """
        self.check()
        root = self.store / "factors"
        plans = (
            plan_fit(
                self.config.fit,
                self.corpus,
                n_shards,
                self.numerics,
                self.model_digest,
                self.replica.shapes,
            )
            for n_shards in range(len(self.corpus.manifest.shards), 0, -1)
        )
        wanted = None
        for plan in plans:
            wanted = wanted or plan
            factors = find_factors(root, plan)
            if factors is not None:
                n_shards = plan.parts["n_shards"]
                if n_shards < len(self.corpus.manifest.shards):
                    self._warn(
                        f"the factors were fitted when the corpus had {n_shards} shards; it has "
                        f"{len(self.corpus.manifest.shards)} now. `rayinfluence clean --stage "
                        "factors` "
                        "makes the next run fit them again."
                    )
                self.progress.note(f"factors      reused ({factors.n_sequences:,} sequences)")
                self._factors = factors
                return factors
        assert wanted is not None
        if reasons := why_not_reused(root, wanted):
            self.progress.note(f"factors      fitted anew: {'; '.join(reasons[:3])}")
        self._factors = fit(
            self.runner, self.corpus_store, root, wanted, self.replica.shapes, self.progress
        )
        return self._factors

    def scan(self) -> dict[str, Results]:
        """Find the most influential sequences of every query.

        Writes and returns the results by method.
        """
        self.check()
        methods = self.config.scan.methods
        needs_factors = any(method not in WITHOUT_CURVATURE for method in methods)
        factors = (self._factors or self.fit()) if needs_factors else None
        splits = self.corpus.plan(self.numerics.split_tokens)
        prepared = precondition(
            self.runner,
            self.store,
            self.model_digest,
            list(self.replica.modules),
            factors,
            self.queries,
            self.config.scan,
            self.numerics,
            self.progress,
        )
        digests = [query.digest for query in self.queries]
        banks = plan_banks(self.store, prepared, digests, self.config.scan, self.numerics)
        partials, operands = scan(
            self.runner, self.corpus, splits, banks, self.config.scan, self.progress
        )
        found = explain_survivors(
            self.runner,
            self.corpus_store,
            splits,
            operands,
            partials,
            set(digests),
            self.tokenizer,
            self.progress,
        )
        n_sequences = self.corpus.n_sequences - len(self.bad_sequences)
        for method in methods:
            of_method = [bank for bank in found if bank.plan.method == method]
            write_method(self.store, method, self.queries, of_method, n_sequences)
        summary = {
            method: {
                "banks": [bank.plan.fingerprint for bank in found if bank.plan.method == method],
                "rank": self.config.scan.rank,
                "scanned_sequences": partials[index].n_sequences,
                "scanned_tokens": partials[index].n_tokens,
                "quarantined": [
                    {"sequence_id": sequence_id, "reason": reason}
                    for sequence_id, reason in partials[index].quarantine.items()
                ],
            }
            for method in methods
            for index in [next(i for i, bank in enumerate(banks) if bank.method == method)]
        }
        manifest = self._manifest(prepared, factors, n_sequences) | {"methods": summary}
        self.store.write(
            "results/manifest.json", json.dumps(manifest, indent=1, ensure_ascii=False).encode()
        )
        for query in manifest["queries"]:
            if query["warning"]:
                self.progress.note(f"warning: query {query['query_id']}: {query['warning']}")
        return {method: Results.load(self.store, method) for method in methods}

    def all(self) -> dict[str, Results]:
        """tokenize, fit and scan; whatever is done already is skipped."""
        self.store.write(
            "config.json",
            json.dumps(self.config.model_dump(), indent=1, ensure_ascii=False).encode(),
        )
        if self.config.queries is not None and not self._open(self.config.queries).exists(""):
            raise ConfigError(f"queries: there is no file {self.config.queries}.")
        self.tokenize()
        return self.scan()

    def _manifest(
        self, prepared: list[MethodQueries], factors: Factors | None, n_sequences: int
    ) -> dict[str, Any]:
        modules = self.replica.modules
        model = self.replica.model
        files = self.corpus.manifest.files
        operators = factors.damping(self.config.scan) if factors else {}
        return {
            "n_sequences": n_sequences,
            "n_tokens": self.corpus.n_tokens,
            "queries": [
                query_manifest(query, query_report(prepared[0], query), self.tokenizer)
                for query in self.queries
            ],
            "model": {
                "path": self.config.model,
                "digest": self.model_digest,
                "architecture": type(model).__name__,
                "parameters": sum(weight.numel() for weight in model.parameters()),
                "tracked_parameters": sum(s.n_parameters for s in self.replica.shapes.values()),
                "coverage": coverage(model, modules),
                "modules": list(modules),
            },
            "tokenizer": {"digest": tokenizer_digest(self.tokenizer)},
            "corpus": {
                "url": self.corpus_store.url,
                "fingerprint": self.corpus.fingerprint,
                "shards": len(self.corpus.manifest.shards),
                "documents": sum(report["documents"] for report in files),
                "empty_documents": sum(report["empty_documents"] for report in files),
                "short_chunks": sum(report["short_chunks"] for report in files),
                "bad_documents": sum(report["n_bad"] for report in files),
                "bad_sequences": [
                    {"sequence_id": i, "reason": reason} for i, reason in self.bad_sequences.items()
                ],
            },
            "factors": None
            if factors is None
            else {
                "fingerprint": factors.fingerprint,
                "n_sequences": factors.n_sequences,
                "n_tokens": factors.n_tokens,
                "quarantined": factors.manifest["quarantine"],
                "damping": operators,
            },
            "config": self.config.model_dump(),
            "numerics": vars(self.numerics),
            "versions": {"python": platform.python_version()}
            | {package: version(package) for package in _PACKAGES},
            "stages": self._stages(),
            "warnings": self.warnings,
        }

    def _stages(self) -> dict[str, Any]:
        """Timings of this process's stages over those of earlier ones, whose work was reused."""
        key = "stages.json"
        known = json.loads(self.store.read(key)) if self.store.exists(key) else {}
        known |= {
            name: {
                "seconds": timing.seconds,
                "tokens": timing.tokens,
                "tokens_per_second": timing.tokens_per_second,
            }
            for name, timing in self.progress.timings.items()
        }
        self.store.write(key, json.dumps(known, indent=1).encode())
        return known

    def _model_context(self) -> int:
        length = context_length(self.replica.model)
        if length is None:
            raise ConfigError("corpus.context: this model does not say its context; set it.")
        return length

    def _warn(self, text: str) -> None:
        self.warnings.append(text)
        self.progress.note(f"warning: {text}")

    def _open(self, url: str) -> Store:
        return Store(url, self.config.storage.options(url))


def run(config: RunConfig) -> Results:
    """Do everything a configuration says, skip what is done, and return the first method's results.

    Raises:
        RayInfluenceError: with a sentence that says what is wrong, where, and what to do.
    """
    with Run(config) as opened:
        results = opened.all()
    return results[config.scan.methods[0]]
