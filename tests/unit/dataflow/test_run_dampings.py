"""Several dampings in one run: one pass, factors once, results of each as of a run of its own."""

import csv
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from whole_runs import Change, Contents, Execute, partials, times

import rayinfluence
from rayinfluence.config import RunConfig
from rayinfluence.dataflow.run import Run
from rayinfluence.errors import ConfigError, StorageError
from rayinfluence.report import render_page
from rayinfluence.storage.results import Results, method_tables
from rayinfluence.testing import tiny_run

pytestmark = pytest.mark.runs

Say = Callable[..., tuple[int, str, str]]
METHODS = ["ekfac", "self_influence", "gradient_product", "bm25"]
NAMES = ["ekfac@0.1", "ekfac@0.01", "self_influence@0.1", "self_influence@0.01"]
SCAN: dict[str, Any] = {"methods": METHODS, "scores": "dense", "damping_scale": [0.1, 0.01]}
#: Those that have no damping.
UNDAMPED = ["gradient_product", "bm25"]


@pytest.fixture(scope="module")
def several(tmp_path_factory: pytest.TempPathFactory) -> tuple[RunConfig, dict[str, Results]]:
    """A run at two dampings; nobody may change it."""
    config = tiny_run(tmp_path_factory.mktemp("several"), 30, scan=SCAN)
    with Run(config) as run:
        return config, run.all()


def rows(table: pa.Table) -> pa.Table:
    """A table without what its metadata says of the version that it is of."""
    return table.replace_schema_metadata(None)


def test_each_damping_has_results_as_of_a_run_of_its_own(
    several: tuple[RunConfig, dict[str, Results]], execute: Execute, change: Change, tmp_path: Path
) -> None:
    config, found = several
    assert list(found) == [*NAMES, *UNDAMPED]
    for scale in (0.1, 0.01):
        alone = change(config, run=str(tmp_path / str(scale)), scan={"damping_scale": scale})
        for method, theirs in execute(alone).items():
            name = method if method in UNDAMPED else f"{method}@{scale:g}"
            ours = rayinfluence.load_results(config.run, name)
            assert ours.method == name
            for query_id in theirs.queries:
                assert ours.scores(query_id).equals(theirs.scores(query_id))
            for part in ("groups", "statistics", "tails"):
                assert rows(getattr(ours, part)).equals(rows(getattr(theirs, part)))
            # Company in batches of the second pass changes the last bits of what it finds.
            same = ["query_id", "sequence_id", "direction", "scan_rank", "scan_score"]
            assert ours.survivors.select(same).equals(theirs.survivors.select(same))
            wanted = pytest.approx(theirs.survivors["score"].to_pylist(), rel=1e-5)
            assert ours.survivors["score"].to_pylist() == wanted
            told = theirs.manifest["methods"][method]
            assert ours.manifest["methods"][name]["damping"] == told["damping"]
            assert ours.manifest["methods"][name]["banks"] == told["banks"]
    assert found["ekfac@0.1"].scores("q0") != found["ekfac@0.01"].scores("q0")


def test_a_list_takes_up_what_a_number_left_and_the_other_way(
    tmp_path: Path, execute: Execute, change: Change, contents: Contents
) -> None:
    config = tiny_run(tmp_path, 20)
    alone = execute(config)["ekfac"]
    before, run = contents(tmp_path / "run"), tmp_path / "run"
    written = times(run)
    both = change(config, scan={"damping_scale": [0.1, 0.01]})
    found = execute(both)
    assert list(found) == ["ekfac@0.1", "ekfac@0.01"]
    after = times(run)
    assert after.items() >= written.items()
    new = after.keys() - written.keys()
    assert not [key for key in new if key.startswith("factors/")]
    assert len([key for key in new if "/partials/" in key]) == len(
        [key for key in written if "/partials/" in key]
    )
    # Of one damping alone, and as a number, it is other results with names of their own.
    named = execute(change(config, scan={"damping_scale": [0.1]}))
    assert list(named) == ["ekfac@0.1"]
    assert execute(config)["ekfac"].manifest["fingerprint"] == alone.manifest["fingerprint"]
    assert contents(run).items() >= before.items()
    assert partials(run).items() == {k: t for k, t in after.items() if "/partials/" in k}.items()
    with pytest.raises(ConfigError, match=r"a scan by ekfac that was made otherwise: .*0\.5, was"):
        execute(change(config, scan={"damping_scale": 0.5}))
    with pytest.raises(ConfigError, match=r"a scan by ekfac@0\.1 that was made .*rank: 2, was 4"):
        execute(change(both, scan={"rank": 2}))


def test_commands_take_their_names(
    several: tuple[RunConfig, dict[str, Results]],
    say: Say,
    copy_of: Callable[..., RunConfig],
    tmp_path: Path,
) -> None:
    source = several[0]
    folder = tmp_path / "copy"
    run = copy_of(Path(source.run).parent, source, folder).run
    code, printed, _ = say("report", run, "--method", "ekfac@0.01", "--query", "q0")
    assert (code, printed.splitlines()[0]) == (0, "q0  by ekfac@0.01")
    code, _, errors = say("report", run, "--method", "ekfac")
    assert code == 2
    assert f"--method ekfac: the results are by {', '.join(NAMES)}, gradient_product" in errors
    two = ["--method", "ekfac@0.1", "--method", "ekfac@0.01"]
    found = json.loads(say("report", run, *two, "--json")[1])
    assert [side["method"] for side in found["sides"]] == ["ekfac@0.1", "ekfac@0.01"]
    code, printed, _ = say("report", run, "--method", "ekfac@0.01", "--csv", "-")
    assert code == 0
    hits = list(csv.DictReader(io.StringIO(printed)))
    assert len(hits) == several[1]["ekfac@0.01"].survivors.num_rows
    code, printed, _ = say("plot", run, "--method", "ekfac@0.01", "--out", folder / "plots")
    assert code == 0
    assert (folder / "plots" / "tail-1-q0-ekfac@0.01.svg").exists()
    code, printed, _ = say("status", run)
    assert code == 0
    assert "damping_scale 0.1," in printed
    assert "damping_scale 0.01," in printed
    assert ", ".join([*NAMES, *UNDAMPED]) in printed
    code, printed, _ = say("probe", run, "--method", "ekfac@0.01", "--text", "w1 w2 w3", "--json")
    assert (code, json.loads(printed)["method"]) == (0, "ekfac@0.01")
    code, printed, _ = say("ask", run, "w1 w2", " w3", "--json")
    assert code == 0
    assert list(json.loads(printed)["methods"])[:2] == NAMES[:2]
    assert say("clean", run, "--stage", "results", "--yes")[0] == 0
    for table in method_tables("ekfac@0.01"):
        assert not list(Path(run).rglob(table))


def test_the_page_says_which_is_which(several: tuple[RunConfig, dict[str, Results]]) -> None:
    page = render_page(several[1])
    for name in NAMES:
        assert name in page
    assert "0.1 and 0.01 times the mean of a module" in page


def test_candidates_may_be_a_damping_of_another_run(
    several: tuple[RunConfig, dict[str, Results]],
    execute: Execute,
    change: Change,
    tmp_path: Path,
) -> None:
    source = several[0]
    corpus = {"documents": [], "path": f"{source.run}/corpus"}
    wanted = {"run": source.run, "method": "ekfac@0.01", "top": 3}
    scan = {"methods": ["bm25"], "candidates": wanted, "scores": "survivors"}
    config = change(source, run=str(tmp_path / "run"), corpus=corpus, scan=scan)
    found = execute(config)["bm25"]
    best = several[1]["ekfac@0.01"].survivors
    among = set(best.filter(pa.compute.less_equal(best["rank"], 3))["sequence_id"].to_pylist())
    assert set(found.survivors["sequence_id"].to_pylist()) <= among
    assert found.manifest["filter"]["method"] == "ekfac@0.01"
    with pytest.raises(ConfigError, match=r"has no results by ekfac; it has ekfac@0\.1"):
        execute(
            change(config, scan={"candidates": {**wanted, "method": "ekfac"}}, run=f"{tmp_path}/b")
        )


def test_a_forecast_counts_each(tmp_path: Path, change: Change) -> None:
    config = tiny_run(tmp_path, 20, scan={**SCAN, "scores": "survivors", "token_influences": 1})
    work = []
    for scale in (0.1, [0.1, 0.01]):
        with Run(change(config, run=f"{tmp_path}/{scale}", scan={"damping_scale": scale})) as run:
            work.append(run.plan(1).work)
    one, two = work
    assert (one.n_banks, one.n_themselves) == (2, 1)
    assert (two.n_banks, two.n_themselves) == (3, 2)
    assert (one.fit_tokens, one.moment_tokens) == (two.fit_tokens, two.moment_tokens)


def test_results_that_are_not_there_are_told_with_those_that_are(
    several: tuple[RunConfig, dict[str, Results]],
) -> None:
    with pytest.raises(StorageError, match=r"no results of method 'kfac'; it has ekfac@0\.1, ekf"):
        rayinfluence.load_results(several[0].run, "kfac")
