"""What several suites share: one thread as in production, a quiet log, an S3 server in process."""

from __future__ import annotations

import io
import os
import secrets
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import settings
from loopback_hub import Hub, point, serving
from moto.server import ThreadedMotoServer
from rich.console import Console
from s3.faults import FaultProxy, fault_proxy

from rayinfluence.config import RunConfig
from rayinfluence.dataflow.run import Run
from rayinfluence.dataflow.stages.progress import ProgressLog
from rayinfluence.storage import retry
from rayinfluence.storage.results import Results

torch.set_num_threads(1)
# Ray reports to its makers otherwise: no test speaks to other machines.
os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
# Without a clock or an example database.
settings.register_profile("tests", deadline=None, derandomize=True, database=None)
settings.load_profile("tests")


Execute = Callable[..., dict[str, Results]]


@pytest.fixture(autouse=True)
def _offline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)


@pytest.fixture(autouse=True)
def _no_waiting_for_the_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.fsync", lambda descriptor: None)


@pytest.fixture(scope="session")
def ray_token(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A token of the tests' own, so that Ray writes none into the user's home."""
    path = tmp_path_factory.mktemp("ray") / "token"
    path.write_text(secrets.token_hex(32))
    previous = os.environ.get("RAY_AUTH_TOKEN_PATH")
    os.environ["RAY_AUTH_TOKEN_PATH"] = str(path)
    yield path
    if previous is None:
        del os.environ["RAY_AUTH_TOKEN_PATH"]
    else:
        os.environ["RAY_AUTH_TOKEN_PATH"] = previous


@pytest.fixture
def said() -> io.StringIO:
    """What runs that `execute` did have printed."""
    return io.StringIO()


@pytest.fixture
def quiet(said: io.StringIO) -> ProgressLog:
    """A log that nobody sees but `said`."""
    return ProgressLog(Console(file=said, width=1000))


@pytest.fixture
def execute(said: io.StringIO) -> Execute:
    """Do all stages of a configuration."""

    def run(config: RunConfig, new_run: bool = False) -> dict[str, Results]:
        with Run(config, ProgressLog(Console(file=said, width=1000)), new_run) as opened:
            return opened.all()

    return run


@pytest.fixture
def change() -> Callable[..., RunConfig]:
    """A configuration with other values; a dictionary is merged into its section."""

    def changed(config: RunConfig, **overrides: Any) -> RunConfig:
        values = config.model_dump()
        for key, value in overrides.items():
            values[key] = {**values[key], **value} if isinstance(value, dict) else value
        return RunConfig.parse(values)

    return changed


@pytest.fixture(scope="session")
def s3_endpoint() -> Iterator[str]:
    """An S3 server in this process."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def s3(s3_endpoint: str, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Options of a store on that server, which has one empty bucket named ``bucket``."""
    import s3fs

    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "testing")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "testing")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    options = {"endpoint_url": s3_endpoint}
    filesystem = s3fs.S3FileSystem(**options, use_listings_cache=False)
    if filesystem.exists("bucket"):
        filesystem.rm("bucket", recursive=True)
    filesystem.mkdir("bucket")
    return options


@pytest.fixture(scope="session")
def _session_proxy(s3_endpoint: str) -> Iterator[FaultProxy]:
    with fault_proxy(s3_endpoint) as made:
        yield made


@pytest.fixture
def proxy(_session_proxy: FaultProxy, s3: dict[str, Any]) -> FaultProxy:
    """What breaks requests on their way to that server; its own address is ``proxy.url``."""
    _session_proxy.reset()
    return _session_proxy


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """No waits between attempts, and a server that is silent for half a second has lost it."""

    async def no_time(endpoint: Any, seconds: float) -> None:
        pass

    monkeypatch.setattr(retry, "FIRST_WAIT", 0.001)
    monkeypatch.setitem(retry.CLIENT_CONFIG, "read_timeout", 0.5)
    monkeypatch.setattr("aiobotocore.endpoint.AioEndpoint._sleep", no_time)


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Hub]:
    """A hub of models in this process, and a cache of its own."""
    from huggingface_hub.utils import close_session

    with serving() as made:
        point(monkeypatch, made, tmp_path / "huggingface")
        yield made
    close_session()
