"""Objects that are lost or damaged, and runs that are killed: the same bytes in the end."""

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from whole_runs import (
    TABLES,
    Change,
    Contents,
    Done,
    Execute,
    add_query,
    partials,
    results_of,
    times,
)

import rayinfluence
from rayinfluence.dataflow.compute.scoring import query_gradient
from rayinfluence.dataflow.run import Run
from rayinfluence.dataflow.stages.progress import ProgressLog
from rayinfluence.errors import NumericsError, RayInfluenceError, StorageError
from rayinfluence.storage.results import Results
from rayinfluence.storage.store import Store
from rayinfluence.testing import tiny_run

pytestmark = pytest.mark.runs

# Damage.


def spoil(path: Path) -> None:
    body = bytearray(path.read_bytes())
    body[-1] ^= 1
    path.write_bytes(body)


@pytest.mark.parametrize("how", ["truncated", "flipped", "emptied", "deleted", "exchanged"])
def test_a_damaged_partial_is_scored_again_to_the_same_bytes(
    done: Done, execute: Execute, contents: Contents, how: str, said: Any
) -> None:
    folder, config = done
    run, before, written = folder / "run", contents(folder / "run"), partials(folder / "run")
    key, other = sorted(written)[3:5]
    path = run / key
    if how == "truncated":
        path.write_bytes(path.read_bytes()[:-40])
    elif how == "flipped":
        spoil(path)
    elif how == "emptied":
        path.write_bytes(b"")
    elif how == "deleted":
        path.unlink()
    else:
        shutil.copy(run / other, path)
    shutil.rmtree(run / "results")
    execute(config)
    assert contents(run) == before
    after = partials(run)
    assert after.pop(key) != written.pop(key)
    assert after == written
    assert ("1 damaged partials were discarded" in said.getvalue()) == (how != "deleted")


def test_what_killed_writers_left_is_gone_after_the_next_run(
    done: Done, execute: Execute, contents: Contents
) -> None:
    folder, config = done
    run, before = folder / "run", contents(folder / "run")
    [bank] = (run / "scan").iterdir()
    for place in (run, run / "corpus" / "shards", bank / "partials"):
        stale = place / f".{place.name}.part"
        stale.write_bytes(b"half")
        os.utime(stale, (0, 0))
    execute(config)
    assert contents(run) == before


@pytest.mark.parametrize("kind", ["covariance", "eigen", "moments", "modules"])
@pytest.mark.parametrize("how", ["deleted", "flipped"])
def test_a_fit_goes_on_from_what_is_whole(
    done: Done, execute: Execute, contents: Contents, kind: str, how: str
) -> None:
    folder, config = done
    run, before = folder / "run", contents(folder / "run")
    [manifest] = (run / "factors").glob("*/manifest.json")
    manifest.unlink()  # as if the fit had been killed before its end
    shutil.rmtree(run / "results")
    victim = sorted(path for path in (manifest.parent / kind).rglob("*") if path.is_file())[-2]
    touched = str(victim.relative_to(run))
    untouched = {k: t for k, t in times(run).items() if f"/{kind}/" in k and k != touched}
    if how == "deleted":
        victim.unlink()
    else:
        spoil(victim)
        # Damage is found by who reads it: what came after it is not there yet.
        readers = {"covariance": "eigen", "eigen": "moments", "moments": "modules"}
        reader = manifest.parent / readers[kind] if kind in readers else run / "rescored"
        shutil.rmtree(reader)
    execute(config)
    assert contents(run) == before
    if kind != "modules":
        assert {key: times(run)[key] for key in untouched} == untouched


@pytest.mark.parametrize("how", ["lost", "flipped"])
def test_factors_that_lost_a_file_are_completed(
    done: Done, execute: Execute, contents: Contents, said: Any, how: str
) -> None:
    folder, config = done
    [victim, *_] = sorted((folder / "run" / "factors").glob("*/modules/*"))
    before = contents(folder / "run")
    if how == "lost":
        victim.unlink()
    else:
        spoil(victim)
    add_query(folder)
    execute(config)
    after = contents(folder / "run")
    assert after.items() >= {k: b for k, b in before.items() if "results/" not in k}.items()
    assert (f"{victim.name} is damaged" in said.getvalue()) == (how == "flipped")


@pytest.mark.parametrize("last", ["ekfac-tails.parquet", "manifest.json", "results/manifest.json"])
def test_results_of_other_settings_are_beside_and_do_not_mix(
    done: Done, execute: Execute, change: Change, monkeypatch: pytest.MonkeyPatch, last: str
) -> None:
    """Whenever another run with other settings is killed, or writes, ours are ours."""
    folder, config = done
    before = rayinfluence.load_results(config.run)
    tables = {name: (results_of(folder / "run") / name).read_bytes() for name in TABLES}
    write, spool = Store.write, Store.spool

    def refuse(key: str) -> None:
        if key.endswith(last) and key.startswith("results/"):
            raise KeyboardInterrupt

    def killed(store: Store, key: str, body: bytes) -> None:
        refuse(key)
        write(store, key, body)

    def killed_at_once(store: Store, key: str) -> Any:
        refuse(key)
        return spool(store, key)

    other = change(config, scan={"top": 3})
    with monkeypatch.context() as patch:
        patch.setattr(Store, "write", killed)
        patch.setattr(Store, "spool", killed_at_once)
        with pytest.raises(KeyboardInterrupt):
            execute(other, new_run=True)
    ours = rayinfluence.load_results(config.run)
    assert ours.manifest == before.manifest
    assert {name: (results_of(folder / "run") / name).read_bytes() for name in TABLES} == tables
    # Done, they are the current ones, and those before them are still to be had.
    execute(other, new_run=True)
    current = rayinfluence.load_results(config.run)
    assert len(current.proponents("q0")) == 3
    version = before.manifest["fingerprint"]
    earlier = rayinfluence.load_results(config.run, version=version)
    assert earlier.table.equals(before.table)
    store = Store(config.run)
    assert set(Results.versions(store)) == {version, current.manifest["fingerprint"]}
    with pytest.raises(StorageError, match=f"has no results 'x'; it has .*{version}"):
        rayinfluence.load_results(config.run, version="x")
    # The earlier settings bring theirs back, and nothing is computed.
    written = times(folder / "run" / "results")
    execute(config)
    assert rayinfluence.load_results(config.run).manifest == before.manifest
    assert times(folder / "run" / "results") == written


def test_a_query_that_could_not_be_made_can_be_taken_out(
    done: Done, execute: Execute, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, config = done
    before = (folder / "queries.jsonl").read_text()
    add_query(folder, "good", "w3 w4")
    kept = (folder / "queries.jsonl").read_text()
    add_query(folder, "bad", "w5 w6")

    def refuse(replica: Any, query: Any) -> Any:
        if query.query.query_id == "bad":
            raise NumericsError("query 'bad': its gradient is not finite.")
        return query_gradient(replica, query)

    with monkeypatch.context() as patch:
        patch.setattr("rayinfluence.dataflow.jobs.query.query_gradient", refuse)
        with pytest.raises(NumericsError):
            execute(config)
    (folder / "queries.jsonl").write_text(kept)
    found = execute(config)["ekfac"].table["query_id"].unique().to_pylist()
    assert found == ["q0", "q1", "q2", "good"]
    assert before in kept


@pytest.mark.parametrize("kind", ["eigen", "moments"])
def test_a_fit_that_stopped_early_is_mended(
    tmp_path: Path, execute: Execute, contents: Contents, kind: str
) -> None:
    few = {"row_group_tokens": 24}
    config = tiny_run(tmp_path, corpus=few, fit={"lanes": 3, "error_bound": 50.0})
    execute(config)
    run = tmp_path / "run"
    before = contents(run)
    [manifest] = (run / "factors").glob("*/manifest.json")
    parts = json.loads(manifest.read_text())
    assert len(parts["rounds"]) == 3, "two in a row, and nothing to compare the first with"
    assert parts["n_sequences"] < 50, "of some 90"
    for victim in (kind, "modules"):
        spoil(next(path for path in (manifest.parent / victim).rglob("*") if path.is_file()))
    shutil.rmtree(run / "results")
    shutil.rmtree(run / "queries")
    execute(config)
    assert contents(run) == before


@pytest.mark.parametrize(
    "pattern",
    ["factors/*/manifest.json", "scan/*/manifest.json"],
)
def test_a_damaged_manifest_is_an_error_that_names_it(
    done: Done, execute: Execute, pattern: str
) -> None:
    folder, config = done
    [victim] = (folder / "run").glob(pattern)
    victim.write_bytes(victim.read_bytes()[:-30])
    add_query(folder)
    with pytest.raises(RayInfluenceError, match=rf"{victim.name} is damaged: .* Delete it"):
        execute(config)
    victim.unlink()
    execute(config)


@pytest.mark.parametrize(
    ("pattern", "old", "new"),
    [
        ("factors/*/manifest.json", '"n_sequences": ', '"n_sequences": 1'),
        ("scan/*/manifest.json", '"ordinal": 0', '"ordinal": 3'),
    ],
)
def test_a_figure_that_changed_in_a_manifest_is_damage(
    done: Done, execute: Execute, pattern: str, old: str, new: str
) -> None:
    folder, config = done
    [victim] = (folder / "run").glob(pattern)
    victim.write_text(victim.read_text().replace(old, new, 1))
    add_query(folder)
    with pytest.raises(RayInfluenceError, match=rf"{victim.name} is damaged: it is not what was"):
        execute(config)


def test_a_manifest_of_another_bank_is_damage(done: Done, execute: Execute) -> None:
    folder, config = done
    add_query(folder)
    execute(config)
    one, other = (folder / "run").glob("scan/*/manifest.json")
    shutil.copy(one, other)
    with pytest.raises(RayInfluenceError, match=r"manifest.json is damaged: it is another bank's"):
        execute(config)
    other.unlink()
    execute(config)


@pytest.mark.parametrize("pattern", ["results/manifest.json", "results/*/manifest.json"])
def test_a_damaged_manifest_of_results_is_made_again(
    done: Done, execute: Execute, contents: Contents, pattern: str
) -> None:
    folder, config = done
    before = contents(folder / "run")
    [victim] = (folder / "run").glob(pattern)
    victim.write_bytes(victim.read_bytes()[:-30])
    execute(config)
    assert contents(folder / "run") == before
    assert json.loads(victim.read_text())["tables"]


@pytest.mark.parametrize("name", ["ekfac.parquet", "sequences.parquet", "ekfac-tails.parquet"])
@pytest.mark.parametrize("how", ["truncated", "flipped", "exchanged"])
def test_a_damaged_table_is_made_again_by_the_next_run(
    done: Done, execute: Execute, contents: Contents, name: str, how: str
) -> None:
    folder, config = done
    before = contents(folder / "run")
    victim = results_of(folder / "run") / name
    if how == "truncated":
        victim.write_bytes(victim.read_bytes()[:-30])
    elif how == "flipped":
        spoil(victim)
    else:
        shutil.copy(victim.with_name("queries.parquet"), victim)
    execute(config)
    assert contents(folder / "run") == before


@pytest.mark.parametrize("pattern", ["stages.json", "preflight/*.json"])
@pytest.mark.parametrize("how", ["truncated", "emptied", "another key"])
def test_a_damaged_note_of_what_is_derived_ends_no_run(
    done: Done, execute: Execute, pattern: str, how: str
) -> None:
    folder, config = done
    [victim] = (folder / "run").glob(pattern)
    body = victim.read_bytes()
    key = b'"seconds"' if pattern == "stages.json" else b'"causality"'
    key = key if key in body else body[body.index(b'"') : body.index(b'":') + 1]
    damaged = {"truncated": body[:-30], "emptied": b"", "another key": body.replace(key, b'"x"')}
    victim.write_bytes(damaged[how])
    add_query(folder)
    execute(config)
    kept = json.loads(victim.read_text())
    assert set(kept) >= ({"scan", "tables"} if pattern == "stages.json" else set(json.loads(body)))
    assert b'"x"' not in victim.read_bytes()


def dying(patch: pytest.MonkeyPatch, after: int) -> list[int]:
    """Have the process die when it would write once more; how many writes are left."""
    write, spool, left = Store.write, Store.spool, [after]

    def count() -> None:
        if left[0] == 0:
            raise KeyboardInterrupt
        left[0] -= 1

    def counted(self: Store, key: str, body: bytes) -> None:
        count()
        write(self, key, body)

    def counted_at_once(self: Store, key: str) -> Any:
        count()
        return spool(self, key)

    patch.setattr(Store, "write", counted)
    patch.setattr(Store, "spool", counted_at_once)
    return left


@pytest.fixture(scope="module")
def n_writes(tmp_path_factory: pytest.TempPathFactory) -> int:
    """Of a whole run."""
    config = tiny_run(tmp_path_factory.mktemp("counted"))
    with (
        pytest.MonkeyPatch.context() as patch,
        Run(config, ProgressLog(Console(quiet=True))) as run,
    ):
        left = dying(patch, 10**6)
        run.all()
    return 10**6 - left[0]


#: Of the writes of a run; negative from its end, where tables are written.
@pytest.mark.parametrize("writes", [1, 5, 12, 18, 24, 33, -11, -8, -6, -3, -1])
def test_a_run_that_is_killed_anywhere_goes_on_to_the_same_bytes(
    finished: Done,
    tmp_path: Path,
    execute: Execute,
    contents: Contents,
    monkeypatch: pytest.MonkeyPatch,
    n_writes: int,
    writes: int,
) -> None:
    config = tiny_run(tmp_path)
    with monkeypatch.context() as patch:
        dying(patch, writes % n_writes)
        with pytest.raises(KeyboardInterrupt):
            execute(config)
    written = times(tmp_path / "run")
    execute(config)
    assert contents(tmp_path / "run") == contents(finished[0] / "run")
    after = times(tmp_path / "run")
    again = {key for key, time in written.items() if after.get(key, time) != time}
    # A round's bases go when the next round has its own. Only the factors' last step and tables,
    # which are cheap, and shards without a manifest are done twice.
    assert all("/modules/" in key or key.startswith(("corpus/", "results/")) for key in again)
