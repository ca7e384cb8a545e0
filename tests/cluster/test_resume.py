"""A driver that is killed in mid-scan is started again by the same command and goes on."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from rayinfluence.config import RunConfig
from rayinfluence.dataflow.run import Run
from rayinfluence.testing import tiny_run

pytestmark = pytest.mark.cluster

DOCUMENTS, FIT = 400, {"sequences": 60}


def partials(config: RunConfig) -> dict[Path, int]:
    """The ledger: each partial and when it was written."""
    found = {}
    for path in Path(config.run).glob("scan/*/partials/*.safetensors"):
        found[path] = path.stat().st_mtime_ns
    return found


def start(folder: Path) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "rayinfluence", "run", str(folder / "run.yaml")]
    quiet = subprocess.DEVNULL
    return subprocess.Popen(command, stdout=quiet, stderr=quiet, preexec_fn=hear_interrupts)


def hear_interrupts() -> None:
    """Shells start their background jobs deaf to SIGINT, and their children inherit it."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.mark.timeout(400)
def test_killed_driver_resumes_with_the_same_bytes(ray_token: Path, tmp_path: Path) -> None:
    (tmp_path / "alone").mkdir()
    (tmp_path / "killed").mkdir()
    undisturbed = tiny_run(tmp_path / "alone", DOCUMENTS, fit=FIT)
    with Run(undisturbed) as run:
        run.all()
    config = tiny_run(tmp_path / "killed", DOCUMENTS, fit=FIT, runner={"name": "ray"})
    # The fit is not what is killed here.
    for name in ("corpus", "factors"):
        shutil.copytree(Path(undisturbed.run, name), Path(config.run, name))
    (tmp_path / "killed" / "run.yaml").write_text(config.model_dump_json())
    n_splits = len(partials(undisturbed))
    assert n_splits > 40

    driver = start(tmp_path / "killed")
    # However long that takes on a busy machine.
    while len(partials(config)) < 5 and driver.poll() is None:
        time.sleep(0.01)
    driver.kill()
    driver.wait()
    wait_for_silence(config)
    before = partials(config)
    assert 5 <= len(before) < n_splits
    assert not Path(config.run, "results/manifest.json").exists()

    assert start(tmp_path / "killed").wait(timeout=200) == 0
    after = partials(config)
    assert len(after) == n_splits
    assert {path: after[path] for path in before} == before  # none was written again
    for name in ("ekfac.parquet", "ekfac-groups.parquet"):
        (ours,) = Path(config.run, "results").glob(f"*/{name}")
        (theirs,) = Path(undisturbed.run, "results").glob(f"*/{name}")
        assert ours.read_bytes() == theirs.read_bytes()


def wait_for_silence(config: RunConfig) -> None:
    """Until the killed driver's workers are gone: they may finish a split after its death."""
    last = -1
    while last != len(partials(config)):
        last = len(partials(config))
        time.sleep(3)


def test_interrupt_has_its_exit_code(tmp_path: Path) -> None:
    config = tiny_run(tmp_path, 3000)
    (tmp_path / "run.yaml").write_text(config.model_dump_json())
    driver = start(tmp_path)
    while not (tmp_path / "run" / "factors").exists():
        assert driver.poll() is None
        time.sleep(0.01)
    os.kill(driver.pid, signal.SIGINT)
    assert driver.wait(timeout=60) == 130
