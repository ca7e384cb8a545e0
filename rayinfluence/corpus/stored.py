"""Documents and sequences of a tokenised corpus, as its shards have them."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from rayinfluence.corpus.corpus import Corpus
from rayinfluence.corpus.origins import shard_files
from rayinfluence.corpus.predicate import Predicate
from rayinfluence.corpus.shards import ROWS_PER_SHARD
from rayinfluence.corpus.shown import ShownDocument, shown_sequences
from rayinfluence.errors import CorpusError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

#: Tokens of the row groups that are held at once, unless one alone has more.
AT_ONCE = 2**20
#: A row of a shard with its sequence id.
Row = Mapping[str, Any]


def begins(table: pa.Table) -> NDArray[np.bool_]:
    """Of each row of a shard whether it is the first sequence of its document."""
    found: NDArray[np.bool_] = table["token_start"].to_numpy() == 0
    return found


def sequences_at(corpus: Corpus, sequence_ids: Sequence[int]) -> Iterator[Row]:
    """Rows by their sequence ids, ascending; only their row groups are read.

    Raises:
        CorpusError: there is no such sequence, or a shard is damaged.
    """
    wanted = np.unique(np.array(sequence_ids, dtype=np.int64))
    n_found = 0
    for split in corpus.plan(1):
        if (part := split.narrowed(wanted)) is not None:
            for row in corpus.read(part).to_pylist():
                n_found += 1
                yield row
    if n_found < len(wanted):
        raise CorpusError(
            f"{corpus.store.url} has no sequence {sequence_ids[0]}: take the id of a sequence from "
            "results of this corpus, or from `corpus head`."
        )


def sequences_with(corpus: Corpus, condition: Predicate) -> NDArray[np.int64]:
    """The ids of all sequences whose metadata a condition is true of, ascending; all are read."""
    found = [np.zeros(0, np.int64)]
    for split in corpus.plan(AT_ONCE):
        table = corpus.read(split)
        holds = condition.of([json.loads(one) for one in table["metadata"].to_pylist()]).holds_N
        found.append(table["sequence_id"].to_numpy()[holds])
    return np.concatenate(found)


def first_sequences(corpus: Corpus, count: int) -> list[int]:
    """The ids of the first sequences."""
    ids = (int(one) for split in corpus.plan(1) for one in split.sequence_ids)
    return list(islice(ids, count))


def random_sequences(corpus: Corpus, count: int, seed: int) -> list[int]:
    """The ids of some sequences, each as likely as any other, ascending; no row is read."""
    generator = np.random.default_rng(seed)
    drawn = generator.choice(
        corpus.n_sequences, min(count, corpus.n_sequences), replace=False, shuffle=False
    )
    places, found, start = np.sort(drawn), [], 0
    for split in corpus.plan(AT_ONCE):
        inside = places[(places >= start) & (places < start + split.n_rows)] - start
        found += split.sequence_ids[inside].tolist()
        start += split.n_rows
    return found


def first_documents(corpus: Corpus, count: int) -> list[int]:
    """The ids of the sequences that the first documents begin with."""
    return list(islice(_beginnings(corpus), count))


def random_documents(corpus: Corpus, count: int, seed: int) -> list[int]:
    """The same of some documents, each as likely as any other: a reservoir over one pass."""
    generator = np.random.default_rng(seed)
    kept: list[int] = []
    for place, one in enumerate(_beginnings(corpus)):
        if place < count:
            kept.append(one)
        elif (slot := int(generator.integers(place + 1))) < count:
            kept[slot] = one
    return sorted(kept)


def document_from(corpus: Corpus, sequence_id: int) -> list[Row]:
    """All rows of the document that begins with a sequence."""
    found: list[Row] = []
    for split in corpus.plan(1):
        if split.sequence_ids[-1] < sequence_id:
            continue
        for row in corpus.read(split).to_pylist():
            if row["sequence_id"] < sequence_id:
                continue
            if found and row["token_start"] == 0:
                return found
            found.append(row)
    return found


def document_named(corpus: Corpus, document_id: str) -> list[Row]:
    """All rows of the first document of an id; shards are read up to it.

    Raises:
        CorpusError: there is none, or a shard is damaged.
    """
    for split in corpus.plan(AT_ONCE):
        table = corpus.read(split)
        names = table["document_id"].to_pylist()
        if document_id in names:
            return document_from(corpus, table["sequence_id"][names.index(document_id)].as_py())
    raise CorpusError(
        f"no document {document_id!r} is in {corpus.store.url}: {corpus.n_sequences:,} sequences "
        "were read."
    )


def shown_document(
    corpus: Corpus, rows: Sequence[Row], tokenizer: PreTrainedTokenizerFast, counts_all: bool
) -> ShownDocument:
    """Rows of one document as it is shown.

    Args:
        corpus: that they are of.
        rows: at least one.
        tokenizer: that they were made with.
        counts_all: whether the loss counted all tokens, whatever the documents say.
    """
    first = rows[0]
    file = shard_files(corpus.manifest)[first["sequence_id"] // ROWS_PER_SHARD]
    return ShownDocument(
        file or corpus.store.url,
        first["document_row"],
        first["document_id"],
        json.loads(first["metadata"]),
        [],
        shown_sequences(rows, tokenizer, counts_all),
    )


def _beginnings(corpus: Corpus) -> Iterator[int]:
    for split in corpus.plan(AT_ONCE):
        table = corpus.read(split)
        yield from table["sequence_id"].to_numpy()[begins(table)].tolist()
