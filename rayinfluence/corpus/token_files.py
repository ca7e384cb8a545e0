"""Reading files that are token ids and nothing else, one row at a time, whole or in parts.

A row is a sequence of Megatron's index, a row of a table, or of one long run of ids a document
between separators or a window of the context's length.
"""

from __future__ import annotations

from collections.abc import Container, Iterator
from itertools import pairwise
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from rayinfluence.corpus.megatron import Index, parse_index
from rayinfluence.corpus.sources import find_source
from rayinfluence.corpus.sources.compression import parted
from rayinfluence.corpus.sources.divisible import Cut
from rayinfluence.corpus.sources.source import NotDocumentsError, Row
from rayinfluence.corpus.token_layouts import Layout, layout_of
from rayinfluence.corpus.token_rows import SEPARATE, Ids, TokenForm, borders
from rayinfluence.errors import CorpusError
from rayinfluence.storage.store import Listed, Store

#: Of files in folders; one that is named itself may have any that no other format has.
ENDINGS = (".bin", ".npy")
INDEX = ".idx"
#: Of a row's metadata: how many tokens of the file are before it, and of which document it is.
FIRST_TOKEN, DOCUMENT = "first_token", "document"
#: Longest header of NumPy that is looked for.
_BEGINNING = 4096
#: Tokens that are read at once, and of a document that is not thought to have lost its end.
_BLOCK, _LONGEST = 2**20, 2**26


def index_beside(file: Store) -> Store | None:
    """The index of a file of ids, where there is one."""
    if not file.url.lower().endswith(".bin"):
        return None
    found = Store(file.url[: -len(".bin")] + INDEX, file.options)
    return found if found.exists("") else None


def is_token_file(name: str, in_folder: bool = False) -> bool:
    """Whether a file of such a name holds ids and nothing else, where documents are ids.

    Args:
        name: without an ending it says nothing, and its bytes tell.
        in_folder: whether it only lies among others, and is not named itself.
    """
    inner = parted(name)[0]
    named = inner.endswith(ENDINGS) or (not in_folder and "." in inner)
    return named and find_source(name) is None


def is_index(url: str, beside: Container[str]) -> bool:
    """Whether a file is the index of another.

    Args:
        url: of it.
        beside: addresses of others.
    """
    return url.lower().endswith(INDEX) and f"{url[: -len(INDEX)]}.bin" in beside


def with_index(file: Store, own: Listed) -> Listed:
    """What a listing shows of a file, with its index: if either is written again, it is another.

    Args:
        file: of documents.
        own: what a listing shows of it alone.
    """
    index = index_beside(file)
    if index is None:
        return own
    other = index.info()
    times = [one.modified for one in (own, other) if one.modified is not None]
    tags = [one.tag for one in (own, other) if one.tag is not None]
    return Listed(own.size + other.size, max(times, default=None), " ".join(tags) or None)


def refuse_no_tokens(file: Store, form: TokenForm) -> None:
    """See that a file is one of ids, and whole, as far as its header, size and index tell.

    Raises:
        CorpusError: it is not.
        StorageError: it cannot be read.
    """
    _opened(file, form)


def rows_of_tokens(
    file: Store, stream: BinaryIO, form: TokenForm, cut: Cut | None = None
) -> Iterator[Row]:
    """The rows of a file of ids, by column, with where they are in the file.

    Args:
        file: of ids.
        stream: the same, open.
        form: how its ids lie.
        cut: of :func:`token_cuts`, which of them; None: all.

    Raises:
        CorpusError, NotDocumentsError: it is none, or damaged.
        EOFError: it has become shorter.
    """
    found = _opened(file, form)
    if isinstance(found, Index):
        places = range(len(found)) if cut is None else range(cut.start, cut.end)
        yield from _indexed(stream, found, form, places)
        return
    before = 0 if cut is None else cut.rows_before
    if grid := _grid(found, form):
        places = range(grid.n_rows) if cut is None else range(cut.start, cut.end)
        runs = _windows(stream, found, grid, places)
    else:
        runs = _documents(stream, found, form, cut)
    for number, (start, tokens) in enumerate(runs, start=before + 1):
        yield number, {form.column: tokens, FIRST_TOKEN: start}


def token_cuts(file: Store, stream: BinaryIO, form: TokenForm, part_bytes: int) -> list[Cut]:
    """All rows of a file of ids in runs of about so many bytes.

    A cut is of rows; of documents between separators, which are found by reading all ids, it is of
    ids.

    Args:
        file: of ids.
        stream: the same, open.
        form: how its ids lie.
        part_bytes: of a run.

    Raises:
        CorpusError, NotDocumentsError, EOFError: as :func:`rows_of_tokens`.
    """
    found = _opened(file, form)
    width = found.dtype.itemsize
    if isinstance(found, Index):
        size = int(found.starts[-1]) * width
        wanted = np.searchsorted(found.starts[:-1] * width, np.arange(0, size, part_bytes))
        ends = [*np.unique(wanted).tolist(), len(found)]
        return [Cut(start, end, start) for start, end in pairwise(ends) if start < end]
    if grid := _grid(found, form):
        step = max(1, part_bytes // (grid.stride * width))
        starts = range(0, grid.n_rows, step)
        return [Cut(start, min(start + step, grid.n_rows), start) for start in starts]
    cuts, first, before, rows = [], 0, 0, 0
    for start, tokens in _documents(stream, found, form):
        rows, end = rows + 1, start + len(tokens)
        if (end - first) * width >= part_bytes:
            cuts.append(Cut(first, end, before))
            first, before = end, rows
    return cuts + [Cut(first, found.n_tokens, before)] * (first < found.n_tokens)


def _opened(file: Store, form: TokenForm) -> Index | Layout:
    size = file.info().size
    if index := index_beside(file):
        try:
            return parse_index(index.read(""), size)
        except NotDocumentsError as error:
            raise CorpusError(f"{index.url} {error}") from error
    try:
        if codec := parted(file.name)[1]:
            raise NotDocumentsError(
                f"is compressed ({codec.name}) as a whole, and ids are read here and there: "
                f"unpack it (`{codec.unpack}`)."
            )
        found = layout_of(file.read_range("", 0, _BEGINNING), size, form.dtype)
        if form.packing == SEPARATE and form.separator is None:
            raise NotDocumentsError(
                "is one run of ids, and corpus.tokens.packing: separate cuts it at the id between "
                "documents: name that under corpus.tokens.separator (mostly the end-of-text token "
                "of the tokenizer)."
            )
    except NotDocumentsError as error:
        raise CorpusError(f"{file.url} {error}") from error
    return found


def _indexed(stream: BinaryIO, index: Index, form: TokenForm, places: range) -> Iterator[Row]:
    layout = Layout(index.dtype, 0, int(index.starts[-1]))
    for place in places:
        start, end = int(index.starts[place]), int(index.starts[place + 1])
        row: dict[str, Any] = {form.column: _read(stream, layout, start, end), FIRST_TOKEN: start}
        if index.document is not None:
            row[DOCUMENT] = int(index.document[place])
        yield place + 1, row


class _Grid(NamedTuple):
    """Rows of one length, each so many ids after the one before."""

    n_rows: int
    width: int
    stride: int


def _grid(layout: Layout, form: TokenForm) -> _Grid | None:
    """The rows of a table, or windows of a run of ids; None where documents are rows.

    The last window has what is left, if some of it is in no other.
    """
    if layout.n_columns is None and form.packing == SEPARATE:
        return None
    width = stride = layout.n_columns or form.context
    if layout.n_columns is None:
        stride = width - form.overlap
    # Of the first row all is new, of each other one the last ``stride``.
    beyond = max(0, layout.n_tokens - width)
    return _Grid(-(-beyond // stride) + (layout.n_tokens > 0), width, stride)


def _windows(
    stream: BinaryIO, layout: Layout, grid: _Grid, places: range
) -> Iterator[tuple[int, Ids]]:
    for start in (place * grid.stride for place in places):
        yield start, _read(stream, layout, start, min(start + grid.width, layout.n_tokens))


def _documents(
    stream: BinaryIO, layout: Layout, form: TokenForm, cut: Cut | None = None
) -> Iterator[tuple[int, Ids]]:
    """Runs of ids between separators, which are in them."""
    held: list[Ids] = []
    first, end = (0, layout.n_tokens) if cut is None else (cut.start, cut.end)
    n_borders = 0
    for start in range(first, end, _BLOCK):
        block = _read(stream, layout, start, min(start + _BLOCK, end))
        found = borders(block, form)
        n_borders += len(found)
        done = 0
        for place in map(int, found):
            held.append(block[done:place])
            done = place
            if start + place > first:  # the first may begin with a separator
                yield first, np.concatenate(held)
            held, first = [], start + place
        held.append(block[done:])
        if start + len(block) - first > _LONGEST:
            raise NotDocumentsError(
                f"has no id {form.separator} in more than {_LONGEST:,} tokens after the first "
                f"{first:,}: see whether corpus.tokens.separator and corpus.tokens.dtype are those "
                "that it was written with."
            )
    # Of a part the whole was asked already; its last document may have no end.
    if cut is None and layout.n_tokens and not n_borders:
        raise NotDocumentsError(
            f"has no id {form.separator} (corpus.tokens.separator) among its {layout.n_tokens:,} "
            "tokens, so it is not told where its documents end. See whether separator and dtype "
            "are those that it was written with."
        )
    if end > first:
        yield first, np.concatenate(held)


def _read(stream: BinaryIO, layout: Layout, start: int, end: int) -> Ids:
    """Ids from one place to another.

    Raises:
        EOFError: the file has become shorter.
    """
    width = layout.dtype.itemsize
    stream.seek(layout.n_bytes_before + start * width)
    parts, left = [], (end - start) * width
    while left:
        part = stream.read(left)
        if not part:
            raise EOFError(f"{left:,} bytes fewer than it had")
        parts.append(part)
        left -= len(part)
    return np.frombuffer(b"".join(parts), layout.dtype).astype(np.int64)
