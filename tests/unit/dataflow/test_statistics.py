"""What a scan says of all scores: sums, concentration, histograms, and the scores themselves."""

import json
import math
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

import rayinfluence
from rayinfluence.cli import main
from rayinfluence.config import RunConfig
from rayinfluence.errors import StorageError
from rayinfluence.storage.results import STATISTICS_SCHEMA, TAIL_SCHEMA, Results
from rayinfluence.testing import tiny_run

Execute = Callable[..., dict[str, Results]]
Change = Callable[..., RunConfig]
Done = tuple[Path, RunConfig]

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def dense(tmp_path_factory: pytest.TempPathFactory) -> RunConfig:
    """A run that keeps all scores; nobody may change it."""
    config = tiny_run(tmp_path_factory.mktemp("dense"), 300, scan={"scores": "dense"})
    rayinfluence.run(config)
    return config


def of_query(results: Results, query_id: str) -> dict:
    (row,) = [r for r in results.statistics.to_pylist() if r["query_id"] == query_id]
    return row


def all_scores(results: Results, query_id: str) -> np.ndarray:
    return results.scores(query_id)["score"].to_numpy()


# Statistics are those of all scores.


def test_counts_and_sums_are_over_all_sequences(dense: RunConfig) -> None:
    results = rayinfluence.load_results(dense.run)
    assert results.statistics.schema.equals(STATISTICS_SCHEMA)
    assert results.statistics["query_id"].to_pylist() == list(results.queries)
    for query_id in results.queries:
        row, scores = of_query(results, query_id), all_scores(results, query_id)
        assert row["n_sequences"] == len(scores) == results.manifest["n_sequences"]
        assert row["n_positive"] == (scores > 0).sum()
        assert row["n_negative"] == (scores < 0).sum()
        assert row["positive_sum"] == pytest.approx(scores[scores > 0].sum(dtype=float), rel=1e-6)
        assert row["negative_sum"] == pytest.approx(scores[scores < 0].sum(dtype=float), rel=1e-6)


def test_the_share_of_the_top_1_percent_is_within_its_bound(dense: RunConfig) -> None:
    results = rayinfluence.load_results(dense.run)
    for query_id in results.queries:
        row, scores = of_query(results, query_id), all_scores(results, query_id)
        largest = np.sort(scores[scores > 0].astype(float))[::-1]
        share = largest[: math.ceil(len(scores) / 100)].sum() / largest.sum()
        assert abs(row["top_1_percent_share"] - share) <= row["top_1_percent_share_error"] + 1e-6
        assert 0 <= row["top_1_percent_share_error"] < 0.02


def test_the_law_is_fitted_on_the_largest_percent(dense: RunConfig) -> None:
    results = rayinfluence.load_results(dense.run)
    for query_id in results.queries:
        row, scores = of_query(results, query_id), all_scores(results, query_id)
        assert row["tail_count"] == (scores >= row["tail_start"]).sum()
        assert row["tail_count"] >= len(scores) / 100
        if row["tail_exponent"] is not None:
            assert row["tail_exponent"] > 1


def test_histograms_hold_every_score_once(dense: RunConfig) -> None:
    results = rayinfluence.load_results(dense.run)
    assert results.tails.schema.equals(TAIL_SCHEMA)
    for query_id in results.queries:
        scores = all_scores(results, query_id).astype(float)
        rows = [r for r in results.tails.to_pylist() if r["query_id"] == query_id]
        for sign in (1, -1):
            ours = [row for row in rows if row["sign"] == sign]
            sizes = (sign * scores)[sign * scores > 0]
            assert sum(row["count"] for row in ours) == len(sizes)
            assert [row["lower"] for row in ours] == sorted(row["lower"] for row in ours)
            for row in ours:
                assert row["upper"] / row["lower"] == pytest.approx(2 ** (1 / 16))
                inside = (sizes >= row["lower"] * (1 - 1e-7)) & (sizes < row["upper"] * (1 + 1e-7))
                assert row["count"] <= inside.sum()
                assert row["lower"] <= row["sum"] / row["count"] <= row["upper"]


# All scores.


def test_all_scores_are_those_of_the_scan(dense: RunConfig) -> None:
    results = rayinfluence.load_results(dense.run)
    for query_id in results.queries:
        scores = results.scores(query_id)
        ids = scores["sequence_id"].to_pylist()
        assert ids == sorted(set(ids))
        by_id = dict(zip(ids, scores["score"].to_pylist(), strict=True))
        hits = results.proponents(query_id) + results.opponents(query_id)
        assert len(hits) == 10
        for hit in hits:
            assert by_id[hit.sequence_id] == np.float32(hit.scan_score)
        by_rank = sorted(results.proponents(query_id), key=lambda hit: hit.scan_rank)
        order = sorted(ids, key=lambda i: (-by_id[i], i))
        assert [hit.sequence_id for hit in by_rank] == order[:5]


def test_a_file_of_scores_lies_beside_each_partial(dense: RunConfig) -> None:
    (bank,) = Path(dense.run, "scan").iterdir()
    names = [{path.stem for path in (bank / kind).iterdir()} for kind in ("partials", "scores")]
    assert names[0] == names[1]
    assert len(names[0]) > 5
    for path in (bank / "partials").iterdir():
        scores = bank / "scores" / f"{path.stem}.parquet"
        assert scores.stat().st_mtime_ns <= path.stat().st_mtime_ns
        digests = json.loads((bank / "manifest.json").read_text())["query_digests"]
        assert pq.read_schema(scores).names == ["sequence_id", *digests]


def test_asking_for_all_scores_later_scans_again_to_the_same_results(
    done: Done, execute: Execute, change: Change
) -> None:
    _, config = done
    first = rayinfluence.load_results(config.run)
    with pytest.raises(StorageError, match=r"survivors alone: set `scan\.scores: dense`"):
        first.scores("q0")
    later = execute(change(config, scan={"scores": "dense"}), new_run=True)["ekfac"]
    assert later.table.equals(first.table)
    assert later.statistics.equals(first.statistics)
    assert len(later.scores("q0")) == first.manifest["n_sequences"]
    assert len(list(Path(config.run, "scan").iterdir())) == 2


def test_scores_of_added_queries_and_documents_are_found(
    done: Done, execute: Execute, change: Change
) -> None:
    """In a second bank, and in splits of a second shard."""
    folder, config = done
    config = change(config, scan={"scores": "dense"})
    before = execute(config, new_run=True)["ekfac"].scores("q1")
    with (folder / "queries.jsonl").open("a") as file:
        file.write('{"query_id": "new", "prompt": "w1 w2", "completion": " w3 w4"}\n')
    (folder / "more.jsonl").write_text('{"text": "w3 w4 w5 w6", "source": "delta"}\n')
    documents = [*config.corpus.documents, str(folder / "more.jsonl")]
    results = execute(change(config, corpus={"documents": documents}))["ekfac"]
    for query_id in ("q1", "new"):
        assert len(results.scores(query_id)) == len(before) + 1 == results.manifest["n_sequences"]
    assert results.scores("q1").slice(0, len(before)).equals(before)


def test_lost_scores_are_an_error_that_says_how_to_make_them_again(
    done: Done, execute: Execute, change: Change
) -> None:
    config = change(done[1], scan={"scores": "dense"})
    before = execute(config, new_run=True)["ekfac"].scores("q0")
    next(Path(config.run).glob("scan/*/scores/*")).unlink()
    with pytest.raises(StorageError, match=r"does not exist\. .*`rayinfluence clean") as caught:
        rayinfluence.load_results(config.run).scores("q0")
    (command,) = re.findall("`rayinfluence (.*?)`", str(caught.value))
    with pytest.raises(SystemExit, match="0"):
        main([*command.split(), "--yes"])
    assert execute(config, new_run=True)["ekfac"].scores("q0").equals(before)
    with pytest.raises(StorageError, match="no query 'nobody'"):
        rayinfluence.load_results(config.run).scores("nobody")


def test_the_documented_ways_of_reading_scores(
    dense: RunConfig, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    text = (ROOT / "docs/reference.md").read_text()
    found = re.search(r"<!-- snippet: scores -->\n```python\n(.*?)```", text, re.DOTALL)
    assert found
    monkeypatch.chdir(Path(dense.run).parent)
    Path("runs").mkdir()
    Path("runs/mine").symlink_to(dense.run)
    exec(compile(found.group(1), "reference.md", "exec"), {})
    printed = capsys.readouterr().out
    best = max(rayinfluence.load_results(dense.run).proponents("q0"), key=lambda h: h.scan_score)
    assert str(best.sequence_id) in printed


# Groups.


def test_groups_of_several_keys_count_what_is_missing(tmp_path: Path, execute: Execute) -> None:
    config = tiny_run(tmp_path, 1, scan={"group_by": ["source", "license", "language"]})
    rows = [
        {"text": "w1 w2 w3", "source": "web", "license": "MIT", "language": "en"},
        {"text": "w2 w3 w4", "source": "web", "license": None, "language": "fr"},
        {"text": "w3 w4 w5", "source": "books", "language": "en"},
        {"text": "w4 w5 w6"},
    ]
    (tmp_path / "documents.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n")
    results = execute(config)["ekfac"]
    counts = {
        (row["column"], row["value"]): row["n_sequences"]
        for row in results.groups.to_pylist()
        if row["query_id"] == "q0"
    }
    assert counts == {
        ("source", "web"): 2,
        ("source", "books"): 1,
        ("source", ""): 1,
        ("license", "MIT"): 1,
        ("license", ""): 3,
        ("language", "en"): 2,
        ("language", "fr"): 1,
        ("language", ""): 1,
    }
    for query_id in results.queries:
        statistics = of_query(results, query_id)
        for key in ("source", "license", "language"):
            ours = [
                row
                for row in results.groups.to_pylist()
                if (row["query_id"], row["column"]) == (query_id, key)
            ]
            for side in ("positive_sum", "negative_sum"):
                assert sum(row[side] for row in ours) == pytest.approx(statistics[side], rel=1e-12)
