"""Which files a corpus lacks: told by what a listing shows, and where that differs by bytes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from rayinfluence.corpus.fragments import Seen
from rayinfluence.errors import CorpusError
from rayinfluence.storage.store import Store


def lacking(
    corpus: Store,
    files: Mapping[Seen, Store],
    reports: Sequence[Mapping[str, Any]],
    digests: Callable[[Mapping[Seen, Store]], Sequence[str]],
) -> dict[Seen, Store]:
    """The files that a corpus lacks, in their order.

    A file whose address, size, time and tag are as when it was tokenised is not read. One that
    differs in these may still be the same, copied back, moved or touched, if it has the size of one
    that is not accounted for; then its digest decides, and of copies the one of the same address.

    Args:
        corpus: where the shards are.
        files: of documents.
        reports: of the files that are in the corpus.
        digests: reads files, and tells their digests in their order.

    Raises:
        CorpusError: the corpus holds a file that is not among these.
    """
    left = dict(files)
    unseen = [report for report in reports if left.pop(_seen(report), None) is None]
    sizes = {report["size"] for report in unseen}
    doubtful = {seen: file for seen, file in left.items() if seen.size in sizes}
    same: dict[str, list[Seen]] = {}
    for seen, digest in zip(doubtful, digests(doubtful) if doubtful else (), strict=True):
        same.setdefault(digest, []).append(seen)
    for report in unseen:
        candidates = same.get(report["digest"])
        if not candidates:
            raise CorpusError(
                f"the corpus at {corpus.url} holds {report['url']}, which `corpus.documents` does "
                "not list (or it has changed). Shards are only ever appended: use another "
                "`corpus.path`."
            )
        seen = next((one for one in candidates if one.url == report["url"]), candidates[0])
        candidates.remove(seen)
        del left[seen]
    return left


def _seen(report: Mapping[str, Any]) -> Seen:
    return Seen(*(report[name] for name in Seen._fields))
