"""Looking at documents as a run would read, tokenise and cut them; nothing is written."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rayinfluence.config import RunConfig
from rayinfluence.config_places import StorageConfig
from rayinfluence.corpus.chunks import Framing
from rayinfluence.corpus.classes import names_of_classes
from rayinfluence.corpus.documents import BadDocument, read_documents
from rayinfluence.corpus.files import find_files
from rayinfluence.corpus.forms import Columns, Document
from rayinfluence.corpus.manifest import CorpusManifest
from rayinfluence.corpus.shown import ShownDocument, plain_metadata, shown_sequences
from rayinfluence.corpus.tokenize import TokenizeSettings, sequences_of
from rayinfluence.corpus.tokenizer_files import load_tokenizer
from rayinfluence.dataflow.begin.early import Inputs, corpus_store
from rayinfluence.dataflow.begin.features import refuse_rows
from rayinfluence.dataflow.begin.reading import refuse_overlap, refuse_unread, settings_of
from rayinfluence.dataflow.places import run_config, why_no_run
from rayinfluence.errors import ConfigError, CorpusError
from rayinfluence.guest import as_found
from rayinfluence.model.weight_files import read_config
from rayinfluence.objective_kinds import CAUSAL, CLASSIFICATION
from rayinfluence.storage.hub import Say
from rayinfluence.storage.store import Store

#: More than any document has.
_UNCUT = 2**40
_NOT_CUT = (
    "it is not cut, as nothing says how many tokens a sequence has: set corpus.context, or give "
    "--context"
)
_NO_WINDOW = (
    "documents are token ids (corpus.tokens), and nothing says how many of them a sequence has: "
    "set corpus.context, or give --context."
)
_LOST = "its last token is in no sequence: alone in one, it would predict nothing"


@dataclass(frozen=True)
class Looking:
    """Documents, and what they are tokenised with.

    Attributes:
        config: of the run that they are of.
        files: of them.
        tokenizer: its folder.
        kind: of the objective.
        classes: names of a classifier's classes.
    """

    config: RunConfig
    files: list[Store]
    tokenizer: str
    kind: str = CAUSAL
    classes: tuple[str, ...] = ()

    @as_found()
    def document(
        self, document_id: str | None, row: int | None, file: str | None, context: int | None
    ) -> ShownDocument:
        """One document with its sequences: by its id, or a row of a file; else the first.

        Raises:
            CorpusError: it is not there, or is no document.
        """
        known = context or self._context()
        if known is None and self.config.corpus.tokens is not None:
            raise ConfigError(_NO_WINDOW)
        settings = self._settings(known or _UNCUT)
        place, found = self._find(document_id, row, self._chosen(file), settings.columns)
        tokenizer = load_tokenizer(self.tokenizer, trust_remote_code=self.config.trust_remote_code)
        framing = Framing.of(tokenizer, settings.bos, settings.eos)
        refuse_overlap(settings.overlap, settings.context, framing)
        made = sequences_of(found, tokenizer, settings)
        if isinstance(made, str):
            raise CorpusError(f"{place.url}:{found.row} gives no sequence: {made}.")
        rows, n_lost = made
        notes = [_NOT_CUT] * (not known) + [_LOST] * bool(n_lost)
        return ShownDocument(
            place.url,
            found.row,
            found.document_id,
            plain_metadata(found.metadata),
            found.left_out,
            shown_sequences(rows, tokenizer, self.config.objective.loss == "all"),
            notes,
        )

    def _chosen(self, file: str | None) -> list[Store]:
        if file is None:
            return self.files
        found = [one for one in self.files if f"/{one.url}".endswith(f"/{file.strip('/')}")]
        if not found:
            raise CorpusError(
                f"--file {file}: none of {len(self.files):,} files of documents ends so, such as "
                f"{self.files[0].url}."
            )
        return found

    def _find(
        self, document_id: str | None, row: int | None, files: list[Store], columns: Columns
    ) -> tuple[Store, Document]:
        if row is not None and len(files) > 1:
            raise ConfigError(
                f"--row {row}: there are {len(files):,} files of documents, such as "
                f"{files[0].url}; name one by --file, or the document by --id."
            )
        n_read = 0
        for file in files:
            with closing(read_documents(file, columns)) as documents:
                for one in documents:
                    n_read += 1
                    if isinstance(one, BadDocument):
                        if one.place == f"{file.url}:{row}":
                            raise CorpusError(f"{one.place} is no document: {one.reason}.")
                        continue
                    if (row is None or one.row == row) and document_id in (None, one.document_id):
                        return file, one
        wanted = f"row {row}" if document_id is None else f"document {document_id!r}"
        if document_id is None and row is None:
            wanted = "document at all"
        where = files[0].url if len(files) == 1 else f"{len(files):,} files"
        raise CorpusError(f"there is no {wanted} in {where}: {n_read:,} rows were read.")

    def _context(self) -> int | None:
        """Most tokens of a sequence, where the configuration or its corpus says so."""
        if self.config.corpus.context is not None:
            return self.config.corpus.context
        manifest = CorpusManifest.read(corpus_store(self.config))
        return None if manifest is None else manifest.settings.context

    def _settings(self, context: int) -> TokenizeSettings:
        return settings_of(self.config, context, self.kind, self.classes)


def looked_at(place: str, tokenizer: str | None, columns: Mapping[str, Any], say: Say) -> Looking:
    """The documents that a path means, or those of a run.

    Args:
        place: of documents, or the YAML file or directory of a run.
        tokenizer: the folder of one; that of the run where none is named.
        columns: keys of ``corpus`` for documents without a configuration.
        say: prints a line.

    Raises:
        ConfigError: there is no tokenizer, or something is configured otherwise.
        CorpusError: there are no documents.
    """
    given = {key: value for key, value in columns.items() if value is not None}
    is_run = Path(place).suffix.lower() in (".yaml", ".yml") or why_no_run(Store(place)) is None
    if is_run:
        if given:
            raise ConfigError(f"{', '.join(given)}: {place} is a run's, and says it itself.")
        config = run_config(place).model_copy(update={"queries": None, "query_function": None})
        refuse_rows(config, "corpus show")
        if not config.corpus.documents:
            raise ConfigError(
                f"{place} names no documents (corpus.documents): look into its shards by "
                "--sequence, or name the folder of its corpus here."
            )
        inputs = Inputs.of(config, say)
        classes: tuple[str, ...] = ()
        if inputs.kind == CLASSIFICATION:
            described = read_config(inputs.folders.source.weights)
            # As transformers names those of a model that does not.
            unnamed = {n: f"LABEL_{n}" for n in range(2)}
            classes = names_of_classes(described.get("id2label") or unnamed)
        path = tokenizer or inputs.folders.tokenizer.path
        return Looking(config, inputs.documents.files, path, inputs.kind, classes)
    if tokenizer is None:
        find_files([place], StorageConfig().options)  # what is not there needs no tokenizer
        raise ConfigError(
            f"{place} are documents, and nothing says how they are tokenised: name the folder of a "
            "tokenizer by --tokenizer, or a run's YAML file in place of the documents."
        )
    values = {
        "run": "-",
        "model": tokenizer,
        "objective": {"loss": "completion"},  # what they say themselves of it
        "corpus": {"documents": [place], **given},
    }
    config = RunConfig.parse(values, place)
    documents = find_files(config.corpus.documents, config.storage.options)
    refuse_unread(config, documents.files)
    return Looking(config, documents.files, tokenizer)
