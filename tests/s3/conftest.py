"""A real S3 server for the whole session, users and buckets on it, and runs in them."""

from __future__ import annotations

import io
import shutil
import tempfile
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import s3fs
from rich.console import Console
from s3.faults import FaultProxy, fault_proxy
from s3.radosgw import Radosgw

from rayinfluence.config import RunConfig
from rayinfluence.dataflow.run import Run
from rayinfluence.dataflow.stages.progress import ProgressLog
from rayinfluence.storage.store import Store
from rayinfluence.testing import tiny_run

PREFIX = Path(__file__).parents[2] / ".ceph"

#: What a run directory says of time, paths and versions; all else is a function of the inputs.
ABOUT_THE_RUN = ("config.json", "stages.json")
OF_THE_CORPUS = ("corpus/log/", "corpus/fragments/", "corpus/rolled/")


def about_the_run(key: str) -> bool:
    """Whether an object says such things."""
    manifest = key.startswith("results/") and key.endswith("/manifest.json")
    return key in ABOUT_THE_RUN or key.startswith(OF_THE_CORPUS) or manifest


@pytest.fixture(scope="session")
def radosgw() -> Iterator[Radosgw]:
    """The server."""
    if not (PREFIX / "ready").exists():
        if shutil.which("apt-get") is None:
            pytest.skip("Ceph's packages come with apt-get, which is missing here")
        pytest.fail("run `make test-s3`, which fetches Ceph's radosgw into .ceph/")
    # Not pytest's folder: the paths of sockets have to be short.
    with tempfile.TemporaryDirectory(prefix="rgw") as folder, Radosgw(PREFIX, Path(folder)) as made:
        yield made


@pytest.fixture(scope="session")
def credentials(radosgw: Radosgw) -> dict[str, str]:
    """Environment variables of the user who owns the buckets."""
    return radosgw.user("owner")


@pytest.fixture(scope="session")
def _session_faults(radosgw: Radosgw) -> Iterator[FaultProxy]:
    with fault_proxy(radosgw.endpoint) as made:
        yield made


@pytest.fixture
def faults(_session_faults: FaultProxy) -> FaultProxy:
    """What breaks requests on their way to the server."""
    _session_faults.reset()
    return _session_faults


@pytest.fixture
def storage(
    radosgw: Radosgw, credentials: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> dict[str, Any]:
    """The storage section of a configuration for the server; its owner's credentials are set."""
    for name, value in {**credentials, "AWS_DEFAULT_REGION": "us-east-1"}.items():
        monkeypatch.setenv(name, value)
    # s3fs keeps a client, and its credentials, as long as the arguments are the same.
    s3fs.S3FileSystem.clear_instance_cache()
    return {"endpoint_url": radosgw.endpoint, "path_style": True, "checksums": "when_required"}


@pytest.fixture
def bucket(radosgw: Radosgw, storage: dict[str, Any]) -> str:
    """The URL of an empty bucket."""
    url = f"s3://test-{uuid.uuid4().hex[:12]}"
    s3fs.S3FileSystem(endpoint_url=radosgw.endpoint).mkdir(url)
    return url


@pytest.fixture(scope="session")
def reference(tmp_path_factory: pytest.TempPathFactory) -> tuple[RunConfig, dict[str, bytes]]:
    """A run on disk that is done, and what it committed."""
    config = tiny_run(tmp_path_factory.mktemp("reference"), 24, scan={"split_tokens": 60})
    with Run(config, ProgressLog(Console(file=io.StringIO()))) as run:
        run.all()
    return config, committed(config)


@pytest.fixture
def remote(
    reference: tuple[RunConfig, dict[str, bytes]],
    bucket: str,
    storage: dict[str, Any],
    change: Callable[..., RunConfig],
) -> RunConfig:
    """The same run, with run directory, corpus, documents and queries in a bucket."""
    local, _ = reference
    assert local.queries
    config = change(
        local,
        run=f"{bucket}/run",
        queries=f"{bucket}/inputs/queries.jsonl",
        corpus={"documents": [f"{bucket}/inputs/doc*.jsonl"], "path": f"{bucket}/corpus"},
        storage=storage,
    )
    for path in (local.queries, local.corpus.documents[0]):
        open_store(config, f"{bucket}/inputs").write(Path(path).name, Path(path).read_bytes())
    return config


def open_store(config: RunConfig, url: str) -> Store:
    """A store as the run would open it."""
    return Store(url, config.storage.options(url))


def committed(config: RunConfig) -> dict[str, bytes]:
    """All that a run wrote and that follows from its inputs alone, by key."""
    run = open_store(config, config.run)
    keys = [key for key in run.list() if not key.startswith("preflight/")]
    bodies = {key: run.read(key) for key in keys if not about_the_run(key)}
    if config.corpus.path:
        corpus = open_store(config, config.corpus.path)
        bodies |= {f"corpus/{key}": corpus.read(key) for key in corpus.list("shards")}
    return bodies
