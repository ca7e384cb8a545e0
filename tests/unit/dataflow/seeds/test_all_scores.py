"""Means of all scores by splits, beside the same in one piece."""

import json
import tracemalloc
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pyarrow as pa
import pytest
from numpy.typing import NDArray

from rayinfluence.dataflow.compute.partial import Partial
from rayinfluence.dataflow.seeds import all_scores
from rayinfluence.dataflow.seeds.all_scores import means_of_all
from rayinfluence.dataflow.seeds.sources import Source
from rayinfluence.storage.digest import digest
from rayinfluence.storage.results import Results, error_column, scores_key
from rayinfluence.storage.store import Store, read_table, write_table

Scores = NDArray[np.float32]


def written(
    folder: Path, scores_NQ: Scores, cuts: list[int], banks: list[list[str]], gone: set[int]
) -> Source:
    """Scores as a run leaves them: NaN are null, sequences that are gone have no row."""
    store = Store(str(folder))
    queries = [query for bank in banks for query in bank]
    splits = [digest(["split", folder.name, start]) for start in [0, *cuts]]
    for bank in banks:
        name = digest(bank)
        told = json.dumps({"query_digests": bank}).encode()
        store.write(f"scan/{name}/manifest.json", told)
        ends = [*cuts, len(scores_NQ)]
        for split, start, end in zip(splits, [0, *cuts], ends, strict=True):
            rows = [row for row in range(start, end) if row not in gone]
            columns = {"sequence_id": pa.array(np.array(rows, np.int64) * 3)}
            for query in bank:
                column = scores_NQ[rows, queries.index(query)]
                columns[query] = pa.array(column, mask=np.isnan(column))
            write_table(store / f"scan/{name}", scores_key(split), pa.table(columns))
    manifest = {
        "fingerprint": folder.name,
        "dense_scores": splits,
        "methods": {"m": {"banks": [digest(bank) for bank in banks]}},
    }
    results = cast(Results, SimpleNamespace(manifest=manifest))
    return Source(folder.name, store, {"m": results})


def random_seeds(generator: np.random.Generator, n: int, n_queries: int) -> list[Scores]:
    common = generator.normal(0, 1, (n, n_queries))
    return [(common + generator.normal(0, 1, (n, n_queries))).astype(np.float32) for _ in range(3)]


@pytest.mark.parametrize("block", [1, 2, 64])
@pytest.mark.parametrize("seed", range(4))
def test_splits_of_any_cut_give_what_numpy_gives_of_all_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int, block: int
) -> None:
    monkeypatch.setattr(all_scores, "_BLOCK", block)
    generator = np.random.default_rng(seed)
    n, queries = 60, ["a" * 32, "b" * 32, "c" * 32]
    sources, whole = [], []
    for place, scores_NQ in enumerate(random_seeds(generator, n, 3)):
        scores_NQ[generator.random(scores_NQ.shape) < 0.05] = np.nan
        gone = set(generator.choice(n, 3, replace=False).tolist())
        cuts = sorted(generator.choice(np.arange(1, n), place + 1, replace=False).tolist())
        banks = [queries] if place < 2 else [queries[1:], queries[:1]]
        in_order = [queries.index(query) for bank in banks for query in bank]
        sources.append(written(tmp_path / f"r{place}", scores_NQ[:, in_order], cuts, banks, gone))
        whole.append(scores_NQ.astype(np.float64))
        whole[-1][sorted(gone)] = np.nan
    stacked_SNQ = np.stack(whole)
    means_NQ = stacked_SNQ.mean(axis=0)
    errors_NQ = stacked_SNQ.std(axis=0, ddof=1) / np.sqrt(3)
    into = Store(str(tmp_path / "into"))
    seen: list[str] = []
    for found in means_of_all(sources, "m", queries, 5, into):
        splits = sources[0].manifest["dense_scores"]
        errors = found.errors(splits)
        for place, query in enumerate(found.query_digests):
            seen.append(query)
            mean_N, error_N = (of[:, queries.index(query)] for of in (means_NQ, errors_NQ))
            check_tables(found.bank, splits, query, mean_N, error_N)
            check_first(found.partial, place, mean_N)
            for i, error in errors[place].items():
                assert error == error_N[i // 3]
            assert set(errors[place]) == set(found.partial.survivors(place).tolist())
            assert found.partial.scored(place)[0] == np.isfinite(mean_N).sum()
    assert seen == queries


def check_tables(bank: Store, splits: list[str], query: str, mean_N: Any, error_N: Any) -> None:
    columns = ["sequence_id", query, error_column(query)]
    table = pa.concat_tables([read_table(bank, scores_key(s), columns) for s in splits])
    rows = table["sequence_id"].to_numpy() // 3
    assert (np.diff(rows) > 0).all()
    assert np.array_equal(table[query].to_numpy(), mean_N[rows], equal_nan=True)
    assert np.array_equal(table[columns[2]].to_numpy(), error_N[rows], equal_nan=True)
    # What is left out has no mean.
    assert np.isnan(np.delete(mean_N, rows)).all()


def check_first(partial: Partial, place: int, mean_N: Any) -> None:
    for sign, side in ((1, partial.proponents), (-1, partial.opponents)):
        scores, ids = side.of_query(place)
        order = sorted((-sign * m, 3 * row) for row, m in enumerate(mean_N) if sign * m > 0)[:5]
        assert [(-s, i) for s, i in zip(scores.tolist(), ids.tolist(), strict=True)] == order
        tail = partial.tails.of_query(place, sign)
        assert tail.count == (sign * mean_N > 0).sum()
        assert tail.total == pytest.approx(abs(mean_N[sign * mean_N > 0]).sum(), rel=1e-12)


def test_memory_does_not_grow_with_the_corpus(tmp_path: Path) -> None:
    queries, rows = [digest(place) for place in range(8)], 400
    peaks = []
    for n_splits in (4, 40):
        generator, n = np.random.default_rng(0), n_splits * rows
        sources = [
            written(
                tmp_path / f"{n_splits}-{place}",
                scores_NQ,
                list(range(rows, n, rows)),
                [queries],
                set(),
            )
            for place, scores_NQ in enumerate(random_seeds(generator, n, len(queries)))
        ]
        tracemalloc.start()
        for found in means_of_all(sources, "m", queries, 5, Store(str(tmp_path / "into"))):
            found.errors(sources[0].manifest["dense_scores"])
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.5 * peaks[0]
