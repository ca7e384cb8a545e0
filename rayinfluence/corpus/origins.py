"""Which file of documents each shard came from, by a name that tells the corpus's files apart."""

from __future__ import annotations

from rayinfluence.corpus.manifest import CorpusManifest
from rayinfluence.corpus.paths import tails


def shard_files(manifest: CorpusManifest) -> list[str | None]:
    """By ordinal of a shard, the file that its documents are from; None where nothing says so.

    A file is called by the end of its address: as much as tells it from all others, so that a
    corpus that is moved keeps its names.
    """
    names = tails([report["url"] for report in manifest.files])
    counts = zip(names, manifest.shards_of_files, strict=True)
    found: list[str | None] = [name for name, n_shards in counts for _ in range(n_shards)]
    return found + [None] * (len(manifest.shards) - len(found))
