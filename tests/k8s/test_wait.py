import subprocess
import time
from pathlib import Path

import pytest


@pytest.mark.parametrize(
    ("titles", "waits"),
    [
        (["ray::IDLE", "ray::DashboardAgent", "ray::Tally", "python -m x.run"], False),
        (["ray::IDLE", "ray::ReplicaActor.run"], True),
        (["ray::MapWorker(MapBatches(Scorer)).submit"], True),
    ],
)
def test_a_worker_is_held_while_it_works(
    project: Path, tmp_path: Path, titles: list[str], waits: bool
) -> None:
    for index, title in enumerate(titles):
        (tmp_path / str(index)).mkdir()
        (tmp_path / str(index) / "cmdline").write_bytes(title.encode() + b"\0" * 20)
    began = time.monotonic()
    script = project / "deploy/wait-for-splits.sh"
    subprocess.run(["bash", str(script), "6", str(tmp_path)], check=True)
    assert (time.monotonic() - began > 4.9) is waits
