"""What a tokenised corpus consists of, in figures: read once, some row groups at a time."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa

from rayinfluence.corpus.corpus import Corpus
from rayinfluence.corpus.limits import named
from rayinfluence.corpus.manifest import CorpusManifest
from rayinfluence.corpus.metadata import as_text, at_key, canonical
from rayinfluence.corpus.stored import AT_ONCE, begins
from rayinfluence.text import visible_line

#: Values of a key that are counted apart, the first that come; all others are counted together.
MOST_VALUES = 10_000
#: Lines of a key's values, for a terminal.
_SHOWN = 20
#: What keys are called that are counted where nobody names any.
_USUAL = frozenset({"source", "language", "lang"})
_BAR = 40


@dataclass
class Share:
    """How much of a corpus has something in common."""

    documents: int = 0
    sequences: int = 0
    tokens: int = 0


@dataclass
class Values:
    """What the sequences of a corpus have by a key of metadata.

    Attributes:
        shares: by the value as canonical JSON, or ``null`` for none.
        others: all values beyond the first :data:`MOST_VALUES`.
    """

    shares: dict[str, Share] = field(default_factory=dict)
    others: Share = field(default_factory=Share)

    def of(self, value: str) -> Share:
        """The share that a value is counted in."""
        if value in self.shares:
            return self.shares[value]
        if len(self.shares) >= MOST_VALUES:
            return self.others
        return self.shares.setdefault(value, Share())

    def ranked(self) -> list[tuple[str, Share]]:
        """Those that are counted apart, most tokens first."""
        return sorted(self.shares.items(), key=lambda one: (-one[1].tokens, one[0]))


@dataclass(frozen=True)
class CorpusStatistics:
    """A corpus in figures.

    Attributes:
        corpus: its address.
        whole: what is in its shards.
        files: of documents that it has been made of.
        lengths: how many sequences have so many tokens.
        left_out: how much of the documents is in no sequence, by what it is.
        reasons: the rows among it by their reasons, as far as these are told apart.
        by: values of metadata, by key.
    """

    corpus: str
    whole: Share
    files: int
    lengths: Counter[int]
    left_out: dict[str, int]
    reasons: dict[str, int]
    by: dict[str, Values]

    @property
    def histogram(self) -> list[tuple[int, int, int]]:
        """Sequences by length: from, to (inclusive), how many; borders are powers of two."""
        found: Counter[int] = Counter()
        for length, count in self.lengths.items():
            found[length.bit_length()] += count
        bits = range(min(found, default=1), max(found, default=0) + 1)
        return [(2**bit >> 1, 2**bit - 1, found[bit]) for bit in bits]

    def quantile(self, share: float) -> int:
        """The least length that at least this share of the sequences does not exceed."""
        so_far, wanted = 0, share * self.whole.sequences
        for length in sorted(self.lengths):
            so_far += self.lengths[length]
            if so_far >= wanted:
                return length
        return 0

    def to_json(self) -> dict[str, Any]:
        """It as JSON has it."""
        return {
            "corpus": self.corpus,
            "files": self.files,
            **asdict(self.whole),
            "lengths": {
                **{f"p{round(100 * share)}": self.quantile(share) for share in (0, 0.5, 0.9, 1)},
                "histogram": [
                    {"from": low, "to": high, "sequences": count}
                    for low, high, count in self.histogram
                ],
            },
            "left_out": self.left_out,
            "reasons": self.reasons,
            "by": {
                key: {
                    "values": [
                        {"value": json.loads(value), **asdict(share)}
                        for value, share in values.ranked()
                    ],
                    "others": asdict(values.others),
                }
                for key, values in self.by.items()
            },
        }

    def lines(self) -> Iterator[str]:
        """It for a terminal."""
        yield f"corpus      {self.corpus}"
        yield f"documents   {self.whole.documents:,} with a sequence, from {self.files:,} files"
        yield f"sequences   {self.whole.sequences:,}"
        yield f"tokens      {self.whole.tokens:,}"
        for reason, count in self.left_out.items():
            yield f"left out    {count:,} {visible_line(reason)}"
        for reason, count in self.reasons.items():
            yield f"reason      {count:,} rows: {visible_line(reason)}"
        yield (
            f"lengths     {self.quantile(0):,} to {self.quantile(1):,} tokens, half of the "
            f"sequences at most {self.quantile(0.5):,}, nine in ten at most {self.quantile(0.9):,}"
        )
        most = max((count for _, _, count in self.histogram), default=1)
        for low, high, count in self.histogram:
            bar = "█" * round(_BAR * count / most)
            yield f"{low:>12,} to {high:>9,} {count:>14,}  {bar}".rstrip()
        for key, values in self.by.items():
            ranked = values.ranked()
            rows = [(_shown(value), share) for value, share in ranked[:_SHOWN]]
            if more := [share for _, share in ranked[_SHOWN:]] + [values.others]:
                rest = Share(*(sum(getattr(one, n) for one in more) for n in asdict(Share())))
                rows += [("(other values)", rest)] * bool(rest.sequences)
            yield f"by {visible_line(key)}"
            for shown, share in rows:
                yield (
                    f"{share.documents:>12,} documents {share.sequences:>12,} sequences "
                    f"{share.tokens:>15,} tokens  {shown}"
                )


def statistics_of(corpus: Corpus, keys: Sequence[str]) -> CorpusStatistics:
    """Count what is in the shards of a corpus, and what the manifest says was left out.

    Memory is that of some row groups, of a counter of lengths (at most as many as a context has
    tokens), and of :data:`MOST_VALUES` values a key.

    Args:
        corpus: that is read, once.
        keys: of metadata, dotted.

    Raises:
        CorpusError: a shard is damaged.
        StorageError: one cannot be read.
    """
    whole, lengths = Share(), Counter[int]()
    by = {key: Values() for key in keys}
    for split in corpus.plan(AT_ONCE):
        table = corpus.read(split)
        _count(table, whole, lengths, by)
    manifest = corpus.manifest
    return CorpusStatistics(
        corpus.store.url,
        whole,
        len(manifest.files),
        lengths,
        left_out(manifest),
        manifest.reasons,
        by,
    )


def usual_keys(manifest: CorpusManifest) -> list[str]:
    """Keys of metadata that say a source or a language, as far as the manifest names keys."""
    known = {key for report in manifest.files for key in report["metadata_keys"]}
    return sorted(key for key in known if key.rpartition(".")[2].lower() in _USUAL)


def left_out(manifest: CorpusManifest) -> dict[str, int]:
    """How much of the documents of a corpus is in no sequence, by what it is."""
    counts = {
        "rows that are no documents": manifest.total("n_bad"),
        "documents without text": manifest.total("empty_documents"),
        "documents of one token": manifest.total("short_documents"),
        "rows that are no pages": manifest.total("no_pages"),
        "last chunks of one token": manifest.total("short_chunks"),
        "bad files": len(manifest.bad_files),
        f"files without rows ({named(manifest.without_rows)})": len(manifest.without_rows),
    }
    counts |= {f"files: {why}": left.count for why, left in manifest.left_out.items()}
    return {reason: count for reason, count in counts.items() if count}


def _count(table: pa.Table, whole: Share, lengths: Counter[int], by: dict[str, Values]) -> None:
    sizes, first = table["n_tokens"].to_numpy(), begins(table)
    of_lengths, counts = np.unique(sizes, return_counts=True)
    lengths.update(dict(zip(of_lengths.tolist(), counts.tolist(), strict=True)))
    whole.documents += int(first.sum())
    whole.sequences += len(table)
    whole.tokens += int(sizes.sum())
    if not by:
        return
    rows = zip(table["metadata"].to_pylist(), first.tolist(), sizes.tolist(), strict=True)
    for text, is_first, size in rows:
        metadata = json.loads(text)
        for key, values in by.items():
            share = values.of(canonical(at_key(metadata, key)))
            share.documents += is_first
            share.sequences += 1
            share.tokens += size


def _shown(value: str) -> str:
    return "(none)" if value == "null" else visible_line(as_text(json.loads(value)))
