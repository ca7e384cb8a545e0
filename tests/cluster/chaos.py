"""A cluster of several nodes on one machine whose workers, nodes and drivers can be killed.

Kills are deterministic: a trap holds whoever enters a phase of the work until it is killed.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
from traps import Traps


class Chaos(Traps):
    """A head that has no CPU for work, and nodes of one CPU each.

    Args:
        folder: for traps and logs.
        n_nodes: how many nodes there are beside the head.
    """

    def __init__(self, folder: Path, n_nodes: int) -> None:
        from ray.cluster_utils import Cluster

        super().__init__(folder / "traps")
        self._log = folder / "driver.log"
        self._drivers: list[subprocess.Popen[bytes]] = []
        self._environment = dict(os.environ)
        os.environ.update(self.environment())
        # A dead node is noticed in seconds; a busy machine's nodes are not taken for dead.
        for name, value in (("period", 1000), ("timeout", 5000), ("initial_delay", 0)):
            os.environ[f"RAY_health_check_{name}_ms"] = str(value)
        memory = {"object_store_memory": 100 * 2**20}
        self._cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, **memory})
        self._memory = memory
        self.nodes = [self.add_node() for _ in range(n_nodes)]

    def add_node(self) -> Any:
        """Start a node and wait until the cluster knows it."""
        node = self._cluster.add_node(num_cpus=1, **self._memory)
        self._cluster.wait_for_nodes()
        return node

    def start(self, *arguments: str) -> subprocess.Popen[bytes]:
        """Start a driver: the command line of rayinfluence with these arguments."""
        environment = {**os.environ, "RAY_ADDRESS": self._cluster.address}
        driver = subprocess.Popen(
            [sys.executable, "-m", "rayinfluence", *arguments],
            stdout=subprocess.DEVNULL,
            stderr=self._log.open("ab"),
            env=environment,
        )
        self._drivers.append(driver)
        return driver

    def clear(self) -> None:
        """End drivers that a test has left, open all traps, and forget what was said."""
        for driver in self._drivers:
            driver.kill()
            driver.wait()
        self._drivers.clear()
        self.release()
        self._log.write_text("")

    def kill_node_of(self, pid: int) -> None:
        """Kill the node that a worker runs on, with everything on it, and start another."""
        (node,) = [node for node in self.nodes if pid in processes(node)]
        self.nodes.remove(node)
        # Its workers go first: an orphan would go on for some seconds.
        doomed = processes(node)
        self._cluster.remove_node(node, allow_graceful=False)
        for one in doomed:
            kill(one)
        self.nodes.append(self.add_node())

    def freeze(self, pid: int) -> Callable[[], None]:
        """Stop the node of a worker with SIGSTOP; returns what ends it."""
        (node,) = [node for node in self.nodes if pid in processes(node)]
        self.nodes.remove(node)
        frozen = processes(node)
        for one in frozen:
            os.kill(one, signal.SIGSTOP)

        def end() -> None:
            for one in frozen:
                kill(one)
            self._cluster.remove_node(node, allow_graceful=False)

        return end

    def remove_node(self) -> None:
        """End a node."""
        self._cluster.remove_node(self.nodes.pop(), allow_graceful=True)

    def said(self) -> str:
        """What drivers have written to standard error."""
        return self._log.read_text()

    def workers(self) -> list[str]:
        """Actors and tasks under way on the nodes, by their processes' titles."""
        found = []
        for node in self.nodes:
            for pid in processes(node):
                try:
                    title = " ".join(psutil.Process(pid).cmdline())
                except psutil.Error:
                    continue
                if title.startswith("ray::") and not title.split()[0].endswith(("IDLE", "Agent")):
                    found.append(title.strip())
        return found

    def close(self) -> None:
        """End everything."""
        self.release()
        for name in self.environment():
            os.environ.pop(name)
            if name in self._environment:
                os.environ[name] = self._environment[name]
        self._cluster.shutdown()


@contextmanager
def chaos(folder: Path, n_nodes: int = 2) -> Iterator[Chaos]:
    """A cluster for the block."""
    cluster = Chaos(folder, n_nodes)
    try:
        yield cluster
    finally:
        cluster.close()


def processes(node: Any) -> list[int]:
    """The raylet of a node and everything below it."""
    found = []
    for one in node.all_processes.get("raylet", []):
        try:
            raylet = psutil.Process(one.process.pid)
            found += [raylet.pid, *(child.pid for child in raylet.children(recursive=True))]
        except psutil.NoSuchProcess:
            continue
    return found


def kill(pid: int) -> None:
    """SIGKILL, if it is there."""
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return


def gone(cluster: Chaos) -> None:
    """Wait until nothing works for a driver that is dead or done."""
    deadline = time.monotonic() + 60
    while left := cluster.workers():
        assert time.monotonic() < deadline, f"left behind: {left}"
        time.sleep(0.2)
