"""Documents in a bucket that all may read, beside a run directory that needs credentials."""

import json
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import s3fs
from s3.conftest import committed, open_store
from s3.faults import FaultProxy
from s3.radosgw import Radosgw

from rayinfluence.config import RunConfig
from rayinfluence.errors import StorageError
from rayinfluence.storage.store import Store

pytestmark = pytest.mark.s3

Execute = Callable[[RunConfig], Any]
Change = Callable[..., RunConfig]
Reference = tuple[RunConfig, dict[str, bytes]]

READ, LIST = "s3:GetObject", "s3:ListBucket"


def open_to_all(radosgw: Radosgw, url: str, *may: str) -> None:
    """Let everyone do something with a bucket, but not its owner: who signs requests is refused."""
    name = url.removeprefix("s3://")
    statements = [
        {"Effect": "Allow", "Principal": "*", "Action": list(may)},
        {
            "Effect": "Deny",
            "Principal": {"AWS": ["arn:aws:iam:::user/owner"]},
            "Action": [READ, LIST],
        },
    ]
    for one in statements:
        one["Resource"] = [f"arn:aws:s3:::{name}", f"arn:aws:s3:::{name}/*"]
    policy = json.dumps({"Version": "2012-10-17", "Statement": statements})
    owner = s3fs.S3FileSystem(endpoint_url=radosgw.endpoint)
    owner.call_s3("put_bucket_policy", Bucket=name, Policy=policy)


@pytest.fixture
def public(radosgw: Radosgw, remote: RunConfig, reference: Reference) -> str:
    """A bucket with the documents and queries of the run; it is still private."""
    url = f"s3://public-{uuid.uuid4().hex[:12]}"
    s3fs.S3FileSystem(endpoint_url=radosgw.endpoint).mkdir(url)
    local, _ = reference
    assert local.queries
    for path in (local.queries, local.corpus.documents[0]):
        open_store(remote, url).write(Path(path).name, Path(path).read_bytes())
    return url


@pytest.fixture
def of_public(remote: RunConfig, public: str, change: Change) -> RunConfig:
    """The run in its own bucket, with documents and queries from that one."""
    return change(
        remote, queries=f"{public}/queries.jsonl", corpus={"documents": [f"{public}/doc*.jsonl"]}
    )


@pytest.mark.parametrize("endpoint", ["the same", "another"])
def test_a_run_with_credentials_reads_documents_without_them(
    reference: Reference,
    of_public: RunConfig,
    public: str,
    execute: Execute,
    change: Change,
    radosgw: Radosgw,
    faults: FaultProxy,
    endpoint: str,
) -> None:
    open_to_all(radosgw, public, READ, LIST)
    own = of_public.storage.model_dump(exclude={"places"})
    if endpoint == "another":
        own["endpoint_url"] = faults.url
    config = change(of_public, storage={"places": {public: {**own, "anonymous": True}}})
    execute(config)
    assert committed(config) == reference[1]
    bucket = public.removeprefix("s3://")
    assert (faults.count("GET", f"/{bucket}/documents.jsonl") > 0) == (endpoint == "another")
    assert faults.count() == faults.count(path=bucket)
    nobody = {**config.storage.options(config.run), "anon": True}
    with pytest.raises(StorageError, match="AccessDenied"):
        Store(config.run, nobody).list()


def test_documents_are_read_by_name_where_none_may_list_them(
    reference: Reference,
    of_public: RunConfig,
    public: str,
    execute: Execute,
    change: Change,
    radosgw: Radosgw,
) -> None:
    open_to_all(radosgw, public, READ)
    own = of_public.storage.model_dump(exclude={"places"})
    config = change(
        of_public,
        corpus={"documents": [f"{public}/documents.jsonl"]},
        storage={"places": {public: {**own, "anonymous": True}}},
    )
    execute(config)
    assert committed(config) == reference[1]


def test_a_run_on_a_disk_reads_a_public_bucket_on_a_machine_without_credentials(
    reference: Reference,
    of_public: RunConfig,
    public: str,
    execute: Execute,
    change: Change,
    radosgw: Radosgw,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    open_to_all(radosgw, public, READ, LIST)
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    s3fs.S3FileSystem.clear_instance_cache()
    on_disk = change(
        of_public, run=str(tmp_path / "run"), corpus={"path": str(tmp_path / "corpus")}
    )
    with pytest.raises(StorageError, match=r"s3://public-.*NoCredentials.*storage\.anonymous"):
        execute(on_disk)
    config = change(on_disk, storage={"anonymous": True})
    execute(config)
    assert committed(config) == reference[1]


@pytest.mark.parametrize("anonymous", [True, False])
def test_who_may_not_read_is_told_what_to_set(
    of_public: RunConfig,
    public: str,
    execute: Execute,
    change: Change,
    radosgw: Radosgw,
    anonymous: bool,
) -> None:
    """Without credentials in a private bucket, and with the wrong ones in a public one."""
    if not anonymous:
        open_to_all(radosgw, public, READ, LIST)
    own = of_public.storage.model_dump(exclude={"places"})
    config = change(of_public, storage={"places": {public: {**own, "anonymous": anonymous}}})
    said = "without credentials" if anonymous else r"storage\.anonymous"
    with pytest.raises(StorageError, match=rf"{public}.*403.*{said}"):
        execute(config)
