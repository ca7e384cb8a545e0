"""Single objects on a real S3 server, and the command line pointed at it."""

from collections.abc import Callable
from typing import Any

import pytest
from races import assert_one_creates
from s3.conftest import open_store
from s3.faults import FaultProxy
from s3.radosgw import Radosgw

from rayinfluence.cli import main
from rayinfluence.config import RunConfig
from rayinfluence.storage.store import Store

pytestmark = pytest.mark.s3


@pytest.fixture
def store(bucket: str, storage: dict[str, Any]) -> Store:
    config = RunConfig.parse({"run": f"{bucket}/root", "model": "none", "storage": storage})
    return open_store(config, config.run)


def test_of_sixteen_creators_one_wins(store: Store) -> None:
    for race in range(5):
        assert_one_creates(store, f"race/{race}")


def test_a_create_whose_answer_was_lost_knows_its_own_object(
    store: Store, faults: FaultProxy
) -> None:
    through = Store(store.url, {**store.options, "endpoint_url": faults.url})
    lost = faults.fail("reset", times=2, method="PUT")
    assert through.create("key", b"body")
    assert lost.seen == 2
    assert not through.create("key", b"other")
    assert store.read("key") == b"body"


def test_ranges_listings_and_deletes(store: Store) -> None:
    body = bytes(range(256))
    for index in range(1100):
        if index < 3 or index > 1097:
            store.write(f"a/{index:04d}", body)
    assert store.read_range("a/0000", 250, 100) == body[250:]
    assert store.read_range("a/0000", 256, 4) == b""
    assert store.read_range("a/0000", 8, 0) == b""
    with store.open("a/0001") as file:
        file.seek(-6, 2)
        assert file.read() == body[-6:]
    assert len(store.list("a")) == 5
    assert store.delete("a") == 5
    assert store.list() == {}


def test_the_command_line_is_pointed_at_the_server(
    remote: RunConfig,
    execute: Callable[[RunConfig], Any],
    radosgw: Radosgw,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    execute(remote)
    monkeypatch.setenv("AWS_REQUEST_CHECKSUM_CALCULATION", "when_required")

    def call(*arguments: str) -> None:
        with pytest.raises(SystemExit) as end:
            main([*arguments])
        assert end.value.code == 0

    for command in (["status"], ["report"]):
        call(*command, remote.run, "--endpoint-url", radosgw.endpoint)
    monkeypatch.setenv("AWS_ENDPOINT_URL", radosgw.endpoint)
    for command in (["status"], ["report"], ["clean", "--yes", "--stage", "results"]):
        call(*command, remote.run)
    assert "objects deleted" in capsys.readouterr().out
    assert open_store(remote, remote.run).list("results") == {}
