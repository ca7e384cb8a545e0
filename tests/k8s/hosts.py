"""Hosts on one machine: network namespaces with an address each, where they may be made."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

#: Reserved for documentation (RFC 5737); a machine may be in one of them all the same.
_NETWORKS = ("192.0.2", "198.51.100", "203.0.113")


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
            network = _bridge(stack)
            made = [_host(stack, network, index) for index in range(count)] if network else []
        except subprocess.CalledProcessError:
            made = []
        if made:
            yield f"{network}.1", made
        else:
            yield "127.0.0.1", [Host("127.0.0.1")] * count


def _bridge(stack: ExitStack) -> str | None:
    """Make a bridge in a network that the machine is not in; None where that cannot be."""
    if os.geteuid() != 0 or shutil.which("ip") is None:
        return None
    taken = subprocess.run(["ip", "-4", "route"], check=True, capture_output=True, text=True).stdout
    network = next((one for one in _NETWORKS if f"{one}." not in taken), None)
    if network is None:
        return None
    name = _bridge_name()
    _ip("link", "add", name, "type", "bridge")
    stack.callback(_ip, "link", "del", name)
    _ip("addr", "add", f"{network}.1/24", "dev", name)
    _ip("link", "set", name, "up")
    return network


def _host(stack: ExitStack, network: str, index: int) -> Host:
    name, address = f"{_bridge_name()}-{index}", f"{network}.{10 + index}"
    _ip("netns", "add", name)
    stack.callback(_ip, "netns", "del", name)
    _ip("link", "add", name, "type", "veth", "peer", "name", "eth0", "netns", name)
    _ip("link", "set", name, "master", _bridge_name(), "up")
    _ip("-n", name, "addr", "add", f"{address}/24", "dev", "eth0")
    _ip("-n", name, "link", "set", "eth0", "up")
    _ip("-n", name, "link", "set", "lo", "up")
    # Leads nowhere; by it programs find out which address is their own.
    _ip("-n", name, "route", "add", "default", "via", f"{network}.1")
    return Host(address, ("ip", "netns", "exec", name))


def _bridge_name() -> str:
    return f"ri{os.getpid()}"


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True)
