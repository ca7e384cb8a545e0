"""Whole runs whose queries a solver refines: the same scores by all of them, and the same bytes."""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from rich.console import Console
from whole_runs import Change, Contents, Execute, add_query, times

from rayinfluence import load_results
from rayinfluence.config import RunConfig
from rayinfluence.curvature.ekfac import EKFAC
from rayinfluence.dataflow.begin import solver as begin
from rayinfluence.dataflow.compute import solves_foreseen
from rayinfluence.dataflow.compute.refining import Refining
from rayinfluence.dataflow.jobs.watch import observers
from rayinfluence.dataflow.run import Run
from rayinfluence.dataflow.stages.progress import ProgressLog
from rayinfluence.errors import ConfigError
from rayinfluence.report import render_page
from rayinfluence.testing import tiny_run

pytestmark = pytest.mark.runs

#: Ends below any rounding of scores; G is a mean over two lanes.
EXACT = {"sequences": 80, "tolerance": 1e-10, "steps": 600}
SHORT = {"name": "pcg", "sequences": 80, "steps": 4}


def configured(folder: Path, solver: Any, runner: Any = None, **scan: Any) -> RunConfig:
    """588 weights in float64, in batches of some sequences."""
    return tiny_run(
        folder,
        dtype="float64",
        modules=["transformer.h.1.mlp.c_proj"],
        batch_tokens=1024,
        runner={"checkpoint_seconds": 0, **(runner or {})},
        scan={"solver": solver, "split_tokens": 400, **scan},
    )


def done_quietly(config: RunConfig) -> None:
    with Run(config, ProgressLog(Console(file=io.StringIO()))) as run:
        run.all()


@pytest.fixture(scope="module")
def exact(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, RunConfig]:
    """By plain conjugate gradients; all scores of queries at full rank."""
    folder = tmp_path_factory.mktemp("cg")
    config = configured(folder, {"name": "cg", **EXACT}, rank="dense", scores="dense")
    done_quietly(config)
    return folder, config


@pytest.fixture(scope="module")
def short(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, RunConfig]:
    """Four steps, that nobody disturbed."""
    folder = tmp_path_factory.mktemp("pcg")
    config = configured(folder, SHORT)
    done_quietly(config)
    return folder, config


def copied(made: tuple[Path, RunConfig], folder: Path) -> RunConfig:
    source, config = made
    shutil.copytree(source, folder)
    return RunConfig.parse(json.loads(config.model_dump_json().replace(str(source), str(folder))))


def dense(config: RunConfig) -> np.ndarray:
    """All scores [N, Q]."""
    results = load_results(config.run, "ekfac")
    columns = [results.scores(query).to_pandas()["score"] for query in results.queries]
    return np.stack(columns, axis=1)


def solved(config: RunConfig) -> dict[str, dict[str, Any]]:
    """What the manifest says of each query."""
    manifest = load_results(config.run, "ekfac").manifest
    found: dict[str, dict[str, Any]] = manifest["methods"]["ekfac"]["solver"]["queries"]
    return found


@pytest.mark.parametrize(
    "solver", [{"name": "explicit", "sequences": 80}, {"name": "pcg", **EXACT}]
)
def test_dense_scores_are_those_of_an_explicit_solve(
    exact: tuple[Path, RunConfig], tmp_path: Path, solver: Any, change: Change, execute: Execute
) -> None:
    """Of the same factors and the same sample; without any solver they are others."""
    config = copied(exact, tmp_path / "copy")
    expected = dense(config)
    execute(change(config, scan={"solver": solver}), True)
    found = dense(config)
    assert np.abs(found - expected).max() <= 1e-6 * np.abs(expected).max()
    execute(change(config, scan={"solver": None}), True)
    assert np.abs(dense(config) - expected).max() > 0.1 * np.abs(expected).max()


@pytest.mark.parametrize(
    "solver",
    [
        {"name": "astra", "steps": 40},
        {"name": "lissa", "steps": 100, "repeats": 2},
        {"name": "arnoldi", "steps": 60},
        {"name": "pcg", "steps": 200, "curvature": "hessian"},
    ],
    ids=lambda solver: f"{solver['name']}-{solver.get('curvature', '')}",
)
def test_each_solver_comes_nearer(tmp_path: Path, solver: Any, execute: Execute) -> None:
    """The Hessian's lambda makes up for what is negative."""
    of_hessian = {"damping": 30.0} if "curvature" in solver else {}
    execute(config := configured(tmp_path, {"sequences": 80, **solver}, **of_hessian))
    for one in solved(config).values():
        assert one["residual"] < 0.7 * one["residual_before"]


def test_the_manifest_and_the_report_say_how_far_it_came(
    short: tuple[Path, RunConfig],
) -> None:
    results = load_results(short[1].run, "ekfac")
    solver = results.manifest["methods"]["ekfac"]["solver"]
    assert (solver["name"], solver["steps"], solver["sequences"]) == ("pcg", 4, 80)
    for one in solver["queries"].values():
        assert (one["steps"], one["passes"], one["converged"]) == (4, 6, False)
        assert 0 < one["residual"] < one["residual_before"]
        assert 0 < one["lost_by_rank"] < 1
    assert any("pcg left a residual above 0.01 of 3 of 3" in one for one in results.warnings)
    assert "refined by pcg on products of the Gauss-Newton matrix" in results.meaning.description
    assert "queries by ekfac were refined by pcg" in render_page({"ekfac": results})


def test_steps_of_a_training_are_not_there_to_converge(tmp_path: Path, execute: Execute) -> None:
    """Nor damped: lambda says nothing."""
    unrolled = {"name": "unrolled", "sequences": 80, "steps": 12}
    found = []
    for scale in (0.1, 10.0):
        config = configured(tmp_path / f"{scale:g}", unrolled, scores="dense", damping_scale=scale)
        execute(config)
        found.append(dense(config))
        results = load_results(config.run, "ekfac")
        assert not any("residual" in one for one in results.warnings)
        assert "taken back by steps of a training" in results.meaning.description
        assert "through 12 steps of a training" in render_page({"ekfac": results})
        for one in solved(config).values():
            assert (one["steps"], one["passes"], one["converged"]) == (12, 8, None)
            assert one["residual"] < 1
    np.testing.assert_allclose(found[0], found[1], rtol=1e-9)


@pytest.mark.parametrize("is_damped", [True, False])
def test_a_module_without_curvature_takes_part_by_its_lambda_alone(
    short: tuple[Path, RunConfig], is_damped: bool
) -> None:
    """An absolute lambda is of such a module, too; steps without lambda have no size for it."""
    with Run(short[1], ProgressLog(Console(quiet=True))) as run:
        (name,), (factors,) = zip(*run.fit().by_module().items(), strict=True)
        flat = replace(factors, moments=torch.zeros_like(factors.moments))
        operators = {name: EKFAC(flat, name, damping=0.1)}
        work = Refining(run.replica, operators, [], "gauss_newton", is_damped)
        assert set(work.system.damping) == set(work.zeros()) == ({name} if is_damped else set())
        assert set(work.whole({})) == {name}


def test_what_survived_is_scored_with_the_solution_and_not_with_ekfac(
    exact: tuple[Path, RunConfig],
) -> None:
    """As the scan scored it, since queries are dense; parts of queries have no scores."""
    results = load_results(exact[1].run, "ekfac")
    for hit in results.proponents("q0"):
        assert hit.score == pytest.approx(hit.scan_score, rel=1e-9)
        assert sum(hit.token_scores) == pytest.approx(hit.score, rel=1e-4)
        assert hit.pair_scores is None
    assert results.manifest["pair_scores"]["methods"] == []


@pytest.mark.parametrize(
    ("changes", "methods"),
    [
        ({}, "ekfac: queries are refined (scan.solver)"),
        (
            {"methods": ["ekfac", "koh_liang", "cosine"]},
            "ekfac and koh_liang: queries are refined (scan.solver and scan.koh_liang)",
        ),
        ({"pair_scores": 0}, None),
        ({"solver": None}, None),
    ],
)
def test_methods_without_scores_by_pairs_are_named_before_work_begins(
    short: tuple[Path, RunConfig],
    tmp_path: Path,
    change: Change,
    quiet: ProgressLog,
    said: io.StringIO,
    changes: dict[str, Any],
    methods: str | None,
) -> None:
    config = change(copied(short, tmp_path / "copy"), scan=changes)
    with Run(config, quiet) as run:
        run.begin(needs_queries=True)
    lines = [line for line in said.getvalue().splitlines() if line.startswith("pair scores")]
    expected = [] if methods is None else [f"pair scores  none by {methods}, and each part of a"]
    assert [line[: len(start)] for line, start in zip(lines, expected, strict=True)] == expected


class Killed(BaseException):
    """As a process that is gone: nothing catches it."""


@pytest.fixture
def kill_at() -> Iterator[Callable[[str, int], None]]:
    """End the run when a phase is entered for the nth time."""

    def set_trap(phase: str, number: int) -> None:
        met: list[str] = []

        def observe(entered: str, work: str) -> None:
            met.extend([work] * (entered == phase))
            if len(met) == number and entered == phase:
                raise Killed

        observers.append(observe)

    yield set_trap
    observers.clear()


@pytest.mark.parametrize("number", [1, 2, 3])
def test_a_solve_goes_on_after_a_kill_with_the_same_bytes(
    short: tuple[Path, RunConfig],
    tmp_path: Path,
    contents: Contents,
    execute: Execute,
    kill_at: Callable[[str, int], None],
    number: int,
) -> None:
    config = configured(tmp_path, SHORT)
    kill_at("checkpoint", number)
    with pytest.raises(Killed):
        execute(config)
    assert len(list(tmp_path.glob("run/refined/*/*.checkpoint"))) == number - 1
    assert not list(tmp_path.glob("run/scan/*/partials"))
    observers.clear()
    execute(config)
    assert contents(tmp_path / "run") == contents(short[0] / "run")


def in_turns(monkeypatch: pytest.MonkeyPatch) -> dict[str, int]:
    """Solves in turns, however short they are; settings of a runner that has many replicas."""
    monkeypatch.setattr(solves_foreseen, "_SECONDS", 0)
    return {"actors": 8}


@pytest.mark.parametrize("number", [None, 1, 5, 9])
def test_turns_give_the_bytes_of_whole_solves(
    short: tuple[Path, RunConfig],
    tmp_path: Path,
    contents: Contents,
    execute: Execute,
    monkeypatch: pytest.MonkeyPatch,
    kill_at: Callable[[str, int], None],
    number: int | None,
) -> None:
    """And so they do when they were ended in between."""
    config = configured(tmp_path, SHORT, in_turns(monkeypatch))
    if number is not None:
        kill_at("checkpoint", number)
        with pytest.raises(Killed):
            execute(config)
        observers.clear()
    execute(config)
    assert contents(tmp_path / "run") == contents(short[0] / "run")


def test_what_is_made_once_for_all_queries_is_made_in_turns_too(
    tmp_path: Path, contents: Contents, execute: Execute, monkeypatch: pytest.MonkeyPatch
) -> None:
    solver = {"name": "arnoldi", "sequences": 80, "steps": 5}
    execute(configured(tmp_path / "whole", solver))
    execute(configured(tmp_path / "turns", solver, in_turns(monkeypatch)))
    assert contents(tmp_path / "turns" / "run") == contents(tmp_path / "whole" / "run")


def test_a_query_that_is_added_is_solved_alone(
    short: tuple[Path, RunConfig], tmp_path: Path, execute: Execute
) -> None:
    config = copied(short, tmp_path / "copy")
    before = {k: t for k, t in times(tmp_path / "copy" / "run").items() if "refined" in k}
    add_query(tmp_path / "copy")
    execute(config)
    after = {k: t for k, t in times(tmp_path / "copy" / "run").items() if "refined" in k}
    assert {key: after[key] for key in before} == before
    assert len(after) == len(before) + 1
    assert list(solved(config)) == ["q0", "q1", "q2", "new"]


def test_a_query_that_lost_its_cut_is_cut_again_and_not_solved(
    short: tuple[Path, RunConfig], tmp_path: Path, contents: Contents, execute: Execute
) -> None:
    config = copied(short, tmp_path / "copy")
    run = tmp_path / "copy" / "run"
    expected, before = contents(run), times(run)
    for path in [*run.glob("queries/*/*"), *run.glob("results/*/*")]:
        path.unlink()
    execute(config)
    assert contents(run) == expected
    refined = [key for key in before if "refined" in key]
    assert len(refined) == 4
    assert [key for key in refined if times(run)[key] != before[key]] == []


def test_damaged_solutions_are_made_again(
    short: tuple[Path, RunConfig], tmp_path: Path, contents: Contents, execute: Execute
) -> None:
    config = copied(short, tmp_path / "copy")
    run = tmp_path / "copy" / "run"
    expected = contents(run)
    for path in run.glob("refined/*/*.safetensors"):
        path.write_bytes(path.read_bytes()[:-3])
    for folder in ("rescored", "results", "scan"):
        shutil.rmtree(run / folder)
    execute(config)
    assert contents(run) == expected


def test_other_settings_of_a_solver_are_refused_without_a_new_run(
    short: tuple[Path, RunConfig], tmp_path: Path, change: Change, execute: Execute
) -> None:
    config = copied(short, tmp_path / "copy")
    with pytest.raises(ConfigError, match=r"scan\.solver\.steps: 5, was 4"):
        execute(change(config, scan={"solver": {**SHORT, "steps": 5}}))


def test_a_solver_decides_nothing_where_there_is_none(
    short: tuple[Path, RunConfig], change: Change
) -> None:
    """Queries without one have the parts, and so the fingerprints, of releases without any."""
    config = change(short[1], scan={"solver": None, "methods": ["ekfac", "kfac"]})
    refined = change(short[1], scan={"methods": ["ekfac", "kfac"]})
    with Run(config, ProgressLog(Console(quiet=True))) as run:
        run.fit()
        plain = run._prepared(config.scan)
    with Run(refined, ProgressLog(Console(quiet=True))) as run:
        run.fit()
        with_solver = run._prepared(refined.scan)
    assert [set(one.parts) for one in plain] == [
        {"method", "model", "modules", "factors", "damping_scale", "damping", "rank", "numerics"}
    ] * 2
    assert with_solver[0].parts == {**plain[0].parts, "solver": with_solver[0].parts["solver"]}
    assert replace(with_solver[1]) == plain[1]


@pytest.mark.parametrize(
    ("changes", "refusal"),
    [
        ({"dtype": "bfloat16"}, "in bfloat16 have two digits.*dtype: float32"),
        (
            {"scan": {"solver": "explicit"}},
            "takes 500 tracked weights, and there are 588.*Take pcg",
        ),
    ],
)
def test_what_cannot_be_solved_is_refused_before_a_document_is_read(
    tmp_path: Path,
    change: Change,
    execute: Execute,
    monkeypatch: pytest.MonkeyPatch,
    changes: Any,
    refusal: str,
) -> None:
    monkeypatch.setattr(begin, "MOST_WEIGHTS", 500)
    config = configured(tmp_path, SHORT)
    with pytest.raises(ConfigError, match=refusal):
        execute(change(config, **changes))
    assert not (tmp_path / "run" / "corpus").exists()
