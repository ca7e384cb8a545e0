"""What is deployed, run on one machine: the image's installation in a clean environment, a Ray
cluster of three processes with a token, an S3 server, a node that dies, Prometheus.

What a Docker daemon and a Kubernetes cluster would add is not tested here.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shutil
import socket
import subprocess
import sys
import time
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import deploy_check
import psutil
import pytest
import s3fs
import yaml
from hosts import Host, hosts
from s3.faults import FaultProxy, fault_proxy

from rayinfluence.config import RunConfig
from rayinfluence.dataflow.run import Run
from rayinfluence.testing import tiny_run

pytestmark = [pytest.mark.deploy, pytest.mark.timeout(1500)]
#: Flags of `ray start` that take a port of a node alone; the rest are the head's.
_NODE_PORTS = [
    flag
    for flag in deploy_check.PORTS
    if flag not in ("--port", "--dashboard-port") and "worker-port" not in flag
]
_WORKER_PORTS = ("--min-worker-port", "--max-worker-port")
_S3 = {
    "AWS_ACCESS_KEY_ID": "any",
    "AWS_SECRET_ACCESS_KEY": "any",
    "AWS_DEFAULT_REGION": "us-east-1",
}

#: Metrics that this run has no reason to export: it sets nothing aside, and has no GPU.
_WITHOUT = ("quarantined", "gpus")

#: An actor that is at work for a while.
_BUSY = """
import time, ray
ray.init(log_to_driver=False)
@ray.remote(num_cpus=1)
class Busy:
    def work(self):
        time.sleep(60)
ray.get(Busy.remote().work.remote())
"""


@dataclass
class Cluster:
    """A head and workers, each on a host of its own with the documented ports, or, where all are
    this machine, with ports of its own."""

    bin: Path
    folder: Path
    token: Path
    hosts: Sequence[Host]
    head: dict[str, int] = field(default_factory=dict)
    nodes: list[tuple[dict[str, int], int]] = field(default_factory=list)

    @property
    def dashboard(self) -> str:
        return f"http://{self.hosts[0].address}:{self.head['--dashboard-port']}"

    @property
    def address(self) -> str:
        """Where nodes and drivers join."""
        return f"{self.hosts[0].address}:{self.head['--port']}"

    def environment(self, **others: str) -> dict[str, str]:
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("RAY_", "PYTHONPATH"))}
        return {
            **kept,
            **_S3,
            "PATH": f"{self.bin}:{os.environ['PATH']}",
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN_PATH": str(self.token),
            "RAY_USAGE_STATS_ENABLED": "0",
            "RAY_metrics_report_interval_ms": "5000",
            "OMP_NUM_THREADS": "1",
            "HF_HUB_OFFLINE": "1",
            **others,
        }

    def start(self) -> None:
        """Start one more node; the first is the head, without work on it."""
        index, host = len(self.nodes), self.hosts[len(self.nodes)]
        ports = {flag: deploy_check.PORTS[flag] for flag in _NODE_PORTS}
        ports |= {flag: deploy_check.PORTS[flag] for flag in _WORKER_PORTS}
        if not host.prefix:
            first = 20000 + 400 * index
            ports = {flag: free_port() for flag in _NODE_PORTS}
            ports |= dict(zip(_WORKER_PORTS, (first, first + 199), strict=True))
        if not self.nodes:
            for flag in ("--port", "--dashboard-port"):
                ports[flag] = deploy_check.PORTS[flag] if host.prefix else free_port()
            self.head = ports
            role = ["--head", "--num-cpus=0", f"--dashboard-host={host.address}"]
            role += ["--temp-dir", str(self.folder)]
        else:
            role = [f"--address={self.address}", "--num-cpus=2"]
            # As on machines of their own: nodes that share a folder unpack a job's files over those
            # that its driver stands in.
            role += ["--temp-dir", str(self.folder / str(index))]
        process = subprocess.Popen(
            [*host.prefix, self.bin / "ray", "start", "--block", *role]
            + ["--object-store-memory=150000000", f"--node-ip-address={host.address}"]
            + [f"{flag}={port}" for flag, port in ports.items()],
            env=self.environment(),
            stdout=(self.folder / f"node{index}.log").open("wb"),
            stderr=subprocess.STDOUT,
        )
        self.nodes.append((ports, process.pid))
        health = f"http://{host.address}:{ports['--dashboard-agent-listen-port']}/api/healthz"
        wait_for(lambda: answers(health), 120, f"node {index} does not become healthy")

    def processes(self, node: int | None = None) -> list[psutil.Process]:
        """Processes of one node, or of all: `ray start` and all that descend from it."""
        found: dict[int, psutil.Process] = {}
        for index, (_, pid) in enumerate(self.nodes):
            if node in (None, index) and psutil.pid_exists(pid):
                start = psutil.Process(pid)
                found |= {process.pid: process for process in (start, *start.children(True))}
        return list(found.values())

    def kill(self, node: int | None = None) -> None:
        """End a node as a machine that is taken away does, or all."""
        for process in self.processes(node):
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()

    def run(self, *command: str, **environment: str) -> subprocess.CompletedProcess[str]:
        """Run a program of the clean environment."""
        return subprocess.run(
            [str(self.bin / command[0]), *command[1:]],
            env=self.environment(**environment),
            cwd=self.folder,
            capture_output=True,
            text=True,
            check=False,
            timeout=600,
        )


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=2) as reply:
            return bool(reply.status == 200)
    except OSError:
        return False


def wait_for(done: Callable[[], Any], seconds: float, otherwise: str) -> Any:
    end = time.monotonic() + seconds
    while not (found := done()):
        assert time.monotonic() < end, otherwise
        time.sleep(0.3)
    return found


@pytest.fixture(scope="session")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The image's steps in a clean environment: hashes, torch by constraint, our wheel, pip check.

    torch comes from pip's own index here, and not from PyTorch's.
    """
    root = Path(__file__).parents[2]
    folder = tmp_path_factory.mktemp("image")
    source = folder / "src"
    source.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(root / name, source / name)
    shutil.copytree(
        root / "rayinfluence", source / "rayinfluence", ignore=shutil.ignore_patterns("__pycache__")
    )
    subprocess.run([sys.executable, "-m", "venv", folder / "venv"], check=True)
    pip = [str(folder / "venv/bin/python"), "-m", "pip", "--disable-pip-version-check"]
    locked = ["--no-deps", "--require-hashes", "-r"]
    wheels = ["wheel", "--no-deps", "--no-build-isolation", "--no-index", "--wheel-dir"]
    environment = {**os.environ, "SOURCE_DATE_EPOCH": "1767225600"}
    environment.pop("PYTHONPATH", None)

    def install(*arguments: str) -> None:
        done = subprocess.run(
            [*pip, *arguments], env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]

    install("install", "--no-cache-dir", *locked, str(root / "deploy/build.lock"))
    install(*wheels, str(folder / "one"), str(source))
    install(*wheels, str(folder / "two"), str(source))
    (wheel,) = (folder / "one").glob("*.whl")
    assert wheel.read_bytes() == (folder / "two" / wheel.name).read_bytes()
    install("install", *locked, str(root / "deploy/requirements.lock"))
    install("install", "-c", str(root / "constraints.txt"), "torch")
    install("install", "--no-deps", "--no-index", str(wheel))
    install("check")
    imports = "import rayinfluence.demo.run, gcsfs, s3fs"
    subprocess.run([pip[0], "-c", imports], cwd=folder, env=environment, check=True)
    return folder / "venv/bin"


@pytest.fixture(scope="module")
def network() -> Iterator[tuple[str, list[Host]]]:
    with hosts(3) as made:
        yield made


@pytest.fixture(scope="module")
def cluster(installed: Path, network: tuple[str, list[Host]]) -> Iterator[Cluster]:
    # Names of Unix sockets are short, and pytest's folders are deep.
    folder = Path(subprocess.check_output(["mktemp", "-d", "/tmp/ri-XXXXXX"], text=True).strip())
    token = folder / "token"
    token.write_text(secrets.token_hex(32))
    started = Cluster(installed, folder, token, network[1])
    try:
        for _ in range(3):
            started.start()
        yield started
    finally:
        started.kill()
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="module")
def bucket(network: tuple[str, list[Host]]) -> Iterator[FaultProxy]:
    """An S3 server in a process of its own, with a bucket, behind a proxy that can refuse."""
    port = free_port()
    server = subprocess.Popen(
        [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    url = f"http://127.0.0.1:{port}"
    try:
        wait_for(lambda: answers(f"{url}/moto-api/"), 60, "the S3 server does not start")
        os.environ.update(_S3)
        s3fs.S3FileSystem(endpoint_url=url).mkdir("bucket")
        with fault_proxy(url, network[0]) as proxy:
            yield proxy
    finally:
        server.kill()


@pytest.fixture(scope="module")
def prometheus(
    cluster: Cluster, project: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Callable[[str], list[dict[str, Any]]]]:
    """A Prometheus, configured as it is deployed, that scrapes the cluster from its start.

    Asked for an expression, it answers what the expression has given since then.
    """
    unpacked = project / ".tools/prometheus/usr/bin"
    program = shutil.which("prometheus") or shutil.which("prometheus", path=str(unpacked))
    assert program, "prometheus is not installed; run `make .tools/prometheus`"
    folder = tmp_path_factory.mktemp("prometheus")
    configuration = yaml.safe_load((project / "deploy/monitoring/prometheus.yaml").read_text())
    configuration["global"] |= {"scrape_interval": "1s", "evaluation_interval": "1s"}
    configuration["scrape_configs"][0]["static_configs"][0]["targets"] = [
        f"{host.address}:{ports['--metrics-export-port']}"
        for host, (ports, _) in zip(cluster.hosts, cluster.nodes, strict=True)
    ]
    (folder / "prometheus.yaml").write_text(yaml.safe_dump(configuration))
    shutil.copy(project / "deploy/monitoring/rules.yaml", folder)
    url = f"127.0.0.1:{free_port()}"
    server = subprocess.Popen(
        [
            *(program, "--config.file=prometheus.yaml", "--storage.tsdb.path=data"),
            f"--web.listen-address={url}",
        ],
        cwd=folder,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    start = time.time()

    def query(expression: str) -> list[dict[str, Any]]:
        about = {"query": expression, "start": start, "end": time.time(), "step": 1}
        words = urllib.parse.urlencode(about)
        with urllib.request.urlopen(
            f"http://{url}/api/v1/query_range?{words}", timeout=10
        ) as reply:
            result: list[dict[str, Any]] = json.load(reply)["data"]["result"]
        return result

    try:
        wait_for(lambda: answers(f"http://{url}/-/ready"), 60, "Prometheus does not start")
        yield query
    finally:
        server.kill()


def make_run(folder: Path, bucket: str) -> tuple[Path, RunConfig, s3fs.S3FileSystem]:
    """A run whose documents, questions and results are in the bucket, and its twin on disk."""
    twin = tiny_run(folder, n_documents=1500, fit={"sequences": 60}, scan={"split_tokens": 400})
    s3 = s3fs.S3FileSystem(endpoint_url=bucket, use_listings_cache=False)
    for name in ("documents.jsonl", "queries.jsonl"):
        s3.put_file(str(folder / name), f"bucket/{name}")
    values = twin.model_dump(mode="json", exclude_unset=True)
    values |= {
        "run": "s3://bucket/run",
        "queries": "s3://bucket/queries.jsonl",
        "corpus": {**values["corpus"], "documents": ["s3://bucket/documents.jsonl"]},
        "runner": {"name": "ray", "actors": 2},
        "storage": {"endpoint_url": bucket},
    }
    path = folder / "run.yaml"
    path.write_text(yaml.safe_dump(values))
    return path, twin, s3


def test_a_run_is_submitted_loses_a_node_and_ends_in_the_bucket(
    cluster: Cluster, bucket: FaultProxy, prometheus: object, tmp_path: Path
) -> None:
    path, twin, s3 = make_run(tmp_path, bucket.url)
    submit = ["rayinfluence", "submit", str(path), "--address", cluster.dashboard]

    wrong = tmp_path / "wrong"
    wrong.write_text(secrets.token_hex(32))
    refused = cluster.run(*submit, RAY_AUTH_TOKEN_PATH=str(wrong))
    assert (refused.returncode, "refuses this client" in refused.stderr) == (2, True), refused

    following = subprocess.Popen(
        [str(cluster.bin / submit[0]), *submit[1:], "--follow"],
        env=cluster.environment(RAY_ADDRESS="http://127.0.0.1:9"),
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )

    def partials() -> list[str]:
        return [str(key) for key in s3.glob("bucket/run/scan/*/partials/*")]

    wait_for(lambda: partials() or following.poll() is not None, 900, "nothing is scored")
    before = len(partials())
    cluster.kill(node=2)
    # Of those who live on: what a node counts in its last seconds nobody scrapes.
    refusals = bucket.fail("status", times=2, method="PUT", path="partials/")
    joined = cluster.run(*submit)
    said, _ = following.communicate(timeout=900)
    assert following.returncode == 0, said[-4000:]
    assert "was submitted before: running" in joined.stdout, joined
    assert len(partials()) > before, "the node died after the scan"
    assert refusals.seen == 2

    with Run(twin) as run:
        run.all()
    for table in ("ekfac.parquet", "ekfac-groups.parquet"):
        (ours,) = s3.glob(f"bucket/run/results/*/{table}")
        (theirs,) = (tmp_path / "run/results").glob(f"*/{table}")
        assert s3.cat_file(ours) == theirs.read_bytes()
    assert s3.exists("bucket/run/report.html")

    again = cluster.run(*submit, "--follow")
    assert (again.returncode, "was submitted before: succeeded" in again.stdout) == (0, True), again


def test_ports_that_are_listened_on_are_those_that_are_documented(cluster: Cluster) -> None:
    """Whatever else Ray's processes listen on is on the loopback address."""
    for node, (ports, _) in enumerate(cluster.nodes[:2]):
        first, last = ports["--min-worker-port"], ports["--max-worker-port"]
        allowed = {*ports.values(), *range(first, last + 1)}
        if node == 0:
            # The Ray Client's port, which no policy opens, and metrics of head processes.
            allowed |= {10001, 44217, 44227}
        listening = {
            (connection.laddr.port, process.name())
            for process in cluster.processes(node)
            for connection in process.net_connections("tcp")
            if connection.status == psutil.CONN_LISTEN
            and not connection.laddr.ip.startswith("127.")
            and connection.laddr.ip != "::1"
        }
        assert {entry for entry in listening if entry[0] not in allowed} == set()


def test_the_dashboard_s_queries_find_what_the_run_exported(
    prometheus: Callable[[str], list[dict[str, Any]]], project: Path
) -> None:
    """After the run above."""
    for name, labels in deploy_check.exported().items():
        if not any(word in name for word in _WITHOUT):
            found = prometheus(name)
            assert found, f"{name} was never exported"
            assert labels <= {*found[0]["metric"]}, name
    for where, expression in deploy_check.expressions(project):
        if where.startswith("panel") and not any(word in expression for word in _WITHOUT):
            assert prometheus(expression.replace("$run", ".*")), f"{where} shows nothing"


def test_a_worker_with_a_busy_actor_is_waited_for(
    cluster: Cluster, project: Path, tmp_path: Path
) -> None:
    (tmp_path / "busy.py").write_text(_BUSY)
    busy = subprocess.Popen(
        [*cluster.hosts[1].prefix, cluster.bin / "python", tmp_path / "busy.py"],
        env=cluster.environment(RAY_ADDRESS=cluster.address),
        cwd=tmp_path,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )

    def at_work() -> bool:
        titles = (" ".join(process.cmdline()) for process in cluster.processes())
        return any(title.startswith("ray::Busy.work") for title in titles)

    try:
        wait_for(at_work, 60, "the actor does not start")
        began = time.monotonic()
        subprocess.run(["bash", project / "deploy/wait-for-splits.sh", "6"], check=True)
        assert time.monotonic() - began >= 5, "a worker with a busy actor is let go"
    finally:
        busy.kill()
