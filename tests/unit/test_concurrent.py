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
from rayinfluence.corpus.corpus import CorpusManifest
from rayinfluence.corpus.files import Found
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
    method = MethodQueries("ekfac", "abc", {}, root / "queries/abc")
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
        tokenize_files(lambda: InlineRunner(no_model), files, store, tokenizer, settings, progress)

    return run


def test_a_tokeniser_joins_another_that_was_faster(
    root: Store, tokenise: Callable[..., None], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    names = ("a.jsonl", "bb.jsonl", "ccc.jsonl")
    alone = Store(str(tmp_path / "alone"))
    tokenise(alone, *names)
    append, calls = tokenizing._append, []

    def late(*arguments: Any) -> None:
        calls.append(arguments)
        if len(calls) == 1:
            monkeypatch.setattr(tokenizing, "_append", append)
            tokenise(root, *names)  # another does it all before we append our first file
        append(*arguments)
        assert root.read("manifest.json") == alone.read("manifest.json")

    monkeypatch.setattr(tokenizing, "_append", late)
    tokenise(root, *names)
    assert calls
    assert root.read("manifest.json") == alone.read("manifest.json")
    assert {k: root.read(k) for k in root.list()} == {k: alone.read(k) for k in alone.list()}


def test_tokenisers_at_once_make_one_corpus(
    root: Store, tokenise: Callable[..., None], tmp_path: Path
) -> None:
    names = ("a.jsonl", "bb.jsonl", "ccc.jsonl")
    alone = Store(str(tmp_path / "alone"))
    tokenise(alone, *names)
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda _: tokenise(root, *names), range(4)))
    assert root.read("manifest.json") == alone.read("manifest.json")


def test_a_tokeniser_with_other_settings_does_not_overwrite_a_faster_one(
    root: Store, tokenise: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    append = tokenizing._append

    def late(*arguments: Any) -> None:
        monkeypatch.setattr(tokenizing, "_append", append)
        tokenise(root, "a.jsonl")
        append(*arguments)

    monkeypatch.setattr(tokenizing, "_append", late)
    other = TokenizeSettings("text", "id", 16, 48, 10_000)
    with pytest.raises(CorpusError, match="other settings"):
        tokenise(root, "a.jsonl", settings=other)
    manifest = CorpusManifest.read(root)
    assert manifest is not None
    assert manifest.settings == SETTINGS
