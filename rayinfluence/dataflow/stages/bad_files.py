"""The bad files of a corpus while it is tokenised: known ones, and those that are found."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence

from rayinfluence.corpus.bad_files import (
    BAD_FILES,
    BadFile,
    bad_file_key,
    note_bad_file,
    read_bad_files,
)
from rayinfluence.corpus.fragments import Seen
from rayinfluence.corpus.limits import Limits, in_words
from rayinfluence.errors import CorpusError, StorageError
from rayinfluence.storage.store import Store


class BadFiles:
    """Files that are left out of a corpus; too many of them end the stage.

    Notes of files that are in the corpus by now, or listed no more, are deleted.

    Args:
        store: of the corpus.
        making: the digest of what its shards are made with.
        limits: of what may be left out.
        pending: files that the corpus lacks.
        n_files: how many files of documents there are.

    Raises:
        CorpusError: too many are known to be bad.
    """

    def __init__(
        self, store: Store, making: str, limits: Limits, pending: Sequence[Seen], n_files: int
    ) -> None:
        self._store = store
        self._limits = limits
        self._n_files = n_files
        self._keys = {seen: bad_file_key(making, seen, limits.bad_rows) for seen in pending}
        noted = store.list(BAD_FILES)
        known = [seen for seen in pending if self._keys[seen] in noted]
        found = read_bad_files(store, [self._keys[seen] for seen in known])
        self._bad = dict(zip(known, found.values(), strict=True))
        for key in noted.keys() - found.keys():
            with contextlib.suppress(StorageError):  # who may only read does without
                store.delete(key)
        if self._bad:
            self._refuse_too_many()

    def __contains__(self, seen: Seen) -> bool:
        return seen in self._bad

    @property
    def files(self) -> list[BadFile]:
        """The files, and why they are bad."""
        return list(self._bad.values())

    def add(self, seen: Seen, reason: str) -> None:
        """Note that a file is bad.

        Args:
            seen: the file.
            reason: as sentences that name it.

        Raises:
            CorpusError: that is one too many.
        """
        self._bad[seen] = BadFile(seen.url, reason)
        self._refuse_too_many()
        note_bad_file(self._store, self._keys[seen], self._bad[seen])

    def _refuse_too_many(self) -> None:
        n_bad, last = len(self._bad), self.files[-1]
        if n_bad == self._n_files and self._limits.bad_files:
            raise CorpusError(f"no file of documents is left, all {n_bad:,} are bad. {last.reason}")
        if not self._limits.too_many_files(n_bad, self._n_files):
            return
        if not self._limits.bad_files:
            raise CorpusError(
                f"{last.reason} Where such a file is to be left out and counted, set "
                "corpus.bad_files to how many may be."
            )
        raise CorpusError(
            f"{n_bad:,} of {self._n_files:,} files of documents are bad, more than "
            f"{in_words(self._limits.bad_files)} (corpus.bad_files). The last is this: "
            f"{last.reason}"
        )
