import io
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from moto.server import ThreadedMotoServer
from rich.console import Console

from rayinfluence.config import RunConfig
from rayinfluence.dataflow.progress import ProgressLog
from rayinfluence.dataflow.run import Run
from rayinfluence.storage.results import Results
from rayinfluence.testing import tiny_run

#: What a run directory says of time, paths and versions; all else is a function of the inputs.
ABOUT_THE_RUN = {"config.json", "stages.json", "results/manifest.json", "corpus/manifest.json"}

Execute = Callable[..., dict[str, Results]]


@pytest.fixture(autouse=True)
def _offline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)


@pytest.fixture(autouse=True)
def _no_waiting_for_the_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.fsync", lambda descriptor: None)


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


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, RunConfig]:
    """A run that is done; nobody may change it."""
    folder = tmp_path_factory.mktemp("finished")
    config = tiny_run(folder)
    with Run(config, ProgressLog(Console(file=io.StringIO()))) as run:
        run.all()
    return folder, config


@pytest.fixture
def done(finished: tuple[Path, RunConfig], tmp_path: Path) -> tuple[Path, RunConfig]:
    """A copy of the run that is done, to change."""
    source, config = finished
    folder = tmp_path / "done"
    shutil.copytree(source, folder)
    values = json.dumps(config.model_dump()).replace(str(source), str(folder))
    return folder, RunConfig.parse(json.loads(values))


@pytest.fixture
def change() -> Callable[..., RunConfig]:
    """A configuration with other values; a dictionary is merged into its section."""

    def changed(config: RunConfig, **overrides: Any) -> RunConfig:
        values = config.model_dump()
        for key, value in overrides.items():
            values[key] = {**values[key], **value} if isinstance(value, dict) else value
        return RunConfig.parse(values)

    return changed


@pytest.fixture
def contents() -> Callable[[Path], dict[str, bytes]]:
    """Everything in a run directory that follows from the inputs alone, by key."""

    def read(run: Path) -> dict[str, bytes]:
        files = {str(p.relative_to(run)): p for p in run.rglob("*") if p.is_file()}
        return {key: path.read_bytes() for key, path in files.items() if key not in ABOUT_THE_RUN}

    return read


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
    filesystem = s3fs.S3FileSystem(**options, use_listings_cache=False, skip_instance_cache=True)
    if filesystem.exists("bucket"):
        filesystem.rm("bucket", recursive=True)
    filesystem.mkdir("bucket")
    return options
