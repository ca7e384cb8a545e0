"""What is read without credentials, and without a right to list, on a server that says no."""

from __future__ import annotations

from typing import Any

import pytest
from s3.faults import FaultProxy

from rayinfluence.errors import StorageError
from rayinfluence.storage.store import Store

URL = "s3://bucket/documents.jsonl"


@pytest.fixture
def options(proxy: FaultProxy, s3: dict[str, Any]) -> dict[str, Any]:
    return {**s3, "endpoint_url": proxy.url}


def test_a_file_is_found_by_its_name_where_listing_is_denied(
    proxy: FaultProxy, s3: dict[str, Any], options: dict[str, Any]
) -> None:
    Store("s3://bucket", s3).write("documents.jsonl", b"1")
    denied = proxy.fail("status", times=100, status=403, code="AccessDenied", path="list-type")
    found = Store(URL, options).matches()
    assert [entry.path for entry in found.entries] == [URL]
    assert not found.of_folder
    assert denied.seen == 1
    for other in ("s3://bucket/*.jsonl", "s3://bucket"):
        with pytest.raises(StorageError, match=r"cannot list s3://bucket.*AccessDenied"):
            Store(other, options).matches()


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"anon": True}, r"without credentials, as storage\.anonymous says"),
        ({}, r"Check the credentials.*storage\.anonymous.*storage\.places"),
    ],
)
def test_who_is_refused_is_told_what_to_set(
    proxy: FaultProxy, options: dict[str, Any], given: dict[str, Any], said: str
) -> None:
    proxy.fail("status", times=100, status=403, code="AccessDenied")
    with pytest.raises(StorageError, match=rf"cannot read {URL}: 403.*{said}"):
        Store(URL, {**options, **given}).read("")
