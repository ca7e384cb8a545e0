"""The S3 server's row of the kill matrix: killed in each phase of a scan on Ray, and back again."""

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from s3.conftest import committed, open_store
from s3.radosgw import Radosgw
from traps import Traps

from rayinfluence.config import RunConfig
from rayinfluence.corpus.corpus import Corpus
from rayinfluence.dataflow.run import Run
from rayinfluence.dataflow.stages.progress import ProgressLog

pytestmark = [pytest.mark.s3, pytest.mark.timeout(900)]

PHASES = ["read", "score", "write", "commit"]


def written(config: RunConfig) -> dict[str, float | None]:
    """The partials and when they were written."""
    listed = open_store(config, config.run).list("scan")
    return {key: one.modified for key, one in listed.items() if "/partials/" in key}


def test_a_server_that_dies_in_any_phase_is_waited_for(
    reference: tuple[RunConfig, dict[str, bytes]],
    remote: RunConfig,
    change: Callable[..., RunConfig],
    quiet: ProgressLog,
    radosgw: Radosgw,
    ray_token: Path,
    tmp_path: Path,
) -> None:
    config = change(remote, runner={"name": "ray", "actors": 1})
    with Run(remote, quiet) as run:
        run.tokenize()
        run.fit()
    corpus = Corpus.open(open_store(remote, remote.corpus.path or ""))
    splits = [split.digest for split in corpus.plan(remote.scan.split_tokens or 0)]
    traps = Traps(tmp_path / "traps")
    names = ["plan", *(f"{p}@{s}" for p, s in zip(PHASES, splits, strict=False)), "merge"]
    for name in names:
        traps.set_trap(name)
    (tmp_path / "run.yaml").write_text(config.model_dump_json())
    said = tmp_path / "said"
    scan = subprocess.Popen(
        [sys.executable, "-m", "rayinfluence", "scan", str(tmp_path / "run.yaml")],
        env={**os.environ, **traps.environment()},
        stdout=subprocess.DEVNULL,
        stderr=said.open("wb"),
    )
    before: dict[str, float | None] = {}
    try:
        waiting = set(names)
        while waiting:
            name = traps.next_caught(waiting)
            waiting.remove(name)
            before = written(config) | before
            radosgw.kill()
            traps.free(name)
            time.sleep(1)
            radosgw.start()
        assert scan.wait(timeout=200) == 0, said.read_text()
    finally:
        scan.kill()
        scan.wait()
    assert committed(config) == reference[1]
    after = written(config)
    assert len(before) >= len(PHASES)
    assert {key: after[key] for key in before} == before  # none was written again
