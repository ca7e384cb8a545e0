"""Tables that are written and read some rows at a time."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rayinfluence.corpus.origins import tails
from rayinfluence.errors import StorageError
from rayinfluence.storage.digest import digest_bytes, digest_file
from rayinfluence.storage.metadata import columns, decoded, fields, joined, kinds_of
from rayinfluence.storage.store import Store
from rayinfluence.storage.tables import Rows, read_row_groups, writing_table

TABLE = pa.table({"a": list(range(10)), "b": [[f"x{i}"] * i for i in range(10)]})
SCHEMA = TABLE.schema


@pytest.fixture
def written(tmp_path: Path) -> tuple[Store, str]:
    store = Store(str(tmp_path))
    with writing_table(store, "t/t.parquet", TABLE.schema) as writer:
        for start in range(0, 10, 3):
            writer.write(TABLE.slice(start, 3))
        writer.write(TABLE.slice(0, 0))
        assert not (tmp_path / "t/t.parquet").exists()
    return store, writer.digest


def test_a_table_is_there_when_all_of_it_is_and_its_digest_is_that_of_its_bytes(
    written: tuple[Store, str], tmp_path: Path
) -> None:
    store, digest = written
    assert list(store.list()) == ["t/t.parquet"]
    body = store.read("t/t.parquet")
    assert digest == digest_bytes(body)
    with store.open("t/t.parquet") as file:
        assert digest_file(file) == digest
    assert read_row_groups(store, "t/t.parquet").equals(TABLE)
    assert pq.ParquetFile(tmp_path / "t/t.parquet").num_row_groups == 4


def test_nothing_is_left_of_a_table_whose_writer_fails(tmp_path: Path) -> None:
    store = Store(str(tmp_path))

    def rows() -> Iterator[pa.Table]:
        yield TABLE
        raise ValueError("no more")

    with pytest.raises(ValueError, match="no more"), writing_table(store, "t", SCHEMA) as writer:
        writer.extend(rows())
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "file").touch()
    with pytest.raises(StorageError, match="cannot write"), writing_table(store, "file/t", SCHEMA):
        pass


def test_small_tables_share_a_row_group(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rayinfluence.storage.tables._GROUP_ROWS", 4)
    store = Store(str(tmp_path))
    with writing_table(store, "t", TABLE.schema) as writer:
        writer.extend(TABLE.slice(i, 1) for i in range(10))
    parquet = pq.ParquetFile(tmp_path / "t")
    assert [parquet.metadata.row_group(i).num_rows for i in range(3)] == [4, 4, 2]
    assert parquet.read().equals(TABLE)


def test_a_page_that_is_not_what_was_written_is_noticed(
    written: tuple[Store, str], tmp_path: Path
) -> None:
    path = tmp_path / "t/t.parquet"
    body = bytearray(path.read_bytes())
    body[60] ^= 0xFF
    path.write_bytes(body)
    with pytest.raises(StorageError, match=r"t/t\.parquet is damaged"):
        read_row_groups(written[0], "t/t.parquet")
    with pytest.raises(StorageError, match="not the table that its manifest is about"):
        Rows(store=written[0], key="t/t.parquet", digest=written[1]).read()


@pytest.mark.parametrize("kept", [1, 1 << 20])
@pytest.mark.parametrize("places", [[], [9, 0, 3, 3, 4], list(range(9, -1, -1)), [5]])
def test_rows_are_those_of_their_places_in_any_order(
    written: tuple[Store, str], places: list[int], kept: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rayinfluence.storage.tables._KEPT", kept)
    stored = Rows(store=written[0], key="t/t.parquet", digest=written[1])
    expected = TABLE.take(pa.array(places, pa.int64()))
    for rows in (stored, Rows(TABLE)):
        assert rows.take(np.array(places, dtype=np.int64)).equals(expected)
        assert rows.read(["b"]).equals(TABLE.select(["b"]))
        assert rows.schema.equals(TABLE.schema)


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        ([True, False], "boolean"),
        ([1, 2], "integer"),
        ([1, 2**60], "long"),
        ([1, 0.5], "number"),
        ([2**60, 0.5], "json"),
        ([1, True], "json"),
        ([10**30], "json"),
        (["a"], "string"),
        (["a", None], "json"),
        (["a", 1], "json"),
        ([{"a": 1}], "json"),
        ([["a"], ["b", "c"]], "list:string"),
        ([[1], [0.5]], "list:number"),
        ([["a"], [1]], "json"),
        ([["a"], []], "json"),
        ([[["a"]]], "json"),
        ([["a", None]], "json"),
        ([["a"], "a"], "json"),
    ],
)
def test_values_come_back_as_they_were_in_the_narrowest_column(
    values: list[Any], kind: str
) -> None:
    rows = [{"k": value} for value in values] + [{}]
    in_turns = joined(kinds_of([row]) for row in rows)
    assert in_turns == kinds_of(rows) == joined(kinds_of([row]) for row in reversed(rows))
    assert in_turns["k"] == (kind, len(values))
    schema = pa.schema(fields(in_turns, "the document"))
    made = columns(rows, schema)
    table = pa.table([made[name] for name in schema.names], schema=schema)
    assert [decoded(row, schema) for row in table.to_pylist()] == rows


@pytest.mark.parametrize(
    ("urls", "names"),
    [
        ([], []),
        (["/a/x.jsonl"], ["x.jsonl"]),
        (["/a/x", "/b/x", "/b/y"], ["a/x", "b/x", "y"]),
        (["/1/a/x", "/2/a/x", "/2/b/x"], ["1/a/x", "2/a/x", "b/x"]),
        (["s3://b/x", "/x"], ["b/x", "x"]),
        (["/x", "/x"], ["x", "x"]),
    ],
)
def test_files_are_called_by_as_much_as_tells_them_apart(urls: list[str], names: list[str]) -> None:
    assert tails(urls) == names
