"""What is wrong with a tokenised corpus: each shard and row, with the reason."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from rayinfluence.corpus.corpus import Corpus, refuse_lost
from rayinfluence.corpus.fragments import ShardRecord
from rayinfluence.corpus.origins import shard_files
from rayinfluence.corpus.shards import LABEL, LOSS_MASK, ROWS_PER_SHARD, SHARDS, bad_rows
from rayinfluence.corpus.splits import read_row_groups
from rayinfluence.corpus.stored import begins
from rayinfluence.errors import CorpusError, StorageError
from rayinfluence.storage.digest import digest_bytes
from rayinfluence.storage.store import Store
from rayinfluence.text import visible_line

#: Characters of a row that is no document, for a terminal.
_SHOWN_RAW = 200


@dataclass(frozen=True)
class Finding:
    """Something that is wrong.

    A row of a document's file that is no document is named by its file and its place there.

    Attributes:
        reason: a sentence or a part of one.
        shard: its key; None of what is wrong with the corpus as a whole.
        sequence_id: of the row; None where it is not a row.
        document_id: of the row.
        file: that the shard's documents are from, where the corpus says so.
        document_row: of the row.
        raw: the row as its file has it, or its beginning, where it is no document.
    """

    reason: str
    shard: str | None = None
    sequence_id: int | None = None
    document_id: str | None = None
    file: str | None = None
    document_row: int | None = None
    raw: str | None = None

    def to_json(self) -> dict[str, Any]:
        """It as JSON has it."""
        return asdict(self)

    def line(self) -> str:
        """It for a terminal."""
        if self.raw is not None:
            raw = self.raw.strip()[:_SHOWN_RAW]
            return visible_line(
                f"{self.file}:{self.document_row}: no document: {self.reason}: {raw}"
            )
        places = [self.shard or "corpus"]
        if self.sequence_id is not None:
            places.append(f"sequence {self.sequence_id}")
        if self.document_id is not None:
            places.append(f"document {self.document_id!r} ({self.file}:{self.document_row})")
        return visible_line(f"{', '.join(places)}: {self.reason}")


def findings(corpus: Corpus, vocabulary: int | None, context: int | None) -> Iterator[Finding]:
    """All that is wrong with shards and rows; what is damaged does not hide what comes after it.

    All row groups are read, one at a time, and compared with their digests. Beside one of them
    there are 8 bytes a document in memory, by which ids that come twice are found, and these ids.

    Args:
        corpus: that is read, twice where ids may come twice.
        vocabulary: how many token ids the model has; None: any number.
        context: most tokens of a sequence; None: any number.
    """
    listed = corpus.store.list(SHARDS)
    files = shard_files(corpus.manifest)
    for bad in corpus.manifest.bad_files:
        yield Finding(f"nothing of {bad.url} is in it: {bad.reason}", file=bad.url)
    for report in corpus.manifest.files:
        yield from _no_documents(corpus.store, report)
    marks: list[NDArray[np.uint64]] = []
    for ordinal, shard in enumerate(corpus.manifest.shards):
        try:
            refuse_lost(corpus.store, shard, listed)
        except CorpusError as error:
            yield Finding(str(error), shard.key, file=files[ordinal])
            continue
        for place in range(len(shard.row_groups)):
            table = _read(corpus, shard, place)
            if isinstance(table, str):
                yield Finding(table, shard.key, file=files[ordinal])
                continue
            first_id = _first_id(ordinal, shard, place)
            wrong = bad_rows(table, vocabulary, context)
            wrong |= {row: why for row, why in _unsound(table).items() if row not in wrong}
            for row, why in sorted(wrong.items()):
                yield _of_row(why, shard, table, row, first_id + row, files[ordinal])
            marks.append(_marks(table.filter(pa.array(begins(table)))))
    yield from _twice(corpus, marks, files)


def _no_documents(store: Store, report: Mapping[str, Any]) -> Iterator[Finding]:
    """The rows of a file that are no documents, as they were kept, and how many were not."""
    url, n_kept = report["url"], 0
    for key in report.get("quarantine", ()):
        try:
            rows = [json.loads(line) for line in store.read(key).splitlines()]
        except (StorageError, ValueError) as error:
            yield Finding(f"rows that are no documents are lost with {key}: {error}", file=url)
            continue
        for row in rows:
            n_kept += 1
            number = int(row["place"].rpartition(":")[2])
            yield Finding(row["reason"], file=url, document_row=number, raw=row["raw"])
    if (more := report["n_bad"] - n_kept) > 0:
        yield Finding(f"{more:,} more rows of {url} are no documents, and are not kept", file=url)


def _read(corpus: Corpus, shard: ShardRecord, place: int) -> pa.Table | str:
    """A row group, or why it cannot be used and which sequences are in it."""
    group = shard.row_groups[place]
    try:
        [table] = read_row_groups(corpus.store, shard.key, {place: group})
    except (CorpusError, StorageError) as error:
        start = sum(one.n_rows for one in shard.row_groups[:place])
        return f"rows {start:,} to {start + group.n_rows - 1:,} are lost: {error}"
    return table


def _unsound(table: pa.Table) -> dict[int, str]:
    """Rows whose columns contradict each other, by their place."""
    found: dict[int, str] = {}
    columns = ("n_tokens", "token_start", "char_start", "char_end", "document_id", "metadata")
    rows = table.select([*columns, "tokens", LOSS_MASK, LABEL]).to_pylist()
    for place, row in enumerate(rows):
        if why := _contradiction(row):
            found[place] = why
    return found


def _contradiction(row: Mapping[str, Any]) -> str | None:
    tokens, mask = row["tokens"] or [], row[LOSS_MASK]
    if row["n_tokens"] != len(tokens):
        return f"n_tokens is {row['n_tokens']}, and there are {len(tokens)} tokens"
    if mask is not None and len(mask) != len(tokens):
        return f"its loss_mask is of {len(mask)} tokens, and it has {len(tokens)}"
    if row["document_id"] is None:
        return "it has no document_id"
    if row["token_start"] is None or row["token_start"] < 0:
        return f"token_start is {row['token_start']}"
    start, end = row["char_start"], row["char_end"]
    if start is None or end is None or not 0 <= start <= end:
        return f"its characters are {start} to {end}"
    if row[LABEL] is not None and row[LABEL] < 0:
        return f"its label is {row[LABEL]}"
    try:
        is_object = isinstance(json.loads(row["metadata"]), dict)
    except (ValueError, TypeError):
        is_object = False
    return None if is_object else "its metadata are no JSON object"


def _twice(
    corpus: Corpus, marks: list[NDArray[np.uint64]], files: list[str | None]
) -> Iterator[Finding]:
    """Documents whose id another one before them has."""
    ordered = np.sort(np.concatenate([np.zeros(0, np.uint64), *marks]))
    again = np.unique(ordered[1:][ordered[1:] == ordered[:-1]])
    if not len(again):
        return
    before: dict[str, int] = {}
    for ordinal, shard in enumerate(corpus.manifest.shards):
        for place in range(len(shard.row_groups)):
            table = _read(corpus, shard, place)
            if isinstance(table, str):
                continue
            first_id = _first_id(ordinal, shard, place)
            table = table.append_column("place", pa.array(np.arange(len(table))))
            table = table.filter(pa.array(begins(table)))
            table = table.filter(pa.array(np.isin(_marks(table), again)))
            for row, one in enumerate(table.select(["document_id", "place"]).to_pylist()):
                sequence_id = first_id + one["place"]
                known = before.setdefault(one["document_id"], sequence_id)
                if known != sequence_id:
                    why = f"its id is that of another document, which begins with sequence {known}"
                    yield _of_row(why, shard, table, row, sequence_id, files[ordinal])


def _marks(table: pa.Table) -> NDArray[np.uint64]:
    """A number for the id of each row's document; that of two ids is seldom the same."""
    ids = table["document_id"].to_pylist()
    return np.array([int(digest_bytes(str(one).encode())[:16], 16) for one in ids], np.uint64)


def _first_id(ordinal: int, shard: ShardRecord, place: int) -> int:
    return ordinal * ROWS_PER_SHARD + sum(one.n_rows for one in shard.row_groups[:place])


def _of_row(
    why: str, shard: ShardRecord, table: pa.Table, row: int, sequence_id: int, file: str | None
) -> Finding:
    document_id, document_row = (table[name][row].as_py() for name in _NAMED)
    return Finding(why, shard.key, sequence_id, document_id, file, document_row)


_NAMED = ("document_id", "document_row")
