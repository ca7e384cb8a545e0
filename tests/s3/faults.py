"""A TCP proxy between an S3 client and its server that breaks what it is told to break."""

from __future__ import annotations

import asyncio
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from typing import Any, Literal

#: ``status``: answered in the server's place. ``reset``, ``truncate``: the server does what it was
#: asked, and its answer ends in the middle, with a TCP reset or a proper close. ``stall``: its
#: answer is delayed.
Kind = Literal["status", "reset", "truncate", "stall"]


@dataclass
class Fault:
    """What happens to the next requests of a method whose targets have ``path`` in them."""

    kind: Kind
    times: int = 1
    method: str = ""
    path: str = ""
    status: int = 503
    code: str = "SlowDown"
    seconds: float = 0.0
    seen: int = 0

    def strikes(self, method: str, target: str) -> bool:
        """Whether this request is one of them."""
        wanted = self.seen < self.times and self.method in ("", method) and self.path in target
        self.seen += wanted
        return wanted


class FaultProxy:
    """Forwards one request per connection to the server; see :func:`fault_proxy`."""

    def __init__(self, upstream: str) -> None:
        self.upstream = upstream.removeprefix("http://")
        self.url = ""
        self.faults: list[Fault] = []
        self.requests: list[tuple[str, str]] = []

    def fail(self, kind: Kind, times: int = 1, **about: Any) -> Fault:
        """Plan a fault."""
        fault = Fault(kind, times, **about)
        self.faults.append(fault)
        return fault

    def reset(self) -> None:
        """Forget faults and requests."""
        self.faults, self.requests = [], []

    def count(self, method: str = "", path: str = "") -> int:
        """How many requests of a method came for targets with ``path`` in them."""
        return sum(method in ("", verb) and path in target for verb, target in self.requests)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection."""
        with closing(writer):
            try:
                await self._answer(reader, writer)
            except (OSError, asyncio.IncompleteReadError):
                _break_off(writer)  # the server is gone, or the client

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        lines = head.decode("latin-1").split("\r\n")
        method, target, _ = lines[0].split(" ")
        headers = {k.lower(): v.strip() for k, _, v in (line.partition(":") for line in lines[1:])}
        if "expect" in headers:
            writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        body = await _body(reader, headers)
        self.requests.append((method, target))
        fault = next((fault for fault in self.faults if fault.strikes(method, target)), None)
        if fault and fault.kind == "status":
            writer.write(_error(fault, method))
        else:
            kept = [line for line in lines if not line.lower().startswith(("expect", "connection"))]
            request = "\r\n".join(kept).replace("\r\n", "\r\nConnection: close\r\n", 1)
            answer = await self._ask(request.encode("latin-1") + body)
            if fault and fault.kind == "stall":
                await asyncio.sleep(fault.seconds)
            if fault and fault.kind in ("reset", "truncate"):
                end = answer.index(b"\r\n\r\n") + 4
                writer.write(answer[: (end + len(answer)) // 2 if end < len(answer) else end // 2])
                await writer.drain()
                if fault.kind == "reset":
                    await asyncio.sleep(0.05)  # the reset would overtake what was sent
                    _break_off(writer)
                return
            writer.write(answer)
        await writer.drain()

    async def _ask(self, request: bytes) -> bytes:
        host, port = self.upstream.split(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        with closing(writer):
            writer.write(request)
            answer = await reader.read()
        if not answer:
            raise ConnectionResetError("the server gave no answer")
        return answer


async def _body(reader: asyncio.StreamReader, headers: dict[str, str]) -> bytes:
    if "chunked" not in headers.get("transfer-encoding", ""):
        return await reader.readexactly(int(headers.get("content-length", 0)))
    parts = []
    while not (parts and parts[-1].startswith(b"0")):
        parts.append(await reader.readuntil(b"\r\n"))
        size = int(parts[-1], 16)
        if size:
            parts[-1] += await reader.readexactly(size + 2)
    return b"".join(parts) + await reader.readuntil(b"\r\n")


def _error(fault: Fault, method: str) -> bytes:
    body = f"<Error><Code>{fault.code}</Code><Message>injected</Message></Error>".encode()
    head = f"HTTP/1.1 {fault.status} -\r\nConnection: close\r\nContent-Length: {len(body)}\r\n\r\n"
    return head.encode() + (b"" if method == "HEAD" else body)


def _break_off(writer: asyncio.StreamWriter) -> None:
    connection = writer.get_extra_info("socket")
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


@contextmanager
def fault_proxy(upstream: str, host: str = "127.0.0.1") -> Iterator[FaultProxy]:
    """A proxy of this process, in a thread of its own, in front of an S3 endpoint."""
    proxy, started = FaultProxy(upstream), threading.Event()
    stop: list[Callable[[], object]] = []

    async def run() -> None:
        stopped, loop = asyncio.Event(), asyncio.get_running_loop()
        stop.append(lambda: loop.call_soon_threadsafe(stopped.set))
        server = await asyncio.start_server(proxy.serve, host, 0)
        proxy.url = f"http://{host}:{server.sockets[0].getsockname()[1]}"
        started.set()
        await stopped.wait()
        server.close()

    thread = threading.Thread(target=lambda: asyncio.run(run()), daemon=True)
    thread.start()
    started.wait()
    try:
        yield proxy
    finally:
        stop[0]()
        thread.join()
