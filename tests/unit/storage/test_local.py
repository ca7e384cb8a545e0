"""Objects on a disk: what cannot be looked at is not taken for absent, and commits last."""

import errno
import os
import stat
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fsspec
import pytest
from s3.faults import FaultProxy

from rayinfluence.errors import StorageError
from rayinfluence.storage import local
from rayinfluence.storage.finding import find_all
from rayinfluence.storage.store import Store

BODY = bytes(range(256))
PARTIAL = "scan/partials/a"
PREFIXES = ("", "scan", "scan/partials")


@pytest.fixture
def store(tmp_path: Path) -> Store:
    made = Store(str(tmp_path / "run"))
    made.write(PARTIAL, BODY)
    return made


def failing(original: Callable[..., Any], number: int, ending: str) -> Callable[..., Any]:
    """A function of a path that fails for some."""

    def fail(path: Any, *args: Any, **options: Any) -> Any:
        if str(path).endswith(ending):
            raise OSError(number, os.strerror(number), str(path))
        return original(path, *args, **options)

    return fail


FAILURES = [errno.EIO, errno.EACCES, errno.ESTALE]


@pytest.mark.parametrize("number", FAILURES, ids=errno.errorcode.__getitem__)
def test_a_folder_that_cannot_be_listed_is_no_empty_one(
    store: Store, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    """The listing of partials is the ledger: what it lacks is scored again."""
    monkeypatch.setattr(os, "scandir", failing(os.scandir, number, "partials"))
    for prefix in PREFIXES:
        with pytest.raises(StorageError, match=rf"cannot list .*: .*{os.strerror(number)}"):
            store.list(prefix)
    assert store.list("factors") == {}


@pytest.mark.parametrize("number", FAILURES, ids=errno.errorcode.__getitem__)
@pytest.mark.parametrize("ending", ["run", "partials", "/a"])
def test_what_cannot_be_looked_at_is_not_absent(
    store: Store, monkeypatch: pytest.MonkeyPatch, number: int, ending: str
) -> None:
    asked = {"run": "", "partials": "scan/partials", "/a": PARTIAL}[ending]
    monkeypatch.setattr(os, "stat", failing(os.stat, number, ending))
    with pytest.raises(StorageError, match=os.strerror(number)):
        store.list(asked)
    with pytest.raises(StorageError, match=os.strerror(number)):
        store.exists(asked)


@pytest.mark.parametrize("lost", [*PREFIXES[1:], PARTIAL])
def test_what_is_on_a_disk_that_is_not_mounted_is_not_absent(
    store: Store, tmp_path: Path, lost: str
) -> None:
    place, elsewhere = Path(store.url, lost), tmp_path / "disk"
    place.rename(elsewhere)
    place.symlink_to(elsewhere)
    for prefix in ("", *PREFIXES):
        assert list(store.list(prefix)) == [PARTIAL]
    assert store.exists(PARTIAL)
    elsewhere.rename(tmp_path / "unmounted")
    for prefix in PREFIXES:
        with pytest.raises(StorageError, match=r"is a link to .*disk, where nothing is"):
            store.list(prefix)
    with pytest.raises(StorageError, match=r"is a link to .*disk, where nothing is"):
        store.exists(PARTIAL)


def test_folders_that_link_to_each_other_are_listed_once(store: Store) -> None:
    Path(store.url, "scan", "again").symlink_to(store.url)
    assert list(store.list()) == [PARTIAL]


def test_what_was_never_written_is_absent(store: Store) -> None:
    for key in ("factors", "scan/other", f"{PARTIAL}/below"):
        assert store.list(key) == {}
        assert not store.exists(key)


def test_a_file_system_without_pages_that_cannot_list_is_not_empty(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """fsspec's own search passes over what it may not list."""
    files = fsspec.filesystem("memory")
    files.pipe_file(f"/run/{PARTIAL}", BODY)
    for prefix in PREFIXES:
        assert list(find_all(files, f"/run/{prefix}")) == [f"/run/{PARTIAL}"]
    assert find_all(files, "/run/factors") == {}
    for ending in ("partials", "scan"):
        with monkeypatch.context() as patch:
            patch.setattr(files, "ls", failing(files.ls, errno.EIO, ending))
            with pytest.raises(OSError, match=os.strerror(errno.EIO)):
                find_all(files, "/run")
    files.store.clear()


@pytest.mark.parametrize("status", [500, 503, 403])
def test_a_bucket_that_does_not_answer_is_not_empty(
    s3: dict[str, Any], proxy: FaultProxy, impatient: None, status: int
) -> None:
    store = Store("s3://bucket/run", {**s3, "endpoint_url": proxy.url})
    store.write(PARTIAL, BODY)
    proxy.fail("status", times=100, status=status)
    with pytest.raises(StorageError, match="cannot list"):
        store.list("scan")
    with pytest.raises(StorageError, match="cannot look for"):
        store.exists("nothing")


def test_what_a_killed_process_leaves_behind_is_not_listed(store: Store) -> None:
    Path(store.url, "scan", ".0123.part").write_bytes(b"half")
    assert list(store.list()) == [PARTIAL]
    assert store.delete("scan") == 1
    assert not Path(store.url, "scan").exists()


def test_what_a_killed_process_left_yesterday_is_swept(store: Store) -> None:
    folder = Path(store.url, "scan", "partials")
    stale, fresh, theirs = folder / ".01.part", folder / ".02.part", folder / "our.part"
    for path in (stale, fresh, theirs):
        path.write_bytes(b"half")
    long_ago = time.time() - local.STALE_SECONDS - 60
    for path in (stale, theirs, folder / "a"):
        os.utime(path, (long_ago, long_ago))
    assert store.sweep() == 1
    assert {path.name for path in folder.iterdir()} == {"a", ".02.part", "our.part"}
    assert Store(f"{store.url}/nothing").sweep() == 0


def synced(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What is synced, by the names it has then."""
    found: list[str] = []
    original = os.fsync

    def fsync(descriptor: int) -> None:
        found.append(os.path.realpath(f"/proc/self/fd/{descriptor}"))
        original(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    return found


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="names of descriptors are asked")
def test_what_was_written_survives_a_power_cut(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A rename lasts once its folder is synced, and a folder once the one that it is in is."""
    store, found = Store(str(tmp_path)), synced(monkeypatch)
    store.write("a/b/key", BODY)
    folders = [str(tmp_path), str(tmp_path / "a"), str(tmp_path / "a" / "b")]
    assert [name for name in found if not name.endswith(".part")] == folders
    assert found[-2].endswith(".part")
    found.clear()
    assert store.create("a/b/new", BODY)
    assert found[0].endswith(".part")
    assert found[1:] == [folders[2]]


def test_a_disk_that_cannot_sync_folders_is_written_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    number, original = errno.EINVAL, os.fsync

    def fsync(descriptor: int) -> None:
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(number, os.strerror(number))
        original(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    store = Store(str(tmp_path))
    store.write("key", BODY)
    assert store.read("key") == BODY
    number = errno.EIO
    with pytest.raises(StorageError, match="cannot write"):
        store.write("key", b"new")
