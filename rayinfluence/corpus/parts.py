"""Parts of large files, which are tokenised side by side, and a file's fragment out of theirs.

Where a file is cut depends on its bytes alone, and what a part gives on the part alone: so shards,
ids and order are the same whoever tokenises, and however often he is stopped.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from rayinfluence.corpus.documents import file_digest, judged, to_the_end
from rayinfluence.corpus.fragments import Fragment, Seen
from rayinfluence.corpus.sources.divisible import Cut, Divisible
from rayinfluence.corpus.token_files import is_token_file, token_cuts
from rayinfluence.corpus.token_rows import TokenForm
from rayinfluence.storage.digest import digest
from rayinfluence.storage.reading import DigestedFile
from rayinfluence.storage.store import Store

#: Folders of a corpus: fragments of parts, and where files are cut.
PARTS, SURVEYS = "parts", "surveys"
#: A larger file is cut into parts of about so many bytes: some 2^24 tokens each.
PART_BYTES = 2**26


@dataclass(frozen=True)
class Part:
    """Some rows of a file whose bytes have this digest."""

    file_digest: str
    cut: Cut

    def key(self, making: str, seen: Seen) -> str:
        """Where the part's fragment is.

        Args:
            making: the digest of what its shards are made with.
            seen: the file.
        """
        return f"{PARTS}/{digest([making, *seen, self.file_digest, *self.cut])}.json"


def survey(file: Store, part_bytes: int, tokens: TokenForm | None = None) -> list[Part]:
    """The parts of a file, from one reading, which makes its digest too.

    None where it can only be read whole, as one that is compressed, which its beginning tells.

    Args:
        file: of documents.
        part_bytes: about so many are in a part.
        tokens: how token ids lie, where documents are those.

    Raises:
        CorpusError: it cannot be read to its end, or is of no format that we read.
        StorageError: it cannot be read.
    """
    with file.open("") as raw, to_the_end(file):
        opened: Any = DigestedFile(raw)
        if tokens is not None and is_token_file(file.name):
            cuts = token_cuts(file, opened, tokens, part_bytes)
            of_ids = file_digest(file, opened)
            return [Part(of_ids, cut) for cut in cuts]
        stream, source, codec = judged(opened, file.name)
        if codec or not isinstance(source, Divisible):
            return []
        cuts = source.cuts(stream, part_bytes)
        own = opened.digest() if cuts else ""
    return [Part(own, cut) for cut in cuts]


def note_parts(
    store: Store, seen: Seen, part_bytes: int, tokens: TokenForm | None, parts: Sequence[Part]
) -> None:
    """Note the parts of a file."""
    body = [[part.file_digest, *part.cut] for part in parts]
    store.write(_survey_key(seen, part_bytes, tokens), json.dumps(body).encode())


def known_parts(
    store: Store, seen: Seen, part_bytes: int, tokens: TokenForm | None
) -> list[Part] | None:
    """The parts of a file, where they are noted."""
    key = _survey_key(seen, part_bytes, tokens)
    if not store.exists(key):
        return None
    try:
        return [Part(name, Cut(*cut)) for name, *cut in json.loads(store.read(key))]
    except (ValueError, TypeError):
        return None  # it is damaged, and made again


def put_together(parts: Sequence[Fragment]) -> Fragment:
    """The fragment of a file, of those of its parts in their order."""
    whole = parts[0].report
    for part in parts[1:]:
        whole.add(part.report)
    return Fragment.of(whole, [shard for part in parts for shard in part.shards])


def _survey_key(seen: Seen, part_bytes: int, tokens: TokenForm | None) -> str:
    # Where ids are cut depends on how they lie: rows may be windows of the context's length.
    form = [] if tokens is None else [asdict(tokens)]
    return f"{SURVEYS}/{digest([*seen, part_bytes, *form])}.json"
