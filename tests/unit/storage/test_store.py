import os
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from races import assert_one_creates
from s3.faults import FaultProxy

from rayinfluence.errors import DamagedError, StorageError
from rayinfluence.storage import retry
from rayinfluence.storage.many import info_all
from rayinfluence.storage.store import Store, parse_table, read_json, read_table, write_table

BODY = bytes(range(256))


@pytest.fixture(params=["local", "s3"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    if request.param == "local":
        return Store(str(tmp_path / "root"))
    return Store("s3://bucket/root", request.getfixturevalue("s3"))


def test_an_object_comes_back_as_it_was_written(store: Store) -> None:
    store.write("a/b.bin", BODY)
    assert store.read("a/b.bin") == BODY
    assert store.exists("a/b.bin")
    assert not store.exists("a/c.bin")
    store.write("a/b.bin", b"new")
    assert store.read("a/b.bin") == b"new"
    store.write("empty", b"")
    assert store.read("empty") == b""


@pytest.mark.parametrize(("start", "length"), [(0, 8), (100, 50), (250, 100), (256, 4), (300, 4)])
def test_a_range_is_what_a_slice_of_the_whole_is(store: Store, start: int, length: int) -> None:
    store.write("object", BODY)
    assert store.read_range("object", start, length) == BODY[start : start + length]


def test_listing_gives_keys_and_sizes_under_a_prefix(store: Store) -> None:
    assert store.list() == {}
    assert store.list("nothing") == {}
    for key in ("b/2", "b/1", "a", "bc/3"):
        store.write(key, BODY)
    assert list(store.list()) == ["a", "b/1", "b/2", "bc/3"]
    assert list(store.list("b")) == ["b/1", "b/2"]
    assert list((store / "b").list()) == ["1", "2"]
    assert list(store.list("a")) == ["a"]
    assert {listed.size for listed in store.list().values()} == {256}
    assert all(listed.modified for listed in store.list().values())


def test_deleting_takes_an_object_or_all_under_a_prefix_and_no_neighbour(store: Store) -> None:
    for key in ("b/1", "b/2", "bc/3", "a"):
        store.write(key, BODY)
    assert store.delete("b") == 2
    assert list(store.list()) == ["a", "bc/3"]
    assert store.delete("a") == 1
    assert store.delete("a") == 0
    assert list(store.list()) == ["bc/3"]
    store.write("b/1", b"again")
    assert store.read("b/1") == b"again"


def test_a_missing_object_is_named(store: Store) -> None:
    with pytest.raises(StorageError, match=r"root/no/such does not exist\.$"):
        store.read("no/such")
    with pytest.raises(StorageError, match="no/such does not exist"):
        store.read_range("no/such", 0, 8)
    with pytest.raises(StorageError, match="no/such does not exist"), store.open("no/such"):
        pass


def test_many_objects_come_in_the_order_of_their_keys(store: Store) -> None:
    odd = store / "a [*] folder"  # no pattern
    for number in range(20):
        odd.write(f"{number}", b"%d" % number)
    keys = [f"{number}" for number in (7, 3, 19, 3)]
    assert odd.read_all(keys) == [b"7", b"3", b"19", b"3"]
    assert odd.read_all([]) == []
    with pytest.raises(StorageError, match=r"folder/no such does not exist\.$"):
        odd.read_all(["1", "no such", "2"])


def test_what_a_server_says_of_an_object_s_content_is_told_with_its_size(store: Store) -> None:
    for key, body in (("a", BODY), ("b", BODY), ("c", BODY[::-1])):
        store.write(key, body)
    listed = store.list()
    assert {key: store.info(key) for key in listed} == listed
    assert info_all([store / key for key in "abc" * 4]) == list(listed.values()) * 4
    if store.is_local:
        assert {one.tag for one in listed.values()} == {None}
    else:
        assert listed["a"].tag == listed["b"].tag != listed["c"].tag
    with pytest.raises(StorageError, match="root/d does not exist"):
        info_all([store / key for key in "abcd" * 4])


def test_a_store_of_one_file_reads_it_by_the_empty_key(store: Store) -> None:
    store.write("file.txt", BODY)
    file = store / "file.txt"
    assert file.exists("")
    assert file.read("") == BODY
    assert file.name == "file.txt"
    with pytest.raises(StorageError, match=r"missing\.txt does not exist"):
        (store / "missing.txt").read("")


def test_a_store_survives_pickling(store: Store) -> None:
    import pickle

    store.write("a", BODY)
    assert pickle.loads(pickle.dumps(store)).read("a") == BODY


def test_a_crash_in_the_middle_of_a_write_leaves_the_old_object(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store(str(tmp_path))
    store.write("key", b"old")

    def crash(descriptor: int) -> None:
        assert len(list(tmp_path.iterdir())) == 2
        assert list(store.list()) == ["key"]  # a reader beside us sees no half-written object
        assert store.read("key") == b"old"
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", crash)
    with pytest.raises(KeyboardInterrupt):
        store.write("key", b"new")
    assert store.read("key") == b"old"
    assert [path.name for path in tmp_path.iterdir()] == ["key"]


def test_what_another_was_faster_to_delete_is_deleted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store(str(tmp_path))
    for key in ("folder/a", "folder/b"):
        store.write(key, BODY)
    listed = store.list("folder")
    monkeypatch.setattr(Store, "list", lambda *_: listed)
    assert store.delete("folder") == 2
    assert store.delete("folder") == 2
    assert not (tmp_path / "folder").exists()


def test_local_objects_have_the_permissions_of_any_new_file(tmp_path: Path) -> None:
    previous = os.umask(0o027)
    try:
        Store(str(tmp_path)).write("key", BODY)
    finally:
        os.umask(previous)
    assert stat.S_IMODE((tmp_path / "key").stat().st_mode) == 0o640


def test_a_folder_that_cannot_be_written_is_a_storage_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(StorageError, match=r"cannot write .*file/key"):
        Store(str(tmp_path / "file")).write("key", BODY)
    (tmp_path / "folder").mkdir()
    with pytest.raises(StorageError, match=r"cannot read .*folder"):
        Store(str(tmp_path)).read("folder")


@pytest.mark.parametrize("prefix", ["", "file://"])
def test_local_addresses_are_absolute_paths(
    prefix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert Store(f"{prefix}{tmp_path}/x").url == f"{tmp_path}/x"
    monkeypatch.chdir(tmp_path)
    assert Store("runs/a").url == f"{tmp_path}/runs/a"
    monkeypatch.setenv("HOME", "/home/somebody")
    assert Store("~/runs").url == "/home/somebody/runs"
    assert Store("s3://bucket/prefix/").url == "s3://bucket/prefix"


@pytest.mark.parametrize("url", ["nonsense://bucket/a", "gopher://a"])
def test_an_address_of_an_unknown_kind_is_refused_with_the_alternatives(url: str) -> None:
    with pytest.raises(StorageError, match="use a local folder or s3://"):
        Store(url).read("key")


def test_more_keys_than_one_listing_page_holds(s3: dict[str, Any]) -> None:
    from moto.core import DEFAULT_ACCOUNT_ID
    from moto.s3.models import s3_backends

    keys = [f"scan/bank/partials/{index:05d}.safetensors" for index in range(2100)]
    backend = s3_backends[DEFAULT_ACCOUNT_ID]["aws"]
    for key in keys:
        backend.put_object("bucket", f"root/{key}", b"x")
    store = Store("s3://bucket/root", s3)
    assert list(store.list()) == keys
    assert list((store / "scan/bank").list("partials")) == [
        key.removeprefix("scan/bank/") for key in keys
    ]
    assert store.delete("scan/bank") == 2100
    assert store.list() == {}


def test_another_writer_is_seen_at_once(s3: dict[str, Any]) -> None:
    store, other = Store("s3://bucket/root", s3), Store("s3://bucket/root", dict(s3))
    assert store.list("ledger") == {}
    other.write("ledger/a", BODY)
    assert list(store.list("ledger")) == ["ledger/a"]
    other.write("ledger/b", BODY)
    assert list(store.list("ledger")) == ["ledger/a", "ledger/b"]


def test_a_bucket_that_does_not_exist_is_a_sentence(s3: dict[str, Any]) -> None:
    store = Store("s3://no-such-bucket/root", s3)
    for verb, use in {
        "read": lambda: store.read("key"),
        "write": lambda: store.write("key", BODY),
        "look for": lambda: store.exists("key"),
        "list": lambda: store.list("key"),
    }.items():
        with pytest.raises(
            StorageError,
            match=rf"cannot {verb} s3://no-such-bucket/root/key: NoSuchBucket: .*bucket",
        ):
            use()


def test_a_server_that_does_not_answer_is_a_sentence(
    s3: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    quick = {"connect_timeout": 1, "retries": {"max_attempts": 0}}
    options = {"endpoint_url": "http://127.0.0.1:9", "config_kwargs": quick}
    monkeypatch.setattr(retry, "ATTEMPTS", 2)
    before = retry.retries()
    with pytest.raises(StorageError, match=r"cannot write s3://bucket/key: .*Check the address"):
        Store("s3://bucket", options).write("key", BODY)
    assert retry.retries() == before + 1


def test_tables_come_back_and_equal_tables_give_equal_bytes(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    table = pa.table({"a": [1, 2, 3], "b": [["x"], [], None]})
    write_table(store, "a.parquet", table, row_group_size=2)
    write_table(store, "b.parquet", pa.table({"a": [1, 2, 3], "b": [["x"], [], None]}), 2)
    body = write_table(store, "a.parquet", table, row_group_size=2)
    assert parse_table(store, "a.parquet", body).equals(table)
    assert read_table(store, "a.parquet", ["b"]).equals(table.select(["b"]))
    assert store.read("a.parquet") == store.read("b.parquet")
    assert pq.ParquetFile(tmp_path / "a.parquet").num_row_groups == 2


def test_a_damaged_table_is_named(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    write_table(store, "t.parquet", pa.table({"a": [f"row {i}" * 20 for i in range(2000)]}))
    whole = store.read("t.parquet")
    garbled = whole[:40] + bytes(byte ^ 0xFF for byte in whole[40:400]) + whole[400:]
    for body in (b"", whole[:-10], whole[: len(whole) // 2], b"not Parquet at all", garbled):
        store.write("t.parquet", body)
        with pytest.raises(StorageError, match=r"t\.parquet is damaged or not Parquet"):
            parse_table(store, "t.parquet", body)
        with pytest.raises(StorageError, match=r"t\.parquet is damaged or not Parquet"):
            read_table(store, "t.parquet", ["a"])


@pytest.mark.parametrize("body", [b"", b"{", b"[1]", b"\xff\xfe{}", b"[" * 100_000])
def test_damaged_json_is_named(tmp_path: Path, body: bytes) -> None:
    store = Store(str(tmp_path))
    store.write("m.json", b'{"a": 1}')
    assert read_json(store, "m.json") == {"a": 1}
    store.write("m.json", body)
    with pytest.raises(DamagedError, match=r"m\.json is damaged: .* Delete it"):
        read_json(store, "m.json")


def test_creating_writes_only_where_there_is_nothing(store: Store) -> None:
    assert store.create("a/key", BODY)
    assert not store.create("a/key", b"other")
    assert not store.create("a/key", BODY)
    assert store.read("a/key") == BODY
    assert list(store.list()) == ["a/key"]
    store.delete("a/key")
    assert store.create("a/key", b"other")
    store.write("a/key", b"third")
    assert store.read("a/key") == b"third"


def test_of_sixteen_that_create_an_object_at_once_one_does(store: Store) -> None:
    for race in range(3):
        assert_one_creates(store, f"race/{race}")
    assert len(store.list()) == 3


def test_of_processes_that_create_a_file_at_once_one_does(tmp_path: Path) -> None:
    program = (
        "import sys; from rayinfluence.storage.store import Store;"
        "store = Store(sys.argv[1]);"
        "print('ready', flush=True); sys.stdin.readline();"
        "print(sum(store.create(str(key), sys.argv[2].encode()) for key in range(300)))"
    )
    arguments = [sys.executable, "-c", program, str(tmp_path)]
    pipe = subprocess.PIPE
    racers = [
        subprocess.Popen([*arguments, str(number)], stdin=pipe, stdout=pipe, text=True)
        for number in range(3)
    ]
    for racer in racers:
        assert racer.stdout is not None
        assert racer.stdout.readline() == "ready\n"
    for racer in racers:
        assert racer.stdin is not None
        racer.stdin.write("go\n")
        racer.stdin.flush()
    made = [int(racer.communicate()[0]) for racer in racers]
    assert sum(made) == 300
    written = [Store(str(tmp_path)).read(str(key)) for key in range(300)]
    assert [written.count(b"%d" % number) for number in range(3)] == made


def test_a_create_whose_answer_was_lost_knows_its_own_object(
    proxy: FaultProxy, s3: dict[str, Any], impatient: None
) -> None:
    store = Store("s3://bucket/root", {**s3, "endpoint_url": proxy.url})
    for times in (1, 2, 3):
        proxy.reset()
        lost = proxy.fail("reset", times=times, method="PUT")
        assert store.create(f"key-{times}", BODY)
        assert lost.seen == times
        assert proxy.count("PUT") == times + 1  # it was stored by the first
        assert not store.create(f"key-{times}", BODY)


def test_a_disk_without_links_is_a_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_links(path: Path, target: Path) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(Path, "hardlink_to", no_links)
    with pytest.raises(StorageError, match=r"cannot write .*/key: PermissionError"):
        Store(str(tmp_path)).create("key", BODY)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("url", ["hdfs://host/x", "github://owner/x", "git://x", "nowhere://x"])
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_an_address_of_a_kind_that_is_not_opened_here_is_a_sentence(url: str) -> None:
    protocol = url.partition(":")[0]
    with pytest.raises(StorageError) as caught:
        Store(url).exists("key")
    said = str(caught.value)
    assert said.startswith(f"{url}: rayinfluence cannot open {protocol}:// addresses here (")
    assert said.endswith("; use a local folder or s3://, or gs:// with the extra gcs.")
    assert "\n" not in said
