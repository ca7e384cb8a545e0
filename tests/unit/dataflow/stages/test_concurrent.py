"""Two processes that plan or tokenise into one place at once."""

import io
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from rayinfluence.config import ScanConfig
from rayinfluence.corpus.files import Found
from rayinfluence.corpus.fragments import Logged
from rayinfluence.corpus.manifest import CorpusManifest
from rayinfluence.corpus.ordinals import Making, Ordinals, length_of_log, read_entries
from rayinfluence.corpus.tokenize import TokenizeSettings
from rayinfluence.dataflow.compute.replica import Numerics, Replica
from rayinfluence.dataflow.jobs.banks import BankPlan
from rayinfluence.dataflow.runners.inline import InlineRunner
from rayinfluence.dataflow.stages import tokenize as tokenizing
from rayinfluence.dataflow.stages.progress import ProgressLog
from rayinfluence.dataflow.stages.queries import MethodQueries, plan_banks
from rayinfluence.dataflow.stages.tokenize import tokenize_files
from rayinfluence.errors import CorpusError
from rayinfluence.storage.store import Store, read_json
from rayinfluence.testing import tiny_tokenizer
from rayinfluence.testing.runs import write_documents

NUMERICS = Numerics("float32", "cpu", 64, 120, "sdpa", 0)
SETTINGS = TokenizeSettings("text", "id", 32, 48, 10_000)


@pytest.fixture(params=["local", "s3"])
def root(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    if request.param == "local":
        return Store(str(tmp_path / "run"))
    return Store("s3://bucket/run", request.getfixturevalue("s3"))


def plan(root: Store, queries: list[str]) -> list[BankPlan]:
    method = MethodQueries("ekfac", "ekfac", "abc", {}, root / "queries/abc")
    return plan_banks(root, [method], queries, ScanConfig(), NUMERICS)


def test_of_planners_at_once_one_makes_the_bank_and_the_others_take_it(
    root: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    n_planners = 8
    looked, made = threading.Barrier(n_planners), []
    look, create = Store.list, Store.create

    def look_together(store: Store, prefix: str = "") -> Any:
        found = look(store, prefix)
        looked.wait()  # none has made a bank when the last has looked
        return found

    def observed(store: Store, key: str, body: bytes) -> bool:
        made.append(create(store, key, body))
        return made[-1]

    monkeypatch.setattr(Store, "list", look_together)
    monkeypatch.setattr(Store, "create", observed)
    with ThreadPoolExecutor(n_planners) as pool:
        plans = list(pool.map(lambda _: plan(root, ["q1", "q2"]), range(n_planners)))
    assert sorted(made) == [False] * (n_planners - 1) + [True]
    assert all(banks == plans[0] for banks in plans)
    assert look(root / "scan").keys() == {f"{plans[0][0].fingerprint}/manifest.json"}


def test_a_planner_who_saw_other_banks_leaves_the_winner_s_manifest_alone(
    root: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    create = Store.create
    others: list[list[BankPlan]] = []

    def late(store: Store, key: str, body: bytes) -> bool:
        if not others:
            others.append([])  # the others plan between our look and our creation
            others[0] = plan(root, ["elsewhere"]) + plan(root, ["q1", "q2"])
        return create(store, key, body)

    monkeypatch.setattr(Store, "create", late)
    (ours,) = plan(root, ["q1", "q2"])
    assert ours == others[0][1]
    assert read_json(ours.store, "manifest.json")["ordinal"] == 1  # ours would have been 0
    (again,) = plan(root, ["q1", "q2"])
    assert again == ours


@pytest.fixture
def tokenise(tmp_path: Path) -> Callable[..., None]:
    """Tokenise files of these names into a store."""
    tokenizer = tiny_tokenizer()

    def no_model() -> Replica:
        raise AssertionError("tokenising needs no model")

    def run(store: Store, *names: str, settings: TokenizeSettings = SETTINGS) -> None:
        for name in names:
            path = tmp_path / "documents" / name
            path.parent.mkdir(exist_ok=True)
            if not path.exists():
                write_documents(path, np.random.default_rng(len(name)), 10)
        files = Found([Store(str(tmp_path / "documents" / name)) for name in names])
        progress = ProgressLog(Console(file=io.StringIO()))
        runner = lambda: InlineRunner(no_model)  # noqa: E731
        tokenize_files(runner, files, store, tokenizer, settings, progress, lambda *_: None)

    return run


def files_of(root: Store) -> list[str]:
    manifest = CorpusManifest.read(root)
    assert manifest is not None
    return [report["url"].rsplit("/", 1)[-1] for report in manifest.files]


def test_a_tokeniser_joins_another_that_was_faster(
    root: Store, tokenise: Callable[..., None], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    names = ("a.jsonl", "bb.jsonl", "ccc.jsonl")
    alone = Store(str(tmp_path / "alone"))
    tokenise(alone, *names)
    append, calls = Ordinals.append, []

    def late(self: Ordinals, files: Any) -> None:
        calls.append(files)
        if len(calls) == 1:
            monkeypatch.setattr(Ordinals, "append", append)
            tokenise(root, *names)  # another does it all before we enter our first file
        append(self, files)

    monkeypatch.setattr(Ordinals, "append", late)
    tokenise(root, *names)
    assert calls
    assert CorpusManifest.read(root) == CorpusManifest.read(alone)
    assert root.list("fragments").keys() == alone.list("fragments").keys()
    assert {k: root.read(k) for k in root.list("shards")} == {
        k: alone.read(k) for k in alone.list("shards")
    }


def test_tokenisers_at_once_make_one_corpus(
    root: Store, tokenise: Callable[..., None], tmp_path: Path
) -> None:
    names = ("a.jsonl", "bb.jsonl", "ccc.jsonl")
    alone = Store(str(tmp_path / "alone"))
    tokenise(alone, *names)
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda _: tokenise(root, *names), range(4)))
    assert CorpusManifest.read(root) == CorpusManifest.read(alone)


def test_tokenisers_of_different_files_at_once_lose_none(
    root: Store, tokenise: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    names = [["a.jsonl", "bb.jsonl"], ["ccc.jsonl", "dddd.jsonl"], ["eeeee.jsonl"]]
    started, read = threading.Barrier(len(names)), tokenizing.read_logbook

    def look_together(store: Store) -> Any:
        found = read(store)
        started.wait()  # all of them have seen an empty corpus
        return found

    monkeypatch.setattr(tokenizing, "read_logbook", look_together)
    with ThreadPoolExecutor(len(names)) as pool:
        list(pool.map(lambda mine: tokenise(root, *mine), names))
    found = files_of(root)
    assert sorted(found) == sorted(name for mine in names for name in mine)
    for mine in names:
        assert [name for name in found if name in mine] == mine


def test_of_many_that_enter_files_at_once_each_ordinal_is_given_once(root: Store) -> None:
    making = Making("tokenizer", SETTINGS)
    n_writers, n_each = 4, 3
    start = threading.Barrier(n_writers)

    def enter(writer: int) -> None:
        ordinals = Ordinals(root, making, (), {})
        start.wait()
        for number in range(n_each):
            # What all of them bring is entered once.
            ordinals.append([Logged(f"{n}", f"{n}", "") for n in (f"{writer}-{number}", number)])

    with ThreadPoolExecutor(n_writers) as pool:
        list(pool.map(enter, range(n_writers)))
    entries = read_entries(root, 0, length_of_log(root))
    urls = [file.url for entry in entries for file in entry.files]
    assert len(urls) == len(set(urls)) == n_writers * n_each + n_each
    for writer in range(n_writers):
        mine = [url for url in urls if url.startswith(f"{writer}-")]
        assert mine == [f"{writer}-{number}" for number in range(n_each)]


def test_a_tokeniser_with_other_settings_does_not_enter_its_files_beside_a_faster_one_s(
    root: Store, tokenise: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    append = Ordinals.append

    def late(self: Ordinals, files: Any) -> None:
        monkeypatch.setattr(Ordinals, "append", append)
        tokenise(root, "a.jsonl")
        append(self, files)

    monkeypatch.setattr(Ordinals, "append", late)
    other = TokenizeSettings("text", "id", 16, 48, 10_000)
    with pytest.raises(CorpusError, match="other settings"):
        tokenise(root, "a.jsonl", settings=other)
    manifest = CorpusManifest.read(root)
    assert manifest is not None
    assert manifest.settings == SETTINGS
    assert len(manifest.files) == 1
