"""Kill anything, anywhere: the same bytes, nothing scored again, nobody left behind.

{actor, node, driver} x {planning, reading, scoring, writing a partial, having written it, merging}.
Only the driver plans. The head counts as the driver: a driver's actors die with it. The S3 server's
row is in tests/s3, where the server is.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from chaos import Chaos, chaos, kill, wait

from rayinfluence.config import RunConfig
from rayinfluence.dataflow.run import Run
from rayinfluence.testing import tiny_run

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(400)]

PHASES = ["read", "score", "write", "commit", "merge"]
CELLS = [("driver", "plan")] + [
    (victim, phase) for phase in PHASES for victim in ("actor", "node", "driver")
]
TABLES = [f"ekfac{end}.parquet" for end in ("", "-groups", "-statistics", "-tails")]


@pytest.fixture(scope="module")
def cluster(ray_token: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chaos]:
    with chaos(tmp_path_factory.mktemp("chaos")) as started:
        yield started


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> RunConfig:
    """The same run in one process, all of it."""
    folder = tmp_path_factory.mktemp("undisturbed")
    config = tiny_run(folder, 100, scan={"split_tokens": 200})
    with Run(config) as run:
        run.all()
    return config


@pytest.fixture
def config(undisturbed: RunConfig, tmp_path: Path) -> RunConfig:
    """A copy of that run without its scan."""
    source, folder = Path(undisturbed.run).parent, tmp_path / "copy"
    shutil.copytree(source, folder)
    for name in ("scan", "queries", "results"):
        shutil.rmtree(folder / "run" / name)
    values = json.loads(undisturbed.model_dump_json().replace(str(source), str(folder)))
    values["runner"] |= {"name": "ray", "actors": 2, "stall_seconds": 200}
    (folder / "run.yaml").write_text(json.dumps(values))
    return RunConfig.parse(values)


def command(config: RunConfig) -> tuple[str, str]:
    return "scan", str(Path(config.run).parent / "run.yaml")


def committed(config: RunConfig, kind: str = "partials") -> dict[str, int]:
    """Objects and when they were written."""
    found = Path(config.run).glob(f"scan/*/{kind}/*")
    return {path.name: path.stat().st_mtime_ns for path in found}


def assert_same(config: RunConfig, undisturbed: RunConfig, before: dict[str, int]) -> None:
    for name in TABLES:
        ours = Path(config.run, "results", name).read_bytes()
        assert ours == Path(undisturbed.run, "results", name).read_bytes(), name
    after = committed(config)
    assert after.keys() == committed(undisturbed).keys()
    for name, written in before.items():
        assert after[name] == written, "a split that was committed was scored again"
    assert committed(config, "aside") == {}


@pytest.mark.parametrize(("victim", "phase"), CELLS)
def test_kill(
    victim: str, phase: str, cluster: Chaos, config: RunConfig, undisturbed: RunConfig
) -> None:
    cluster.set_trap(phase)
    driver = cluster.start(*command(config))
    pid, work = cluster.caught(phase)
    # Of the splits in flight none is committed but that of the trap "commit".
    before = committed(config)
    assert phase != "plan" or pid == driver.pid
    assert (phase in ("commit", "merge")) == (f"{work}.safetensors" in before)
    if victim == "actor":
        kill(pid)
    elif victim == "node":
        cluster.kill_node_of(pid)
    else:
        driver.kill()
        driver.wait()
    cluster.release()
    if victim == "driver":
        # Its workers may finish what is in flight before they are gone.
        wait(lambda: not cluster.workers(), 60, "workers of a dead driver are there")
        before |= committed(config)
        driver = cluster.start(*command(config))
    assert driver.wait(timeout=300) == 0, cluster.said()
    assert_same(config, undisturbed, before)
    wait(lambda: not cluster.workers(), 60, "workers of a driver that is done are there")


@pytest.mark.parametrize("victim", ["actor", "node", "driver"])
@pytest.mark.parametrize("stage", ["covariance", "moments"])
def test_kill_in_the_fit(
    victim: str, stage: str, cluster: Chaos, config: RunConfig, undisturbed: RunConfig
) -> None:
    """A lane goes on from its checkpoint; the factors have the same bytes."""
    shutil.rmtree(Path(config.run) / "factors")
    path = Path(config.run).parent / "run.yaml"
    values = json.loads(path.read_text())
    values["runner"]["checkpoint_seconds"] = 0
    path.write_text(json.dumps(values))
    name = f"lane of {stage}"
    cluster.set_trap(name)
    driver = cluster.start("fit", str(path))
    pid, _ = cluster.caught(name)
    if victim == "actor":
        kill(pid)
    elif victim == "node":
        cluster.kill_node_of(pid)
    else:
        driver.kill()
        driver.wait()
    cluster.release()
    if victim == "driver":
        wait(lambda: not cluster.workers(), 60, "workers of a dead driver are there")
        assert list(Path(config.run).glob(f"factors/*/{stage}/*/*.checkpoint"))
        driver = cluster.start("fit", str(path))
    assert driver.wait(timeout=300) == 0, cluster.said()
    ours, theirs = (
        {
            str(p.relative_to(run)): p.read_bytes()
            for run in [Path(one.run)]
            for p in run.glob("factors/*/modules/*")
        }
        for one in (config, undisturbed)
    )
    assert ours
    assert ours == theirs


def test_a_split_that_kills_its_workers_is_set_aside(
    cluster: Chaos, config: RunConfig, undisturbed: RunConfig
) -> None:
    victim = sorted(committed(undisturbed))[0].removesuffix(".safetensors")
    trap = f"score@{victim}"
    driver = None
    for _ in range(2):
        cluster.set_trap(trap)
        driver = driver or cluster.start(*command(config))
        pid, _ = cluster.caught(trap)
        kill(pid)
        cluster.release()
    assert driver is not None
    assert driver.wait(timeout=300) == 3, cluster.said()
    assert list(committed(config, "aside")) == [f"{victim}.json"]
    before = committed(config)
    assert before.keys() == committed(undisturbed).keys() - {f"{victim}.safetensors"}
    manifest = json.loads(Path(config.run, "results/manifest.json").read_text())
    assert [one["digest"] for one in manifest["set_aside"]] == [victim]
    # After a fix, the same command scores that split and no other.
    assert cluster.start(*command(config)).wait(timeout=300) == 0, cluster.said()
    assert_same(config, undisturbed, before)


def test_a_node_that_falls_silent_holds_nobody_up(
    cluster: Chaos, config: RunConfig, undisturbed: RunConfig
) -> None:
    """Its raylet and workers are stopped, not dead: nothing tells the others."""
    cluster.set_trap("score")
    driver = cluster.start(*command(config))
    pid, _ = cluster.caught("score")
    before = committed(config)
    end = cluster.freeze(pid)
    cluster.release()
    try:
        code = driver.wait(timeout=350)
    finally:
        end()
        cluster.nodes.append(cluster.add_node())
    if code != 0:
        assert code == 7, cluster.said()
        assert "runner.stall_seconds" in cluster.said()
        assert cluster.start(*command(config)).wait(timeout=300) == 0, cluster.said()
    assert_same(config, undisturbed, before)


def test_a_node_that_joins_is_used(
    cluster: Chaos, config: RunConfig, undisturbed: RunConfig
) -> None:
    """An actor more starts as soon as there is room, in the middle of a scan."""
    path = Path(config.run).parent / "run.yaml"
    values = json.loads(path.read_text())
    values["runner"] |= {"actors": 1, "max_actors": 3}
    path.write_text(json.dumps(values))
    held = []
    cluster.set_trap("score")
    driver = cluster.start(*command(config))
    for place in range(3):
        held.append(cluster.caught("score")[0])
        if place == 1:
            cluster.nodes.append(cluster.add_node())
        if place < 2:
            cluster.keep("score")
    assert len(set(held)) == 3
    cluster.release()
    assert driver.wait(timeout=300) == 0, cluster.said()
    assert_same(config, undisturbed, {})
    cluster.remove_node()
