"""What is left out of a corpus: rows and files that are bad, by limits, counted and named."""

import gzip
import io
import json
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from rich.console import Console

from rayinfluence.config import RunConfig
from rayinfluence.corpus.corpus import Corpus
from rayinfluence.corpus.files import find_files
from rayinfluence.corpus.limits import DEFAULT, STRICT, Limits
from rayinfluence.corpus.manifest import CorpusManifest
from rayinfluence.corpus.statistics import left_out
from rayinfluence.corpus.tokenize import TokenizeSettings
from rayinfluence.dataflow.begin.lost import lost_rows
from rayinfluence.dataflow.compute.replica import Replica
from rayinfluence.dataflow.runners.inline import InlineRunner
from rayinfluence.dataflow.stages.progress import ProgressLog
from rayinfluence.dataflow.stages.tokenize import tokenize_files
from rayinfluence.errors import ConfigError, CorpusError
from rayinfluence.storage.store import Store
from rayinfluence.testing import tiny_run, tiny_tokenizer

SETTINGS = TokenizeSettings("text", "id", 16, 48, 200)
LINE = b'{"text": "w1 w2 w3"}\n'


def no_model() -> Replica:
    raise AssertionError("tokenising needs no model")


def tokenise(
    store: Store, folder: Path, limits: Limits = DEFAULT, part_bytes: int = 10**6
) -> list[str]:
    """The names of bad files."""
    bad = tokenize_files(
        lambda: InlineRunner(no_model),
        find_files([str(folder)], lambda url: {}),
        store,
        tiny_tokenizer(),
        SETTINGS,
        ProgressLog(Console(file=io.StringIO())),
        lambda *_: None,
        limits,
        part_bytes,
    )
    return [Path(one.url).name for one in bad]


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(str(tmp_path / "corpus"))


@pytest.fixture
def documents(tmp_path: Path) -> Path:
    """Four whole files; b is cut short."""
    folder = tmp_path / "documents"
    folder.mkdir()
    for name in "abcd":
        (folder / f"{name}.jsonl.gz").write_bytes(gzip.compress(LINE * 500))
    cut_short(folder / "b.jsonl.gz")
    return folder


def cut_short(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-20])


def names(store: Store) -> list[str]:
    manifest = CorpusManifest.read(store)
    return [Path(report["url"]).name[0] for report in manifest.files] if manifest else []


def test_a_file_that_is_cut_short_ends_it_and_says_how_to_go_on(
    store: Store, documents: Path
) -> None:
    with pytest.raises(CorpusError, match=r"b\.jsonl\.gz cannot be .* corpus\.bad_files to how"):
        tokenise(store, documents)
    assert names(store) == ["a"]


@pytest.mark.parametrize("allowed", [1, 0.25, 2])
def test_within_the_limit_nothing_of_a_bad_file_is_in_the_corpus_and_it_is_named(
    store: Store, documents: Path, allowed: float
) -> None:
    limits = Limits(bad_files=allowed)
    assert tokenise(store, documents, limits) == ["b.jsonl.gz"]
    assert names(store) == ["a", "c", "d"]
    corpus = Corpus.open(store)
    assert corpus.n_sequences == 1500
    [bad] = corpus.manifest.bad_files
    assert bad.url == str(documents / "b.jsonl.gz")
    assert "cannot be read to its end" in bad.reason
    assert corpus.manifest.left_out_rows == "; left out: 1 bad files"


def test_one_more_than_the_limit_ends_it(store: Store, documents: Path) -> None:
    cut_short(documents / "c.jsonl.gz")
    with pytest.raises(CorpusError, match=r"2 of 4 files of documents are bad, more than 1 \(corp"):
        tokenise(store, documents, Limits(bad_files=1))
    assert tokenise(store, documents, Limits(bad_files=2)) == ["b.jsonl.gz", "c.jsonl.gz"]
    with pytest.raises(CorpusError, match=r"2 of 4 files of documents are bad, more than 30 %"):
        tokenise(store, documents, Limits(bad_files=0.3))


def test_a_bad_file_is_not_read_again_and_comes_in_when_it_is_mended(
    store: Store, documents: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    limits = Limits(bad_files=1)
    tokenise(store, documents, limits)
    opened = []
    original = Store.open
    monkeypatch.setattr(
        Store, "open", lambda self, key: opened.append(self.name) or original(self, key)
    )
    assert tokenise(store, documents, limits) == ["b.jsonl.gz"]
    assert opened == []
    (documents / "b.jsonl.gz").write_bytes(gzip.compress(LINE * 10))
    assert tokenise(store, documents, limits) == []
    assert names(store) == ["a", "c", "d", "b"]
    assert CorpusManifest.read(store).bad_files == ()  # type: ignore[union-attr]


def test_a_bad_file_of_before_ends_a_stricter_run(store: Store, documents: Path) -> None:
    tokenise(store, documents, Limits(bad_files=1))
    for limits in (DEFAULT, STRICT):
        with pytest.raises(CorpusError, match=r"b\.jsonl\.gz cannot be read"):
            tokenise(store, documents, limits)


def test_a_file_with_too_many_bad_rows_is_bad_until_the_limit_is_raised(
    store: Store, documents: Path
) -> None:
    (documents / "b.jsonl.gz").write_bytes(gzip.compress(LINE * 9 + b'{"text": 7}\n'))
    assert tokenise(store, documents, Limits(bad_files=1)) == ["b.jsonl.gz"]
    assert tokenise(store, documents, Limits(0.1, 1)) == []
    assert names(store) == ["a", "c", "d", "b"]
    with pytest.raises(CorpusError, match=r"wider limit: 1 of 10 rows"):
        tokenise(store, documents, STRICT)


def test_a_damaged_part_makes_its_file_bad(store: Store, tmp_path: Path) -> None:
    folder = tmp_path / "documents"
    folder.mkdir()
    (folder / "a.jsonl").write_bytes(LINE * 30)
    (folder / "b.jsonl").write_bytes(LINE * 60 + b"{\n" * 9)
    limits = Limits(bad_files=1)
    assert tokenise(store, folder, limits, part_bytes=300) == ["b.jsonl"]
    assert names(store) == ["a"]
    assert len(store.list("parts")) > 5


def test_that_no_file_is_left_is_said(store: Store, documents: Path) -> None:
    for name in "acd":
        cut_short(documents / f"{name}.jsonl.gz")
    with pytest.raises(CorpusError, match=r"no file of documents is left, all 4 are bad\. .*d\.js"):
        tokenise(store, documents, Limits(bad_files=4))


def test_texts_that_are_none_are_under_a_limit_and_those_that_are_empty_are_not(
    store: Store, tmp_path: Path
) -> None:
    folder = tmp_path / "documents"
    folder.mkdir()
    bad, empty = [{"text": 7}, {"other": 1}], [{"text": None}, {"text": ""}, {"text": "  "}] * 12
    body = b"".join(json.dumps(row).encode() + b"\n" for row in [*bad, *empty])
    (folder / "a.jsonl").write_bytes(LINE * 62 + body)
    said = (
        r"2 of 100 rows of .* not documents, more than 1 % \(corpus\.bad_rows\): 2 'text' is not a "
        r"string; .*:63: .* set corpus\.bad_rows to 0\.02\. The first are in quarantine/"
    )
    with pytest.raises(CorpusError, match=said):
        tokenise(store, folder, Limits(0.01))
    tokenise(store, folder, Limits(0.02))
    manifest = CorpusManifest.read(store)
    assert manifest is not None
    [report] = manifest.files
    assert report["reasons"] == {"'text' is not a string": 2}
    assert report["why_passed_over"] == {"its text is empty or white space": 36}
    [key] = report["quarantine"]
    kept = [json.loads(line) for line in store.read(key).splitlines()]
    assert [json.loads(one["raw"]) for one in kept] == bad
    assert [text.split("; the first is ")[0] for text in lost_rows(manifest)] == [
        "corpus: 2 rows are no documents, and left out, of 1 file",
        "corpus: 36 documents are without text, and left out, of 1 file",
    ]


def test_empty_texts_are_no_matter_of_strictness_but_something_has_to_be_left(
    store: Store, tmp_path: Path
) -> None:
    folder = tmp_path / "documents"
    folder.mkdir()
    (folder / "a.jsonl").write_bytes(b'{"text": ""}\n' * 9)
    tokenise(store, folder, STRICT)
    with pytest.raises(CorpusError, match=r"2 tokens; left out: 9 documents without text\."):
        Corpus.open(store)
    (folder / "b.jsonl").write_bytes(LINE)
    tokenise(store, folder, STRICT)
    assert Corpus.open(store).n_sequences == 1


def test_files_without_rows_are_named(store: Store, tmp_path: Path) -> None:
    folder = tmp_path / "documents"
    folder.mkdir()
    (folder / "a.jsonl").write_bytes(LINE)
    (folder / "b.jsonl").write_bytes(b"")
    (folder / "c.csv").write_text("id,text\n")
    (folder / "d.json.gz").write_bytes(gzip.compress(b"[]"))
    (folder / "e").write_bytes(b"")
    assert find_files([str(folder)], lambda _: {}).line == "1 empty (e)"
    tokenise(store, folder, STRICT)
    manifest = CorpusManifest.read(store)
    assert manifest is not None
    names = [f"{folder}/{name}" for name in ("b.jsonl", "c.csv", "d.json.gz")]
    assert manifest.without_rows == names
    said = f"corpus: 3 files of documents have no rows: {', '.join(names)}."
    assert lost_rows(manifest) == [said]
    assert f"files without rows ({', '.join(names)})" in left_out(manifest)


@pytest.mark.parametrize(
    ("name", "body", "number", "raw"),
    [
        ("a.csv", b'id,text\n1,a\n2,"x\ny",z\n', 2, '2,"x\ny",z\n'),
        ("a.csv", b"id,text\n1,a\n2,\xff\n", 2, "2,\\xff\n"),
        ("a.tsv", b'id\ttext\n1\t"a"b\n', 1, '1\t"a"b\n'),
        ("a.txt", b"a \xff b", 1, "a \\xff b"),
        ("a.json", b'[{"text": 5, "id": "x"}]', 1, '{"text": 5, "id": "x"}'),
    ],
)
def test_a_row_is_kept_as_its_file_has_it(
    store: Store, tmp_path: Path, name: str, body: bytes, number: int, raw: str
) -> None:
    folder = tmp_path / "documents"
    folder.mkdir()
    (folder / name).write_bytes(body)
    tokenise(store, folder, Limits(1))
    [key] = store.list("quarantine")
    [kept] = [json.loads(line) for line in store.read(key).splitlines()]
    assert kept["place"] == f"{folder / name}:{number}"
    assert kept["raw"] == raw


def test_a_row_of_a_table_is_kept_as_json(store: Store, tmp_path: Path) -> None:
    folder = tmp_path / "documents"
    folder.mkdir()
    table = pa.table({"text": pa.array([1], pa.int32()), "when": pa.array([5], pa.date32())})
    pq.write_table(table, folder / "a.parquet")
    tokenise(store, folder, Limits(1))
    [key] = store.list("quarantine")
    assert json.loads(json.loads(store.read(key))["raw"]) == {"text": 1, "when": "1970-01-06"}


def test_what_is_kept_of_a_row_is_bounded(store: Store, tmp_path: Path) -> None:
    folder = tmp_path / "documents"
    folder.mkdir()
    long = json.dumps({"text": 1, "other": "x" * 10**6, "list": ["y" * 10**6]}).encode()
    (folder / "a.jsonl").write_bytes(LINE * 9 + long + b"\n" + long[:-9] + b"\n\xff" + long + b"\n")
    tokenise(store, folder, Limits(3), part_bytes=10**9)
    [key] = store.list("quarantine")
    kept = [json.loads(line)["raw"] for line in store.read(key).splitlines()]
    assert [len(raw) for raw in kept[:2]] == [4096, 4096]
    assert kept[2].startswith("\\xff{")
    assert len(kept[2]) < 4200


@pytest.mark.parametrize("key", ["bad_rows", "bad_files"])
def test_a_limit_is_a_share_or_a_count(key: str) -> None:
    for good in (0, 0.25, 1, 7):
        config = RunConfig.parse({"model": "m", "run": "r", "corpus": {key: good}})
        assert getattr(config.corpus, key) == good
    for bad in (1.5, -1, "many"):
        with pytest.raises(ConfigError, match=key):
            RunConfig.parse({"model": "m", "run": "r", "corpus": {key: bad}})


def test_the_command_says_what_is_left_out_and_strict_leaves_out_nothing(
    tmp_path: Path, say: Callable[..., tuple[int, str, str]]
) -> None:
    config = tiny_run(tmp_path, 200, runner={"name": "inline"})
    with (tmp_path / "documents.jsonl").open("a") as file:
        file.write('{"text": 3}\n')
    path = tmp_path / "run.yaml"
    path.write_text(json.dumps(config.model_dump()))
    code, _, errors = say("tokenize", path, "--strict")
    assert (code, "1 of 201 rows" in errors, "more than none" in errors) == (4, True, True)
    code, _, errors = say("tokenize", path)
    assert code == 0
    assert "left out: 1 rows that are no documents" in " ".join(errors.split())
