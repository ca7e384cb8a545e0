import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rayinfluence.corpus.corpus import Corpus
from rayinfluence.corpus.fragments import FileReport, Fragment, ShardRecord, write_fragment
from rayinfluence.corpus.manifest import CorpusManifest
from rayinfluence.corpus.ordinals import Making, Ordinals
from rayinfluence.corpus.shards import ROWS_PER_SHARD, RowGroup, ShardWriter
from rayinfluence.corpus.splits import Split, read_rows
from rayinfluence.corpus.tokenize import TokenizeSettings
from rayinfluence.errors import CorpusError, StorageError
from rayinfluence.storage.store import Store

SETTINGS = TokenizeSettings("text", "id", 16, 48, 2**20)
MAKING = Making("tokenizer", SETTINGS)


def group(n_rows: int, n_tokens: int, name: str) -> RowGroup:
    return RowGroup(n_rows, n_tokens, name)


GROUPS = st.builds(
    group,
    st.integers(1, 20),
    st.integers(1, 300),
    st.text("0123456789abcdef", min_size=32, max_size=32),
)
SHARDS = st.lists(st.lists(GROUPS, max_size=8), max_size=5)


def planned(shards: list[list[RowGroup]], split_tokens: int) -> tuple[Corpus, list[Split]]:
    records = tuple(ShardRecord(f"shards/{i}", 0, groups) for i, groups in enumerate(shards))
    corpus = Corpus(Store("nowhere"), CorpusManifest("tokenizer", SETTINGS, records, ()))
    return corpus, corpus.plan(split_tokens)


@given(SHARDS, st.integers(1, 1000))
def test_splits_cover_every_row_once_and_in_order(
    shards: list[list[RowGroup]], split_tokens: int
) -> None:
    corpus, splits = planned(shards, split_tokens)
    assert [split.index for split in splits] == list(range(len(splits)))
    assert sum(split.n_rows for split in splits) == corpus.n_sequences
    assert sum(split.n_tokens for split in splits) == corpus.n_tokens
    for ordinal, groups in enumerate(shards):
        ours = [split for split in splits if split.shard == f"shards/{ordinal}"]
        assert [g for split in ours for g in split.row_groups] == groups
        next_id, next_group = ordinal * ROWS_PER_SHARD, 0
        for split in ours:
            assert (split.first_sequence_id, split.first_row_group) == (next_id, next_group)
            next_id += split.n_rows
            next_group += len(split.row_groups)
    assert len({split.digest for split in splits}) == len(splits)


@given(SHARDS, st.integers(1, 1000))
def test_a_split_holds_as_many_row_groups_as_fit(
    shards: list[list[RowGroup]], split_tokens: int
) -> None:
    _, splits = planned(shards, split_tokens)
    for split, following in pairwise(splits):
        assert split.n_tokens <= split_tokens or len(split.row_groups) == 1
        if following.shard == split.shard:
            assert split.n_tokens + following.row_groups[0].n_tokens > split_tokens


@given(SHARDS, SHARDS, st.integers(1, 1000))
def test_appended_shards_change_no_earlier_split(
    shards: list[list[RowGroup]], more: list[list[RowGroup]], split_tokens: int
) -> None:
    before, splits = planned(shards, split_tokens)
    after, extended = planned(shards + more, split_tokens)
    assert extended[: len(splits)] == splits
    assert after.prefix_fingerprint(len(shards)) == before.fingerprint


@given(st.lists(GROUPS, min_size=1, max_size=4), st.data())
def test_the_digest_of_a_split_is_of_its_content(groups: list[RowGroup], data: Any) -> None:
    _, [split] = planned([groups], 10**6)
    place = data.draw(st.integers(0, len(groups) - 1))
    changed = list(groups)
    changed[place] = group(groups[place].n_rows, groups[place].n_tokens, "another digest")
    assert planned([changed], 10**6)[1][0].digest != split.digest
    assert planned([[], groups], 10**6)[1][0].digest != split.digest  # other sequence ids


def row(tokens: list[int], index: int) -> dict[str, Any]:
    return {
        "tokens": tokens,
        "document_id": f"d{index}",
        "token_start": 0,
        "char_start": 0,
        "char_end": 9,
        "metadata": "{}",
    }


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(str(tmp_path))


def written(store: Store, *shards: list[list[int]], row_group_tokens: int = 8) -> Corpus:
    """A corpus of a file for each shard."""
    logged = []
    for ordinal, sequences in enumerate(shards):
        writer = ShardWriter(row_group_tokens)
        for index, tokens in enumerate(sequences):
            writer.add(row(tokens, index))
        key = f"shards/{ordinal:06d}.parquet"
        store.write(key, body := writer.finish())
        record = ShardRecord(key, len(body), writer.row_groups, writer.bounds)
        report = FileReport(f"/d{ordinal}.jsonl", 9, 1.5, None, f"{ordinal:032x}")
        logged.append(write_fragment(store, MAKING.digest, Fragment.of(report, [record])))
    Ordinals(store, MAKING, (), {}).append(logged)
    return Corpus.open(store)


GOOD = [[1, 2, 3, 4]] * 9


def test_a_corpus_is_opened_from_its_manifest_and_read_split_by_split(store: Store) -> None:
    corpus = written(store, GOOD, [[5, 6]] * 7)
    assert (corpus.n_sequences, corpus.n_tokens) == (16, 50)
    splits = corpus.plan(16)
    ids = [i for split in splits for i in corpus.read(split)["sequence_id"].to_pylist()]
    assert ids == [*range(9), *(ROWS_PER_SHARD + i for i in range(7))]
    assert CorpusManifest.read(store) == corpus.manifest


def test_a_folder_without_a_corpus_says_what_to_run(store: Store) -> None:
    assert CorpusManifest.read(store) is None
    with pytest.raises(CorpusError, match=r"holds no tokenised corpus .* `rayinfluence tokenize`"):
        Corpus.open(store)
    # What a tokeniser that was killed leaves.
    report = FileReport("/d.jsonl", 9, 1.5, None, "0" * 32)
    logged = write_fragment(store, MAKING.digest, Fragment.of(report, []))
    assert CorpusManifest.read(store) is None
    with pytest.raises(CorpusError, match="holds no tokenised corpus"):
        Corpus.open(store)
    Ordinals(store, MAKING, (), {}).append([logged])
    with pytest.raises(CorpusError, match=r"is empty: .* Check corpus\.documents"):
        Corpus.open(store)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b"{}",
        b'{"format": 2}',
        b"\xff",
        b'{"format": 3, "tokenizer": "", "settings": {"text": 1}, "files": [], "left_out": {}}',
        b'{"format": 3, "tokenizer": "", "settings": {}, "files": 3, "left_out": {}}',
    ],
    ids=range(7),
)
def test_a_log_that_is_none_is_refused(store: Store, body: bytes) -> None:
    store.write("log/00000000.json", body)
    with pytest.raises(CorpusError, match=r"log/00000000\.json is not of the log of a corpus"):
        Corpus.open(store)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b"{}",
        b'{"file": {}, "shards": []}',
        b'{"file": {"url": "", "size": 1, "modified": 1, "tag": null}, "shards": [{"key": "a"}]}',
    ],
    ids=range(5),
)
def test_a_damaged_fragment_is_named(store: Store, body: bytes) -> None:
    written(store, GOOD)
    [key] = store.list("fragments")
    store.write(key, body)
    with pytest.raises(CorpusError, match=rf"{key} is damaged .*tokenise again\."):
        Corpus.open(store)


@pytest.mark.parametrize(
    ("folder", "old", "new"),
    [
        ("fragments", b'"n_tokens": [8', b'"n_tokens": [9'),
        ("fragments", b'"/d0.jsonl"', b'"/d1.jsonl"'),
        ("log", b'"/d0.jsonl"', b'"/d1.jsonl"'),
        ("log", b'"context": 1', b'"context": 2'),
    ],
)
def test_a_character_that_changed_is_damage_and_no_other_corpus(
    store: Store, folder: str, old: bytes, new: bytes
) -> None:
    written(store, GOOD)
    [key] = store.list(folder)
    body = store.read(key)
    assert old in body, body
    store.write(key, body.replace(old, new, 1))
    with pytest.raises(CorpusError, match=rf"{key} .*not what was written, by its digest"):
        Corpus.open(store)


def test_a_fragment_in_the_place_of_another_is_damage(store: Store) -> None:
    written(store, GOOD, GOOD[1:])
    one, other = store.list("fragments")
    store.write(other, store.read(one))
    with pytest.raises(CorpusError, match=rf"{other} is damaged .*that of another file"):
        Corpus.open(store)


def test_what_an_earlier_version_wrote_without_its_digest_is_read(store: Store) -> None:
    expected = written(store, GOOD).manifest
    for key in (*store.list("fragments"), *store.list("log")):
        body = json.loads(store.read(key))
        del body["seal"]
        store.write(key, json.dumps(body).encode())
    assert CorpusManifest.read(store) == expected


def test_a_log_with_a_gap_is_refused(store: Store) -> None:
    written(store, GOOD)
    store.write("log/00000002.json", store.read("log/00000000.json"))
    with pytest.raises(CorpusError, match=r"log/00000001\.json is missing .*delete the corpus"):
        Corpus.open(store)


def test_a_corpus_of_the_old_layout_is_refused_with_what_to_do(store: Store) -> None:
    store.write("manifest.json", b'{"format": 2}')
    for look in (Corpus.open, Corpus.refuse_none, CorpusManifest.read):
        with pytest.raises(CorpusError, match=r"Tokenise the documents again: .*--stage corpus"):
            look(store)
    written(store, GOOD)  # who has tokenised there all the same has another corpus beside it
    assert Corpus.open(store).n_sequences == 9


def spoiled(corpus: Corpus, body: bytes) -> str:
    """What reading says when a shard holds other bytes."""
    corpus.store.write("shards/000000.parquet", body)
    with pytest.raises(CorpusError) as caught:
        list(map(corpus.read, corpus.plan(16)))
    message = str(caught.value)
    assert "shards/000000.parquet cannot be used: " in message
    assert "Restore it, or delete the corpus folder and tokenise again." in message
    return message


def test_an_altered_shard_is_detected(store: Store) -> None:
    corpus = written(store, GOOD)
    other = ShardWriter(8)
    for index in range(9):
        other.add(row([1, 2, 3, 5 if index == 8 else 4], index))
    assert "is not what the manifest records" in spoiled(corpus, other.finish())


def rewritten(store: Store, column: str, values: pa.Array) -> bytes:
    sink = pa.BufferOutputStream()
    file = pq.ParquetFile(pa.BufferReader(store.read("shards/000000.parquet")))
    table = file.read()
    table = table.set_column(table.schema.get_field_index(column), column, values)
    with pq.ParquetWriter(sink, table.schema) as writer:
        for index in range(file.num_row_groups):
            rows = file.metadata.row_group(index).num_rows
            writer.write_table(table.slice(index * 2, rows))
    return bytes(sink.getvalue())


@pytest.mark.parametrize(
    ("column", "values"),
    [
        ("tokens", pa.array([[1, None, 3, 4]] * 9)),
        ("tokens", pa.array(["text"] * 9)),
        ("tokens", pa.nulls(9)),
        ("n_tokens", pa.array([None] * 9, pa.int32())),
        ("n_tokens", pa.array(["four"] * 9)),
        ("metadata", pa.nulls(9)),
        ("document_id", pa.array([b"\xff"] * 9)),
    ],
    ids=range(7),
)
@pytest.mark.filterwarnings("ignore:invalid value encountered in cast")
def test_columns_of_other_types_are_detected(store: Store, column: str, values: pa.Array) -> None:
    corpus = written(store, GOOD)
    spoiled(corpus, rewritten(store, column, values))


@pytest.mark.parametrize("keep", [0, 3, 100, 0.5, 0.9, -1])
def test_a_truncated_shard_is_detected(store: Store, keep: float) -> None:
    corpus = written(store, GOOD)
    body = store.read("shards/000000.parquet")
    end = int(keep * len(body)) if isinstance(keep, float) else keep
    message = spoiled(corpus, body[:end])
    assert "it is not Parquet" in message
    with pytest.raises(CorpusError, match=rf"it has {len(body[:end]):,} bytes, and {len(body):,}"):
        corpus.check(48, 16)


def test_another_file_in_a_shard_s_place_is_detected(store: Store) -> None:
    corpus = written(store, GOOD)
    assert "it is not Parquet" in spoiled(corpus, b'{"text": "documents, not shards"}\n' * 100)
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table({"text": ["a"]}), sink)
    assert "it has no column 'tokens'" in spoiled(corpus, bytes(sink.getvalue()))
    with pytest.raises(CorpusError, match=r"cannot be used: it has .* bytes"):
        corpus.check(48, 16)


def test_a_shard_with_fewer_row_groups_is_detected(store: Store) -> None:
    corpus = written(store, GOOD)
    shorter = ShardWriter(8)
    for index in range(4):
        shorter.add(row(GOOD[0], index))
    spoiled(corpus, shorter.finish())
    with pytest.raises(CorpusError, match=r"cannot be used: it has .* bytes"):
        corpus.check(48, 16)


def test_a_missing_shard_is_named(store: Store) -> None:
    corpus = written(store, GOOD)
    store.delete("shards/000000.parquet")
    with pytest.raises(StorageError, match=r"shards/000000\.parquet does not exist"):
        corpus.read(corpus.plan(16)[0])
    with pytest.raises(CorpusError, match=r"shards/000000\.parquet cannot be used: it is not ther"):
        corpus.check(48, 16)


def counting(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    read: list[int] = []
    original = pq.ParquetFile.read_row_group

    def counted(self: pq.ParquetFile, index: int, *args: Any, **options: Any) -> pa.Table:
        read.append(index)
        return original(self, index, *args, **options)

    monkeypatch.setattr(pq.ParquetFile, "read_row_group", counted)
    return read


@given(st.data())
def test_rows_are_those_of_the_split(tmp_path_factory: Any, data: Any) -> None:
    shard = [[index, index + 1, 3, 4] for index in range(9)]
    store = Store(str(tmp_path_factory.mktemp("corpus")))
    for split in written(store, [[1, 2]], shard).plan(1000)[1:]:
        whole = Corpus.open(store).read(split)
        ids = whole["sequence_id"].to_pylist()
        chosen = sorted(data.draw(st.sets(st.sampled_from(ids), min_size=1)))
        expected = whole.take([ids.index(sequence_id) for sequence_id in chosen])
        assert read_rows(store, split, chosen).equals(expected)


def test_only_row_groups_that_hold_the_rows_are_read_and_checked(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    corpus = written(store, GOOD)
    (split,) = corpus.plan(1000)
    assert [group.n_rows for group in split.row_groups] == [2, 2, 2, 2, 1]
    values = pa.array([[1, 2, 3, 5 if index == 4 else 4] for index in range(9)])
    store.write("shards/000000.parquet", rewritten(store, "tokens", values))
    read = counting(monkeypatch)
    assert read_rows(store, split, [1, 2, 8])["sequence_id"].to_pylist() == [1, 2, 8]
    assert read == [0, 1, 4]
    with pytest.raises(CorpusError, match="is not what the manifest records"):
        read_rows(store, split, [1, 5])


def opening(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The shards that are opened."""
    opened: list[str] = []
    original = Store.open

    def counted(self: Store, key: str) -> Any:
        opened.append(key)
        return original(self, key)

    monkeypatch.setattr(Store, "open", counted)
    return opened


def test_no_shard_is_opened_to_see_that_its_rows_are_good(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    corpus = written(store, GOOD, GOOD)
    opened = opening(monkeypatch)
    assert corpus.check(48, 16) == {}
    assert corpus.check(None, None) == {}
    assert corpus.check(5, 4) == {}
    assert opened == []
    assert len(corpus.check(4, 4)) == len(corpus.check(5, 3)) == 18
    assert len(set(opened)) == 2


@pytest.mark.parametrize(
    ("tokens", "reason"),
    [
        ([1, 2, 48, 3], "token id 48 is outside the model's vocabulary of 48"),
        ([1, -5, 2, 3], "token id -5 is outside"),
        ([1] * 17, "17 tokens, and the model's context is 16"),
        ([1], "1 tokens; at least 2 are needed"),
        ([], "0 tokens"),
    ],
    ids=range(5),
)
def test_bad_rows_are_looked_for_where_bounds_say_that_there_are_some_and_only_there(
    store: Store, monkeypatch: pytest.MonkeyPatch, tokens: list[int], reason: str
) -> None:
    corpus = written(store, GOOD, [*GOOD[:5], tokens, *GOOD[:3]])
    read = counting(monkeypatch)
    bad = corpus.check(48, 16)
    assert list(bad) == [ROWS_PER_SHARD + 5]
    assert reason in bad[ROWS_PER_SHARD + 5]
    assert read == [2]


def test_a_shard_that_was_altered_is_noticed_where_it_is_looked_at(store: Store) -> None:
    corpus = written(store, [*GOOD[:8], [1, 99, 2, 3]])
    body = bytearray(store.read("shards/000000.parquet"))
    body[20] ^= 0xFF
    store.write("shards/000000.parquet", bytes(body))
    assert list(corpus.check(48, 16)) == [8]  # it is in another row group
    with pytest.raises(CorpusError, match="cannot be used"):
        corpus.check(2, 16)


def test_what_a_corpus_says_of_itself_is_readable_json(store: Store) -> None:
    written(store, GOOD)
    [fragment] = store.list("fragments")
    entry = json.loads(store.read("log/00000000.json"))
    assert entry["format"] == 3
    assert entry["files"] == [{"fragment": fragment, "url": "/d0.jsonl", "digest": "0" * 32}]
    body = json.loads(store.read(fragment))
    assert body["file"]["url"] == "/d0.jsonl"
    [shard] = body["shards"]
    assert shard["n_rows"] == [2, 2, 2, 2, 1]
    assert (shard["lowest"], shard["highest"]) == ([1] * 5, [4] * 5)
    assert (shard["shortest"], shard["longest"]) == ([4] * 5, [4] * 5)
