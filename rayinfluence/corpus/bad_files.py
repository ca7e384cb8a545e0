"""Files that a corpus does without: an object for each says which one it is and why.

They are not in the log, so that one that is mended comes in as any other. One that is as it was is
not read again under the same limit of bad rows.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from rayinfluence.corpus.fragments import Seen
from rayinfluence.errors import CorpusError
from rayinfluence.storage.digest import digest
from rayinfluence.storage.store import Store

#: Folder of a corpus.
BAD_FILES = "bad-files"


@dataclass(frozen=True)
class BadFile:
    """A file of which nothing is in the corpus, and why, as sentences."""

    url: str
    reason: str


def bad_file_key(making: str, seen: Seen, bad_rows: float) -> str:
    """Where it is said that a file is bad.

    Args:
        making: the digest of what shards are made with.
        seen: the file.
        bad_rows: the limit that it was judged by.
    """
    return f"{BAD_FILES}/{digest([making, *seen, float(bad_rows)])}.json"


def note_bad_file(store: Store, key: str, bad: BadFile) -> None:
    """Say that a file is bad."""
    store.write(key, json.dumps(asdict(bad), ensure_ascii=False).encode())


def read_bad_files(store: Store, keys: Sequence[str] | None = None) -> dict[str, BadFile]:
    """The files that a corpus does without, by where that is said; all of them, or some.

    Raises:
        CorpusError: it cannot be told of one.
    """
    keys = sorted(store.list(BAD_FILES)) if keys is None else keys
    found = {}
    for key, body in zip(keys, store.read_all(keys), strict=True):
        try:
            found[key] = BadFile(**json.loads(body))
        except (ValueError, TypeError) as error:
            raise CorpusError(
                f"{store.url}/{key} is damaged ({type(error).__name__}: {error}). Delete it: the "
                "next `rayinfluence tokenize` says again which file is bad."
            ) from error
    return found
