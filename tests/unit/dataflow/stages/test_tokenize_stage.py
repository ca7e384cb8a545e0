"""What a user sees of tokenising into a corpus: what is read, what is kept, what is refused."""

import io
import os
import shutil
import signal
from collections.abc import Callable
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from rich.console import Console
from trapped.catching import TRAPS, trap
from traps import Traps

from rayinfluence.config import RunConfig
from rayinfluence.corpus import rolled
from rayinfluence.corpus.corpus import Corpus
from rayinfluence.corpus.documents import file_digest
from rayinfluence.corpus.files import find_files
from rayinfluence.corpus.manifest import CorpusManifest
from rayinfluence.corpus.tokenize import TokenizeSettings
from rayinfluence.dataflow.begin.early import Inputs
from rayinfluence.dataflow.compute.replica import Replica
from rayinfluence.dataflow.jobs import watch
from rayinfluence.dataflow.runners.inline import InlineRunner
from rayinfluence.dataflow.stages import tokenize as tokenizing
from rayinfluence.dataflow.stages.progress import ProgressLog
from rayinfluence.dataflow.stages.tokenize import tokenize_files
from rayinfluence.errors import CorpusError, StorageError
from rayinfluence.storage.reading import DigestedFile
from rayinfluence.storage.store import Store
from rayinfluence.testing import tiny_tokenizer
from rayinfluence.testing.runs import write_documents

SETTINGS = TokenizeSettings("text", "id", 32, 48, 200)
NAMES = ["a.jsonl", "b.jsonl", "c.jsonl"]
COMPRESSED = {
    "jsonl.gz": b'{"text": "w1 w2"}\n' * 5000,
    "csv.zst": b"text\n" + b"w1 w2\n" * 5000,
}


def no_model() -> Replica:
    raise AssertionError("tokenising needs no model")


def tokenise(
    store: Store,
    *patterns: Path | str,
    options: dict[str, Any] | None = None,
    kind: type[InlineRunner] = InlineRunner,
) -> ProgressLog:
    found = find_files([str(pattern) for pattern in patterns], lambda url: options or {})
    progress = ProgressLog(Console(file=io.StringIO()))
    runner = lambda: kind(no_model)  # noqa: E731
    tokenize_files(runner, found, store, tiny_tokenizer(), SETTINGS, progress, lambda *_: None)
    return progress


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(str(tmp_path / "corpus"))


@pytest.fixture
def documents(tmp_path: Path) -> Path:
    folder = tmp_path / "documents"
    folder.mkdir()
    for number, name in enumerate(NAMES):
        write_documents(folder / name, np.random.default_rng(number), 20 + number)
    return folder


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The documents that are opened, by name."""
    seen: list[str] = []
    original = Store.open

    def counted(self: Store, key: str) -> Any:
        if not key:
            seen.append(self.name)
        return original(self, key)

    monkeypatch.setattr(Store, "open", counted)
    return seen


class Elsewhere(InlineRunner):
    """Workers that have a disk of their own."""

    def told_tasks(self, stage: str, function: Any, items: Any, advance: Any) -> Any:
        own = replace(function.__self__, corpus=Store(f"{function.__self__.corpus.url}-elsewhere"))
        return super().told_tasks(stage, own.do, items, advance)


def names(store: Store) -> list[str]:
    manifest = CorpusManifest.read(store)
    return [Path(report["url"]).name for report in manifest.files] if manifest else []


def contents(store: Store) -> dict[str, bytes]:
    return {key: store.read(key) for key in store.list("shards")}


def test_documents_are_read_once_and_their_digest_is_made_meanwhile(
    store: Store, documents: Path, opened: list[str]
) -> None:
    tokenise(store, documents)
    assert opened == NAMES
    manifest = CorpusManifest.read(store)
    assert manifest is not None
    found = [file_digest(Store(report["url"])) for report in manifest.files]
    assert [report["digest"] for report in manifest.files] == found


def test_what_is_as_it_was_is_not_read_again(
    store: Store, documents: Path, opened: list[str]
) -> None:
    tokenise(store, documents)
    before = {key: listed.modified for key, listed in store.list().items()}
    opened.clear()
    tokenise(store, documents)
    assert opened == []
    assert {key: listed.modified for key, listed in store.list().items()} == before
    write_documents(documents / "0.jsonl", np.random.default_rng(9), 7)
    tokenise(store, documents)
    assert opened == ["0.jsonl"]
    assert names(store) == [*NAMES, "0.jsonl"]  # later files get later ordinals


def test_a_file_that_was_touched_or_moved_is_known_by_its_bytes(
    store: Store, documents: Path, opened: list[str]
) -> None:
    tokenise(store, documents)
    shards = contents(store)
    opened.clear()
    os.utime(documents / "a.jsonl", (1, 1))
    (documents / "b.jsonl").rename(documents / "moved.jsonl")
    write_documents(documents / "0.jsonl", np.random.default_rng(9), 7)
    tokenise(store, documents)
    # The new file has the size of none that is missed: its bytes are looked at once.
    assert opened == ["a.jsonl", "moved.jsonl", "0.jsonl"]
    assert shards.items() < contents(store).items()
    assert names(store) == [*NAMES, "0.jsonl"]


def test_other_bytes_of_the_same_size_are_another_file(store: Store, documents: Path) -> None:
    tokenise(store, documents)
    body = (documents / "b.jsonl").read_bytes()
    (documents / "b.jsonl").write_bytes(body.replace(b"w1", b"w2"))
    with pytest.raises(CorpusError, match=r"holds .*/b\.jsonl, which `corpus\.documents` does not"):
        tokenise(store, documents)


def test_on_object_storage_the_etag_tells_what_size_and_time_do_not(
    store: Store, s3: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = Store("s3://bucket/documents", s3)
    for number in range(10):
        folder.write(f"{number}.jsonl", b'{"text": "w1 w2 w%d"}\n' % number)
    tokenise(store, "s3://bucket/documents", options=s3)
    reports = CorpusManifest.read(store)
    assert reports is not None
    assert len({report["tag"] for report in reports.files}) == 10
    original = Store.info

    def timeless(self: Store, key: str = "") -> Any:
        listed = original(self, key)
        return type(listed)(listed.size, 1.0, listed.tag) if not self.is_local else listed

    monkeypatch.setattr(Store, "info", timeless)
    again = Store(f"{store.url}-again")
    tokenise(again, "s3://bucket/documents", options=s3)
    folder.write("3.jsonl", b'{"text": "w1 w2 w0"}\n')
    with pytest.raises(CorpusError, match=r"holds .*3\.jsonl, which"):
        tokenise(again, "s3://bucket/documents", options=s3)


def test_a_file_that_is_written_to_while_it_is_read_is_refused(
    store: Store, documents: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    digest = DigestedFile.digest

    def late(self: DigestedFile) -> str:
        with (documents / "b.jsonl").open("a") as file:
            file.write('{"text": "w1 w2"}\n')
        return digest(self)

    monkeypatch.setattr(DigestedFile, "digest", late)
    with pytest.raises(CorpusError, match=r"b\.jsonl was written to while it was read"):
        tokenise(store, documents / "b.jsonl")
    assert names(store) == []


def test_nothing_is_added_to_a_corpus_of_the_old_layout(store: Store, documents: Path) -> None:
    store.write("manifest.json", b'{"format": 2}')
    store.write("shards/0123456789abcdef-0000.parquet", b"")
    before = store.list()
    with pytest.raises(CorpusError, match=r"an earlier version laid out .*Tokenise the documents"):
        tokenise(store, documents)
    assert store.list() == before
    config = {"run": f"{store.url}/..", "model": str(documents)}
    for named in ([str(documents)], []):
        where = {"documents": named, "path": store.url}
        with pytest.raises(CorpusError, match="an earlier version laid out"):
            Inputs.of(RunConfig.parse({**config, "corpus": where}))


def test_a_corpus_that_may_only_be_read_is_used_as_it_is(
    store: Store, documents: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokenise(store, documents)

    def refused(*arguments: Any) -> None:
        raise StorageError("read only")

    monkeypatch.setattr(rolled, "FEWEST_FILES", 1)
    for name in ("write", "create"):
        monkeypatch.setattr(Store, name, refused)
    tokenise(store, documents)
    assert names(store) == NAMES


def test_too_many_bad_rows_are_refused_and_the_files_before_are_kept(
    store: Store, documents: Path, opened: list[str]
) -> None:
    whole = (documents / "b.jsonl").read_bytes()
    (documents / "b.jsonl").write_bytes(b'{"txt": 1}\n' + whole)
    with pytest.raises(CorpusError, match=r"1 of 22 rows of .*b\.jsonl are not documents"):
        tokenise(store, documents)
    assert names(store) == ["a.jsonl"]
    (documents / "b.jsonl").write_bytes(whole)
    opened.clear()
    tokenise(store, documents)
    assert opened == ["b.jsonl", "c.jsonl"]
    assert names(store) == NAMES


@pytest.mark.parametrize("kind", ["parquet", *COMPRESSED])
def test_files_that_are_not_read_from_end_to_end_have_the_digest_of_all_their_bytes(
    store: Store, tmp_path: Path, kind: str
) -> None:
    rows = pa.table({"text": [f"w1 w2 w{i % 40}" for i in range(5000)], "more": range(5000)})
    path = tmp_path / f"d.{kind}"
    if kind == "parquet":
        pq.write_table(rows, path, row_group_size=700, write_page_index=True)
    else:
        with pa.output_stream(str(path)) as file:  # which compresses by the name
            file.write(COMPRESSED[kind])
    tokenise(store, path)
    shutil.copy(path, tmp_path / f"moved.{path.name}")
    path.unlink()
    tokenise(store, tmp_path / f"moved.{path.name}")  # known by its digest
    assert names(store) == [path.name]


def test_the_corpus_is_the_same_from_few_objects_as_from_many(
    store: Store, documents: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(70):
        shutil.copy(documents / "a.jsonl", documents / f"more-{number:02d}.jsonl")
    monkeypatch.setattr(rolled, "MOST_FILES", 30)
    monkeypatch.setattr(tokenizing, "_FILES_PER_ENTRY", 7)
    monkeypatch.setattr(tokenizing, "_SECONDS_PER_ENTRY", 100)
    tokenise(store, documents)
    keys = list(store.list("rolled"))
    assert len(keys) == 3
    read: list[str] = []
    original = Store.read_all

    def counted(self: Store, wanted: Any) -> list[bytes]:
        read.extend(wanted)
        return original(self, wanted)

    monkeypatch.setattr(Store, "read_all", counted)
    ours = CorpusManifest.read(store)
    assert ours is not None
    assert read == keys
    assert [Path(report["url"]).name for report in ours.files] == sorted(
        path.name for path in documents.iterdir()
    )
    # They are derived: without one of them, and with one that is damaged, nothing is missing.
    store.write(keys[1], store.read(keys[1]).replace(b"a", b"b"))
    assert CorpusManifest.read(store) == ours
    store.delete("rolled")
    assert CorpusManifest.read(store) == ours
    # What is added to a corpus is read beside what was rolled up.
    rolled.roll_up(store)
    write_documents(documents / "zz.jsonl", np.random.default_rng(9), 7)
    tokenise(store, documents)
    read.clear()
    assert names(store)[-1] == "zz.jsonl"
    assert len(read) == 5


def in_a_process(work: Callable[[], None], folder: Path) -> Any:
    def trapped() -> None:
        os.environ[TRAPS] = str(folder)
        watch.observers.append(trap)
        work()

    process = get_context("fork").Process(target=trapped)
    process.start()
    return process


@pytest.mark.parametrize(
    ("phase", "kept"),
    [("shard", 1), ("fragment", 1), ("tokenized", 2), ("ordinal", 1)],
)
def test_a_tokeniser_that_is_killed_leaves_nothing_that_counts_and_nothing_to_do_twice(
    store: Store,
    documents: Path,
    tmp_path: Path,
    opened: list[str],
    monkeypatch: pytest.MonkeyPatch,
    phase: str,
    kept: int,
) -> None:
    """Killed at the second file, or (ordinal) when the first is to be entered."""
    monkeypatch.setattr(tokenizing, "_SECONDS_PER_ENTRY", 0)
    alone = Store(f"{store.url}-alone")
    tokenise(alone, documents)
    traps = Traps(tmp_path / "traps")
    name = phase if phase == "ordinal" else f"{phase}@b.jsonl"
    traps.set_trap(name)
    process = in_a_process(lambda: tokenise(store, documents), traps.folder)
    pid, _ = traps.caught(name)
    os.kill(pid, signal.SIGKILL)
    process.join()
    traps.release()
    assert names(store) == ([] if phase == "ordinal" else ["a.jsonl"])
    if phase == "ordinal":
        with pytest.raises(CorpusError, match="holds no tokenised corpus"):
            Corpus.open(store)
    opened.clear()
    tokenise(store, documents)
    assert opened == NAMES[kept:]
    assert CorpusManifest.read(store) == CorpusManifest.read(alone)
    assert contents(store) == contents(alone)


def test_a_fragment_that_is_left_without_its_shards_is_made_again(
    store: Store, documents: Path, opened: list[str]
) -> None:
    alone = Store(f"{store.url}-alone")
    for one in (alone, store):
        tokenise(one, documents)
    store.delete("log")  # as where its entry was never made
    lost, damaged, *_ = store.list("shards")
    store.delete(lost)
    store.write(damaged, b"short")
    some = next(iter(store.list("fragments")))
    store.write(some, store.read(some)[:-9])
    opened.clear()
    tokenise(store, documents)
    assert opened
    assert CorpusManifest.read(store) == CorpusManifest.read(alone)
    assert contents(store) == contents(alone)


def test_what_workers_wrote_to_another_disk_is_not_entered(store: Store, documents: Path) -> None:
    with pytest.raises(StorageError, match=r"was written, and is not there\. Either"):
        tokenise(store, documents, kind=Elsewhere)
    assert names(store) == []
    tokenise(store, documents)
    assert names(store) == NAMES


def test_of_two_fragments_of_what_looks_alike_neither_is_taken(
    store: Store, documents: Path, opened: list[str]
) -> None:
    """As where a file was altered between two tokenisers without a trace in its listing."""
    tokenise(store, documents)
    store.delete("log")
    some = next(key for key in store.list("fragments") if b"b.jsonl" in store.read(key))
    store.write(f"{some.rpartition('-')[0]}-{'0' * 32}.json", store.read(some))
    opened.clear()
    tokenise(store, documents)
    assert opened == ["b.jsonl"]
    assert names(store) == NAMES
    assert len(store.list("fragments")) == 4


def test_what_is_left_whole_does_not_count_as_work(store: Store, documents: Path) -> None:
    done = tokenise(store, documents).timings["tokenize"].tokens
    store.delete("log")
    write_documents(documents / "b2.jsonl", np.random.default_rng(9), 7)
    more = tokenise(store, documents).timings["tokenize"].tokens
    assert 0 < more < done / 3
    assert names(store) == ["a.jsonl", "b.jsonl", "b2.jsonl", "c.jsonl"]


def test_the_log_s_end_lost_costs_nothing_but_the_entering(
    store: Store, documents: Path, opened: list[str]
) -> None:
    tokenise(store, documents)
    store.delete("log")
    opened.clear()
    tokenise(store, documents)
    assert opened == []
    assert names(store) == NAMES
