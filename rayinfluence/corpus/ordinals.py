"""The log of a corpus: which files are in it, in which order, and so which shard has which ordinal.

Entries are objects ``log/00000000.json``, ``log/00000001.json`` and so on, each made only if there
is none: of tokenisers that race for a place one gets it, and the others read what it says and take
the next. A file is in the corpus when an entry names it, and its shards have the ordinals that
follow those of the files before.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from rayinfluence.corpus.files import LeftOut
from rayinfluence.corpus.fragments import Logged
from rayinfluence.corpus.tokenize import TokenizeSettings
from rayinfluence.errors import CorpusError
from rayinfluence.storage.digest import differences, digest, refuse_broken_seal, sealed
from rayinfluence.storage.store import Store

LOG = "log"
#: 3: fragments and a log, where there was one manifest.
FORMAT = 3
#: What a corpus of before has in their place.
OLD_MANIFEST = "manifest.json"
_ENTRY = re.compile(rf"{LOG}/\d{{8}}\.json")


@dataclass(frozen=True)
class Making:
    """What the shards of a corpus are made with."""

    tokenizer: str
    settings: TokenizeSettings

    @property
    def digest(self) -> str:
        """It in one word."""
        return digest([FORMAT, self.tokenizer, asdict(self.settings)])

    def refuse_others(self, store: Store, theirs: Making) -> None:
        """See that a corpus is made with the same.

        Raises:
            CorpusError: it is not; with what differs.
        """
        old, new = (
            {"tokenizer": one.tokenizer, "corpus": asdict(one.settings)} for one in (theirs, self)
        )
        if reasons := differences(new, old):
            raise CorpusError(
                f"the corpus at {store.url} was tokenised with another tokenizer or other "
                f"settings: {'; '.join(reasons)}. Set the configuration back, give this one "
                "another `corpus.path`, or delete that folder."
            )


@dataclass(frozen=True)
class Entry:
    """Files that came into the corpus together, and what was left out of the documents then."""

    making: Making
    files: tuple[Logged, ...]
    left_out: Mapping[str, LeftOut] = field(default_factory=dict)

    @property
    def body(self) -> dict[str, Any]:
        """The entry as a JSON object."""
        return sealed(
            {
                "format": FORMAT,
                **asdict(self.making),
                "files": [file._asdict() for file in self.files],
                "left_out": {why: asdict(left) for why, left in self.left_out.items()},
            }
        )

    @classmethod
    def parse(cls, body: dict[str, Any]) -> Entry:
        """The entry of a JSON object.

        Raises:
            ValueError, KeyError, TypeError: it is not one, or not as it was written.
        """
        refuse_broken_seal(body)
        if body["format"] != FORMAT:
            raise ValueError(f"format {body['format']}, expected {FORMAT}")
        return cls(
            Making(body["tokenizer"], TokenizeSettings(**body["settings"])),
            tuple(Logged(**file) for file in body["files"]),
            {why: LeftOut(**left) for why, left in body["left_out"].items()},
        )


def entry_key(number: int) -> str:
    """Where an entry is."""
    return f"{LOG}/{number:08d}.json"


def length_of_log(store: Store) -> int:
    """How many entries there are.

    Raises:
        CorpusError: one of them is missing.
    """
    found = {int(key[len(LOG) + 1 : -5]) for key in store.list(LOG) if _ENTRY.fullmatch(key)}
    length = max(found, default=-1) + 1
    for number in sorted(set(range(length)) - found):
        # A listing may pass over what is made meanwhile, and have what is made after it.
        if not store.exists(entry_key(number)):
            raise CorpusError(
                f"{store.url}/{entry_key(number)} is missing from the corpus's log, which goes on "
                "after it: sequences after it have lost their ids. Restore it, or delete the "
                "corpus folder and tokenise again."
            )
    return length


def read_entries(store: Store, start: int, end: int) -> list[Entry]:
    """Entries of the log, by their numbers.

    Raises:
        CorpusError: one is not of this version, or of another making than those before it.
        StorageError: one is missing, or cannot be read.
    """
    keys = [entry_key(number) for number in range(start, end)]
    found = []
    for key, body in zip(keys, store.read_all(keys), strict=True):
        try:
            found.append(Entry.parse(json.loads(body)))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise CorpusError(
                f"{store.url}/{key} is not of the log of a corpus of this version "
                f"({type(error).__name__}: {error}). Tokenise into an empty folder."
            ) from error
    return found


class Ordinals:
    """The end of a log, where files get their ordinals.

    Args:
        store: of the corpus.
        making: what our shards are made with.
        entries: what is in the log already.
        left_out: what lies among our documents and is not read.
    """

    def __init__(
        self,
        store: Store,
        making: Making,
        entries: Sequence[Entry],
        left_out: Mapping[str, LeftOut],
    ) -> None:
        self._store = store
        self._making = making
        self._left_out = left_out
        self._length = 0
        self._known: set[tuple[str, str]] = set()
        for entry in entries:
            self._take(entry)

    def append(self, files: Sequence[Logged]) -> None:
        """Give files the next ordinals, in their order; what has some keeps them.

        Raises:
            CorpusError: another process has begun the corpus with other settings.
        """
        while fresh := [file for file in files if (file.url, file.digest) not in self._known]:
            entry = Entry(self._making, tuple(fresh), self._left_out)
            body = json.dumps(entry.body, ensure_ascii=False).encode()
            if not self._store.create(entry_key(self._length), body):
                # Another's, who was faster; it may have what we bring.
                [entry] = read_entries(self._store, self._length, self._length + 1)
            self._take(entry)

    def _take(self, entry: Entry) -> None:
        self._making.refuse_others(self._store, entry.making)
        self._known |= {(file.url, file.digest) for file in entry.files}
        self._length += 1


def refuse_old_layout(store: Store) -> None:
    """See that a folder does not hold a corpus as it was laid out before.

    Raises:
        CorpusError: it does.
    """
    if store.exists(OLD_MANIFEST) and not store.exists(entry_key(0)):
        raise CorpusError(
            f"{store.url} holds a corpus that an earlier version laid out ({OLD_MANIFEST}); this "
            "one neither reads it nor adds to it. Tokenise the documents again: into another "
            "folder (`corpus.path`), or there after deleting it, which `rayinfluence clean RUN "
            "--stage corpus` does where it is in the run directory."
        )
