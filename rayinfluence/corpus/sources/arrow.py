"""Arrow's own files and streams, as Feather and `save_to_disk` of datasets write them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import BinaryIO

import pyarrow as pa

from rayinfluence.corpus.lines import is_binary
from rayinfluence.corpus.sources.source import Row, Wanted
from rayinfluence.corpus.sources.tables import chosen, refuse_unsound, rows_of

_FILE = b"ARROW1"
#: What stands before each message of a stream, and at its end.
_STREAM = b"\xff\xff\xff\xff"
_END = _STREAM + bytes(4)


class Arrow:
    """Batches of rows, numbered from 1; a file has an index of them at its end, a stream none."""

    endings = (".arrow", ".feather", ".ipc", ".arrows")
    seeks = True
    is_text = False

    def holds(self, begins: bytes) -> bool:
        """By its mark."""
        return begins.startswith((_FILE, _STREAM)) and is_binary(begins)

    def refusal(self, begins: bytes) -> str | None:
        """It is Feather as it was before Arrow had files."""
        if begins.startswith(b"FEA1"):
            return (
                "is Feather of the first version, which is no file of Arrow: read it with pandas "
                "and write it again (`to_feather`)."
            )
        return None

    def rows(self, stream: BinaryIO, wanted: Wanted) -> Iterator[Row]:
        """The rows, as dictionaries of the columns that are wanted."""
        is_file = stream.read(len(_FILE)) == _FILE
        stream.seek(0)
        reader = pa.ipc.open_file(stream) if is_file else pa.ipc.open_stream(stream)
        columns = chosen(reader.schema, wanted)
        batches = map(reader.get_batch, range(reader.num_record_batches)) if is_file else reader
        number = 0
        for batch in batches:
            read = batch.select(columns)
            refuse_unsound(read)
            for row in rows_of(read):
                number += 1
                yield number, row
        if not is_file:
            _refuse_open_end(stream)


def _refuse_open_end(stream: BinaryIO) -> None:
    """See that a stream that was read has its end: without one nothing says that it is whole."""
    place = stream.tell()
    stream.seek(max(place - len(_END), 0))
    if stream.read(len(_END)) != _END:
        raise EOFError("the mark at the end of a stream is not there")
