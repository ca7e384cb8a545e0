"""Tokenising large files in parts: the same corpus whoever does it, and however he is stopped."""

import io
import json
import os
import signal
from collections.abc import Sequence
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

from rayinfluence.corpus.corpus import Corpus
from rayinfluence.corpus.documents import file_digest
from rayinfluence.corpus.files import find_files
from rayinfluence.corpus.limits import DEFAULT, Limits
from rayinfluence.corpus.manifest import CorpusManifest
from rayinfluence.corpus.shards import SCHEMA
from rayinfluence.corpus.tokenize import TokenizeSettings
from rayinfluence.dataflow.compute.replica import Replica
from rayinfluence.dataflow.jobs import watch
from rayinfluence.dataflow.runners.inline import InlineRunner
from rayinfluence.dataflow.stages.progress import ProgressLog
from rayinfluence.dataflow.stages.tokenize import tokenize_files
from rayinfluence.errors import CorpusError
from rayinfluence.storage.store import Store
from rayinfluence.testing import tiny_tokenizer

SETTINGS = TokenizeSettings("text", "id", 16, 48, 200)


def no_model() -> Replica:
    raise AssertionError("tokenising needs no model")


class Shuffled(InlineRunner):
    """Does what comes last first, as workers that are slow and fast do."""

    def told_tasks(self, stage: str, function: Any, items: Sequence[Any], advance: Any) -> Any:
        done = {}
        for place in np.random.default_rng(0).permutation(len(items)):
            done[place] = function(items[place], advance)
        return iter([done[place] for place in range(len(items))])


def tokenise(
    store: Store,
    *patterns: Path,
    part_bytes: int = 2000,
    limits: Limits = DEFAULT,
    kind: type[InlineRunner] = InlineRunner,
    settings: TokenizeSettings = SETTINGS,
) -> ProgressLog:
    has_ids = settings.tokens is not None
    found = find_files([str(pattern) for pattern in patterns], lambda url: {}, has_ids)
    progress = ProgressLog(Console(file=io.StringIO()))
    tokenize_files(
        lambda: kind(no_model),
        found,
        store,
        tiny_tokenizer(),
        settings,
        progress,
        lambda *_: None,
        limits,
        part_bytes,
    )
    return progress


def write(path: Path, seed: int, n: int) -> Path:
    rng = np.random.default_rng(seed)
    rows = [
        {"text": " ".join(f"w{w}" for w in rng.integers(0, 47, rng.integers(1, 60))), "n": n}
        for n in range(n)
    ]
    rows[n // 2]["text"] = ""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture
def documents(tmp_path: Path) -> Path:
    folder = tmp_path / "documents"
    folder.mkdir()
    write(folder / "a.jsonl", 1, 8)
    write(folder / "b.jsonl", 2, 120)
    write(folder / "c.jsonl", 3, 110)
    return folder


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(str(tmp_path / "corpus"))


LENIENT = Limits(bad_rows=0.2)


def rows_of(store: Store) -> list[dict[str, Any]]:
    """All sequences in the order of their ids, which the corpus checks as it reads them."""
    corpus = Corpus.open(store)
    return [row for split in corpus.plan(10**6) for row in corpus.read(split).to_pylist()]


def without_ids(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{key: row[key] for key in SCHEMA.names} for row in rows]


def test_parts_give_the_sequences_of_the_whole_file_in_their_order(
    tmp_path: Path, documents: Path
) -> None:
    whole, cut = Store(str(tmp_path / "whole")), Store(str(tmp_path / "cut"))
    tokenise(whole, documents, part_bytes=10**9, limits=LENIENT)
    told = tokenise(cut, documents, limits=LENIENT).timings["tokenize"].tokens
    assert without_ids(rows_of(cut)) == without_ids(rows_of(whole))
    assert len(cut.list("parts")) > 8
    assert not whole.list("parts")
    one, other = CorpusManifest.read(whole), CorpusManifest.read(cut)
    assert one is not None
    assert other is not None
    for ours, theirs in zip(other.files, one.files, strict=True):
        assert {**ours, "quarantine": []} == {**theirs, "quarantine": []}
        assert ours["digest"] == file_digest(Store(ours["url"]))
    assert told == Corpus.open(cut).n_tokens


@pytest.mark.parametrize("packing", ["attend_across", "separate"])
def test_parts_of_a_file_of_ids_give_its_sequences(tmp_path: Path, packing: str) -> None:
    ids = np.random.default_rng(0).integers(0, 40, 5000).astype("<u2")
    ids.tofile(tmp_path / "train.bin")
    tokens = {"column": "input_ids", "dtype": "uint16", "packing": packing, "separator": 0}
    settings = replace(SETTINGS, tokens=tokens)
    whole, cut = Store(str(tmp_path / "whole")), Store(str(tmp_path / "cut"))
    tokenise(whole, tmp_path / "train.bin", part_bytes=10**9, settings=settings)
    tokenise(cut, tmp_path / "train.bin", settings=settings)
    assert without_ids(rows_of(cut)) == without_ids(rows_of(whole))
    assert len(cut.list("parts")) >= 4
    one, other = CorpusManifest.read(whole), CorpusManifest.read(cut)
    assert one is not None
    assert other is not None
    assert other.files == one.files
    # What predicts nothing, a token alone, is counted.
    n_alone = sum(other.files[0][name] for name in ("short_documents", "short_chunks"))
    assert Corpus.open(cut).n_tokens + n_alone == len(ids)


def test_the_corpus_is_the_same_by_workers_that_end_in_any_order(
    tmp_path: Path, documents: Path
) -> None:
    one, other = Store(str(tmp_path / "one")), Store(str(tmp_path / "other"))
    tokenise(one, documents, limits=LENIENT)
    tokenise(other, documents, limits=LENIENT, kind=Shuffled)
    assert CorpusManifest.read(one) == CorpusManifest.read(other)
    assert {key: one.read(key) for key in one.list("shards")} == {
        key: other.read(key) for key in other.list("shards")
    }


def test_a_file_that_was_tokenised_whole_is_known_when_it_would_be_cut(
    store: Store, documents: Path
) -> None:
    tokenise(store, documents, part_bytes=10**9, limits=LENIENT)
    before = CorpusManifest.read(store)
    (documents / "b.jsonl").rename(documents / "moved.jsonl")
    tokenise(store, documents, limits=LENIENT)
    assert CorpusManifest.read(store) == before


@pytest.mark.parametrize("phase", ["survey", "shard", "fragment", "tokenized"])
def test_a_tokeniser_that_is_killed_in_a_part_leaves_what_is_done_and_nothing_twice(
    store: Store, documents: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, phase: str
) -> None:
    """Documents in and sequences out are counted against what the files hold."""
    alone = Store(f"{store.url}-alone")
    tokenise(alone, documents, limits=LENIENT)
    traps = Traps(tmp_path / "traps")
    name = f"{phase}@c.jsonl"
    traps.set_trap(name)

    def trapped() -> None:
        os.environ[TRAPS] = str(traps.folder)
        watch.observers.append(trap)
        tokenise(store, documents, limits=LENIENT)

    process = get_context("fork").Process(target=trapped)
    process.start()
    pid, _ = traps.caught(name)
    os.kill(pid, signal.SIGKILL)
    process.join()
    traps.release()
    done = {key: about.modified for key, about in store.list("parts").items()}
    assert bool(done) == (phase != "survey")
    told = tokenise(store, documents, limits=LENIENT).timings["tokenize"].tokens
    assert {key: store.list("parts")[key].modified for key in done} == done
    manifest = CorpusManifest.read(store)
    assert manifest == CorpusManifest.read(alone)
    assert manifest is not None
    assert store.list("shards").keys() == alone.list("shards").keys()
    if phase != "survey":
        assert told < Corpus.open(store).n_tokens / 2  # what was done is not done again
    reconcile(store, manifest)


def reconcile(store: Store, manifest: CorpusManifest) -> None:
    """Every document of every file is there once, in its chunks, or counted as left out."""
    rows = iter(rows_of(store))
    for report in manifest.files:
        lines = Path(report["url"]).read_text().splitlines()
        lengths = [len(json.loads(line)["text"].split()) for line in lines]
        assert report["documents"] == len(lengths)
        assert report["empty_documents"] == lengths.count(0) == 1
        assert report["short_documents"] == lengths.count(1)
        of_chunks = (length > 1 and length % 16 == 1 for length in lengths)
        assert report["short_chunks"] == sum(of_chunks)
        for number, length in enumerate(lengths, start=1):
            for start in range(0, length - (length % 16 == 1), 16):
                row = next(rows)
                found = row["document_row"], row["token_start"], row["n_tokens"]
                assert found == (number, start, min(16, length - start))
    assert next(rows, None) is None


def test_a_part_that_is_damaged_or_without_its_shards_is_made_again(
    store: Store, documents: Path
) -> None:
    alone = Store(f"{store.url}-alone")
    for one in (alone, store):
        tokenise(one, documents, limits=LENIENT)
    for folder in ("log", "fragments"):
        store.delete(folder)
    first, second, *_ = store.list("parts")
    store.write(first, store.read(first)[:-5])
    shard = json.loads(store.read(second))["shards"][0]["key"]
    store.delete(shard)
    survey = next(iter(store.list("surveys")))
    store.write(survey, b"[[")
    tokenise(store, documents, limits=LENIENT)
    assert CorpusManifest.read(store) == CorpusManifest.read(alone)
    assert store.exists(shard)


def test_too_many_bad_rows_are_counted_over_the_parts_of_a_file(
    store: Store, documents: Path
) -> None:
    lines = (documents / "c.jsonl").read_text().splitlines()
    lines[5:5] = ['{"text": false}', "{"]
    lines[-3:-3] = ["[1]"]
    (documents / "c.jsonl").write_text("\n".join(lines))
    with pytest.raises(CorpusError, match=r"3 of 113 rows of .*c\.jsonl are not documents, more"):
        tokenise(store, documents, limits=Limits(2))
    tokenise(store, documents, limits=Limits(3))
    manifest = CorpusManifest.read(store)
    assert manifest is not None
    assert manifest.total("n_bad") == 3
    assert manifest.total("quarantined") == 3
    kept = [
        json.loads(line)
        for report in manifest.files
        for key in report["quarantine"]
        for line in store.read(key).splitlines()
    ]
    assert [one["raw"] for one in kept if one["place"].endswith(("c.jsonl:6", "c.jsonl:7"))] == [
        '{"text": false}',
        "{\n",
    ]
    assert manifest.total("short_documents") == 2
    assert sum(manifest.reasons.values()) == 3 + 3 + 2


def test_parquet_is_cut_between_row_groups(store: Store, tmp_path: Path) -> None:
    path = write(tmp_path / "d.jsonl", 4, 200)
    table = [json.loads(line) for line in path.read_text().splitlines()]
    pq.write_table(pa.Table.from_pylist(table), tmp_path / "d.parquet", row_group_size=30)
    whole = Store(f"{store.url}-whole")
    tokenise(whole, tmp_path / "d.parquet", part_bytes=10**9, limits=LENIENT)
    tokenise(store, tmp_path / "d.parquet", part_bytes=5000, limits=LENIENT, kind=Shuffled)
    assert len(store.list("parts")) > 3
    assert without_ids(rows_of(store)) == without_ids(rows_of(whole))
