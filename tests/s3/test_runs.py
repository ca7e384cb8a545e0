"""Whole runs in a bucket of a real S3 server, undisturbed and disturbed."""

import io
import json
import logging
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest
import s3fs
from s3.conftest import committed, open_store
from s3.faults import FaultProxy
from s3.radosgw import Radosgw

from rayinfluence.config import RunConfig
from rayinfluence.errors import StorageError
from rayinfluence.storage import retry
from rayinfluence.storage.store import Store

pytestmark = pytest.mark.s3

Execute = Callable[[RunConfig], Any]
Change = Callable[..., RunConfig]
Reference = tuple[RunConfig, dict[str, bytes]]

FAULTS: dict[str, dict[str, Any]] = {
    "slow down": {"kind": "status"},
    "reset": {"kind": "reset"},
    "truncated": {"kind": "truncate"},
    "stall": {"kind": "stall", "seconds": 2.5},
}


def is_partial(key: str) -> bool:
    return "partials/" in key


@pytest.fixture
def on_partial(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[int], None]], list[str]]:
    """Have something done before each partial is written; returns the keys, as they come."""

    def install(action: Callable[[int], None]) -> list[str]:
        keys: list[str] = []
        write = Store.write

        def observed(store: Store, key: str, body: bytes) -> None:
            if is_partial(key):
                keys.append(key)
                action(len(keys))
            write(store, key, body)

        monkeypatch.setattr(Store, "write", observed)
        return keys

    return install


def test_a_run_in_a_bucket_commits_the_bytes_of_one_on_disk(
    reference: Reference, remote: RunConfig, execute: Execute
) -> None:
    before = retry.retries()
    execute(remote)
    expected = reference[1]
    assert sum(map(is_partial, expected)) >= 5
    assert committed(remote) == expected
    assert retry.retries() == before


@pytest.mark.parametrize("fault", FAULTS)
def test_faults_during_a_run_are_survived_and_counted_and_leave_the_same_bytes(
    reference: Reference,
    remote: RunConfig,
    execute: Execute,
    change: Change,
    faults: FaultProxy,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    fault: str,
) -> None:
    monkeypatch.setattr(retry, "FIRST_WAIT", 0.05)
    monkeypatch.setitem(retry.CLIENT_CONFIG, "read_timeout", 2)
    disturbed = change(remote, storage={"endpoint_url": faults.url})
    # Two in a row: aiohttp repeats one by itself, uncounted, when no answer has begun.
    planned = [
        faults.fail(times=2, method=method, path=path, **FAULTS[fault])
        for method, path in [
            ("GET", "documents.jsonl"),
            ("GET", "list-type"),
            ("PUT", "shards/"),
            ("PUT", "partials/"),
            ("GET", "partials/"),
            ("GET", "/factors/"),
            ("PUT", "results/manifest"),
        ]
    ]
    before = retry.retries()
    with caplog.at_level(logging.WARNING, logger=retry.__name__):
        execute(disturbed)
    assert [plan.seen for plan in planned] == [2] * len(planned)
    assert retry.retries() - before >= len(planned)
    assert sum(r.name == retry.__name__ for r in caplog.records) == retry.retries() - before
    assert committed(remote) == reference[1]


def test_a_server_that_is_silent_for_ten_seconds_is_waited_for_and_not_asked_again(
    reference: Reference, remote: RunConfig, execute: Execute, change: Change, faults: FaultProxy
) -> None:
    """It is within the time that a request has: nothing is lost, and nothing is repeated."""
    planned = [
        faults.fail("stall", method=method, path="partials/", seconds=10)
        for method in ("PUT", "GET")
    ]
    before, start = retry.retries(), time.monotonic()
    execute(change(remote, storage={"endpoint_url": faults.url}))
    assert time.monotonic() - start > 20
    assert [plan.seen for plan in planned] == [1, 1]
    assert retry.retries() == before
    writes = [path for method, path in faults.requests if method == "PUT" and is_partial(path)]
    assert len(writes) == len(set(writes)) == sum(map(is_partial, reference[1]))
    assert committed(remote) == reference[1]


def test_a_server_that_is_killed_and_comes_back_is_waited_for(
    reference: Reference,
    remote: RunConfig,
    execute: Execute,
    radosgw: Radosgw,
    on_partial: Callable[[Callable[[int], None]], list[str]],
) -> None:
    restarts: list[threading.Timer] = []

    def kill(number: int) -> None:
        if number == 3:
            radosgw.kill()
            restarts.append(threading.Timer(3, radosgw.start))
            restarts[0].start()

    on_partial(kill)
    before, start = retry.retries(), time.monotonic()
    execute(remote)
    restarts[0].join()
    assert time.monotonic() - start > 3
    assert retry.retries() > before
    assert committed(remote) == reference[1]


def test_a_run_whose_server_stays_away_ends_with_a_sentence_and_goes_on_later(
    reference: Reference,
    remote: RunConfig,
    execute: Execute,
    radosgw: Radosgw,
    on_partial: Callable[[Callable[[int], None]], list[str]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(retry, "GIVE_UP_SECONDS", 0.0)
    first = on_partial(lambda number: radosgw.kill() if number == 3 else None)
    try:
        # The third split is committed beside the reading of the next, and either may tell.
        said = r"cannot (write s3://.*partials/|read s3://.*shards/).*run again"
        with pytest.raises(StorageError, match=said):
            execute(remote)
    finally:
        radosgw.start()
    assert len(first) == 3
    second = on_partial(lambda number: None)
    execute(remote)
    assert not set(second) & set(first[:2])  # what was committed is not scored again
    assert first[2] in second
    assert committed(remote) == reference[1]


def damaged(body: bytes, how: str) -> bytes:
    if how == "truncated":
        return body[: len(body) // 2]
    return body[:-5] + bytes([body[-5] ^ 0xFF]) + body[-4:]


@pytest.mark.parametrize("how", ["truncated", "altered"])
def test_damaged_objects_in_the_bucket_are_noticed_and_made_again(
    reference: Reference, remote: RunConfig, execute: Execute, how: str
) -> None:
    execute(remote)
    store = open_store(remote, remote.run)
    keys = list(store.list())
    partial = next(key for key in keys if is_partial(key))
    factor = next(key for key in keys if key.startswith("factors/") and "/covariance/" in key)
    for key in (partial, factor):
        store.write(key, damaged(store.read(key), how))
    for key in keys:  # the fit is undone from its last step, so that it reads its lanes again
        if key.startswith("results/") or (key.startswith("factors/") and "/covariance/" not in key):
            store.delete(key)
    execute(remote)
    assert committed(remote) == reference[1]


@pytest.mark.parametrize("how", ["truncated", "altered"])
def test_damaged_final_factors_are_made_again(
    reference: Reference, remote: RunConfig, execute: Execute, said: io.StringIO, how: str
) -> None:
    execute(remote)
    store = open_store(remote, remote.run)
    (module, *_) = [key for key in store.list() if "/modules/" in key]
    store.write(module, damaged(store.read(module), how))
    for stage in ("results", "queries", "scan"):
        store.delete(stage)
    execute(remote)
    assert f"{module} is damaged" in said.getvalue()
    assert committed(remote) == reference[1]


def test_a_wrong_secret_ends_a_run_early_with_key_and_cause(
    remote: RunConfig,
    execute: Execute,
    change: Change,
    faults: FaultProxy,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    s3fs.S3FileSystem.clear_instance_cache()
    before = retry.retries()
    with pytest.raises(
        StorageError, match=r"s3://test-.*/.*(403|Signature).*Check the credentials"
    ):
        execute(change(remote, storage={"endpoint_url": faults.url}))
    assert faults.count() <= 2
    assert retry.retries() == before


def test_a_bucket_whose_policy_denies_writes_ends_a_run_with_key_and_cause(
    remote: RunConfig,
    execute: Execute,
    radosgw: Radosgw,
    bucket: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    become(radosgw, "reader", bucket, ["s3:GetObject", "s3:ListBucket"], monkeypatch)
    with pytest.raises(StorageError, match=rf"cannot write {bucket}/.*AccessDenied.*policy"):
        execute(remote)
    assert open_store(remote, remote.run).list() == {}


def test_deleting_that_the_policy_denies_is_not_taken_for_done(
    remote: RunConfig, radosgw: Radosgw, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = open_store(remote, remote.run)
    store.write("scan/a", b"1")
    become(
        radosgw, "writer", bucket, ["s3:GetObject", "s3:ListBucket", "s3:PutObject"], monkeypatch
    )
    store.write("scan/b", b"2")
    with pytest.raises(StorageError, match=r"s3:DeleteObject|cannot delete .*AccessDenied"):
        store.delete("scan")


def become(
    radosgw: Radosgw, user: str, bucket: str, may: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Go on as another user, whom the owner's bucket lets do only some things."""
    name = bucket.removeprefix("s3://")
    statement = {
        "Effect": "Allow",
        "Principal": {"AWS": [f"arn:aws:iam:::user/{user}"]},
        "Action": may,
        "Resource": [f"arn:aws:s3:::{name}", f"arn:aws:s3:::{name}/*"],
    }
    policy = json.dumps({"Version": "2012-10-17", "Statement": [statement]})
    owner = s3fs.S3FileSystem(endpoint_url=radosgw.endpoint)
    owner.call_s3("put_bucket_policy", Bucket=name, Policy=policy)
    for key, value in radosgw.user(user).items():
        monkeypatch.setenv(key, value)
    s3fs.S3FileSystem.clear_instance_cache()
