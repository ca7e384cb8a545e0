"""Which files a corpus lacks: told by what a listing shows, and where that differs by bytes.

And which of them need not be tokenised: what a tokeniser that was killed has left whole.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from rayinfluence.corpus.corpus import refuse_lost
from rayinfluence.corpus.fragments import Fragment, Logged, Seen, prefix_of, read_fragments
from rayinfluence.corpus.shards import SHARDS
from rayinfluence.errors import CorpusError
from rayinfluence.storage.store import Listed, Store


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


def left_whole(
    store: Store, listing: Mapping[str, Listed], wanted: Mapping[str, Seen]
) -> Iterator[tuple[Seen, Logged]]:
    """Files whose fragments lie there with all their shards, though the log names them not.

    Args:
        store: of the corpus.
        listing: of fragments.
        wanted: files, by how the keys of their fragments begin.
    """
    found: dict[Seen, list[str]] = {}
    for key in listing:
        if (seen := wanted.get(prefix_of(key) or "")) is not None:
            found.setdefault(seen, []).append(key)
    if not found:
        return
    shards = store.list(SHARDS)
    for seen, keys in found.items():
        try:
            # Of two that look alike and say different things neither can be told to be this one.
            [key] = keys
            [fragment] = read_fragments(store, [key])
            for shard in fragment.shards:
                refuse_lost(store, shard, shards)
        except (ValueError, CorpusError):
            continue
        yield seen, Logged(key, seen.url, fragment.file["digest"])


def read_part(store: Store, key: str, shards: Mapping[str, Listed]) -> Fragment | None:
    """The fragment of a part, if it is whole and its shards are in their listing."""
    try:
        fragment = Fragment.parse(json.loads(store.read(key)))
        for shard in fragment.shards:
            refuse_lost(store, shard, shards)
    except (ValueError, KeyError, TypeError, AttributeError, CorpusError):
        return None
    return fragment


def _seen(report: Mapping[str, Any]) -> Seen:
    return Seen(*(report[name] for name in Seen._fields))
