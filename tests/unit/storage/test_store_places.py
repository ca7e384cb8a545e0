"""Settings of storage hold for addresses that begin so, the longest first."""

from __future__ import annotations

from typing import Any

import pytest

from rayinfluence.config import RunConfig
from rayinfluence.config_places import StorageConfig
from rayinfluence.errors import ConfigError

STORAGE: dict[str, Any] = {
    "endpoint_url": "http://minio:9000",
    "path_style": True,
    "places": {
        "s3://public": {"anonymous": True, "region": "eu-west-1"},
        "s3://public/private/": {"region": "eu-west-2"},
        "gs://open": {"anonymous": True},
        "hf://datasets/org": {"anonymous": True},
    },
}
OWN = {"endpoint_url": "http://minio:9000", "config_kwargs": {"s3": {"addressing_style": "path"}}}
PUBLIC = {"anon": True, "client_kwargs": {"region_name": "eu-west-1"}}
PRIVATE = {"client_kwargs": {"region_name": "eu-west-2"}}


@pytest.mark.parametrize(
    ("address", "options"),
    [
        ("s3://mine/run", OWN),
        ("s3://public", PUBLIC),
        ("s3://public/a/*.jsonl", PUBLIC),
        ("s3://public-not/a", OWN),
        ("s3://public/private", PRIVATE),
        ("s3://public/private/x", PRIVATE),
        ("s3://public/privately", PUBLIC),
        ("gs://open/x", {"token": "anon"}),
        ("gs://other/x", {}),
        ("hf://datasets/org/name", {"token": False}),
        ("data/x.jsonl", {}),
    ],
)
def test_the_longest_prefix_counts(address: str, options: dict[str, Any]) -> None:
    assert StorageConfig.model_validate(STORAGE).options(address) == options


@pytest.mark.parametrize(
    ("places", "said"),
    [
        ({"public": {"anonymous": True}}, "'public' is no address"),
        ({"gs://a": {"region": "x"}}, "'gs://a': only s3:// has other keys than anonymous"),
        ({"az://a": {"anonymous": True}}, "'az://a': anonymous is for s3://, gs://"),
        ({"s3://key:secret@a": {"anonymous": True}}, "a password or a token"),
        ({"s3://a": {"anonymus": True}}, "anonymus"),
        ({"s3://a": {"endpoint_url": "minio"}}, "must be the address of a server"),
    ],
)
def test_places_that_are_none_are_refused(places: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        RunConfig.parse({"run": "r", "model": "m", "storage": {"places": places}})
