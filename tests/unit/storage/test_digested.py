"""A file that is digested while it is read."""

import hashlib
import io
from itertools import pairwise
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from hypothesis import given
from hypothesis import strategies as st

from rayinfluence.storage.reading import DigestedFile

BODY = np.random.default_rng(0).bytes(300_000)


class Counted(io.BytesIO):
    """Says how many bytes were read of it."""

    n_read = 0

    def read(self, size: int | None = -1, /) -> bytes:
        part = super().read(size)
        self.n_read += len(part)
        return part


def digest_of(body: bytes) -> str:
    return hashlib.sha256(body).hexdigest()[:32]


@given(st.lists(st.tuples(st.integers(0, 310_000), st.integers(0, 200_000)), max_size=6))
def test_the_digest_is_of_all_bytes_however_the_file_is_read(places: list[tuple[int, int]]) -> None:
    file = DigestedFile(io.BytesIO(BODY))
    for start, length in places:
        assert file.seek(start) == start
        assert file.read(length) == BODY[start : start + length]
        assert file.tell() == min(start + length, max(start, len(BODY)))
    assert file.digest() == digest_of(BODY)


@given(st.lists(st.integers(0, len(BODY)), max_size=6))
def test_what_is_read_in_order_is_read_once(ends: list[int]) -> None:
    source = Counted(BODY)
    file = DigestedFile(source)
    for start, end in pairwise(sorted({0, *ends})):
        file.read(end - start)
    assert file.digest() == digest_of(BODY)
    assert source.n_read == len(BODY)


def test_closing_what_reads_it_leaves_it_open() -> None:
    file = DigestedFile(io.BytesIO(BODY))
    with io.BufferedReader(file) as reader:
        reader.read(9)
    assert file.digest() == digest_of(BODY)


def test_most_of_a_parquet_file_is_read_once() -> None:
    generator = np.random.default_rng(0)
    columns: dict[str, Any] = {
        "text": [generator.bytes(400).hex() for _ in range(20_000)],
        "id": [f"d{i}" for i in range(20_000)],
        "number": generator.standard_normal(20_000),
    }
    sink = io.BytesIO()
    pq.write_table(pa.table(columns), sink, row_group_size=2_000)
    source = Counted(sink.getvalue())
    file = DigestedFile(source)
    n_rows = sum(batch.num_rows for batch in pq.ParquetFile(file).iter_batches(batch_size=1024))
    assert n_rows == 20_000
    assert file.digest() == digest_of(sink.getvalue())
    assert source.n_read < 1.3 * len(sink.getvalue())
