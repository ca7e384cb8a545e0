"""Kill anything, anywhere: the same bytes, nothing scored again, nobody left behind.

{actor, node, driver} x {planning, reading, scoring, writing a partial, having written it, merging}.
Only the driver plans. The head counts as the driver: a driver's actors die with it. The S3 server's
row is tests/s3/test_killed_server.py.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from chaos import Chaos, chaos, gone, kill

from rayinfluence.config import RunConfig
from rayinfluence.corpus.corpus import Corpus
from rayinfluence.dataflow.run import Run
from rayinfluence.storage.store import Store
from rayinfluence.testing import tiny_run

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(900)]

PHASES = ["read", "score", "write", "commit", "merge"]
TABLES = [f"ekfac{end}.parquet" for end in ("", "-groups", "-statistics", "-tails")]
TABLES += ["queries.parquet", "sequences.parquet"]


@pytest.fixture(scope="module")
def cluster(ray_token: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chaos]:
    with chaos(tmp_path_factory.mktemp("chaos")) as started:
        yield started


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> RunConfig:
    """The same run in one process, all of it."""
    folder = tmp_path_factory.mktemp("undisturbed")
    # More splits than one leaf of the merge takes, so that it is done in tasks.
    config = tiny_run(folder, 900, fit={"sequences": 100}, scan={"split_tokens": 150})
    with Run(config) as run:
        run.all()
    assert len(committed(config)) > 64
    return config


@pytest.fixture
def config(cluster: Chaos, undisturbed: RunConfig, tmp_path: Path) -> Iterator[RunConfig]:
    """A copy of that run without its scan."""
    source, folder = Path(undisturbed.run).parent, tmp_path / "copy"
    shutil.copytree(source, folder)
    for name in ("scan", "results"):
        shutil.rmtree(folder / "run" / name)
    values = json.loads(undisturbed.model_dump_json().replace(str(source), str(folder)))
    values["runner"] |= {"name": "ray", "actors": 2, "stall_seconds": 200}
    (folder / "run.yaml").write_text(json.dumps(values))
    yield RunConfig.parse(values)
    cluster.clear()


def with_runner(config: RunConfig, **changes: int) -> str:
    """Change the file that the command is given; returns where it is."""
    path = command(config)[1]
    values = json.loads(Path(path).read_text())
    Path(path).write_text(json.dumps({**values, "runner": {**values["runner"], **changes}}))
    return path


def command(config: RunConfig) -> tuple[str, str]:
    return "scan", str(Path(config.run).parent / "run.yaml")


def committed(config: RunConfig, kind: str = "partials") -> dict[str, int]:
    """Objects and when they were written.

    A writer that is killed can leave a hidden file of which half is written; no store lists it.
    """
    found = Path(config.run).glob(f"scan/*/{kind}/[!.]*")
    return {path.name: path.stat().st_mtime_ns for path in found}


def assert_same(config: RunConfig, undisturbed: RunConfig, before: dict[str, int]) -> None:
    for name in TABLES:
        ours, theirs = (results(one) / name for one in (config, undisturbed))
        assert ours.read_bytes() == theirs.read_bytes(), name
    after = committed(config)
    assert after.keys() == committed(undisturbed).keys()
    for name, written in before.items():
        assert after[name] == written, "a split that was committed was scored again"
    assert committed(config, "aside") == {}


def results(config: RunConfig) -> Path:
    """The folder of the current results; earlier ones are beside it."""
    folder = Path(config.run, "results")
    return folder / json.loads((folder / "manifest.json").read_text())["fingerprint"]


def strike(cluster: Chaos, victim: str, pid: int) -> None:
    """Kill a worker, or its node with it."""
    if victim == "node":
        cluster.kill_node_of(pid)
    else:
        kill(pid)


def test_kill_workers(cluster: Chaos, config: RunConfig, undisturbed: RunConfig) -> None:
    """In one run an actor and a node are killed in each phase, each time at another split."""
    corpus = Corpus.open(Store(str(Path(config.run, "corpus"))))
    # One is read before a split and one scored behind it, and both die with it: a split that is
    # met twice would be taken for one that kills.
    splits = [split.digest for split in corpus.plan(config.scan.split_tokens or 0)[::3]]
    cells = [(phase, victim) for phase in PHASES[:-1] for victim in ("actor", "node")]
    waiting = {f"{cell[0]}@{split}": cell for cell, split in zip(cells, splits, strict=False)}
    assert len(waiting) == len(cells)
    for trap in [*waiting, "merge"]:
        cluster.set_trap(trap)
    before: dict[str, int] = {}
    driver = cluster.start(*command(config))
    while waiting:
        trap = cluster.next_caught(waiting)
        phase, victim = waiting.pop(trap)
        pid, work = cluster.caught(trap)
        before = committed(config) | before
        # The split in the trap is committed where that is what the phase says.
        assert (phase == "commit") == (f"{work}.safetensors" in before), phase
        strike(cluster, victim, pid)
        cluster.free(trap)
    for victim in ("actor", "node"):
        pid, _ = cluster.caught("merge")
        before = committed(config) | before
        if victim == "actor":
            cluster.keep("merge")
        strike(cluster, victim, pid)
        cluster.free("merge")
    assert driver.wait(timeout=300) == 0, cluster.said()
    assert_same(config, undisturbed, before)
    gone(cluster)


def test_kill_drivers(cluster: Chaos, config: RunConfig, undisturbed: RunConfig) -> None:
    """The driver is killed while it plans, and while its one worker is in each phase.

    Each time the same command is run again.
    """
    with_runner(config, actors=1)
    before: dict[str, int] = {}
    for phase in ["plan", *PHASES]:
        cluster.set_trap(phase)
        driver = cluster.start(*command(config))
        pid, _ = cluster.caught(phase)
        assert (phase == "plan") == (pid == driver.pid)
        driver.kill()
        driver.wait()
        cluster.free(phase)
        gone(cluster)
        # Its worker may have finished what it was at before it heard of the death.
        for name, written in committed(config).items():
            assert before.setdefault(name, written) == written, "scored again"
    assert cluster.start(*command(config)).wait(timeout=300) == 0, cluster.said()
    assert_same(config, undisturbed, before)


def test_kill_in_the_fit(cluster: Chaos, config: RunConfig, undisturbed: RunConfig) -> None:
    """An actor, a node and a driver are killed in each pass of the fit.

    Lanes go on from their checkpoints; the factors have the same bytes.
    """
    shutil.rmtree(Path(config.run) / "factors")
    path = with_runner(config, checkpoint_seconds=0)
    first, second = "lane of covariance", "lane of moments"
    cluster.set_trap(first)
    driver = cluster.start("fit", path)
    # A lane whose workers died twice is refused, and drivers count anew.
    for trap in (first, second):
        kill(caught_with_checkpoint(cluster, trap, config))
        cluster.free(trap)
        cluster.set_trap(trap)
        caught_with_checkpoint(cluster, trap, config)
        driver.kill()
        driver.wait()
        cluster.free(trap)
        gone(cluster)
        cluster.set_trap(trap)
        driver = cluster.start("fit", path)
        pid = caught_with_checkpoint(cluster, trap, config)
        if trap == first:
            # Now: the second pass can be over before the killed node is replaced.
            cluster.set_trap(second)
        cluster.kill_node_of(pid)
        cluster.free(trap)
    assert driver.wait(timeout=300) == 0, cluster.said()
    ours, theirs = (factors(Path(one.run)) for one in (config, undisturbed))
    assert ours
    assert ours == theirs


def caught_with_checkpoint(cluster: Chaos, trap: str, config: RunConfig) -> int:
    """Wait for a worker in the midst of a lane; its process id."""
    pid, lane = cluster.caught(trap)
    assert list(Path(config.run).glob(f"factors/*/{lane.removesuffix('.safetensors')}.checkpoint"))
    return pid


def factors(run: Path) -> dict[str, bytes]:
    return {str(p.relative_to(run)): p.read_bytes() for p in run.glob("factors/*/modules/*")}


def test_a_split_that_kills_its_workers_is_set_aside(
    cluster: Chaos, config: RunConfig, undisturbed: RunConfig
) -> None:
    with_runner(config, actors=1)
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
    with_runner(config, actors=1, max_actors=3)
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
