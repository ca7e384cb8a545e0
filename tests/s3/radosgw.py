"""A real S3 server for tests: Ceph's radosgw over one monitor and one OSD that keeps all in memory.

Everything listens on loopback and lives in one temporary folder; no root, no installation: the
programs are run from the prefix that install_ceph.sh fills.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import time
import urllib.error
import urllib.request
import uuid
from pathlib import Path
from typing import Any

#: Seconds a daemon may take to answer; they take a few on an idle machine.
PATIENCE = 90.0

CONFIGURATION = """
[global]
fsid = {fsid}
mon host = [v2:127.0.0.1:{mon_port}]
mon initial members = a
public addr = 127.0.0.1
cluster addr = 127.0.0.1
auth cluster required = none
auth service required = none
auth client required = none
ms client mode = crc
ms cluster mode = crc
ms service mode = crc
ms mon client mode = crc
ms mon cluster mode = crc
ms mon service mode = crc
run dir = {folder}
admin socket = {folder}/$name.asok
log file = {folder}/$name.log
pid file = {folder}/$name.pid
plugin dir = {lib}/ceph
erasure code dir = {lib}/ceph/erasure-code
osd class dir = {lib}/rados-classes
osd objectstore = memstore
memstore device bytes = 1073741824
osd data = {folder}/osd
osd pool default size = 1
osd pool default min size = 1
osd pool default pg num = 1
osd pool default pg autoscale mode = off
osd crush chooseleaf type = 0
mon data = {folder}/mon
mon allow pool size one = true
mon data avail crit = 1
mon max pg per osd = 2000
rgw frontends = beast endpoint=127.0.0.1:{port} tcp_nodelay=1
rgw enable usage log = false
"""


class Radosgw:
    """The server; use as a context manager.

    Args:
        prefix: where the Ceph packages were unpacked.
        folder: an empty folder for data, sockets and logs; its path has to be short, since sockets
            are in it.
    """

    def __init__(self, prefix: Path, folder: Path) -> None:
        self.folder = folder
        self.bin = prefix / "usr/bin"
        lib = next((prefix / "usr/lib").glob("*-linux-gnu"))
        self.port, mon_port = free_port(), free_port()
        self.endpoint = f"http://127.0.0.1:{self.port}"
        self.fsid = str(uuid.uuid4())
        self.mon_address = f"[v2:127.0.0.1:{mon_port}]"
        self.conf = folder / "ceph.conf"
        self.conf.write_text(
            CONFIGURATION.format(
                fsid=self.fsid, folder=folder, lib=lib, port=self.port, mon_port=mon_port
            )
        )
        libraries = [lib, lib / "ceph", prefix / "lib" / lib.name]
        self.environment = {
            "PATH": os.environ["PATH"],
            "HOME": str(folder),
            "LD_LIBRARY_PATH": ":".join(map(str, libraries)),
            "PYTHONPATH": str(prefix / "usr/lib/python3/dist-packages"),
            "CEPH_CONF": str(self.conf),
        }
        self.processes: dict[str, subprocess.Popen[bytes]] = {}

    def __enter__(self) -> Radosgw:
        try:
            self._start_cluster()
            self.start()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *error: object) -> None:
        # The data are in memory and nobody's: no daemon need say good-bye.
        for name in list(self.processes):
            self._kill(name)

    def start(self) -> None:
        """Start the S3 server (again), and return when it answers."""
        self._spawn("radosgw", "-f", "-n", "client.rgw")
        self._wait("radosgw", self._answers)

    def kill(self) -> None:
        """SIGKILL the S3 server; what it stored stays."""
        self._kill("radosgw")

    def user(self, name: str) -> dict[str, str]:
        """Make a user; returns the environment variables that hold its credentials."""
        made = self._run("radosgw-admin", "user", "create", f"--uid={name}", "--display-name=test")
        (keys,) = json.loads(made)["keys"]
        return {
            "AWS_ACCESS_KEY_ID": keys["access_key"],
            "AWS_SECRET_ACCESS_KEY": keys["secret_key"],
        }

    def _start_cluster(self) -> None:
        monmap = self.folder / "monmap"
        options = ("--create", "--fsid", self.fsid, "--addv", "a", self.mon_address, "--clobber")
        self._run("monmaptool", *options, "--enable-all-features", str(monmap))
        self._run("ceph-mon", "--mkfs", "-i", "a", "--monmap", str(monmap))
        self._spawn("ceph-mon", "-f", "-i", "a")
        self._wait("ceph-mon", lambda: bool(self._run("ceph", "-s", "--connect-timeout", "5")))
        osd = str(uuid.uuid4())
        self._run("ceph", "osd", "new", osd)
        (self.folder / "osd").mkdir()
        self._run("ceph-osd", "-i", "0", "--mkfs", "--osd-uuid", osd)
        self._run("ceph", "osd", "crush", "add", "osd.0", "1", "root=default")
        self._spawn("ceph-osd", "-f", "-i", "0")
        self._wait("ceph-osd", lambda: b"1 up" in self._run("ceph", "osd", "stat"))

    def _answers(self) -> bool:
        try:
            with urllib.request.urlopen(self.endpoint, timeout=2):
                return True
        except urllib.error.HTTPError:
            return True

    def _run(self, program: str, *arguments: str) -> bytes:
        done = subprocess.run(
            [str(self.bin / program), *arguments],
            env=self.environment,
            capture_output=True,
            timeout=PATIENCE,
        )
        if done.returncode:
            raise RuntimeError(f"{program} {' '.join(arguments)}: {done.stderr.decode()[-2000:]}")
        return done.stdout

    def _spawn(self, program: str, *arguments: str) -> None:
        with (self.folder / f"{program}.out").open("ab") as out:
            self.processes[program] = subprocess.Popen(
                [str(self.bin / program), *arguments],
                env=self.environment,
                stdout=out,
                stderr=out,
            )

    def _kill(self, program: str) -> None:
        process = self.processes.pop(program)
        process.kill()
        process.wait()

    def _wait(self, program: str, ready: Any) -> None:
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            if self.processes[program].poll() is not None:
                break
            with contextlib.suppress(OSError, RuntimeError):
                if ready():
                    return
            time.sleep(0.2)
        said = (self.folder / f"{program}.out").read_bytes()[-2000:].decode(errors="replace")
        raise RuntimeError(f"{program} did not start: {said}")


def free_port() -> int:
    """A port of loopback that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
