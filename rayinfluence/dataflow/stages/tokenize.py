"""The tokenize stage: files of documents that the corpus lacks become shards at its end."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rayinfluence.corpus.corpus import refuse_lost
from rayinfluence.corpus.documents import file_digest
from rayinfluence.corpus.files import Found
from rayinfluence.corpus.fragments import (
    FRAGMENTS,
    FileReport,
    Fragment,
    Logged,
    Seen,
    read_fragments,
    seen_prefix,
    write_fragment,
)
from rayinfluence.corpus.known import lacking
from rayinfluence.corpus.ordinals import Making, Ordinals, refuse_old_layout
from rayinfluence.corpus.rolled import MOST_FILES, read_logbook, roll_up
from rayinfluence.corpus.tokenize import TokenizeSettings, tokenize_file
from rayinfluence.corpus.tokenizer import tokenizer_digest
from rayinfluence.dataflow.jobs.watch import enter_phase
from rayinfluence.dataflow.runners.base import Runner
from rayinfluence.dataflow.stages.progress import ProgressLog
from rayinfluence.errors import CorpusError, StorageError
from rayinfluence.storage.many import info_all
from rayinfluence.storage.store import Store

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

#: More rows that are no documents than this share end the stage.
BAD_DOCUMENTS_LIMIT = 0.01
#: For the progress alone: bytes of a file that become one token, roughly.
_BYTES_PER_TOKEN = 4
#: Files that are done are entered in the log together, as often as this or when they are so many.
_SECONDS_PER_ENTRY = 1.0
_FILES_PER_ENTRY = 1024
#: Digests of files of fewer bytes are made here, before a worker would have started.
_SMALL = 2**28


@dataclass(frozen=True)
class Tokenizing:
    """All that a file needs to be tokenised, here or elsewhere."""

    corpus: Store
    tokenizer: PreTrainedTokenizerFast
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
        _refuse_bad_documents(report)
        fragment = Fragment.of(report, shards)
        enter_phase("fragment", file.name)
        logged = write_fragment(self.corpus, self.making.digest, fragment)
        enter_phase("tokenized", file.name)
        return logged, fragment.n_tokens


def tokenize_files(
    runner: Callable[[], Runner],
    documents: Found,
    store: Store,
    tokenizer: PreTrainedTokenizerFast,
    settings: TokenizeSettings,
    progress: ProgressLog,
    foretell: Callable[[Sequence[Store], bool], None],
) -> None:
    """Tokenise the files that the corpus lacks, and enter them in its log in their order.

    One file is tokenised here, several are tokenised side by side. What a tokeniser that was
    killed has left whole is taken as it is. Where another process tokenises into the same corpus,
    each file is entered by the first that has it done.

    ``foretell`` is told the files before they are read, and whether there are no others.

    Raises:
        CorpusError: the corpus was made otherwise or holds other files, or more than 1 % of a
            file's rows are no documents.
    """
    refuse_old_layout(store)
    logbook = read_logbook(store)
    work = Tokenizing(store, tokenizer, Making(tokenizer_digest(tokenizer), settings))
    ordinals = Ordinals(store, work.making, logbook.entries, documents.left_out)
    abouts = info_all(documents.files)
    pending = lacking(
        store,
        {Seen.of(f.url, about): f for f, about in zip(documents.files, abouts, strict=True)},
        [fragment.file for fragment in logbook.fragments],
        lambda files: _digests(runner, files),
    )
    loose = logbook.loose
    if pending:
        foretell(list(pending.values()), not logbook.fragments)
        left = _left_whole(store, work.making, list(pending))
        n_bytes = sum(seen.size for seen in pending)
        with progress.stage("tokenize", n_bytes // _BYTES_PER_TOKEN) as stage:
            outcomes = _outcomes(runner, work, pending, left, stage.advance)
            loose = _enter(ordinals, store, outcomes, loose)
    if loose:
        # It is derived: who may only read the corpus does without.
        with contextlib.suppress(StorageError):
            roll_up(store)


def _outcomes(
    runner: Callable[[], Runner],
    work: Tokenizing,
    pending: Mapping[Seen, Store],
    left: Mapping[Seen, tuple[Logged, int]],
    advance: Callable[[int], None],
) -> Iterator[Logged]:
    """The files, in their order, when each is done."""
    files = [file for seen, file in pending.items() if seen not in left]
    if len(pending) == 1 and files:
        yield work.do(files[0], advance)[0]
        return
    done = iter(runner().tasks(work.do, files) if len(files) > 1 else map(work.do, files))
    for seen in pending:
        logged, n_tokens = left[seen] if seen in left else next(done)
        advance(n_tokens)
        yield logged


def _enter(ordinals: Ordinals, store: Store, outcomes: Iterator[Logged], loose: int) -> int:
    """Enter files in the log as they come; how many fragments have not been rolled up since."""
    done: list[Logged] = []
    entered = 0.0

    def enter() -> int:
        if done:
            enter_phase("ordinal", done[0].fragment)
        ordinals.append(done)
        n_files = len(done)
        done.clear()
        return n_files

    try:
        for logged in outcomes:
            done.append(logged)
            waited = time.monotonic() - entered
            if waited >= _SECONDS_PER_ENTRY or len(done) >= _FILES_PER_ENTRY:
                loose += enter()
                entered = time.monotonic()
            if loose >= MOST_FILES:
                roll_up(store)
                loose = 0
    except StorageError:
        raise
    except BaseException:
        # Those before a file that is refused, or before an interrupt, are in the corpus.
        enter()
        raise
    return loose + enter()


def _left_whole(
    store: Store, making: Making, seen: Sequence[Seen]
) -> dict[Seen, tuple[Logged, int]]:
    """Files whose fragments lie there with all their shards, though the log names them not."""
    prefixes = {seen_prefix(making.digest, one): one for one in seen}
    found: dict[Seen, list[str]] = {}
    for key in store.list(FRAGMENTS):
        prefix, _, name = key.rpartition("-")
        if (one := prefixes.get(f"{prefix}-")) is not None and name.endswith(".json"):
            found.setdefault(one, []).append(key)
    if not found:
        return {}
    shards = store.list("shards")
    left = {}
    for one, keys in found.items():
        try:
            # Of two that look alike and say different things neither can be told to be this one.
            [key] = keys
            [fragment] = read_fragments(store, [key])
            for shard in fragment.shards:
                refuse_lost(store, shard, shards)
        except (ValueError, CorpusError):
            continue
        left[one] = Logged(key, one.url, fragment.file["digest"]), fragment.n_tokens
    return left


def _digests(runner: Callable[[], Runner], files: Mapping[Seen, Store]) -> list[str]:
    if len(files) == 1 or sum(seen.size for seen in files) < _SMALL:
        return [file_digest(file) for file in files.values()]
    return list(runner().tasks(file_digest, list(files.values())))


def _refuse_bad_documents(report: FileReport) -> None:
    total = report.documents + report.n_bad
    if report.n_bad > BAD_DOCUMENTS_LIMIT * total:
        first = report.bad[0]
        raise CorpusError(
            f"{report.n_bad} of {total} rows of {report.url} are not documents, more than "
            f"{BAD_DOCUMENTS_LIMIT:.0%}; the first is {first.place}: {first.reason}. Mend the "
            "file, or name its text column under corpus.text_column."
        )
