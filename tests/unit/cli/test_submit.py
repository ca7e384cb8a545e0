"""Submitting, with a client that remembers jobs as Ray's does."""

from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import aiohttp
import pytest
import requests
import yaml

from rayinfluence.config import RunConfig
from rayinfluence.errors import ConfigError, QueryError, StageError
from rayinfluence.submit import run_id, submit

CONFIG: dict[str, Any] = {
    "run": "s3://bucket/run",
    "model": "/models/m",
    "queries": "/on/the/nodes/queries.jsonl",
}


@dataclass
class FakeClient:
    """Job ids are used once; what is sent is kept."""

    jobs: dict[str, SimpleNamespace] = field(default_factory=dict)
    sent: list[dict[str, Any]] = field(default_factory=list)
    refusals: list[str] = field(default_factory=list)
    uploads: list[dict[str, str]] = field(default_factory=list)
    ends: str = "SUCCEEDED"
    code: int | None = 0

    def submit_job(self, **given: Any) -> str:
        if self.refusals:
            raise RuntimeError(self.refusals.pop(0))
        job = given["submission_id"]
        if job in self.jobs:
            raise RuntimeError(f"Job with submission_id {job} already exists")
        folder = Path(given["runtime_env"]["working_dir"])
        self.uploads.append({str(p.relative_to(folder)): p.read_text() for p in folder.rglob("*")})
        self.sent.append(given)
        self.jobs[job] = job_info("RUNNING")
        return str(job)

    def get_job_info(self, job: str) -> SimpleNamespace:
        if job not in self.jobs:
            raise RuntimeError(f"Request failed with status code 404: Job {job} does not exist.")
        return self.jobs[job]

    async def tail_job_logs(self, job: str) -> AsyncIterator[str]:
        for line in ("one\n", "two\n"):
            yield line
        self.jobs[job] = job_info(self.ends, self.code)


def job_info(status: str, code: int | None = None) -> SimpleNamespace:
    return SimpleNamespace(status=status, message="as it says", driver_exit_code=code)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    file = tmp_path / "mine.yaml"
    file.write_text(yaml.safe_dump(CONFIG))
    (tmp_path / "secrets.txt").write_text("not to be sent")
    return file


def send(client: FakeClient, path: Path, **how: Any) -> tuple[int, list[str]]:
    said: list[str] = []
    code = submit(
        path,
        "http://head:8265",
        follow=how.pop("follow", False),
        say=said.append,
        connect=lambda address: client,
        sleep=how.pop("sleep", lambda seconds: None),
        **how,
    )
    return code, said


def test_only_the_configuration_is_sent(path: Path) -> None:
    client = FakeClient()
    assert send(client, path)[0] == 0
    assert [list(files) for files in client.uploads] == [["run.yaml"]]
    assert yaml.safe_load(client.uploads[0]["run.yaml"]) == CONFIG
    assert client.sent[0]["entrypoint"] == "python -m rayinfluence run run.yaml"
    assert client.sent[0]["submission_id"] == run_id(RunConfig.parse(CONFIG))


def test_a_run_that_goes_on_is_joined(path: Path) -> None:
    client = FakeClient()
    send(client, path)
    code, said = send(client, path, follow=True)
    assert (code, len(client.sent)) == (0, 1)
    assert said[0].endswith("was submitted before: running")
    assert said[1:3] == ["one", "two"]


def test_a_run_that_has_succeeded_is_joined_unless_documents_were_added(path: Path) -> None:
    client = FakeClient()
    send(client, path, follow=True)
    assert "--again" in send(client, path)[1][1]
    assert len(client.sent) == 1
    send(client, path, again=True)
    assert client.sent[1]["submission_id"] == client.sent[0]["submission_id"] + "-2"


@pytest.mark.parametrize("state", ["FAILED", "STOPPED"])
def test_a_run_that_ended_badly_is_submitted_under_the_next_number(path: Path, state: str) -> None:
    client = FakeClient()
    first = run_id(RunConfig.parse(CONFIG))
    for job in (first, f"{first}-2"):
        client.jobs[job] = job_info(state)
    send(client, path)
    assert client.sent[0]["submission_id"] == f"{first}-3"
    send(client, path)
    assert len(client.sent) == 1


def test_the_exit_code_is_the_job_s(path: Path) -> None:
    assert send(FakeClient(ends="FAILED", code=3), path, follow=True)[0] == 3
    assert send(FakeClient(ends="FAILED", code=None), path, follow=True)[0] == 7


def test_a_cluster_without_an_agent_is_waited_for(path: Path) -> None:
    waits: list[float] = []
    busy = "Request failed with status code 500: No available agent to submit job"
    client = FakeClient(refusals=[busy] * 3)
    send(client, path, sleep=waits.append)
    assert (len(waits), len(client.sent)) == (3, 1)
    with pytest.raises(StageError, match="No available agent"):
        send(FakeClient(refusals=[busy] * 100), path)
    with pytest.raises(StageError, match="disk full"):
        send(FakeClient(refusals=["disk full"]), path)


def test_two_who_submit_at_once_share_one_job(path: Path) -> None:
    client = FakeClient(refusals=["Job with submission_id x already exists"])
    assert send(client, path)[0] == 0
    assert client.sent == []


def test_an_id_is_of_what_decides_results() -> None:
    first = run_id(RunConfig.parse(CONFIG))
    here = {**CONFIG, "runner": {"actors": 8}, "storage": {"region": "eu-west-1"}}
    assert run_id(RunConfig.parse(here)) == first
    for other in ({"run": "s3://bucket/other"}, {"seed": 1}, {"scan": {"rank": 8}}):
        assert run_id(RunConfig.parse({**CONFIG, **other})) != first


def test_runs_on_two_servers_have_two_names(tmp_path: Path) -> None:
    """Buckets of one name on two servers are two places."""
    client = FakeClient()
    places = [
        ("http://one:9000", CONFIG["run"]),
        ("http://ONE:9000/", f"{CONFIG['run']}/"),
        ("http://two:9000", CONFIG["run"]),
        ("http://one:9000/tenantA", CONFIG["run"]),
        ("HTTP://One:9000/tenantA/", CONFIG["run"]),
        ("http://one:9000/tenanta", CONFIG["run"]),
    ]
    for number, (url, run) in enumerate(places):
        file = tmp_path / f"{number}.yaml"
        file.write_text(yaml.safe_dump({**CONFIG, "run": run, "storage": {"endpoint_url": url}}))
        send(client, file)
    sent = [one["metadata"]["config"] for one in client.sent]
    assert sent == ["0.yaml", "2.yaml", "3.yaml", "5.yaml"]


def test_queries_that_were_edited_are_another_run(tmp_path: Path) -> None:
    client, queries, file = FakeClient(), tmp_path / "queries.jsonl", tmp_path / "run.yaml"
    file.write_text(yaml.safe_dump({**CONFIG, "queries": str(queries)}))
    row = '{"query_id": "a", "prompt": "x", "completion": " y"}'
    for text in (row, f"\n{row}\n", row.replace(" y", " z")):
        queries.write_text(text)
        send(client, file)
    assert len(client.sent) == 2
    queries.write_text(row.replace(" y", ""))
    with pytest.raises(QueryError, match="completion of query 'a' is empty"):
        send(client, file)


def test_queries_that_only_the_cluster_can_read_are_said_to_be_unseen(path: Path) -> None:
    client = FakeClient()
    send(client, path, follow=True)
    assert "queries (which cannot be read from here)" in send(client, path)[1][1]


def test_a_run_directory_is_submitted_with_what_it_was_made_with(tmp_path: Path) -> None:
    made_with = RunConfig.parse({**CONFIG, "run": "elsewhere", "seed": 3}, "it")
    (tmp_path / "config.json").write_text(made_with.model_dump_json())
    client = FakeClient()
    send(client, tmp_path)
    sent = yaml.safe_load(client.uploads[0]["run.yaml"])
    assert (sent["run"], sent["seed"]) == (str(tmp_path), 3)


@pytest.mark.parametrize(
    "changed",
    [
        {"run": "runs/mine"},
        {"queries": "queries.jsonl"},
        {"corpus": {"documents": ["s3://bucket/a", "data/*.jsonl"]}},
    ],
)
def test_relative_paths_are_refused(tmp_path: Path, changed: dict[str, Any]) -> None:
    file = tmp_path / "run.yaml"
    file.write_text(yaml.safe_dump({**CONFIG, **changed}))
    with pytest.raises(ConfigError, match=r"is relative.* an address such as s3://"):
        send(FakeClient(), file)


@pytest.mark.parametrize("key", ["model", "tokenizer"])
@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("deep/models/mine", r"is relative.* on the cluster's nodes\.$"),
        ("org/mine", r"on the cluster's nodes; hf://org/mine would be fetched from a hub\.$"),
        ("s3://bucket/model", r"is an address, and models and tokenizers are read from local"),
    ],
)
def test_a_model_that_no_job_finds_is_refused_with_what_it_would_find(
    tmp_path: Path, key: str, path: str, said: str
) -> None:
    file = tmp_path / "run.yaml"
    file.write_text(yaml.safe_dump({**CONFIG, key: path}))
    client = FakeClient()
    with pytest.raises(ConfigError, match=said) as error:
        send(client, file)
    assert path.startswith("s3") or "s3://" not in str(error.value)
    assert not client.jobs


@pytest.mark.parametrize("key", ["model", "tokenizer"])
def test_a_model_on_a_hub_is_left_to_the_job(tmp_path: Path, key: str) -> None:
    file = tmp_path / "run.yaml"
    file.write_text(yaml.safe_dump({**CONFIG, key: "hf://org/mine@v1"}))
    client = FakeClient()
    send(client, file)
    assert len(client.jobs) == 1


def test_nobody_at_the_address(path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no Ray dashboard at http://127\.0\.0\.1:9: .*8265"):
        submit(path, "http://127.0.0.1:9", follow=False)


def test_a_lost_connection_says_that_the_job_goes_on(path: Path) -> None:
    class Lost(FakeClient):
        async def tail_job_logs(self, job: str) -> AsyncIterator[str]:
            yield "one"
            raise RuntimeError("closed")

    with pytest.raises(StageError, match="goes on"):
        send(Lost(), path, follow=True)


@pytest.mark.parametrize("where", ["get_job_info", "submit_job", "tail_job_logs"])
@pytest.mark.parametrize(
    "error", [requests.ConnectionError("refused"), aiohttp.ServerDisconnectedError()]
)
def test_a_connection_that_is_lost_is_said(
    path: Path, where: str, error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = FakeClient()

    def fail(*_: Any, **__: Any) -> None:
        raise error

    monkeypatch.setattr(client, where, fail)
    with pytest.raises(StageError, match=r"connection was lost.*the same command follows it again"):
        send(client, path, follow=True)


def test_a_new_run_may_be_begun_beside_another(path: Path) -> None:
    client = FakeClient()
    send(client, path, new_run=True)
    assert client.sent[0]["entrypoint"] == "python -m rayinfluence run run.yaml --new-run"
