"""Tables as committed objects: no bit of them, footer and all, changes what is read."""

from pathlib import Path

import pyarrow as pa
import pytest

from rayinfluence.errors import DamagedError, StorageError
from rayinfluence.storage.pieces import read_if_whole, read_piece, write_piece
from rayinfluence.storage.store import Store

TABLE = pa.table(
    {"sequence_id": [1, 2, 3], "text": ["a", "", None], "tokens": [[1], [2, 3], []]},
    pa.schema(
        [("sequence_id", pa.int64()), ("text", pa.string()), ("tokens", pa.list_(pa.int32()))]
    ),
)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(str(tmp_path / "rescored"))


@pytest.mark.parametrize("table", [TABLE, TABLE[:0]], ids=["rows", "no rows"])
def test_a_piece_is_read_as_it_was_written_and_some_columns_in_their_order(
    store: Store, table: pa.Table
) -> None:
    write_piece(store, "p", table)
    assert read_piece(store, "p").equals(table)
    assert read_piece(store, "p", ["tokens", "text"]).equals(table.select(["tokens", "text"]))
    body = store.read("p")
    write_piece(store, "p", table)
    assert store.read("p") == body


def test_no_flipped_bit_of_a_piece_goes_unnoticed(store: Store) -> None:
    write_piece(store, "p", TABLE)
    body = store.read("p")
    footer = len(body) - 8 - int.from_bytes(body[-8:-4], "little")
    assert body.endswith(b"PAR1")
    for place in [*range(footer, len(body)), *range(0, footer, 9)]:
        damaged = bytearray(body)
        damaged[place] ^= (0x80, 0x01)[place % 2]
        store.write("p", bytes(damaged))
        found = read_if_whole(store, "p")
        # The header of safetensors is padded with spaces, which may be another white space.
        assert found is None or (body[place : place + 1] == b" " and found.equals(TABLE)), place


def test_a_piece_in_the_place_of_another_is_none_and_a_missing_one_too(store: Store) -> None:
    write_piece(store, "p", TABLE)
    write_piece(store, "q", TABLE.select(["text"]))
    store.write("q", store.read("p"))
    with pytest.raises(DamagedError, match="it is rescored/p and not rescored/q"):
        read_piece(store, "q")
    assert read_if_whole(store, "q") is None
    assert read_if_whole(store, "missing") is None
    with pytest.raises(StorageError, match="missing does not exist"):
        read_piece(store, "missing")
