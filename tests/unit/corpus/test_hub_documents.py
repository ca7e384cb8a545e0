"""Data sets on a hub are read where they lie, through its own client; the hub is on loopback."""

from __future__ import annotations

import gzip
import io
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import huggingface_hub
import loopback_hub
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rayinfluence.config import RunConfig
from rayinfluence.corpus.documents import read_documents
from rayinfluence.corpus.files import find_files
from rayinfluence.corpus.forms import Columns, Document
from rayinfluence.dataflow.begin.early import Inputs
from rayinfluence.errors import ConfigError, CorpusError, StorageError
from rayinfluence.testing import tiny_run

LINE = b'{"text": "w1 w2"}\n'


def parquet(*texts: str) -> bytes:
    sink = io.BytesIO()
    pq.write_table(pa.table({"text": list(texts)}), sink)
    return sink.getvalue()


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[loopback_hub.Hub]:
    with loopback_hub.serving() as hub:
        loopback_hub.point(monkeypatch, hub, tmp_path / "home")
        huggingface_hub.HfFileSystem.clear_instance_cache()
        hub.push("datasets/org/name", {"data/old.jsonl": LINE}, branch="old")
        files = {
            "README.md": b"# What this is\n",
            ".gitattributes": b"",
            "data/train-0.parquet": parquet("a", "b"),
            "data/train-1.parquet": parquet("c"),
            "more/x.jsonl.gz": gzip.compress(LINE),
        }
        hub.push("datasets/org/name", files)
        yield hub
        huggingface_hub.HfFileSystem.clear_instance_cache()


def texts(address: str, options: dict[str, Any] | None = None) -> list[str]:
    found = find_files([address], lambda _: options or {})
    read = [d for file in found.files for d in read_documents(file, Columns("text", "id"))]
    assert all(isinstance(one, Document) for one in read)
    return [one.text for one in read if isinstance(one, Document)]


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("", ["a", "b", "c", "w1 w2"]),
        ("@main/data", ["a", "b", "c"]),
        ("/data/train-{0,1}.parquet", ["a", "b", "c"]),
        ("/**/*-1.parquet", ["c"]),
        ("/more/x.jsonl.gz", ["w1 w2"]),
        ("@old", ["w1 w2"]),
    ],
)
def test_a_data_set_is_read(hub: loopback_hub.Hub, path: str, expected: list[str]) -> None:
    assert texts(f"hf://datasets/org/name{path}") == expected


def test_what_is_no_data_is_left_out(hub: loopback_hub.Hub) -> None:
    found = find_files(["hf://datasets/org/name"], lambda _: {})
    assert found.line == "1 hidden or bookkeeping (.gitattributes), 1 texts beside data (README.md)"


@pytest.mark.parametrize("address", ["org/none", "org/name@gone", "org/name/none/*.jsonl"])
def test_what_is_not_there_is_an_error(hub: loopback_hub.Hub, address: str) -> None:
    with pytest.raises((CorpusError, StorageError), match=r"^corpus\.documents: "):
        texts(f"hf://datasets/{address}")


def test_a_configuration_may_name_one(
    hub: loopback_hub.Hub, tmp_path: Path, change: Callable[..., RunConfig]
) -> None:
    config = change(
        tiny_run(tmp_path), corpus={"documents": ["hf://datasets/org/name@old/data/*.jsonl"]}
    )
    assert [file.name for file in Inputs.of(config).documents.files] == ["old.jsonl"]


@pytest.mark.parametrize("address", ["hf://org/name", "hf://datasets/name", "hf:datasets/a/b"])
def test_an_address_that_names_none_is_told(address: str) -> None:
    with pytest.raises(ConfigError, match="names no data set on a hub: write hf://datasets/org/na"):
        RunConfig.parse({"run": "r", "model": "m", "corpus": {"documents": [address]}})
