"""Hosts on one machine: network namespaces with an address each, where they may be made."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

#: Reserved for documentation (RFC 5737), so nobody's own.
_NETWORK = "192.0.2"


@dataclass(frozen=True)
class Host:
    """An address, and what a command line begins with to run there."""

    address: str
    prefix: tuple[str, ...] = ()


@contextmanager
def hosts(count: int) -> Iterator[tuple[str, list[Host]]]:
    """Hosts for the block, and the address by which they reach this machine.

    Where namespaces cannot be made (that takes root and iproute2), all are this machine.
    """
    with ExitStack() as stack:
        try:
            made = [_host(stack, index) for index in range(count)] if _bridge(stack) else []
        except subprocess.CalledProcessError:
            made = []
        if made:
            yield f"{_NETWORK}.1", made
        else:
            yield "127.0.0.1", [Host("127.0.0.1")] * count


def _bridge(stack: ExitStack) -> bool:
    if os.geteuid() != 0 or shutil.which("ip") is None:
        return False
    name = _bridge_name()
    _ip("link", "add", name, "type", "bridge")
    stack.callback(_ip, "link", "del", name)
    _ip("addr", "add", f"{_NETWORK}.1/24", "dev", name)
    _ip("link", "set", name, "up")
    return True


def _host(stack: ExitStack, index: int) -> Host:
    name, address = f"{_bridge_name()}-{index}", f"{_NETWORK}.{10 + index}"
    _ip("netns", "add", name)
    stack.callback(_ip, "netns", "del", name)
    _ip("link", "add", name, "type", "veth", "peer", "name", "eth0", "netns", name)
    _ip("link", "set", name, "master", _bridge_name(), "up")
    _ip("-n", name, "addr", "add", f"{address}/24", "dev", "eth0")
    _ip("-n", name, "link", "set", "eth0", "up")
    _ip("-n", name, "link", "set", "lo", "up")
    return Host(address, ("ip", "netns", "exec", name))


def _bridge_name() -> str:
    return f"ri{os.getpid()}"


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True)
