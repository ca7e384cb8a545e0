"""Fragments: what a corpus knows of one file of documents, an object each.

Whoever tokenised a file writes its fragment, ``fragments/<what was read>-<its digest>.json``, after
its shards. It counts when the log names it (see :mod:`rayinfluence.corpus.ordinals`); until then it
is work that need not be done again.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from itertools import starmap
from typing import Any, Literal, NamedTuple

from rayinfluence.corpus.documents import BadDocument
from rayinfluence.corpus.shards import Bounds, RowGroup
from rayinfluence.errors import CorpusError
from rayinfluence.storage.digest import digest, refuse_broken_seal, sealed
from rayinfluence.storage.store import Listed, Store

FRAGMENTS = "fragments"
#: Metadata keys that a fragment names; a file of as many may have more.
NAMED_KEYS = 1000
#: How many rows that are no documents it names, and how many of those that are no fault; all are
#: counted.
_NAMED_BAD_ROWS, _NAMED_PASSED_OVER = 1000, 20
#: Reasons that it counts apart; those of each row may be its own.
_REASONS = 100
_COUNTS = (
    *("documents", "empty_documents", "short_documents", "short_chunks"),
    *("masked", "counted_tokens", "uncounted", "n_bad", "no_pages", "quarantined"),
)
#: What rows are that are as they should be, and give no sequence.
PassedOver = Literal["empty_documents", "short_documents", "no_pages"]
_OF_A_GROUP = tuple(one.name for one in fields(RowGroup))


class Seen(NamedTuple):
    """A file as a listing shows it: what is as it was need not be read again."""

    url: str
    size: int
    modified: float | None
    tag: str | None

    @classmethod
    def of(cls, url: str, about: Listed) -> Seen:
        """A file with what its storage says of it."""
        return cls(url, about.size, about.modified, about.tag)


@dataclass(frozen=True)
class ShardRecord:
    """One shard: where it is, its size in bytes, and its row groups."""

    key: str
    size: int
    row_groups: list[RowGroup]
    bounds: list[Bounds] = field(default_factory=list)


@dataclass
class FileReport:
    """What became of one file of documents."""

    url: str
    size: int
    modified: float | None
    tag: str | None
    digest: str = ""
    documents: int = 0
    empty_documents: int = 0
    #: Documents of one token, and last chunks of one token of those that have more.
    short_documents: int = 0
    short_chunks: int = 0
    #: Sequences that say which of their tokens the loss counted, how many tokens that are, and how
    #: many sequences have none.
    masked: int = 0
    counted_tokens: int = 0
    uncounted: int = 0
    n_bad: int = 0
    #: The first of those.
    bad: list[BadDocument] = field(default_factory=list)
    #: How many there are for each reason, for the first _REASONS reasons.
    reasons: dict[str, int] = field(default_factory=dict)
    #: Rows that are no pages of text, and that is no fault of theirs.
    no_pages: int = 0
    #: The first of those and of the documents without a sequence, and how many for each reason.
    passed_over: list[BadDocument] = field(default_factory=list)
    why_passed_over: dict[str, int] = field(default_factory=dict)
    #: Where bad rows are kept as they were, and how many.
    quarantine: list[str] = field(default_factory=list)
    quarantined: int = 0
    #: How many of its documents that gave a sequence have each key, for the first NAMED_KEYS keys.
    metadata_keys: dict[str, int] = field(default_factory=dict)
    #: The same of columns that nobody chose and that are not small, and so no metadata.
    not_kept: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.bad, self.passed_over = _rows(self.bad), _rows(self.passed_over)

    def refuse(self, place: str, reason: str) -> None:
        """Count a row that is no document; the first ones are named.

        Args:
            place: of it.
            reason: why it is none.
        """
        self.n_bad += 1
        _count(self.reasons, reason, 1, _REASONS)
        if len(self.bad) < _NAMED_BAD_ROWS:
            self.bad.append(BadDocument(place, reason))

    def pass_over(self, place: str, reason: str, counted: PassedOver) -> None:
        """Count a document that gives no sequence, or a row that is no page; the first are named.

        Args:
            place: of it.
            reason: what is lacking, or what it is.
            counted: as which of the counts here.
        """
        self.documents += counted != "no_pages"
        setattr(self, counted, getattr(self, counted) + 1)
        _count(self.why_passed_over, reason, 1, _REASONS)
        # What has no text is known before what its batch has, so they come in another order.
        self.passed_over.append(BadDocument(place, reason))
        self.passed_over.sort(key=_row)
        del self.passed_over[_NAMED_PASSED_OVER:]

    @property
    def n_rows(self) -> int:
        """All that were read."""
        return self.documents + self.n_bad + self.no_pages

    def add(self, part: FileReport) -> None:
        """Count what the part of the file that comes next gave."""
        for name in _COUNTS:
            setattr(self, name, getattr(self, name) + getattr(part, name))
        self.bad = [*self.bad, *part.bad][:_NAMED_BAD_ROWS]
        self.passed_over = [*self.passed_over, *part.passed_over][:_NAMED_PASSED_OVER]
        self.quarantine = self.quarantine + part.quarantine
        for counts, found in (
            (self.reasons, part.reasons),
            (self.why_passed_over, part.why_passed_over),
        ):
            for reason, count in found.items():
                _count(counts, reason, count, _REASONS)
        self._count_keys(part.metadata_keys, part.not_kept)

    def count_keys(self, kept: Iterable[str], not_kept: Iterable[str]) -> None:
        """Count the metadata keys of a document that gave a sequence.

        Args:
            kept: those that it has.
            not_kept: columns that are none.
        """
        self._count_keys(dict.fromkeys(kept, 1), dict.fromkeys(not_kept, 1))

    def _count_keys(self, kept: Mapping[str, int], not_kept: Mapping[str, int]) -> None:
        for counts, found in ((self.metadata_keys, kept), (self.not_kept, not_kept)):
            for key, count in found.items():
                _count(counts, key, count, NAMED_KEYS)

    @classmethod
    def of(cls, url: str, about: Listed) -> FileReport:
        """The report of a file that is about to be read."""
        return cls(*Seen.of(url, about))


def _row(bad: BadDocument) -> int:
    return int(bad.place.rpartition(":")[2])


def _rows(found: Iterable[Any]) -> list[BadDocument]:
    return [one if isinstance(one, BadDocument) else BadDocument(**one) for one in found]


def _count(counts: dict[str, int], name: str, count: int, most: int) -> None:
    if name in counts or len(counts) < most:
        counts[name] = counts.get(name, 0) + count


class Logged(NamedTuple):
    """A file as the log names it: its fragment, its address and the digest of its bytes."""

    fragment: str
    url: str
    digest: str


@dataclass(frozen=True)
class Fragment:
    """The shards of one file, and what became of it (a FileReport as JSON)."""

    file: dict[str, Any]
    shards: tuple[ShardRecord, ...]

    @classmethod
    def of(cls, report: FileReport, shards: Sequence[ShardRecord]) -> Fragment:
        """The fragment of a file that has just been tokenised."""
        body = asdict(report)
        for bad in body["bad"] + body["passed_over"]:
            del bad["raw"]  # that of bad ones is in the quarantine
        return cls(body, tuple(shards))

    @property
    def n_tokens(self) -> int:
        """Tokens in its shards."""
        return sum(group.n_tokens for shard in self.shards for group in shard.row_groups)

    @property
    def report(self) -> FileReport:
        """What became of the file."""
        return FileReport(**copy.deepcopy(self.file))

    @property
    def seen(self) -> Seen:
        """The file as it was seen."""
        return Seen(*(self.file[name] for name in Seen._fields))

    def to_json(self) -> bytes:
        """The fragment as stored."""
        return json.dumps(self.body, ensure_ascii=False).encode()

    @property
    def body(self) -> dict[str, Any]:
        """The fragment as a JSON object; what it says of row groups is in columns."""
        return sealed({"file": self.file, "shards": [_columns(shard) for shard in self.shards]})

    @classmethod
    def parse(cls, body: dict[str, Any]) -> Fragment:
        """The fragment of a JSON object.

        Raises:
            ValueError, KeyError, TypeError: it is not one, or not as it was written.
        """
        refuse_broken_seal(body)
        FileReport(**body["file"])  # it has all that is asked of it later
        return cls(body["file"], tuple(_record(shard) for shard in body["shards"]))


def seen_prefix(making: str, seen: Seen) -> str:
    """How the keys of a file's fragments begin.

    Args:
        making: the digest of what its shards are made with.
        seen: the file.
    """
    return f"{FRAGMENTS}/{digest([making, *seen])}-"


def prefix_of(key: str) -> str | None:
    """How a fragment's key begins; None where it is no fragment's."""
    prefix, dash, rest = key.rpartition("-")
    return prefix + dash if rest.endswith(".json") else None


def write_fragment(store: Store, making: str, fragment: Fragment) -> Logged:
    """Write the fragment of a file whose shards are written; says how the log names it."""
    logged = Logged(
        f"{seen_prefix(making, fragment.seen)}{fragment.file['digest']}.json",
        fragment.file["url"],
        fragment.file["digest"],
    )
    # One that is there already says the same, and may be in the log: it is let be, if it is whole.
    if not store.create(logged.fragment, fragment.to_json()):
        try:
            read_fragments(store, [logged.fragment])
        except CorpusError:
            store.write(logged.fragment, fragment.to_json())
    return logged


def read_fragments(store: Store, keys: Sequence[str]) -> list[Fragment]:
    """Fragments by their keys.

    Raises:
        CorpusError: one of them is damaged.
        StorageError: one is not there or cannot be read.
    """
    found = []
    for key, body in zip(keys, store.read_all(keys), strict=True):
        try:
            fragment = Fragment.parse(json.loads(body))
            if not key.endswith(f"-{fragment.file['digest']}.json"):
                raise ValueError("it is that of another file")
            found.append(fragment)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise CorpusError(
                f"{store.url}/{key} is damaged ({type(error).__name__}: {error}). Restore it, or "
                "delete the corpus folder and tokenise again."
            ) from error
    return found


def _columns(shard: ShardRecord) -> dict[str, Any]:
    return {
        "key": shard.key,
        "size": shard.size,
        **{n: [getattr(group, n) for group in shard.row_groups] for n in _OF_A_GROUP},
        **{n: [getattr(bounds, n) for bounds in shard.bounds] for n in Bounds._fields},
    }


def _record(columns: dict[str, Any]) -> ShardRecord:
    groups = starmap(RowGroup, zip(*(columns[name] for name in _OF_A_GROUP), strict=True))
    bounds = map(Bounds._make, zip(*(columns[name] for name in Bounds._fields), strict=True))
    record = ShardRecord(columns["key"], columns["size"], list(groups), list(bounds))
    if len(record.bounds) != len(record.row_groups):
        raise ValueError("bounds of some row groups are missing")
    return record
