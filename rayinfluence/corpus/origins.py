"""Which file of documents each shard came from, by a name that tells the corpus's files apart."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from rayinfluence.corpus.manifest import CorpusManifest


def shard_files(manifest: CorpusManifest) -> list[str | None]:
    """By ordinal of a shard, the file that its documents are from; None where nothing says so.

    A file is called by the end of its address: as much as tells it from all others, so that a
    corpus that is moved keeps its names.
    """
    names = tails([report["url"] for report in manifest.files])
    counts = zip(names, manifest.shards_of_files, strict=True)
    found: list[str | None] = [name for name, n_shards in counts for _ in range(n_shards)]
    return found + [None] * (len(manifest.shards) - len(found))


def tails(urls: Sequence[str]) -> list[str]:
    """The shortest ends of addresses, in whole parts, that are different from each other."""
    parts = [url.split("://")[-1].strip("/").split("/") for url in urls]
    lengths = [1] * len(urls)
    while True:
        ends = ["/".join(part[-n:]) for part, n in zip(parts, lengths, strict=True)]
        counts = Counter(ends)
        longer = [
            place
            for place, end in enumerate(ends)
            if counts[end] > 1 and lengths[place] < len(parts[place])
        ]
        if not longer:
            return ends
        for place in longer:
            lengths[place] += 1
