"""A lane that is cut short goes on from its own sums, to the same bytes."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from rayinfluence.config import RunConfig
from rayinfluence.corpus.splits import read_split
from rayinfluence.dataflow.compute.folding import Fold
from rayinfluence.dataflow.jobs import fold
from rayinfluence.dataflow.jobs.checkpoint import Checkpoint
from rayinfluence.dataflow.run import Run
from rayinfluence.errors import StageError
from rayinfluence.model.rows import Rows
from rayinfluence.storage.store import Store
from rayinfluence.testing import tiny_run

pytestmark = pytest.mark.runs

Contents = Callable[[Path], dict[str, bytes]]


def fit(config: RunConfig) -> None:
    with Run(config) as run:
        run.tokenize()
        run.fit()


@pytest.mark.parametrize("reads", [1, 4, 9, 14, 20])
@pytest.mark.parametrize("model", ["gpt2", "bad"])
def test_a_lane_goes_on_where_it_was_and_to_the_same_bytes(
    reads: int,
    model: str,
    tmp_path: Path,
    contents: Contents,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in ("alone", "cut"):
        (tmp_path / name).mkdir()
    settings: dict[str, Any] = {"fit": {"lanes": 2, "error_bound": None}}
    undisturbed = tiny_run(tmp_path / "alone", **settings)
    config = tiny_run(tmp_path / "cut", **settings, runner={"checkpoint_seconds": 0})
    monkeypatch.setattr("rayinfluence.dataflow.jobs.checkpoint._SHARE", 1e9)  # after every split
    if model == "bad":
        poison(monkeypatch)
    fit(undisturbed)

    seen: list[str] = []

    def read(store: Store, split: Any) -> Any:
        if len(seen) == reads:
            raise KeyboardInterrupt
        seen.append(split.digest)
        return read_split(store, split)

    with monkeypatch.context() as patch:
        patch.setattr(fold, "read_split", read)
        with pytest.raises(KeyboardInterrupt):
            fit(config)
    before = len(seen)
    again: list[str] = []

    def counted(store: Store, split: Any) -> Any:
        again.append(split.digest)
        return read_split(store, split)

    with monkeypatch.context() as patch:
        patch.setattr(fold, "read_split", counted)
        fit(config)
    ours, theirs = contents(Path(config.run)), contents(Path(undisturbed.run))
    assert ours == theirs
    if model == "gpt2":
        # Two passes over the sample, and what was folded before the interrupt is not read again.
        n_splits = len(set(seen) | set(again))
        assert before + len(again) == 2 * n_splits


def poison(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the gradients of one sequence infinite in every lane, so that lanes begin again."""
    from rayinfluence.dataflow.compute import folding

    original = folding._checked

    def checked(step: Any, finite: Any) -> Any:
        inner = original(step, finite)

        def poisoned(batch: Any, name: str, rows: Rows) -> None:
            bad = [row for row, i in enumerate(batch.sequence_ids.tolist()) if i in (17, 18)]
            if bad:
                grads = rows.grads_BRO.clone()
                grads[bad] = float("inf")
                rows = replace(rows, grads_BRO=grads)
            inner(batch, name, rows)

        return poisoned

    monkeypatch.setattr(folding, "_checked", checked)
    # Two of sixty is more than the share at which a fit gives up.
    monkeypatch.setattr("rayinfluence.dataflow.compute.quarantine.QUARANTINE_LIMIT", 0.5)


def test_a_checkpoint_of_other_splits_or_a_damaged_one_is_not_used(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    kept = Checkpoint(store, "lane-000.safetensors", "lane", 0)
    kept.offer(lambda: Fold({}, 3, 40, 500, {7: "too long"}))
    assert kept.read() == Fold({}, 3, 40, 500, {7: "too long"})
    assert kept.n_splits() == 3
    other = Checkpoint(store, "lane-000.safetensors", "another", 0)
    assert (other.read(), other.n_splits()) == (None, 0)
    body = store.read("lane-000.checkpoint")
    store.write("lane-000.checkpoint", body[:-3].replace(b"500", b"501"))
    assert kept.read() is None
    kept.drop()
    assert kept.n_splits() == 0
    assert store.list() == {}


def test_checkpoints_take_a_small_share_of_the_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = [0.0]
    monkeypatch.setattr("rayinfluence.dataflow.jobs.checkpoint.time.monotonic", lambda: clock[0])
    kept = Checkpoint(Store(str(tmp_path)), "lane-000.safetensors", "lane", 60)
    made = []

    def fold() -> Fold:
        made.append(clock[0])
        clock[0] += 30  # a large one
        return Fold({})

    for _ in range(2000):
        kept.offer(fold)
        clock[0] += 1
    assert made[0] == 60
    assert 30 * len(made) < 0.06 * clock[0]


def test_a_lane_whose_workers_die_at_one_place_ends_the_fit(tmp_path: Path) -> None:
    from rayinfluence.dataflow.jobs.watch import LocalWatch, begin_or_refuse

    watch = LocalWatch(lambda tokens: None)
    for _ in range(2):
        begin_or_refuse(watch, "lane 3")
    with pytest.raises(StageError, match=r"lane 3: the 2 workers that began it died.*batch_tokens"):
        begin_or_refuse(watch, "lane 3")
