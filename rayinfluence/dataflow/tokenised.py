"""Looking into a tokenised corpus: with the tokenizer it was made with, and beside a model."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from rayinfluence.config import RunConfig
from rayinfluence.corpus.copies_report import CopiesReport
from rayinfluence.corpus.corpus import Corpus
from rayinfluence.corpus.near_copies import copies_in, refuse_no_minhash
from rayinfluence.corpus.shown import ShownDocument
from rayinfluence.corpus.statistics import CorpusStatistics, statistics_of, usual_keys
from rayinfluence.corpus.stored import (
    Row,
    document_from,
    document_named,
    first_documents,
    first_sequences,
    random_documents,
    random_sequences,
    sequences_at,
    shown_document,
)
from rayinfluence.corpus.tokenizer import tokenizer_digest
from rayinfluence.corpus.tokenizer_files import load_tokenizer
from rayinfluence.corpus.validation import Finding, findings
from rayinfluence.dataflow.begin.fetched import fetched
from rayinfluence.dataflow.begin.unknown_keys import refuse_unknown_keys
from rayinfluence.dataflow.places import corpus_place, run_config
from rayinfluence.errors import ConfigError
from rayinfluence.guest import as_found
from rayinfluence.storage.hub import Say
from rayinfluence.storage.store import Store, write_table


@dataclass(frozen=True)
class Tokenised:
    """A tokenised corpus, and the configuration of the run that it is of, if it is of one."""

    corpus: Corpus
    config: RunConfig | None
    say: Say

    @classmethod
    def at(cls, place: str, say: Say) -> Tokenised:
        """The corpus of a run, or one by its folder.

        Args:
            place: the folder, or the directory or the YAML file of a run.
            say: prints a line about what is fetched.

        Raises:
            ConfigError: it is none of them.
            CorpusError: there is no corpus, or it is empty or damaged.
        """
        store, is_run = corpus_place(place)
        corpus = Corpus.open(store)
        return cls(corpus, run_config(place) if is_run else None, say)

    @as_found()
    def by_id(
        self, document_id: str | None, sequence_id: int | None, tokenizer: str | None
    ) -> ShownDocument:
        """A document by its id, or a sequence by its own."""
        path = self._tokenizer(tokenizer)
        if sequence_id is not None:
            rows = [*sequences_at(self.corpus, [sequence_id])]
        elif document_id is not None:
            rows = document_named(self.corpus, document_id)
        else:
            rows = document_from(self.corpus, *first_documents(self.corpus, 1))
        [found] = self._shown([rows], path)
        return found

    @as_found()
    def some(
        self, count: int, documents: bool, seed: int | None, tokenizer: str | None
    ) -> Iterator[ShownDocument]:
        """Sequences or whole documents, the first ones or, by a seed, random ones."""
        path = self._tokenizer(tokenizer)
        if documents:
            ids = (
                first_documents(self.corpus, count)
                if seed is None
                else random_documents(self.corpus, count, seed)
            )
            return self._shown((document_from(self.corpus, one) for one in ids), path)
        ids = (
            first_sequences(self.corpus, count)
            if seed is None
            else random_sequences(self.corpus, count, seed)
        )
        return self._shown(([row] for row in sequences_at(self.corpus, ids)), path)

    def statistics(self, keys: Sequence[str] | None) -> CorpusStatistics:
        """It in figures.

        Args:
            keys: of metadata, whose values are counted; None: those that say source or language.

        Raises:
            ConfigError: no document has one of them.
        """
        refuse_unknown_keys(keys, self.corpus, "--by")
        return statistics_of(
            self.corpus, usual_keys(self.corpus.manifest) if keys is None else keys
        )

    def findings(self, model: str | None, tokenizer: str | None) -> Iterator[Finding]:
        """What is wrong with the corpus, by itself and beside its model.

        Args:
            model: a folder, in place of the run's.
            tokenizer: the same of it.

        Raises:
            ConfigError, ModelError, StorageError: the model or its tokenizer cannot be read.
        """
        path = model
        if self.config is not None and model is None:
            path = fetched(self.config, self.say).source.weights
        vocabulary, context = (None, None) if path is None else self._limits(path)
        if path is not None or tokenizer is not None:
            folder = tokenizer or model or self._folder(None)
            if (why := self._why_other(folder)) is not None:
                yield Finding(why)
        yield from findings(self.corpus, vocabulary, context)

    def copies(self, threshold: float, output: str | None, n_shown: int) -> CopiesReport:
        """Exact and near copies among all sequences; they are counted and named, and stay.

        Args:
            threshold: the least estimated Jaccard index of two that are alike.
            output: a Parquet file to write, a row for each sequence that is in a group.
            n_shown: groups in the report, the largest.

        Raises:
            ConfigError: rensa is not here, or the file is there already.
        """
        refuse_no_minhash()
        folder, name = None, ""
        if output is not None:
            before, slash, name = output.rpartition("/")
            folder = Store(f"{before}{slash}" or ".", self._options(output))
            if not name or folder.exists(name):
                raise ConfigError(f"--output {output}: name a file that is not there yet.")
        found = copies_in(self.corpus, threshold)
        if folder is not None:
            write_table(folder, name, found.table)
        return CopiesReport.of(self.corpus, found, threshold, n_shown)

    def _options(self, path: str) -> dict[str, Any]:
        return {} if self.config is None else self.config.storage.options(path)

    def _limits(self, model: str) -> tuple[int | None, int | None]:
        """Token ids and most tokens of a model, by its configuration; no weights are read."""
        import torch

        from rayinfluence.model.load import context_length, vocabulary_size
        from rayinfluence.model.weightless import weightless_model

        made = weightless_model(
            model,
            torch.float32,
            trust_remote_code=self._trusted,
            kind=self.corpus.manifest.settings.kind,
        )
        return vocabulary_size(made), context_length(made)

    def _shown(self, found: Iterable[list[Row]], path: str) -> Iterator[ShownDocument]:
        tokenizer = load_tokenizer(path, trust_remote_code=self._trusted)
        counts_all = self.config is not None and self.config.objective.loss == "all"
        for rows in found:
            yield shown_document(self.corpus, rows, tokenizer, counts_all)

    def _tokenizer(self, named: str | None) -> str:
        path = self._folder(named)
        if (why := self._why_other(path)) is not None:
            raise ConfigError(f"{why}: name the folder of the one that it was made with.")
        return path

    def _folder(self, named: str | None) -> str:
        if named is not None:
            return named
        if self.config is None:
            raise ConfigError(
                f"{self.corpus.store.url} is the folder of a corpus, and has token ids alone: name "
                "the folder of its tokenizer by --tokenizer, or its run in place of the folder."
            )
        return fetched(self.config, self.say).tokenizer.path

    def _why_other(self, path: str) -> str | None:
        made = tokenizer_digest(load_tokenizer(path, trust_remote_code=self._trusted))
        if made == self.corpus.manifest.tokenizer:
            return None
        return f"the tokenizer in {path} is not the one that the corpus was tokenised with"

    @property
    def _trusted(self) -> bool:
        return self.config is not None and self.config.trust_remote_code
