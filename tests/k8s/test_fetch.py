"""A model is copied from a bucket, of S3 or of Google, once."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from gcp_storage_emulator.server import create_server

from rayinfluence.errors import StorageError
from rayinfluence.storage.fetch import fetch
from rayinfluence.storage.store import Store


@pytest.fixture
def google(monkeypatch: pytest.MonkeyPatch) -> Iterator[Store]:
    server = create_server("127.0.0.1", 0, in_memory=True, default_bucket="bucket")
    server.start()
    port = server._api._httpd.server_address[1]
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", f"http://127.0.0.1:{port}")
    yield Store("gs://bucket/models/mine")
    server.stop()


def test_google_s_storage_is_a_store(google: Store) -> None:
    google.write("a/b", b"hello")
    google.write("a/c", b"")
    assert google.read("a/b") == b"hello"
    assert google.read_range("a/b", 1, 3) == b"ell"
    assert {key: listed.size for key, listed in google.list().items()} == {"a/b": 5, "a/c": 0}
    assert (google.exists("a/b"), google.exists("a/d")) == (True, False)
    assert google.delete("a") == 2
    with pytest.raises(StorageError, match="does not exist"):
        google.read("a/b")


@pytest.mark.parametrize("kind", ["local", "google"])
def test_a_model_is_copied_once(kind: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    store = Store(str(tmp_path / "there"))
    if kind == "google":
        store = request.getfixturevalue("google")
    for key, body in {"config.json": b"{}", "parts/1.safetensors": b"x" * 99}.items():
        store.write(key, body)
    folder = tmp_path / "here"
    assert fetch(store, folder) == 2
    assert (folder / "parts/1.safetensors").read_bytes() == b"x" * 99
    assert fetch(store, folder) == 0
    (folder / "config.json").write_bytes(b"cut short")
    assert fetch(store, folder) == 1
    assert [p.name for p in folder.rglob("*.part")] == []


def test_an_empty_address_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="holds nothing"):
        fetch(Store(str(tmp_path / "nothing")), tmp_path)


def test_the_job_copies_to_where_the_run_looks(project: Path, tmp_path: Path) -> None:
    Store(str(tmp_path / "there")).write("config.json", b"{}")
    config = {"run": "s3://bucket/run", "model": str(tmp_path / "models/mine")}
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(config))
    script = [sys.executable, str(project / "jobs/fetch_model.py"), "--config"]
    done = subprocess.run(
        [*script, str(tmp_path / "run.yaml"), "--from", str(tmp_path / "there")],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": str(project)},
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "models/mine/config.json").read_bytes() == b"{}"
