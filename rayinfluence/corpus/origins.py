"""Which file of documents each shard came from, by a name that tells the corpus's files apart."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from rayinfluence.corpus.corpus import CorpusManifest
from rayinfluence.corpus.tokenize import shard_stem


def shard_files(manifest: CorpusManifest) -> list[str | None]:
    """By ordinal of a shard, the file that its documents are from; None where nothing says so.

    A file is called by the end of its address: as much as tells it from all others, so that a
    corpus that is moved keeps its names.
    """
    names = tails([report["url"] for report in manifest.files])
    found: list[str | None] = []
    shards = [shard.key for shard in manifest.shards]
    # Shards and files are appended together; a file may have none, and a copy of a file has the
    # keys of the first.
    for report, name in zip(manifest.files, names, strict=True):
        stem, part = shard_stem(report["url"].rsplit("/", 1)[-1], report["digest"]), 0
        while (
            len(found) < len(shards) and shards[len(found)] == f"shards/{stem}-{part:04d}.parquet"
        ):
            found.append(name)
            part += 1
    return found + [None] * (len(shards) - len(found))


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
