"""Objects in the place of others of their kind, whole as they are: the same bytes in the end."""

import shutil
from collections.abc import Iterator
from itertools import pairwise, permutations
from pathlib import Path
from typing import Any

import pytest
from whole_runs import Contents, Done, Execute, results_of

import rayinfluence
from rayinfluence.testing import tiny_run

pytestmark = pytest.mark.runs


def spoiled(body: bytes) -> Iterator[bytes]:
    """What may become of an object on a disk."""
    flipped = bytearray(body)
    flipped[-1] ^= 1
    yield from (b"", body[:-30], bytes(len(body)), bytes(flipped))


def forget_the_fit(run: Path, *readers: str) -> None:
    """As if it had been killed before those that read what was exchanged."""
    [manifest] = (run / "factors").glob("*/manifest.json")
    manifest.unlink()
    for reader in ("modules", *readers):
        shutil.rmtree(manifest.parent / reader)


@pytest.mark.parametrize(
    ("pattern", "readers"),
    [
        ("covariance/round-0", ("eigen", "moments")),
        ("moments/round-0", ()),
        ("eigen/round-0/inputs", ("moments",)),
        ("eigen/round-0/outputs", ("moments",)),
    ],
)
def test_parts_of_a_fit_that_are_exchanged_are_made_again(
    done: Done, execute: Execute, contents: Contents, pattern: str, readers: tuple[str, ...]
) -> None:
    folder, config = done
    run, before = folder / "run", contents(folder / "run")
    parts = sorted((run / "factors").glob(f"*/{pattern}/*.safetensors"))
    same_shape = [(a, b) for a, b in permutations(parts, 2) if a.stat().st_size == b.stat().st_size]
    one, other = same_shape[0] if same_shape else parts[:2]
    shutil.copy(one, other)
    forget_the_fit(run, *readers)
    shutil.rmtree(run / "results")
    execute(config)
    assert contents(run) == before


def lose_results(run: Path, *more: str) -> None:
    for name in ("results", *more):
        shutil.rmtree(run / name)


@pytest.mark.parametrize("again", [(), ("rescored",), ("scan", "rescored")])
def test_a_query_in_the_place_of_another_is_made_again(
    done: Done, execute: Execute, contents: Contents, said: Any, again: tuple[str, ...]
) -> None:
    folder, config = done
    run, before = folder / "run", contents(folder / "run")
    one, other, *_ = sorted((run / "queries").glob("*/*"))
    shutil.copy(one, other)
    lose_results(run, *again)
    execute(config)
    assert contents(run) == before
    assert "1 damaged objects are made again now" in said.getvalue()


@pytest.mark.parametrize("how", range(4), ids=["emptied", "truncated", "zeros", "flipped"])
def test_a_damaged_query_is_made_again(
    done: Done, execute: Execute, contents: Contents, how: int
) -> None:
    folder, config = done
    run, before = folder / "run", contents(folder / "run")
    victim = sorted((run / "queries").glob("*/*"))[0]
    victim.write_bytes(list(spoiled(victim.read_bytes()))[how])
    lose_results(run, "rescored")
    execute(config)
    assert contents(run) == before


def test_a_damaged_query_that_is_asked_no_more_is_not_in_the_way(
    done: Done, execute: Execute
) -> None:
    """What was found of the others is what a run of them alone finds, up to rounding."""
    folder, config = done
    queries = folder / "queries.jsonl"
    _, *others = queries.read_text().splitlines()
    before = rayinfluence.load_results(config.run)
    for victim in (folder / "run" / "queries").glob("*/*"):
        victim.write_bytes(victim.read_bytes()[:-30])
    queries.write_text("\n".join(others) + "\n")
    found = execute(config)["ekfac"]
    assert list(found.queries) == list(before.queries)[1:]
    for query in found.queries:
        expected = {one.sequence_id: one.score for one in before.proponents(query)}
        scores = {one.sequence_id: one.score for one in found.proponents(query)}
        assert scores == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("rows", [False, True], ids=["survivors", "rows of tables"])
def test_what_was_rescored_is_made_again_when_it_is_exchanged(
    tmp_path: Path,
    execute: Execute,
    contents: Contents,
    monkeypatch: pytest.MonkeyPatch,
    rows: bool,
) -> None:
    """Rows of sequences and of survivors for each other, too."""
    monkeypatch.setattr("rayinfluence.dataflow.stages.second_pass._BATCHES", 1)
    monkeypatch.setattr("rayinfluence.dataflow.stages.gathering._PIECE_ROWS", 8)
    monkeypatch.setattr("rayinfluence.dataflow.stages.tables._PIECE_ROWS", 4)
    config = tiny_run(tmp_path)
    execute(config)
    run, before = tmp_path / "run", contents(tmp_path / "run")
    paths = sorted(p for p in (run / "rescored").iterdir() if (".rows." in p.name) == rows)
    assert len(paths) > 2
    shutil.copy(paths[0], run / "kept")
    for one, other in pairwise([*paths, run / "kept"]):
        shutil.copy(other, one)
    (run / "kept").unlink()
    shutil.rmtree(results_of(run))
    execute(config)
    assert contents(run) == before


def test_no_broken_bit_of_rows_ends_a_run(done: Done, execute: Execute, contents: Contents) -> None:
    """Wherever it is: Parquet has no checksum of the footer, which ends its file."""
    folder, config = done
    run, before = folder / "run", contents(folder / "run")
    victim = max((run / "rescored").glob("*.rows.*"), key=lambda path: path.stat().st_size)
    body = victim.read_bytes()
    assert body.endswith(b"PAR1")
    for back in (1, 5, 200, 1000, len(body) // 2):
        damaged = bytearray(body)
        damaged[-back] ^= 0x80
        victim.write_bytes(damaged)
        shutil.rmtree(results_of(run))
        execute(config)
        assert contents(run) == before
