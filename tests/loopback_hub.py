"""A hub of models on this machine: what huggingface_hub asks of one, and what may go wrong.

Information about a revision, HEAD and GET of files with their commit, tags and sizes, large files
from another host by a redirect, ranges, and refusals with the headers of the real one
(https://huggingface.co/docs/hub/api, and the requests that huggingface_hub 2.4 makes).
"""

from __future__ import annotations

import hashlib
import json
import re
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit

import pytest

#: Kept as large files by a hub, as `.gitattributes` says.
_LARGE = (".safetensors", ".bin", ".pt", ".gguf")
_INFORMATION = re.compile(r"/api/models/(?P<repository>[^/]+/[^/]+)/revision/(?P<revision>[^/]+)")
_FILE = re.compile(
    r"/(?P<repository>(datasets/)?[^/]+/[^/]+)/resolve/(?P<revision>[^/]+)/(?P<name>.+)"
)
_DATASET = re.compile(
    r"/api/datasets/(?P<repository>[^/]+/[^/]+)"
    r"(/(?P<what>revision|tree|paths-info)/(?P<revision>[^/]+)(?P<folder>/.*)?)?"
)
_STORED = re.compile(r"/stored/(?P<sha256>[0-9a-f]{64})")

Files = Mapping[str, bytes]


def is_large(name: str) -> bool:
    return name.endswith(_LARGE)


def blob_name(body: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(body) + body).hexdigest()


@dataclass
class Repository:
    """Files by commit, and which commit each branch is."""

    commits: dict[str, Files] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=dict)
    #: Who may have its files; None: everybody.
    token: str | None = None

    def push(self, files: Files, branch: str = "main") -> str:
        """Add a commit, which the branch is from now on."""
        names = [f"{name} {blob_name(body)}" for name, body in sorted(files.items())]
        commit = hashlib.sha1("\n".join(names).encode()).hexdigest()
        self.commits[commit], self.branches[branch] = dict(files), commit
        return commit

    def commit(self, revision: str) -> str | None:
        found = self.branches.get(revision, revision)
        return found if found in self.commits else None


@dataclass
class Request:
    method: str
    path: str
    headers: dict[str, str]
    body: bytes = b""


@dataclass
class Answer:
    """What is sent: a status, headers, and a body of which perhaps not all comes."""

    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    #: Bytes after which the connection is cut.
    cut: int | None = None


#: Given a request and what would be answered, what is answered instead.
Spoil = Callable[[Request, Answer], Answer]


class Hub:
    """What the hub holds, who asked for what, and how its answers are spoilt."""

    def __init__(self) -> None:
        self.repositories: dict[str, Repository] = {}
        self.requests: list[Request] = []
        self.spoil: Spoil = lambda _, answer: answer
        #: Set when a silent hub may end.
        self.ends = threading.Event()
        self.port = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def push(self, name: str, files: Files | Path, branch: str = "main") -> str:
        """Add a commit to a repository; of a folder its files are taken."""
        if isinstance(files, Path):
            files = {p.name: p.read_bytes() for p in files.iterdir() if p.is_file()}
        return self.repositories.setdefault(name, Repository()).push(files, branch)

    def fetched(self) -> list[str]:
        """Names of the files whose bytes were asked for, in order."""
        matches = [_FILE.fullmatch(urlsplit(one.path).path) for one in self._gets()]
        stored = [_STORED.fullmatch(urlsplit(one.path).path) for one in self._gets()]
        names = {
            hashlib.sha256(body).hexdigest(): name
            for repository in self.repositories.values()
            for files in repository.commits.values()
            for name, body in files.items()
        }
        return [
            match["name"] if match else names[large["sha256"]]
            for match, large in zip(matches, stored, strict=True)
            if match or large
        ]

    def _gets(self) -> list[Request]:
        return [one for one in self.requests if one.method == "GET"]

    def answer(self, request: Request) -> Answer:
        path = unquote(urlsplit(request.path).path)
        if found := _DATASET.fullmatch(path):
            return self._dataset(request, **found.groupdict())
        if found := _INFORMATION.fullmatch(path):
            return self._information(found["repository"], found["revision"])
        if found := _FILE.fullmatch(path):
            return self._file(request, found["repository"], found["revision"], found["name"])
        if found := _STORED.fullmatch(path):
            return self._stored(request, found["sha256"])
        return Answer(404)

    def _dataset(
        self, request: Request, repository: str, what: str | None, revision: str, folder: str | None
    ) -> Answer:
        """Of a data set: what it is, what is in a folder of it, what some paths are."""
        name = f"datasets/{repository}"
        if what in (None, "revision"):
            return self._information(name, revision or "main")
        found = self.repositories.get(name)
        commit = found and found.commit(revision)
        if not found or not commit:
            return _refusal(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        files = found.commits[commit]
        if what == "paths-info":
            paths = parse_qs(request.body.decode())["paths"]
        else:
            start = f"{folder.strip('/')}/" if folder else ""
            below = [file.removeprefix(start) for file in files if file.startswith(start)]
            paths = sorted({start + file.partition("/")[0] for file in below})
        entries = []
        for path in paths:
            body = files.get(path)
            if body is not None:
                about = {"type": "file", "oid": blob_name(body), "size": len(body)}
                entries.append({**about, "path": path})
            elif any(file.startswith(f"{path}/") for file in files):
                entries.append({"type": "directory", "oid": "0" * 40, "size": 0, "path": path})
        if not entries and what == "tree":
            return _refusal(404, "EntryNotFound", "Entry not found")
        return Answer(200, {"Content-Type": "application/json"}, json.dumps(entries).encode())

    def _information(self, name: str, revision: str) -> Answer:
        repository = self.repositories.get(name)
        if repository is None:
            return _refusal(401, "RepoNotFound", "Repository not found")
        commit = repository.commit(revision)
        if commit is None:
            return _refusal(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        siblings = []
        for file, body in repository.commits[commit].items():
            about = {"rfilename": file, "size": len(body), "blobId": blob_name(body)}
            if is_large(file):
                digest = hashlib.sha256(body).hexdigest()
                about["lfs"] = {"sha256": digest, "size": len(body), "pointerSize": 134}
            siblings.append(about)
        information = {"_id": "0", "id": name, "modelId": name, "sha": commit, "private": False}
        body = json.dumps({**information, "tags": [], "downloads": 0, "siblings": siblings})
        return Answer(200, {"Content-Type": "application/json"}, body.encode())

    def _file(self, request: Request, name: str, revision: str, file: str) -> Answer:
        repository = self.repositories.get(name)
        if repository is None:
            return _refusal(401, "RepoNotFound", "Repository not found")
        commit = repository.commit(revision)
        if commit is None:
            return _refusal(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        shown = request.headers.get("authorization")
        if repository.token is not None and shown != f"Bearer {repository.token}":
            status = 403 if shown else 401
            return _refusal(status, "GatedRepo", f"Access to model {name} is restricted.")
        body = repository.commits[commit].get(file)
        if body is None:
            return _refusal(404, "EntryNotFound", "Entry not found")
        headers = {"X-Repo-Commit": commit}
        if not is_large(file):
            return _ranged(request, {**headers, "ETag": f'"{blob_name(body)}"'}, body)
        digest = hashlib.sha256(body).hexdigest()
        headers |= {"X-Linked-Etag": f'"{digest}"', "X-Linked-Size": str(len(body))}
        # By another name, this machine is another host.
        place = f"http://localhost:{self.port}/stored/{digest}?X-Amz-Signature=hidden"
        return Answer(302, {**headers, "Location": place})

    def _stored(self, request: Request, digest: str) -> Answer:
        for repository in self.repositories.values():
            for files in repository.commits.values():
                for body in files.values():
                    if hashlib.sha256(body).hexdigest() == digest:
                        return _ranged(request, {"ETag": f'"{digest}"'}, body)
        return Answer(404)


def _refusal(status: int, code: str, message: str) -> Answer:
    return Answer(status, {"X-Error-Code": code, "X-Error-Message": message})


def _ranged(request: Request, headers: dict[str, str], body: bytes) -> Answer:
    asked = re.fullmatch(r"bytes=(\d+)-(\d*)", request.headers.get("range", ""))
    if asked is None:
        return Answer(200, headers, body)
    start = int(asked[1])
    end = min(int(asked[2]) + 1, len(body)) if asked[2] else len(body)
    span = f"bytes {start}-{end - 1}/{len(body)}"
    return Answer(206, {**headers, "Content-Range": span}, body[start:end])


def _handler(hub: Hub) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _serve(self) -> None:
            headers = {key.lower(): value for key, value in self.headers.items()}
            body = self.rfile.read(int(headers.get("content-length", 0)))
            request = Request(self.command, self.path, headers, body)
            hub.requests.append(request)
            answer = hub.spoil(request, hub.answer(request))
            self.send_response(answer.status)
            for key, value in answer.headers.items():
                self.send_header(key, value)
            self.send_header("Content-Length", str(len(answer.body)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(answer.body[: answer.cut])
            if answer.cut is not None:
                self.close_connection = True

        do_GET = do_HEAD = do_POST = _serve

        def log_message(self, *_: object) -> None:
            pass

    return Handler


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, *_: object) -> None:
        """A client that has gone is none."""


@contextmanager
def serving() -> Iterator[Hub]:
    """A hub that is empty, as long as the block runs."""
    hub = Hub()
    server = _Server(("127.0.0.1", 0), _handler(hub))
    hub.port = server.server_port
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield hub
    finally:
        hub.ends.set()
        server.shutdown()
        server.server_close()
        thread.join()


def environment(hub: Hub, home: Path) -> dict[str, str]:
    """What tells a process that starts where the hub is, and its own cache."""
    return {"HF_ENDPOINT": hub.url, "HF_HOME": str(home), "HF_HUB_OFFLINE": "0"}


def point(monkeypatch: pytest.MonkeyPatch, hub: Hub, home: Path) -> None:
    """The same for this process, which has imported huggingface_hub."""
    constants = {
        "ENDPOINT": hub.url,
        "HUGGINGFACE_CO_URL_TEMPLATE": hub.url + "/{repo_id}/resolve/{revision}/{filename}",
        "HF_HUB_CACHE": str(home / "hub"),
        "HF_TOKEN_PATH": str(home / "token"),
        "AGENT_HARNESSES_PATH": str(home / "harnesses.json"),
        "HF_HUB_OFFLINE": False,
    }
    for name, value in constants.items():
        monkeypatch.setattr(f"huggingface_hub.constants.{name}", value)
    for variable in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
        monkeypatch.delenv(variable, raising=False)
