import io
import logging
from collections.abc import Callable
from typing import Any

import botocore.exceptions
import pytest
from s3.faults import FaultProxy

from rayinfluence.errors import StorageError
from rayinfluence.storage import retry
from rayinfluence.storage.reading import PatientFile
from rayinfluence.storage.store import Store

BODY = bytes(range(256)) * 2000

#: What breaks. Two in a row: aiohttp sends a request again by itself, uncounted, when the
#: connection ends before the answer begins.
FAULTS: dict[str, dict[str, Any]] = {
    "503": {"kind": "status"},
    "500": {"kind": "status", "status": 500, "code": "InternalError"},
    "429": {"kind": "status", "status": 429, "code": "TooManyRequests"},
    "409": {"kind": "status", "status": 409, "code": "ConditionalRequestConflict"},
    "reset": {"kind": "reset"},
    "truncated": {"kind": "truncate"},
    "stall": {"kind": "stall", "seconds": 0.8},
}


def opened(store: Store) -> bytes:
    with store.open("key") as file:
        file.seek(100)
        return file.read()


#: Each operation, the request that is broken, and what has to come out.
OPERATIONS: dict[str, tuple[str, Callable[[Store], Any], Any]] = {
    "write": ("PUT", lambda store: store.write("key", BODY), None),
    "create": ("PUT", lambda store: store.create("new", BODY), True),
    "read": ("GET", lambda store: store.read("key"), BODY),
    "read_range": ("GET", lambda store: store.read_range("key", 7, 5000), BODY[7:5007]),
    "open": ("GET", opened, BODY[100:]),
    "list": ("GET", lambda store: list(store.list()), ["key"]),
    "info": ("HEAD", lambda store: store.info("key").size, len(BODY)),
    "exists": ("HEAD", lambda store: store.exists("key"), True),
    "delete": ("POST", lambda store: store.delete("key"), 1),
}


@pytest.fixture
def store(proxy: FaultProxy, s3: dict[str, Any], impatient: None) -> Store:
    made = Store("s3://bucket/root", {**s3, "endpoint_url": proxy.url})
    made.write("key", BODY)
    proxy.reset()
    return made


@pytest.mark.parametrize("operation", OPERATIONS)
@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_that_passes_is_survived_and_counted(
    store: Store, proxy: FaultProxy, fault: str, operation: str
) -> None:
    method, use, expected = OPERATIONS[operation]
    planned = proxy.fail(times=2, method=method, **FAULTS[fault])
    before = retry.retries()
    assert use(store) == expected
    assert planned.seen == 2
    assert retry.retries() > before
    if operation in ("write", "create"):
        assert store.read("key" if operation == "write" else "new") == BODY


def test_botocore_repeats_requests_and_our_loop_repeats_the_rest(
    store: Store, proxy: FaultProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retry, "ATTEMPTS", 1)
    for fault in ("503", "500", "stall"):
        proxy.fail(method="GET", **FAULTS[fault])
        before = retry.retries()
        assert store.read("key") == BODY
        assert retry.retries() == before + 1
    for fault in ("429", "409", "reset", "truncated"):
        proxy.fail(method="GET", **FAULTS[fault])
        with pytest.raises(StorageError, match=r"cannot read s3://bucket/root/key: .*tried again"):
            store.read("key")


@pytest.mark.parametrize("use", [Store.read, lambda store, key: opened(store)])
@pytest.mark.parametrize("kind", ["reset", "truncate"])
def test_a_body_that_breaks_off_is_never_taken_for_the_whole(
    store: Store, proxy: FaultProxy, monkeypatch: pytest.MonkeyPatch, kind: Any, use: Any
) -> None:
    monkeypatch.setattr(retry, "ATTEMPTS", 2)
    proxy.fail(kind, times=100, method="GET")
    with pytest.raises(StorageError, match=r"cannot read s3://bucket/root/key: ClientPayloadError"):
        use(store, "key")


def test_a_file_that_yields_fewer_bytes_than_it_has_is_read_again() -> None:
    class Stingy(io.BytesIO):
        size = len(BODY)
        reads = 0

        def read(self, count: int | None = -1) -> bytes:
            self.reads += 1
            return super().read(count // 2 if self.reads == 1 and count else count)

    stingy = Stingy(BODY)
    file = PatientFile(stingy, lambda fetch: retry.retrying(fetch, "place"))
    assert file.read(2 * len(BODY)) == BODY
    assert stingy.reads == 2


def test_attempts_are_bounded_in_number_and_in_time(
    store: Store, proxy: FaultProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    per_attempt = retry.CLIENT_CONFIG["retries"]["total_max_attempts"]
    monkeypatch.setattr(retry, "ATTEMPTS", 2)
    proxy.fail("status", times=100)
    with pytest.raises(StorageError, match=r"cannot write .*key: SlowDown: .*run again"):
        store.write("key", BODY)
    assert proxy.count() == 2 * per_attempt
    monkeypatch.setattr(retry, "ATTEMPTS", 100)
    monkeypatch.setattr(retry, "GIVE_UP_SECONDS", 0.0)
    proxy.requests.clear()
    with pytest.raises(StorageError, match="run again"):
        store.write("key", BODY)
    assert proxy.count() == per_attempt


def test_a_silence_shorter_than_the_timeout_costs_nothing(store: Store, proxy: FaultProxy) -> None:
    before = retry.retries()
    proxy.fail("stall", seconds=0.2, method="GET")
    assert store.read("key") == BODY
    assert retry.retries() == before


def test_ten_seconds_of_silence_are_shorter_than_the_timeout() -> None:
    assert 10 < retry.CLIENT_CONFIG["read_timeout"] < retry.GIVE_UP_SECONDS


@pytest.mark.parametrize(
    ("status", "code", "sentence"),
    [
        (403, "AccessDenied", r"AccessDenied: .*injected.*credentials.*policy"),
        (403, "SignatureDoesNotMatch", r"SignatureDoesNotMatch.*AWS_SECRET_ACCESS_KEY"),
        (403, "InvalidAccessKeyId", r"InvalidAccessKeyId.*AWS_ACCESS_KEY_ID"),
        (400, "ExpiredToken", r"ExpiredToken.*set new ones and run the same command again"),
        (404, "NoSuchBucket", r"NoSuchBucket.*make the bucket"),
        (400, "InvalidRequest", r"InvalidRequest.*storage\.checksums"),
        (411, "MissingContentLength", r"MissingContentLength.*storage\.checksums"),
    ],
)
def test_what_waiting_does_not_mend_ends_at_once_with_key_cause_and_remedy(
    store: Store, proxy: FaultProxy, status: int, code: str, sentence: str
) -> None:
    before = retry.retries()
    proxy.fail("status", times=100, status=status, code=code)
    for use in (lambda: store.write("key", BODY), lambda: store.create("key", BODY)):
        proxy.requests.clear()
        with pytest.raises(StorageError, match=rf"cannot write s3://bucket/root/key: {sentence}"):
            use()
        assert proxy.count() == 1
    with pytest.raises(StorageError, match=rf"cannot read s3://bucket/root/key: {sentence}"):
        store.read_range("key", 0, 8)
    assert retry.retries() == before


def test_no_credentials_at_all_are_a_sentence(
    proxy: FaultProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/dev/null")
    monkeypatch.setenv("AWS_CONFIG_FILE", "/dev/null")
    elsewhere = {"region_name": "nowhere"}  # or the client of another test would be taken
    store = Store("s3://bucket", {"endpoint_url": proxy.url, "client_kwargs": elsewhere})
    with pytest.raises(StorageError, match=r"NoCredentialsError: .*AWS_ACCESS_KEY_ID"):
        store.write("key", BODY)
    assert proxy.count() == 0


def test_a_certificate_is_not_waited_for() -> None:
    unreachable = botocore.exceptions.EndpointConnectionError(endpoint_url="x", error="refused")
    certificate = botocore.exceptions.SSLError(endpoint_url="x", error="self-signed")
    assert retry.is_transient(unreachable)
    assert not retry.is_transient(certificate)
    assert not retry.is_transient(FileNotFoundError("x"))
    assert not retry.is_transient(PermissionError("x"))


def test_what_is_tried_again_is_logged_with_key_and_cause(
    store: Store, proxy: FaultProxy, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, logger="rayinfluence.storage.retry"):
        proxy.fail("truncate", method="GET")
        store.read("key")
        proxy.fail("status", method="PUT")
        store.write("key", BODY)
    ours, theirs = [r.getMessage() for r in caplog.records if r.name == retry.__name__]
    assert ours.startswith("s3://bucket/root/key is tried again: ClientPayloadError: ")
    assert theirs == f"PUT {proxy.url}/bucket/root/key is tried again: SlowDown"


def test_waits_double_up_to_the_longest_and_are_shortened_at_random(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    waits: list[float] = []
    monkeypatch.setattr(retry.time, "sleep", waits.append)

    def fail() -> None:
        raise TimeoutError("still")

    with pytest.raises(TimeoutError, match="still"):
        retry.retrying(fail, "place")
    assert len(waits) == retry.ATTEMPTS - 1
    full = [min(retry.FIRST_WAIT * 2**i, retry.LONGEST_WAIT) for i in range(len(waits))]
    assert full[-1] == retry.LONGEST_WAIT
    assert all(most / 2 <= wait <= most for wait, most in zip(waits, full, strict=True))
    assert len({wait / most for wait, most in zip(waits, full, strict=True)}) > 1


def test_objects_on_disk_are_not_tried_again(tmp_path: Any) -> None:
    before = retry.retries()
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(StorageError, match="cannot write"):
        Store(str(tmp_path / "file")).create("key", BODY)
    assert retry.retries() == before
