"""Tokenising one file of documents: its shards, and then the fragment that says what is in them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rayinfluence.corpus.columns import what_to_do
from rayinfluence.corpus.forms import Columns
from rayinfluence.corpus.fragments import FileReport, Fragment, Logged, write_fragment
from rayinfluence.corpus.ordinals import Making
from rayinfluence.corpus.tokenize import tokenize_file
from rayinfluence.dataflow.jobs.watch import enter_phase
from rayinfluence.errors import CorpusError
from rayinfluence.storage.store import Store

if TYPE_CHECKING:
    from rayinfluence.corpus.tokenizer import Coding

#: More rows that are no documents than this share end the stage.
BAD_DOCUMENTS_LIMIT = 0.01


@dataclass(frozen=True)
class Tokenizing:
    """All that a file needs to be tokenised, here or elsewhere."""

    corpus: Store
    tokenizer: Coding
    making: Making

    def do(
        self, file: Store, advance: Callable[[int], None] = lambda tokens: None
    ) -> tuple[Logged, int]:
        """Write the file's shards, then its fragment; how the log names it, and its tokens.

        Raises:
            CorpusError: it cannot be read, or more than 1 % of its rows are no documents.
        """

        def write(key: str, body: bytes) -> None:
            enter_phase("shard", file.name)
            self.corpus.write(key, body)

        shards, report = tokenize_file(file, self.tokenizer, self.making.settings, write, advance)
        _refuse_bad_documents(report, self.making.settings.columns)
        fragment = Fragment.of(report, shards)
        enter_phase("fragment", file.name)
        logged = write_fragment(self.corpus, self.making.digest, fragment)
        enter_phase("tokenized", file.name)
        return logged, fragment.n_tokens


def _refuse_bad_documents(report: FileReport, columns: Columns) -> None:
    total = report.documents + report.n_bad
    if report.n_bad > BAD_DOCUMENTS_LIMIT * total:
        first = report.bad[0]
        raise CorpusError(
            f"{report.n_bad} of {total} rows of {report.url} are not documents, more than "
            f"{BAD_DOCUMENTS_LIMIT:.0%}; the first is {first.place}: {first.reason}. "
            f"{what_to_do(first.reason, columns)}"
        )
