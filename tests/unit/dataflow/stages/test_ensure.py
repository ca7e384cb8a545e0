"""What is lacking of a stage is made, and nothing else."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
from rich.console import Console

from rayinfluence.dataflow.stages.ensure import Lacking, Place, Stage, ensure
from rayinfluence.dataflow.stages.progress import ProgressLog, StageProgress
from rayinfluence.errors import StorageError
from rayinfluence.storage.store import Store

ITEMS = ["a", "b", "c"]


class Made:
    """A stage whose items have an outcome in each of two folders, by a worker that can be told how.

    Args:
        store: where outcomes go.
        write: what a worker does with one outcome, in place of writing it.
    """

    def __init__(self, store: Store, write: Callable[[Place], None] | None = None) -> None:
        self.asked: list[list[tuple[str, tuple[int, ...]]]] = []
        self.given_up: set[str] = set()
        self.said = io.StringIO()
        self._store = store
        self._write = write or (lambda place: place.store.write(place.key, b""))
        self.stage = Stage(
            "making",
            ITEMS,
            self.places,
            self.work,
            n_tokens=lambda item: 10,
            kept=lambda item: 4 if item == "b" else 0,
            given_up=self.given_up.__contains__,
        )

    def places(self, item: str) -> list[Place]:
        return [Place(self._store, f"one/{item}"), Place(self._store / "other", f"x/{item}")]

    def work(self, lacking: Sequence[Lacking[str]], told: StageProgress) -> Iterator[None]:
        self.asked.append([(one.item, one.outcomes) for one in lacking])
        for one in lacking:
            for number in one.outcomes:
                self._write(self.places(one.item)[number])
            told.advance(10)
            yield

    def ensure(self) -> ProgressLog:
        progress = ProgressLog(Console(file=self.said))
        ensure(self.stage, progress)
        return progress


def test_only_what_is_lacking_is_made(tmp_path: Path) -> None:
    made = Made(Store(str(tmp_path)))
    for place in (*made.places("a"), made.places("b")[1]):
        place.store.write(place.key, b"")
    made.ensure()
    assert made.asked == [[("b", (0,)), ("c", (0, 1))]]
    assert made.stage.lacking() == []
    made.ensure()
    assert len(made.asked) == 1, "nothing is asked of a stage that is done"


def test_what_was_done_before_does_not_count_as_work(tmp_path: Path) -> None:
    made = Made(Store(str(tmp_path)))
    for place in made.places("a"):
        place.store.write(place.key, b"")
    assert made.ensure().timings["making"].tokens == 20


def test_a_listing_is_made_once_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    listed, original = [], Store.list

    def counted(self: Store, prefix: str = "") -> object:
        listed.append(f"{self.url}/{prefix}")
        return original(self, prefix)

    made = Made(Store(str(tmp_path)))
    monkeypatch.setattr(Store, "list", counted)
    made.stage.lacking()
    assert sorted(listed) == [f"{tmp_path}/one", f"{tmp_path}/other/x"]


def test_a_stage_may_say_itself_what_of_a_listing_is_done(tmp_path: Path) -> None:
    """What an outcome is called is known when it is made, and an empty one does not count."""
    store = Store(str(tmp_path))
    store.write("one/a-17", b"whole")
    store.write("one/b-4", b"")
    asked: list[str] = []

    def work(lacking: Sequence[Lacking[str]], told: StageProgress) -> Iterator[None]:
        for one in lacking:
            asked.append(one.item)
            store.write(f"one/{one.item}-{len(asked)}", b"whole")
            yield

    stage = Stage(
        "making",
        ITEMS,
        lambda item: [Place(store, f"one/{item}-")],
        work,
        there=lambda listing: {f"{k.rpartition('-')[0]}-" for k, of in listing.items() if of.size},
    )
    ensure(stage, ProgressLog(Console(file=io.StringIO())))
    assert asked == ["b", "c"]
    assert stage.lacking() == []


def test_what_is_given_up_is_not_tried_again(tmp_path: Path) -> None:
    made = Made(Store(str(tmp_path)))
    made.given_up |= {"a", "b"}
    made.ensure()
    assert made.asked == [[("c", (0, 1))]]


def test_what_a_worker_lost_is_made_again(tmp_path: Path) -> None:
    lost = iter([True] + [False] * 10)

    def write(place: Place) -> None:
        if not next(lost):
            place.store.write(place.key, b"")

    made = Made(Store(str(tmp_path)), write)
    made.ensure()
    assert made.asked[1:] == [[("a", (0,))]]


def test_a_worker_that_writes_elsewhere_ends_the_stage(tmp_path: Path) -> None:
    made = Made(Store(str(tmp_path)), lambda place: None)
    with pytest.raises(StorageError, match=r"one/a was written, and is not there\."):
        made.ensure()
    assert len(made.asked) == 2
