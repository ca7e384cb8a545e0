"""Models on a hub: what comes, what does not, and what is said of it."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest
from loopback_hub import Answer, Hub, Request, is_large

from rayinfluence.addresses import HubAddress
from rayinfluence.errors import ModelError, RayInfluenceError, StorageError
from rayinfluence.storage import hub as ours
from rayinfluence.storage.hub import fetch, find, missing, remember

NAME = "org/mine"
FILES = {
    "config.json": b'{"model_type": "gpt2"}',
    "tokenizer.json": b"{}" * 300,
    "model.safetensors": bytes(range(256)) * 4000,
    "pytorch_model.bin": b"a pickle",
}
WANTED = ("config.json", "model.safetensors")
ADDRESS = HubAddress(NAME)


@pytest.fixture
def commit(hub: Hub, monkeypatch: pytest.MonkeyPatch, impatient: None) -> str:
    """That of a model which the hub has; nobody waits."""
    monkeypatch.setattr("time.sleep", lambda _: None)
    return hub.push(NAME, FILES)


def fetched(
    address: HubAddress = ADDRESS, commit: str | None = None, check: bool = False
) -> dict[str, bytes]:
    said: list[str] = []
    folder = fetch(find(address, commit), WANTED, said.append, check)
    return {name: (folder / name).read_bytes() for name in WANTED}


def wanted(files: dict[str, bytes] = FILES) -> dict[str, bytes]:
    return {name: files[name] for name in WANTED}


def refused(kind: type[RayInfluenceError], address: HubAddress = ADDRESS) -> str:
    with pytest.raises(kind) as caught:
        fetched(address)
    assert type(caught.value) is kind
    assert str(caught.value).startswith(str(address))
    assert str(caught.value).endswith((".", "folder."))
    return str(caught.value)


def in_cache(home: Path) -> list[Path]:
    return [p for p in (home / "huggingface" / "hub").rglob("blobs/*") if p.is_file()]


@pytest.mark.parametrize("revision", ["main", "the commit"])
def test_files_come_once_as_they_are_and_what_comes_is_said_before(
    hub: Hub, commit: str, revision: str
) -> None:
    address = HubAddress(NAME, commit if revision == "the commit" else revision)
    found = find(address)
    assert found.commit == commit
    assert {name: about.size for name, about in found.files.items()} == {
        name: len(body) for name, body in FILES.items()
    }
    assert (missing(found, WANTED), hub.fetched()) == ([*WANTED], [])
    before: list[tuple[str, int]] = []
    folder = fetch(found, WANTED, lambda text: before.append((text, len(hub.fetched()))))
    size = f"{sum(len(FILES[name]) for name in WANTED) / 1024:,.1f} KiB"
    assert before == [(f"hub          fetching config.json, model.safetensors: {size}", 0)]
    assert {name: (folder / name).read_bytes() for name in WANTED} == wanted()
    assert (hub.fetched(), missing(found, WANTED)) == ([*WANTED], [])
    fetch(found, WANTED, lambda text: before.append((text, 0)))
    assert (hub.fetched(), len(before)) == ([*WANTED], 1)


def test_a_token_goes_to_the_hub_and_to_no_other_host(
    hub: Hub, commit: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.repositories[NAME].token = "hf_mine"
    monkeypatch.setenv("HF_TOKEN", "hf_mine")
    assert fetched() == wanted()
    shown = {"/stored/" in one.path: one.headers.get("authorization") for one in hub.requests}
    assert shown == {False: "Bearer hf_mine", True: None}


class Refusal(NamedTuple):
    kind: type[RayInfluenceError]
    said: str
    address: HubAddress = ADDRESS
    gated: bool = False
    token: str | None = None
    status: int | None = None


REFUSALS = {
    "no such repository": Refusal(
        ModelError,
        "has no model org/none, or does not show it without a token. Check the name; for",
        HubAddress("org/none"),
    ),
    "no such repository, with a token": Refusal(
        ModelError,
        "does not show it with the token of HF_TOKEN or `hf auth login`.",
        HubAddress("org/none"),
        token="hf_x",
    ),
    "a name that none has": Refusal(
        ModelError, "names no repository that there may be", HubAddress("org/a--b")
    ),
    "no such revision": Refusal(
        ModelError, "org/mine has no revision v9. Name a branch, a tag or", HubAddress(NAME, "v9")
    ),
    "no such commit": Refusal(
        ModelError, f"has no revision {'0' * 40}.", HubAddress(NAME, "0" * 40)
    ),
    "gated, without a token": Refusal(
        ModelError, "let in, and not without a token. Ask for them at", gated=True
    ),
    "gated, with another's token": Refusal(
        ModelError, "let in, and not with the token of HF_TOKEN", gated=True, token="hf_x"
    ),
    "a token that is refused": Refusal(
        ModelError, "`hf auth login` (401). Set", token="x", status=401
    ),
    "forbidden": Refusal(ModelError, "refuses it without a token (403). Set HF_TOKEN", status=403),
    "too many requests": Refusal(StorageError, "takes no more requests for now (429).", status=429),
    "a server that fails": Refusal(StorageError, "answers 503. Run the same", status=503),
}


@pytest.mark.parametrize("case", REFUSALS)
def test_what_a_hub_refuses_is_a_sentence_with_the_remedy(
    hub: Hub, commit: str, monkeypatch: pytest.MonkeyPatch, case: str
) -> None:
    expected = REFUSALS[case]
    if expected.gated:
        hub.repositories[NAME].token = "hf_mine"
    if expected.token:
        monkeypatch.setenv("HF_TOKEN", expected.token)
    if expected.status:
        why = {"X-Error-Message": "Invalid credentials in Authorization header"}
        hub.spoil = lambda *_: Answer(expected.status or 0, why)
    said = refused(expected.kind, expected.address)
    assert expected.said in said
    assert "\n" not in said
    assert hub.url in said or expected.said.startswith("names no")
    assert "hf_" not in said


def test_a_server_that_fails_a_few_times_is_asked_again(hub: Hub, commit: str) -> None:
    failures = iter(range(3))

    def spoil(request: Request, answer: Answer) -> Answer:
        return Answer(503) if next(failures, None) is not None else answer

    hub.spoil = spoil
    assert fetched() == wanted()


def test_a_hub_that_is_not_there_is_a_sentence(
    hub: Hub, commit: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    said = refused(StorageError)
    assert "cannot be fetched from http://127.0.0.1:9: [Errno 111] Connection refused" in said
    assert "`hf download org/mine --revision main --local-dir FOLDER`" in said


@pytest.mark.parametrize("path", ["/api/", "/resolve/", "/stored/"])
def test_a_hub_that_is_silent_is_waited_for_and_given_up(
    hub: Hub, commit: str, monkeypatch: pytest.MonkeyPatch, path: str
) -> None:
    seconds = 0.2
    monkeypatch.setattr(ours, "_ANSWERS", seconds)
    for name in ("HF_HUB_ETAG_TIMEOUT", "HF_HUB_DOWNLOAD_TIMEOUT"):
        monkeypatch.setattr(f"huggingface_hub.constants.{name}", seconds)
    monkeypatch.setattr("huggingface_hub.file_download._ETAG_RETRY_TIMEOUT", seconds)

    def spoil(request: Request, answer: Answer) -> Answer:
        if path in request.path:
            hub.ends.wait(20)
        return answer

    hub.spoil = spoil
    assert "timed out" in refused(StorageError)


def cut(times: float) -> Callable[[Request, Answer], Answer]:
    """So many answers with large files end in the middle of what was left."""
    left = [times]

    def spoil(request: Request, answer: Answer) -> Answer:
        if request.method == "GET" and "/stored/" in request.path and left[0] > 0:
            left[0] -= 1
            answer.cut = len(answer.body) // 2 if times < 10 else 0
        return answer

    return spoil


def test_a_download_that_is_cut_goes_on_where_it_was(
    hub: Hub, commit: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.DOWNLOAD_CHUNK_SIZE", 1000)
    hub.spoil = cut(2)
    assert fetched() == wanted()
    said = caplog.text
    assert "Trying to resume download" in said
    assert "X-Amz-Signature=***" in said
    assert "hidden" not in said
    size = len(FILES["model.safetensors"])
    ranges = [one.headers.get("range") for one in hub.requests if "/stored/" in one.path]
    assert ranges == [None, f"bytes={size // 2}-", f"bytes={size // 2 + size // 4}-"]


def test_a_download_that_is_cut_for_good_leaves_nothing_and_is_done_again(
    hub: Hub, commit: str, tmp_path: Path
) -> None:
    hub.spoil = cut(99)
    said = refused(StorageError)
    assert "closed connection" in said
    assert "run the same command again" in said
    assert [path.read_bytes() for path in in_cache(tmp_path)] == [FILES["config.json"]]
    hub.spoil = lambda _, answer: answer
    assert fetched() == wanted()
    assert hub.fetched().count("config.json") == 1


def other(name: str, body: Callable[[bytes], bytes]) -> Callable[[Request, Answer], Answer]:
    digest = hashlib.sha256(FILES[name]).hexdigest() if is_large(name) else name

    def spoil(request: Request, answer: Answer) -> Answer:
        if request.method == "GET" and digest in request.path:
            answer.body = body(answer.body)
        return answer

    return spoil


@pytest.mark.parametrize("name", WANTED)
def test_a_file_of_other_bytes_is_thrown_away_and_asked_for_again(
    hub: Hub, commit: str, tmp_path: Path, name: str
) -> None:
    hub.spoil = other(name, lambda body: body[:-1] + b"?")
    said = refused(StorageError)
    assert f"{name} came with other bytes than the hub at {hub.url} says" in said
    assert FILES[name][:-1] + b"?" not in [path.read_bytes() for path in in_cache(tmp_path)]
    hub.spoil = lambda _, answer: answer
    assert fetched() == wanted()


@pytest.mark.parametrize("body", [lambda body: body[:-1], lambda body: body + b"!"])
def test_a_file_of_another_size_is_refused(
    hub: Hub, commit: str, tmp_path: Path, body: Callable[[bytes], bytes]
) -> None:
    hub.spoil = other("model.safetensors", body)
    assert "should be of size 1024000 but has size" in refused(StorageError)
    assert [path.read_bytes() for path in in_cache(tmp_path)] == [FILES["config.json"]]


def test_a_mirror_that_tells_names_alone_is_taken_at_its_word(hub: Hub, commit: str) -> None:
    def spoil(request: Request, answer: Answer) -> Answer:
        if "/api/models/" in request.path:
            about = json.loads(answer.body)
            about["siblings"] = [{"rfilename": name} for name in FILES]
            answer.body = json.dumps(about).encode()
        return answer

    hub.spoil = spoil
    said: list[str] = []
    folder = fetch(find(ADDRESS), WANTED, said.append)
    assert (folder / "model.safetensors").read_bytes() == FILES["model.safetensors"]
    assert said == ["hub          fetching config.json, model.safetensors"]


def test_a_file_that_was_altered_in_the_cache_is_found_when_it_is_asked_to_be_compared(
    hub: Hub, commit: str
) -> None:
    fetched()
    weights = fetch(find(ADDRESS), WANTED, print) / "model.safetensors"
    for body, differs in (
        (b"?" * weights.stat().st_size, "other bytes"),
        (b"?", "another size (1"),
    ):
        weights.write_bytes(body)
        fetched()
        with pytest.raises(StorageError, match=re.escape(f"safetensors came with {differs}")):
            fetched(check=True)
        assert fetched(check=True) == wanted()


def test_a_disk_without_room_is_told_before_anything_comes(
    hub: Hub, commit: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = ours.shutil.disk_usage("/")
    monkeypatch.setattr("shutil.disk_usage", lambda _: usage._replace(free=1023))
    said = refused(StorageError)
    assert "takes 1,000.0 KiB more in" in said
    assert "that disk has 1,023 B left. Make room there, or set HF_HOME" in said
    assert hub.fetched() == []


@pytest.fixture
def offline(hub: Hub, commit: str, monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    def forbid() -> None:
        hub.requests.clear()
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)

    return forbid


def test_where_no_hub_may_be_asked_the_cache_does(
    hub: Hub, commit: str, offline: Callable[[], None]
) -> None:
    fetched()
    remember(find(ADDRESS))
    offline()
    for revision in ("main", commit):
        found = find(HubAddress(NAME, revision))
        assert (found.commit, {*found.files}) == (commit, {*WANTED})
        assert fetched(HubAddress(NAME, revision)) == wanted()
    for address in (HubAddress("org/none"), HubAddress(NAME, "v2"), HubAddress(NAME, "0" * 40)):
        said = refused(StorageError, address)
        assert "HF_HUB_OFFLINE is set, so no hub is asked, and" in said
        assert f"`hf download {address.repository} --revision {address.revision}`" in said
    assert hub.requests == []


def test_a_commit_that_is_known_is_taken_from_the_cache_where_the_hub_is_not_there(
    hub: Hub, commit: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    fetched()
    hub.push(NAME, {**FILES, "config.json": b"{}"})
    assert fetched(commit=commit) == wanted()
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    assert fetched(commit=commit) == fetched(HubAddress(NAME, commit)) == wanted()
    assert "cannot be fetched" in refused(StorageError)
    with pytest.raises(StorageError, match=f"^hf://org/mine@{'0' * 40} cannot be fetched"):
        fetched(commit="0" * 40)
