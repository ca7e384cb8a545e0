"""What could go on for ever, or end late, ends soon, and says what to look at."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from whole_runs import Done, Execute

from rayinfluence.config import RunConfig
from rayinfluence.dataflow.compute import scoring
from rayinfluence.dataflow.compute.partial import Partial
from rayinfluence.dataflow.compute.quarantine import Bad
from rayinfluence.dataflow.jobs import scan as job_module
from rayinfluence.dataflow.layout import mark_key, marked
from rayinfluence.dataflow.run import Run
from rayinfluence.dataflow.runners.ray.actors import _settled, left_out_of
from rayinfluence.dataflow.stages import missing as missing_module
from rayinfluence.errors import CorpusError, StorageError
from rayinfluence.storage import tensors as tensors_module
from rayinfluence.storage.store import Store
from rayinfluence.testing import tiny_run

pytestmark = pytest.mark.runs


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, RunConfig]:
    """A run that is done but for its scan; nobody may change it."""
    folder = tmp_path_factory.mktemp("fitted")
    config = tiny_run(folder, 200)
    with Run(config) as run:
        run.tokenize()
        run.fit()
    return folder, config


@pytest.fixture
def fitted(
    source: tuple[Path, RunConfig], copy_of: Callable[..., RunConfig], tmp_path: Path
) -> RunConfig:
    return copy_of(*source, tmp_path / "copy")


def flip(path: Path) -> None:
    body = bytearray(path.read_bytes())
    body[-1] ^= 1
    path.write_bytes(body)


def bad_disk(monkeypatch: pytest.MonkeyPatch, concerns: Callable[[str], bool]) -> list[str]:
    """A disk that damages some objects whenever they are written; returns which, as it does."""
    spoiled: list[str] = []
    original = Store.write

    def write(self: Store, key: str, body: bytes) -> None:
        original(self, key, body)
        place = f"{self.url}/{key}"
        if concerns(place):
            spoiled.append(place)
            flip(Path(place))

    monkeypatch.setattr(Store, "write", write)
    return spoiled


AGAIN = r"{} is damaged again after it was made again: .* Look at the disk .* proxy"


def test_a_partial_that_is_damaged_each_time_ends_the_scan(
    fitted: RunConfig, execute: Execute, monkeypatch: pytest.MonkeyPatch
) -> None:
    victims: list[str] = []

    def first(place: str) -> bool:
        if "/partials/" in place and not victims:
            victims.append(place)
        return place in victims

    spoiled = bad_disk(monkeypatch, first)
    with pytest.raises(StorageError, match=AGAIN.format(r".*/partials/\w+\.safetensors")):
        execute(fitted)
    assert spoiled == victims * 2


def test_workers_that_write_elsewhere_end_the_scan(
    fitted: RunConfig, execute: Execute, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """As nodes do that have a folder of the same name on a disk of their own."""
    written: list[str] = []
    original = job_module.write_partial

    def elsewhere(partial: Partial, store: Store, key: str) -> None:
        written.append(key)
        original(partial, Store(str(tmp_path / "node")), key)

    monkeypatch.setattr(job_module, "write_partial", elsewhere)
    with pytest.raises(StorageError, match=r"partials/.* not there\. Either something"):
        execute(fitted)
    assert len(written) == 2 * len(set(written))


def test_survivors_that_are_damaged_each_time_end_the_second_pass(
    fitted: RunConfig, execute: Execute, monkeypatch: pytest.MonkeyPatch
) -> None:
    spoiled = bad_disk(monkeypatch, lambda place: "/rescored/" in place and ".rows." not in place)
    with pytest.raises(StorageError, match=AGAIN.format(r".*/rescored/\w+\.safetensors")):
        execute(fitted)
    assert len(spoiled) == 2 * len(set(spoiled))


def test_a_fit_whose_sums_are_damaged_each_time_ends(
    tmp_path: Path, execute: Execute, monkeypatch: pytest.MonkeyPatch
) -> None:
    spoiled = bad_disk(
        monkeypatch, lambda p: "/covariance/" in p and p.endswith("lane-000.safetensors")
    )
    with pytest.raises(StorageError, match=AGAIN.format(r".*/covariance/.*\.safetensors")):
        execute(tiny_run(tmp_path))
    assert len(spoiled) == 2


def test_what_is_done_of_a_fit_is_seen_without_reading_it(
    done: Done, execute: Execute, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, config = done
    [manifest] = (folder / "run" / "factors").glob("*/manifest.json")
    manifest.unlink()
    whole: list[str] = []
    original = Store.read

    def read(self: Store, key: str) -> bytes:
        whole.append(key)
        return original(self, key)

    monkeypatch.setattr(tensors_module.Store, "read", read)
    with Run(config) as run:
        run.fit()
    assert not [key for key in whole if key.startswith("covariance/")]


def overflowing(
    monkeypatch: pytest.MonkeyPatch, share: float, place: int | None = None
) -> list[int]:
    """Some share of all sequences has no finite score, for one query or all; counts splits."""
    original, splits = scoring.finite_scores, []

    def spoiled(found: Any, n_queries: int, quarantine: Any) -> Any:
        splits.append(1)
        for batch, scores in found:
            bad = batch.sequence_ids % 1000 < 1000 * share
            scores[np.ix_(bad, range(n_queries) if place is None else [place])] = np.inf
        return original(found, n_queries, quarantine)

    monkeypatch.setattr(scoring, "finite_scores", spoiled)
    return splits


@pytest.mark.parametrize("place", [None, 1])
def test_many_scores_that_are_not_finite_end_the_scan_as_soon_as_it_is_sure(
    fitted: RunConfig, execute: Execute, monkeypatch: pytest.MonkeyPatch, place: int | None
) -> None:
    splits = overflowing(monkeypatch, 1.0, place)
    sentence = r"\d+ of \d+ sequences cannot be used, more than 1%; the first is sequence 0: its "
    sentence += "influence is not finite" + ("" if place is None else r", for query 'q\d'")
    with pytest.raises(CorpusError, match=sentence):
        execute(fitted)
    n_splits, stopped = len(_partials(fitted)), len(splits)
    assert (n_splits, stopped) == (1, 2)  # the next was under way
    headers = _headers_read(monkeypatch)
    with pytest.raises(CorpusError, match=sentence):
        execute(fitted)
    assert len(splits) == stopped, "a split was scored although it was sure before"
    assert len(headers) == 1


def test_a_scan_that_was_killed_counts_what_it_has(
    fitted: RunConfig, execute: Execute, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two splits together are over the limit, and the first is of an earlier driver."""
    ids: dict[int, int] = {}
    original = scoring.finite_scores

    def spoiled(found: Any, n_queries: int, quarantine: Any) -> Any:
        ids[len(ids)] = first = min(int(batch.sequence_ids.min()) for batch, _ in found)
        for batch, scores in found:
            some = (batch.sequence_ids >= first) & (batch.sequence_ids < first + 2)
            scores[some] = np.nan
        if len(ids) == kill_at:
            raise KeyboardInterrupt
        return original(found, n_queries, quarantine)

    monkeypatch.setattr(scoring, "finite_scores", spoiled)
    kill_at = 2
    with pytest.raises(KeyboardInterrupt):
        execute(fitted)
    assert len(_partials(fitted)) == 1
    kill_at = 0
    headers = _headers_read(monkeypatch)
    with pytest.raises(CorpusError, match=r"4 of \d+ sequences cannot be used"):
        execute(fitted)
    assert len(_partials(fitted)) == 2
    assert len(headers) == 1


def test_few_scores_that_are_not_finite_cost_no_read(
    fitted: RunConfig, execute: Execute, monkeypatch: pytest.MonkeyPatch
) -> None:
    overflowing(monkeypatch, 0.001)
    execute(fitted)
    [bank] = Path(fitted.run, "scan").iterdir()
    assert len(list((bank / "missing").iterdir())) == 1
    headers = _headers_read(monkeypatch)
    partial = sorted((bank / "partials").iterdir())[0]
    partial.unlink()
    Path(fitted.run, "results", "manifest.json").unlink()
    for manifest in Path(fitted.run, "results").glob("*/manifest.json"):
        manifest.unlink()
    execute(fitted)
    assert partial.exists()
    assert headers == []


def test_a_query_that_overflows_can_be_taken_out(
    fitted: RunConfig, execute: Execute, monkeypatch: pytest.MonkeyPatch
) -> None:
    overflowing(monkeypatch, 1.0, 1)
    with pytest.raises(CorpusError, match="for query") as caught:
        execute(fitted)
    name = str(caught.value).split("for query '")[1].split("'")[0]
    queries = Path(str(fitted.queries))
    lines = queries.read_text().splitlines()
    queries.write_text("\n".join(line for line in lines if f'"{name}"' not in line) + "\n")
    found = execute(fitted)["ekfac"]
    assert name not in found.queries
    assert found.manifest["methods"]["ekfac"]["quarantined"] == []


def test_what_a_split_left_out_travels_to_the_driver() -> None:
    left_out = {0: {7: Bad("why", (0, 2), 9), 8: Bad("all")}, 3: {}}
    table = _settled([(4, None, None), (5, "reason", None)], [left_out, {}])
    first, second = table.to_pylist()
    assert left_out_of(first) == left_out
    assert left_out_of(second) == {}
    assert left_out_of(_settled([(-1, "lost", "StorageError")]).to_pylist()[0]) == {}
    assert marked(mark_key("a" * 32, 12)) == ("a" * 32, 12)


def _partials(config: RunConfig) -> list[Path]:
    return list(Path(config.run).glob("scan/*/partials/*"))


def _headers_read(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    keys: list[str] = []
    original = missing_module.read_header

    def read(store: Store, key: str) -> dict[str, Any]:
        keys.append(key)
        return original(store, key)

    monkeypatch.setattr(missing_module, "read_header", read)
    return keys
