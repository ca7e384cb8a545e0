"""The tokenize stage: files of documents that the corpus lacks become shards at its end.

Its items are files, and the outcome of each is a fragment. The digest of what was read is in a
fragment's name, and it counts if its shards are there, so the stage says itself which are done.
A file that is bad has none: it is given up.
"""

from __future__ import annotations

import contextlib
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from rayinfluence.corpus.bad_files import BadFile
from rayinfluence.corpus.documents import file_digest
from rayinfluence.corpus.files import Found
from rayinfluence.corpus.fragments import Fragment, Logged, Seen, seen_prefix
from rayinfluence.corpus.known import lacking, left_whole
from rayinfluence.corpus.limits import DEFAULT, STRICT, Limits
from rayinfluence.corpus.ordinals import Making, Ordinals, refuse_old_layout
from rayinfluence.corpus.parts import PART_BYTES
from rayinfluence.corpus.rolled import MOST_FILES, read_logbook, roll_up
from rayinfluence.corpus.token_files import with_index
from rayinfluence.corpus.tokenize import TokenizeSettings
from rayinfluence.corpus.tokenizer import tokenizer_digest
from rayinfluence.dataflow import stage_names
from rayinfluence.dataflow.jobs.tokenize import Tokenizing
from rayinfluence.dataflow.jobs.watch import enter_phase
from rayinfluence.dataflow.runners.base import Runner
from rayinfluence.dataflow.stages.bad_files import BadFiles
from rayinfluence.dataflow.stages.ensure import Lacking, Place, Stage, ensure, not_there
from rayinfluence.dataflow.stages.pieces import BYTES_PER_TOKEN, outcomes
from rayinfluence.dataflow.stages.progress import ProgressLog, StageProgress
from rayinfluence.errors import CorpusError, StorageError
from rayinfluence.storage.many import info_all
from rayinfluence.storage.store import Listed, Store

if TYPE_CHECKING:
    from rayinfluence.corpus.tokenizer import Coding

#: Files that are done are entered in the log together, as often as this or when they are so many.
_SECONDS_PER_ENTRY = 1.0
_FILES_PER_ENTRY = 1024
#: Digests of files of fewer bytes are made here, before a worker would have started.
_SMALL = 2**28


def tokenize_files(
    runner: Callable[[], Runner],
    documents: Found,
    store: Store,
    tokenizer: Coding,
    settings: TokenizeSettings,
    progress: ProgressLog,
    foretell: Callable[[Sequence[Store], bool], None],
    limits: Limits = DEFAULT,
    part_bytes: int = PART_BYTES,
) -> list[BadFile]:
    """Tokenise the files that the corpus lacks, and enter them in its log in their order.

    One file is tokenised here; several, and the parts of large ones, are tokenised side by side.
    What a tokeniser that was killed has left whole is taken as it is. Where another process
    tokenises into the same corpus, each file is entered by the first that has it done. Returns the
    files that are left out of it.

    ``foretell`` is told the files before they are read, and whether there are no others.

    Raises:
        CorpusError: the corpus was made otherwise or holds other files, or more rows or files are
            bad than may be.
    """
    refuse_old_layout(store)
    logbook = read_logbook(store)
    making = Making(tokenizer_digest(tokenizer), settings)
    tokenizing = Tokenizing(store, tokenizer, making, limits, part_bytes)
    ordinals = Ordinals(store, making, logbook.entries, documents.left_out)
    if limits == STRICT:
        _refuse_left_out(logbook.fragments, limits, settings)
    abouts = [
        with_index(file, about)
        for file, about in zip(documents.files, info_all(documents.files), strict=True)
    ]
    pending = lacking(
        store,
        {Seen.of(f.url, about): f for f, about in zip(documents.files, abouts, strict=True)},
        [fragment.file for fragment in logbook.fragments],
        lambda files: _digests(runner, files),
    )
    bad = BadFiles(store, making.digest, limits, list(pending), len(documents.files))
    entering = Entering(store, ordinals, [one for one in pending if one not in bad], logbook.loose)
    if left := {seen: file for seen, file in pending.items() if seen not in bad}:
        foretell(list(left.values()), not logbook.fragments)
        stage = _stage(runner, tokenizing, left, entering, bad)
        try:
            ensure(stage, progress)
        except StorageError:
            raise
        except BaseException:
            # Those before a file that is refused, or before an interrupt, are in the corpus.
            entering.enter()
            raise
        entering.enter()
    if entering.loose:
        # It is derived: who may only read the corpus does without.
        with contextlib.suppress(StorageError):
            roll_up(store)
    return bad.files


class Entering:
    """Enters files in the log as they are done, each after those before it.

    Args:
        store: of the corpus.
        ordinals: the log's end.
        files: in their order.
        loose: fragments that have not been rolled up.

    Attributes:
        logged: the files that are done, and how the log names them.
        loose: fragments that have not been rolled up by now.
    """

    def __init__(self, store: Store, ordinals: Ordinals, files: Sequence[Seen], loose: int) -> None:
        self.logged: dict[Seen, Logged] = {}
        self.loose = loose
        self._store = store
        self._ordinals = ordinals
        self._left = deque(files)
        self._next: list[Logged] = []
        self._entered = 0.0

    def done(self, seen: Seen, logged: Logged) -> None:
        """Note that a file is done; it is entered soon after those before it are."""
        self.logged[seen] = logged
        self._take_turns()

    def pass_over(self, seen: Seen) -> None:
        """Note that a file is bad, and others need not wait for it."""
        self._left.remove(seen)
        self._take_turns()

    def _take_turns(self) -> None:
        while self._left and self._left[0] in self.logged:
            self._next.append(self.logged[self._left.popleft()])
            waited = time.monotonic() - self._entered
            if waited >= _SECONDS_PER_ENTRY or len(self._next) >= _FILES_PER_ENTRY:
                self.enter()
                self._entered = time.monotonic()
            if self.loose >= MOST_FILES:
                roll_up(self._store)
                self.loose = 0

    def enter(self) -> None:
        """Enter what has its turn.

        Raises:
            StorageError: the workers that wrote it have a disk of their own.
        """
        if self._next:
            first = self._next[0].fragment
            enter_phase("ordinal", first)
            # The log is for ever. One of them tells: they are all from the same place.
            if not self._store.exists(first):
                raise not_there(Place(self._store, first))
        self._ordinals.append(self._next)
        self.loose += len(self._next)
        self._next.clear()


def _stage(
    runner: Callable[[], Runner],
    tokenizing: Tokenizing,
    pending: Mapping[Seen, Store],
    entering: Entering,
    bad: BadFiles,
) -> Stage[Seen]:
    store = tokenizing.corpus
    prefixes = {seen: seen_prefix(tokenizing.making.digest, seen) for seen in pending}

    def there(fragments: Mapping[str, Listed]) -> set[str]:
        unknown = {
            prefixes[seen]: seen
            for seen in pending
            if seen not in entering.logged and seen not in bad
        }
        for seen, logged in left_whole(store, fragments, unknown):
            entering.done(seen, logged)
        known = entering.logged.items()
        return {prefixes[seen] for seen, logged in known if logged.fragment in fragments}

    def work(some: Sequence[Lacking[Seen]], told: StageProgress) -> Iterator[None]:
        files = {one.item: pending[one.item] for one in some}
        for seen, outcome in outcomes(runner, tokenizing, files, told):
            if outcome.logged is not None:
                entering.done(seen, outcome.logged)
            else:
                bad.add(seen, outcome.why_bad or "")
                entering.pass_over(seen)
            yield

    return Stage(
        stage_names.TOKENIZE,
        list(pending),
        lambda seen: [Place(store, prefixes[seen])],
        work,
        n_tokens=lambda seen: seen.size // BYTES_PER_TOKEN,
        given_up=lambda seen: seen in bad,
        there=there,
    )


def _refuse_left_out(
    fragments: Sequence[Fragment], limits: Limits, settings: TokenizeSettings
) -> None:
    for fragment in fragments:
        if why := limits.why_bad(fragment.report, settings.columns):
            raise CorpusError(f"the corpus was tokenised with a wider limit: {why}")


def _digests(runner: Callable[[], Runner], files: Mapping[Seen, Store]) -> list[str]:
    if len(files) == 1 or sum(seen.size for seen in files) < _SMALL:
        return [file_digest(file) for file in files.values()]
    return list(runner().tasks(file_digest, list(files.values())))
