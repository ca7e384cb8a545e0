"""The table of models that were trained again: written, read, refused."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rayinfluence.errors import DamagedError, InputError, StorageError
from rayinfluence.evaluation.bank import About, Bank
from rayinfluence.evaluation.subsets import Subset, added, drops, full, halves
from rayinfluence.storage.store import Store

IDS = np.array([0, 1, 3, 2**32], dtype=np.int64)
ABOUT = About(
    "ab" * 16,
    {"version": 1, "recipe": {"name": "causal_lm"}},
    ("first", "second", "third"),
    ("d1", "d2", "d3"),
    tuple(IDS.tolist()),
    ("c0", "c1", "c3", "c4"),
)
SUBSETS = (full(0), *halves(IDS, 2, 0, 0), *drops(IDS, 0.25, 1, 0, 5), added([3, 3], 0, 0))
VALUES = np.random.default_rng(0).normal(size=(5, 3)) / 3
BANK = Bank(ABOUT, SUBSETS, VALUES, np.array([1.5, np.nan, 2 / 3, 1e-9, 7.0]))
KEY = "bank.parquet"


@pytest.fixture
def store(tmp_path: Path) -> Store:
    store = Store(str(tmp_path))
    BANK.write(store, KEY)
    return store


def test_a_bank_comes_back_as_it_was_written(store: Store) -> None:
    again = Bank.read(store, KEY)
    assert (again.about, again.subsets) == (ABOUT, SUBSETS)
    assert np.array_equal(again.values_SQ, VALUES)
    assert np.array_equal(again.losses_S, BANK.losses_S, equal_nan=True)
    body = store.read(KEY)
    again.write(store, KEY)
    assert store.read(KEY) == body


def test_a_bank_has_arrays(store: Store) -> None:
    bank = Bank.read(store, KEY)
    assert bank.weights_SN.tolist() == [s.weights(IDS).tolist() for s in SUBSETS]
    assert bank.weights_SN[-1].tolist() == [1, 1, 3, 1]
    assert bank.seeds_S.tolist() == [0, 0, 0, 5, 0]
    assert bank.designs == ("full", "half", "half", "drop", "add")
    halved = bank.of_design("half")
    assert halved.subsets == SUBSETS[1:3]
    assert np.array_equal(halved.values_SQ, VALUES[1:3])
    assert (halved.weights_SN.sum(0) == 1).all()
    assert bank.of_design("drop", 0.25).seeds_S.tolist() == [5]
    assert bank.of_design("drop", 0.2).weights_SN.shape == (0, 4)
    assert bank.of_design("drop", 0.2).values_SQ.shape == (0, 3)


def test_a_bank_without_a_training_is_one(tmp_path: Path) -> None:
    none = Bank(ABOUT, (), np.zeros((0, 3)), np.zeros(0))
    none.write(Store(str(tmp_path)), KEY)
    assert Bank.read(Store(str(tmp_path)), KEY).values_SQ.shape == (0, 3)


def test_the_queries_of_a_run_are_taken_out_in_their_order() -> None:
    found = BANK.of_run(["d3", "d1"], IDS.tolist(), ABOUT.content_digests)
    assert found.about.query_ids == ("third", "first")
    assert found.about.query_digests == ("d3", "d1")
    assert np.array_equal(found.values_SQ, VALUES[:, [2, 0]])


@pytest.mark.parametrize(
    ("queries", "contents", "said"),
    [
        (["d1", "dx", "dy"], ABOUT.content_digests, "2 of the run's 3 queries are not in the"),
        (["d1"], ("c0", "c1"), "of 4 sequences, and the run's corpus has 2, 2 of them among"),
        (["d1"], ("c1", "c0", "c3", "c4"), "has 4, 4 of them among those: all have to be, in the"),
    ],
)
def test_another_run_s_bank_is_refused(
    queries: list[str], contents: tuple[str, ...], said: str
) -> None:
    with pytest.raises(InputError, match=said):
        BANK.of_run(queries, IDS.tolist(), contents)


def test_a_corpus_in_other_files_has_other_ids() -> None:
    ids = [5, 2**32, 2**32 + 1, 2**33]
    again = BANK.of_run(ABOUT.query_digests, ids, ABOUT.content_digests)
    assert again.about == replace(ABOUT, sequence_ids=tuple(ids))
    assert np.array_equal(again.weights_SN, BANK.weights_SN)
    assert again.subsets[-1].added == (2**32 + 1, 2**32 + 1)


def test_a_table_that_is_none_of_ours_is_refused(tmp_path: Path) -> None:
    pq.write_table(pa.table({"design": ["full"]}), tmp_path / KEY)
    with pytest.raises(InputError, match="is Parquet, and no table of trained models"):
        Bank.read(Store(str(tmp_path)), KEY)
    (tmp_path / KEY).write_bytes(b"text")
    with pytest.raises(StorageError):
        Bank.read(Store(str(tmp_path)), KEY)


def test_a_file_that_is_no_table_stays_where_it_is(store: Store, tmp_path: Path) -> None:
    queries = tmp_path / "queries.jsonl"
    queries.write_text('{"query_id": "a"}\n')
    cut = tmp_path / "cut.parquet"
    cut.write_bytes(store.read(KEY)[:-9])
    for path in (queries, cut, tmp_path):
        with pytest.raises(InputError, match=r"evaluation\.bank: .* or a damaged one") as refused:
            Bank.given(Store(str(path)))
        assert "elete" not in str(refused.value)
    with pytest.raises(InputError, match=r"evaluation\.bank: there is no file .*nowhere\.parquet"):
        Bank.given(Store(str(tmp_path / "nowhere.parquet")))
    assert Bank.given(Store(str(tmp_path / KEY))).subsets == SUBSETS


def test_a_table_that_says_something_else_than_was_written_is_damaged(
    store: Store, tmp_path: Path
) -> None:
    table = pq.read_table(tmp_path / KEY)
    [(key, told)] = table.schema.metadata.items()
    altered = told.replace(b'"d2"', b'"d9"')
    assert altered != told
    pq.write_table(table.replace_schema_metadata({key: altered}), tmp_path / KEY)
    with pytest.raises(DamagedError, match="what it is about cannot be read"):
        Bank.read(store, KEY)
    body = json.loads(told)
    del body["seal"]  # as whoever writes another schema may do
    other = json.dumps({**body, "schema": 2}).encode()
    pq.write_table(table.replace_schema_metadata({key: other}), tmp_path / KEY)
    with pytest.raises(InputError, match="schema version 2, and this release reads 1"):
        Bank.read(store, KEY)
    lacking = table.drop_columns(["values"]).replace_schema_metadata({key: told})
    pq.write_table(lacking, tmp_path / KEY)
    with pytest.raises(DamagedError, match="no column 'values'"):
        Bank.read(store, KEY)


def test_a_byte_that_changed_is_noticed(store: Store, tmp_path: Path) -> None:
    """Of the pages; not every byte of Parquet is covered, and none of them is read as a value."""
    body = bytearray((tmp_path / KEY).read_bytes())
    place = bytes(body).find(b"\x28\xb5\x2f\xfd") + 12  # within the first compressed page
    body[place] ^= 0x55
    (tmp_path / KEY).write_bytes(body)
    with pytest.raises(StorageError):
        Bank.read(store, KEY)


def test_subsets_of_a_bank_name_its_sequences() -> None:
    other = replace(BANK, subsets=(Subset("without", 0, (2,)),))
    with pytest.raises(ValueError, match="of no sequence, such as 2"):
        _ = other.weights_SN
