"""What can be refused before torch is imported: queries, addresses of documents and of a corpus.

Importing torch and loading a model take seconds to minutes; a typing error in a file should not.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from rayinfluence.addresses import hub_address, may_be_on_a_hub, why_no_folder
from rayinfluence.config import RunConfig
from rayinfluence.config_methods import BY_ITSELF
from rayinfluence.corpus.beginning import beginning
from rayinfluence.corpus.corpus import Corpus
from rayinfluence.corpus.documents import refuse_other_content
from rayinfluence.corpus.features import Features
from rayinfluence.corpus.files import Found, find_files
from rayinfluence.corpus.ordinals import refuse_old_layout
from rayinfluence.corpus.queries import refuse_other_form
from rayinfluence.corpus.query_files import read_queries
from rayinfluence.corpus.query_forms import LOG_PROBABILITY, Query
from rayinfluence.corpus.tokenizer_lacking import TOKENIZER
from rayinfluence.dataflow import layout
from rayinfluence.dataflow.begin.apart import refuse_own_documents, refuse_written_over
from rayinfluence.dataflow.begin.counted import refuse_plain_texts
from rayinfluence.dataflow.begin.features import features_of
from rayinfluence.dataflow.begin.fetched import Folders, fetched
from rayinfluence.dataflow.begin.narrowing import Conditions, conditions_of, earlier_run
from rayinfluence.dataflow.begin.objective import kind_of_run
from rayinfluence.dataflow.begin.questions import asked_before, with_questions
from rayinfluence.dataflow.begin.reading import columns_of, refuse_framing, refuse_unread
from rayinfluence.errors import ConfigError, ModelError, QueryError
from rayinfluence.model.weight_files import CONFIG, WHOLE
from rayinfluence.named_function import NamedFunction
from rayinfluence.storage.hub import Say
from rayinfluence.storage.results.meaning import ITSELF_ID
from rayinfluence.storage.store import Store


def silent(_text: str) -> None:
    """Prints nothing."""


@dataclass(frozen=True)
class Inputs:
    """What a configuration names, found and read.

    Attributes:
        queries: of the file that it names, and those that were asked of its run directory beside
            it; None where there are none.
        documents: files to tokenise, none where the corpus is used as it is; and what lies
            among them.
        folders: of the model and of its tokenizer.
        kind: of the model's objective.
        function: that the queries ask for, where it is not the log-probability.
        trained_on: that training maximised, where it is the user's own.
        builder: that builds the model, where that takes rows of features.
        features: of those rows.
        asks_queries: whether a method has queries to ask.
        conditions: which of the corpus's rows are scanned.
    """

    queries: list[Query] | None
    documents: Found
    folders: Folders
    kind: str
    function: NamedFunction | None = None
    trained_on: NamedFunction | None = None
    builder: NamedFunction | None = None
    features: Features | None = None
    asks_queries: bool = True
    conditions: Conditions = (None, None)

    @property
    def needed_queries(self) -> list[Query]:
        """The queries that are asked; none where each sequence is only scored for itself.

        Raises:
            ConfigError: the configuration names none.
        """
        if not self.asks_queries:
            return []
        if self.queries is None:
            raise ConfigError(
                "queries: name a queries.jsonl with one {query_id, prompt, completion} a line."
            )
        return self.queries

    def asking(self, more: Sequence[Query]) -> Inputs:
        """With more queries, of which those that are asked already are not asked again."""
        return replace(self, queries=with_questions(self.queries, more))

    @classmethod
    def of(cls, config: RunConfig, say: Say = silent, new_run: bool = False) -> Inputs:
        """Read queries, find documents, and see that there is a corpus where none are given.

        A model on a hub is fetched when all else is there.

        Args:
            config: of the run.
            say: prints a line about what is fetched.
            new_run: whether it may be another commit than the run directory has been used with.

        Raises:
            ConfigError: the configuration names a queries file that is not there, a function that
                is not, inputs among what the run writes, or an objective of another kind than
                the model's.
            ModelError: a folder is not there, files in it are not whole, or it is an adapter's.
            QueryError: a query is malformed.
            CorpusError: an address of documents names nothing that can be read, or there is no
                corpus, or one that an earlier version laid out.
            StorageError: something cannot be read, or a hub not be reached.
        """
        refuse_written_over(config)
        conditions = conditions_of(config)
        earlier_run(config)
        folders = {
            "model": config.model,
            "base_model": config.base_model,
            "tokenizer": config.tokenizer,
        }
        named = {key: path for key, path in folders.items() if path is not None}
        for key, path in named.items():
            if hub_address(path) is None:
                refuse_no_folder(key, path)
        on_hub = any(map(hub_address, named.values()))
        places = None if on_hub else fetched(config, say, new_run)
        if places is not None:
            kind_of_run(config, places.source.weights)
        queries = None
        if config.queries is not None:
            file = Store(config.queries, config.storage.options(config.queries))
            if not file.exists(""):
                raise ConfigError(f"queries: there is no file {config.queries}.")
            if "://" not in config.queries and Path(config.queries).is_dir():
                raise ConfigError(f"queries: {config.queries} is a folder; name the file in it.")
            queries = read_queries(file)
            _refuse_name_of_all(config, queries)
        if config.scan.asks_queries:
            before = asked_before(Store(config.run, config.storage.options(config.run)))
            queries = with_questions(queries, before)
        function = trained_on = builder = features = None
        if config.model_function is not None:
            builder = NamedFunction.of("model_function", config.model_function)
            if not (Path(config.model) / WHOLE).is_file():
                raise ModelError(
                    f"model: {config.model} has no {WHOLE}; save the state_dict of what "
                    "model_function builds there (`safetensors.torch.save_model`)."
                )
        if config.query_function is not None:
            function = NamedFunction.of("query_function", config.query_function)
            _refuse_own_counting(queries or [])
        if config.objective.function is not None:
            trained_on = NamedFunction.of("objective.kind", config.objective.function)
        documents = find_files(
            config.corpus.documents, config.storage.options, config.corpus.tokens is not None
        )
        refuse_own_documents(config, documents)
        for file in documents.files:
            refuse_other_content(file, columns_of(config).tokens)
        refuse_unread(config, documents.files)
        _refuse_no_text(documents, config)
        if config.corpus.documents:
            refuse_old_layout(corpus_store(config))
        else:
            Corpus.refuse_none(corpus_store(config))
        places = places or fetched(config, say, new_run)
        kind = kind_of_run(config, places.source.weights)
        refuse_framing(config, kind)
        asks = config.scan.asks_queries
        for query in queries or []:
            refuse_other_form(query, kind)
        if builder is not None:
            features = features_of(config, documents.files, corpus_store(config))
        return cls(
            queries,
            documents,
            places,
            kind,
            function,
            trained_on,
            builder,
            features,
            asks,
            conditions,
        )


def _refuse_own_counting(queries: Sequence[Query]) -> None:
    """Refuse queries that say which tokens count, where a function of the user's says so."""
    for query in queries:
        own = [
            answer.mean or answer.spans or answer.measurement != LOG_PROBABILITY
            for answer in query.answers
        ]
        if any(own):
            raise QueryError(
                f"query {query.query_id!r} has a reduction, a measurement or spans, and "
                "query_function decides by itself what is taken of which tokens: leave one of "
                "them out."
            )


def _refuse_name_of_all(config: RunConfig, queries: Sequence[Query]) -> None:
    """Refuse a query of the name that stands for the sequences themselves in the same results."""
    if BY_ITSELF.isdisjoint(config.scan.methods):
        return
    if any(query.query_id == ITSELF_ID for query in queries):
        raise QueryError(
            f"{config.queries}: a query has the id {ITSELF_ID!r}, which is that of the sequences "
            "themselves in the results of this run's scan.methods; give the query another id."
        )


def _refuse_no_text(documents: Found, config: RunConfig) -> None:
    """Refuse documents without a text column, as far as the first rows of two files tell."""
    if here := [file for file in documents.files if file.is_local]:
        refuse_plain_texts(config, beginning(here, columns_of(config), config.corpus.bad_files > 0))


def corpus_store(config: RunConfig) -> Store:
    """Where a run's shards are."""
    path = config.corpus.path
    if path:
        return Store(path, config.storage.options(path))
    return Store(config.run, config.storage.options(config.run)) / layout.CORPUS


def refuse_no_folder(key: str, path: str) -> None:
    """Refuse what should be a folder of this machine, and is none.

    Args:
        key: of the configuration, whose value it is.
        path: the folder.

    Raises:
        ModelError: why it is none, or that it is not there.
    """
    if why := why_no_folder(path):
        raise ModelError(f"{key}: {why}")
    if not Path(path).is_dir():
        needed = TOKENIZER if key == "tokenizer" else CONFIG
        hub = f" (hf://{path} would fetch it from a hub)" if may_be_on_a_hub(path) else ""
        raise ModelError(
            f"{key}: there is no folder {path}{hub}; name one that `save_pretrained` wrote, with "
            f"its {needed}."
        )
