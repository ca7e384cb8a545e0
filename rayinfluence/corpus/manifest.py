"""The manifest of a corpus: what it consists of, put together from its log and its fragments."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from rayinfluence.corpus.bad_files import BadFile, read_bad_files
from rayinfluence.corpus.files import LeftOut
from rayinfluence.corpus.fragments import NAMED_KEYS, Fragment, ShardRecord
from rayinfluence.corpus.ordinals import Making, refuse_old_layout
from rayinfluence.corpus.rolled import Logbook, read_logbook
from rayinfluence.corpus.tokenize import TokenizeSettings
from rayinfluence.storage.store import Store


@dataclass(frozen=True)
class CorpusManifest:
    """What a corpus consists of.

    ``shards`` is only ever appended to: an ordinal is a place in it. ``files`` say what became of
    each file of documents. ``left_out`` is what lay among the documents and was not read, when the
    last of them was appended. ``shards_of_files`` is how many shards each file gave. Of
    ``bad_files`` nothing is in it.
    """

    tokenizer: str
    settings: TokenizeSettings
    shards: tuple[ShardRecord, ...]
    files: tuple[dict[str, Any], ...]
    left_out: Mapping[str, LeftOut] = field(default_factory=dict)
    shards_of_files: tuple[int, ...] = ()
    bad_files: tuple[BadFile, ...] = ()

    @classmethod
    def read(cls, store: Store) -> CorpusManifest | None:
        """The manifest of a corpus, or None where no file is in it yet.

        Raises:
            CorpusError: it is damaged, or of an earlier version.
        """
        logbook = read_logbook(store)
        if not logbook.entries:
            refuse_old_layout(store)
            return None
        bad = read_bad_files(store).values()
        return replace(cls.of_logbook(logbook), bad_files=tuple(bad))

    @classmethod
    def of_logbook(cls, logbook: Logbook) -> CorpusManifest:
        """The manifest that a log of at least one entry gives."""
        last = logbook.entries[-1]
        return cls.of(last.making, logbook.fragments, last.left_out)

    @classmethod
    def of(
        cls,
        making: Making,
        fragments: Sequence[Fragment],
        left_out: Mapping[str, LeftOut] | None = None,
    ) -> CorpusManifest:
        """The manifest of files in the order of their ordinals."""
        return cls(
            making.tokenizer,
            making.settings,
            tuple(shard for fragment in fragments for shard in fragment.shards),
            tuple(fragment.file for fragment in fragments),
            left_out or {},
            tuple(len(fragment.shards) for fragment in fragments),
        )

    @property
    def making(self) -> Making:
        """What the shards are made with."""
        return Making(self.tokenizer, self.settings)

    def total(self, name: str) -> int:
        """A count of the files' reports, summed up; those of before may lack it."""
        return sum(report.get(name, 0) for report in self.files)

    @property
    def reasons(self) -> dict[str, int]:
        """How many rows were left out for each reason, as far as reports tell them apart."""
        counts: Counter[str] = Counter()
        for report in self.files:
            counts.update(report.get("reasons", {}))
            counts.update(report.get("why_passed_over", {}))
        return dict(counts.most_common())

    @property
    def without_rows(self) -> list[str]:
        """The files in which there was nothing at all."""
        counted = ("documents", "n_bad", "no_pages")
        return [
            report["url"]
            for report in self.files
            if not any(report.get(name, 0) for name in counted)
        ]

    @property
    def left_out_rows(self) -> str:
        """What was left out of the documents, to follow a line; nothing where nothing was."""
        counts = {
            "rows that are no documents": self.total("n_bad"),
            "documents without text": self.total("empty_documents"),
            "documents of one token": self.total("short_documents"),
            "rows that are no pages": self.total("no_pages"),
            "bad files": len(self.bad_files),
            "files without rows": len(self.without_rows),
            "last chunks of one token": self.total("short_chunks"),
        }
        said = ", ".join(f"{count:,} {what}" for what, count in counts.items() if count)
        return f"; left out: {said}" if said else ""

    @property
    def metadata_keys(self) -> dict[str, int] | None:
        """How many documents have each metadata key; None where there may be keys not recorded."""
        counts: Counter[str] = Counter()
        for report in self.files:
            counts.update(report["metadata_keys"])
        full = any(len(report["metadata_keys"]) >= NAMED_KEYS for report in self.files)
        return None if full else dict(counts)

    @property
    def not_kept(self) -> Counter[str]:
        """How many documents have each column that was not small, where nobody chose metadata."""
        counts: Counter[str] = Counter()
        for report in self.files:
            counts.update(report.get("not_kept", {}))
        return counts
