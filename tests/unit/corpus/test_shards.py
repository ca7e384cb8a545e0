import io
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rayinfluence.corpus.shards import (
    SCHEMA,
    ShardWriter,
    bad_rows,
    row_group_digest,
    sequences_of,
)


def row(*tokens: int, **changes: Any) -> dict[str, Any]:
    return {
        "tokens": list(tokens),
        "document_id": "d",
        "token_start": 0,
        "char_start": 0,
        "char_end": 9,
        "metadata": '{"source":"a"}',
        **changes,
    }


def shard(rows: list[dict[str, Any]], row_group_tokens: int = 10) -> ShardWriter:
    writer = ShardWriter(row_group_tokens)
    for one in rows:
        writer.add(one)
    return writer


def table(*rows: dict[str, Any]) -> pa.Table:
    body = shard(list(rows), 10**9).finish()
    return pq.read_table(io.BytesIO(body))


def test_row_groups_close_when_they_are_full() -> None:
    writer = shard([row(*range(4)) for _ in range(7)], row_group_tokens=10)
    file = pq.ParquetFile(io.BytesIO(writer.finish()))
    assert [(g.n_rows, g.n_tokens) for g in writer.row_groups] == [(3, 12), (3, 12), (1, 4)]
    assert [file.metadata.row_group(i).num_rows for i in range(file.num_row_groups)] == [3, 3, 1]
    read = file.read()
    assert read.schema.equals(SCHEMA)
    assert read["n_tokens"].to_pylist() == [4] * 7
    for index, group in enumerate(writer.row_groups):
        assert row_group_digest(file.read_row_group(index)) == group.digest


def test_row_groups_depend_on_the_rows_alone() -> None:
    rows = [row(*range(2 + i % 5), document_id=f"d{i}") for i in range(40)]
    assert shard(rows).finish() == shard(rows).finish()


def test_a_row_longer_than_a_row_group_has_one_of_its_own() -> None:
    writer = shard([row(*range(100)), row(1, 2), row(*range(50))])
    writer.finish()
    assert [group.n_tokens for group in writer.row_groups] == [100, 52]


def test_nothing_added_gives_an_empty_shard() -> None:
    writer = shard([])
    assert pq.read_table(io.BytesIO(writer.finish())).num_rows == 0
    assert writer.row_groups == []


def test_the_digest_is_of_the_content_and_not_of_its_place_or_encoding() -> None:
    rows = [row(1, 2, 3), row(4, 5)]
    ours = row_group_digest(table(*rows))
    numbered = table(*rows).append_column("sequence_id", pa.array([7, 8]))
    assert row_group_digest(numbered) == ours
    wide = SCHEMA.field("tokens").with_type(pa.large_list(pa.int64()))
    widened = table(*rows).cast(SCHEMA.set(SCHEMA.get_field_index("tokens"), wide))
    assert row_group_digest(widened) == ours
    chunked = pa.concat_tables([table(rows[0]), table(rows[1])])
    assert row_group_digest(chunked) == ours


@pytest.mark.parametrize(
    "changed",
    [
        [row(1, 2, 3), row(4, 6)],
        [row(1, 2), row(3, 4, 5)],
        [row(4, 5), row(1, 2, 3)],
        [row(1, 2, 3)],
        [row(1, 2, 3), row(4, 5, document_id="e")],
        [row(1, 2, 3), row(4, 5, metadata="{}")],
        [row(1, 2, 3), row(4, 5, token_start=1)],
        [row(1, 2, 3), row(4, 5, char_start=1)],
        [row(1, 2, 3), row(4, 5, char_end=1)],
    ],
    ids=range(9),
)
def test_any_change_of_content_changes_the_digest(changed: list[dict[str, Any]]) -> None:
    ours = row_group_digest(table(row(1, 2, 3), row(4, 5)))
    assert row_group_digest(table(*changed)) != ours


def test_sequences_are_rows_also_of_slices_and_chunks() -> None:
    whole = table(row(1, 2, 3), row(4, 5), row(6, 7, 8, 9))
    assert [s.tolist() for s in sequences_of(whole)] == [[1, 2, 3], [4, 5], [6, 7, 8, 9]]
    assert [s.tolist() for s in sequences_of(whole.slice(1))] == [[4, 5], [6, 7, 8, 9]]
    assert [s.tolist() for s in sequences_of(whole.slice(1, 1))] == [[4, 5]]
    assert sequences_of(whole.slice(0, 0)) == []
    again = pa.concat_tables([whole.slice(2), whole.slice(0, 1)])
    assert [s.tolist() for s in sequences_of(again)] == [[6, 7, 8, 9], [1, 2, 3]]


@pytest.mark.parametrize(
    ("tokens", "reason"),
    [
        ([3], "1 tokens; at least 2"),
        ([], "0 tokens; at least 2"),
        ([1] * 9, "9 tokens, and the model's context is 8"),
        ([1, 48], "token id 48 is outside the model's vocabulary of 48"),
        ([-1, 3], "token id -1 is outside"),
        (None, "it has no tokens"),
    ],
    ids=range(6),
)
def test_bad_rows_are_given_with_their_reason(tokens: list[int] | None, reason: str) -> None:
    rows = [{**row(1, 2), "tokens": t} for t in ([1, 2], tokens, [47] * 8)]
    made = pa.Table.from_pylist([{"n_tokens": 0, **r} for r in rows], SCHEMA)
    bad = bad_rows(made, vocabulary=48, context=8)
    assert list(bad) == [1]
    assert reason in bad[1]


def test_a_model_that_does_not_say_its_limits_has_none() -> None:
    assert bad_rows(table(row(*range(1000))), None, None) == {}
    assert np.concatenate(sequences_of(table(row(*range(1000))))).max() == 999
