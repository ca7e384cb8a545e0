"""The forecast: its arithmetic, and a calibration that leaves nothing behind."""

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from rayinfluence import cli
from rayinfluence.config import RunConfig
from rayinfluence.dataflow.jobs import calibrate
from rayinfluence.dataflow.jobs.calibrate import Rates
from rayinfluence.dataflow.plan.forecast import (
    Forecast,
    Share,
    Work,
    bank_bytes,
    eigen_widths,
    forecast,
)
from rayinfluence.dataflow.run import Run
from rayinfluence.dataflow.stages.progress import ProgressLog
from rayinfluence.model.modules import ModuleShape
from rayinfluence.storage.store import Store
from rayinfluence.storage.tensors import read_tensors
from rayinfluence.testing import tiny_run

SHAPES = {
    "gate": ModuleShape("gate", 4, 10, False, "gate"),
    "up": ModuleShape("up", 4, 10, False, "gate"),
    "down": ModuleShape("down", 10, 4, True, "down"),
}
RATES = Rates(2e-3, 3e-3, 4e-3, 5e-3, 1e-6, 1e-9, 1000, 10**8, 0, 0, 0, [1.0])
WORK = Work(
    tokens=10_000,
    splits=5,
    fit_tokens=800,
    moment_tokens=1600,
    rounds=2,
    pieces=3,
    lanes=8,
    n_queries=3,
    n_banks=2,
    n_themselves=0,
    n_diagonals=0,
    top=5,
    survivor_tokens=600,
    pair_queries=3,
    pair_multiplications=6 * 10**8,
    rank=2,
    n_blocks=1,
    operand_bytes=4,
)


def made(actors: int = 1, **changes: Any) -> Forecast:
    return forecast(
        RATES,
        replace(WORK, **changes),
        SHAPES,
        [Share(5000, SHAPES)],
        actors,
        eigen_tasks=1,
        device="cpu",
    )


def test_seconds_are_rates_times_work() -> None:
    assert made().seconds == pytest.approx(
        {
            "covariance": 2.4,
            # gate and up share an input of 4; down has one of 10 and a bias.
            "eigen": 3e-6 * (4**3 + 11**3 + 10**3 + 10**3 + 4**3),
            "moments": 6.4,
            "scan": 20.0,
            "rescore": 3.0 + 0.6,
        }
    )
    assert made(actors=2).seconds["scan"] == 10.0
    assert made(tokens=20_000).seconds["scan"] == 40.0


def test_actors_idle_when_lanes_run_out() -> None:
    assert made(actors=8).seconds["covariance"] == pytest.approx(2.4 / 8)
    assert made(actors=16).seconds["covariance"] == pytest.approx(2.4 / 8)
    assert made(actors=5).seconds["covariance"] == pytest.approx(2.4 / 4)  # two rounds of lanes
    # A query's pairs of tokens are one actor's.
    for actors, queries in ((2, 2), (3, 1), (16, 1)):
        expected = 3.0 / actors + 0.2 * queries
        assert made(actors=actors).seconds["rescore"] == pytest.approx(expected)


def test_blocks_are_decomposed_by_themselves() -> None:
    assert eigen_widths(SHAPES, 1) == [4, 11, 10, 10, 4]
    assert sorted(eigen_widths(SHAPES, 2)) == sorted([2, 2, 6, 5, 5, 5, 5, 5, 2, 2])


def test_stored_bytes_are_those_of_real_objects(finished: tuple[Path, RunConfig]) -> None:
    """Of queries and factors: what a run has stored, without headers."""
    folder, config = finished
    with Run(config) as run:
        shapes = run.replica.shapes
        rank = config.scan.rank
        assert isinstance(rank, int)
        real = sum(
            tensor.nbytes
            for path in (folder / "run" / "queries").rglob("*.safetensors")
            for tensor in read_tensors(Store(str(path.parent)), path.name)[0].values()
        )
        assert bank_bytes(shapes, 3, rank, 4) == real


def test_plan_says_what_a_run_takes_and_does_nothing_of_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], execute: Callable[..., object]
) -> None:
    config = tiny_run(tmp_path)
    (tmp_path / "run.yaml").write_text(config.model_dump_json())
    with pytest.raises(SystemExit) as ended:
        cli.main(["plan", str(tmp_path / "run.yaml"), "--price", "2.5", "--actors", "8"])
    assert not ended.value.code
    said = capsys.readouterr().out
    for part in (" s on 8 actors", "actor-hours", "at 2.5 per replica and hour", "query banks"):
        assert part in said, said
    planned = json.loads((tmp_path / "run" / "plan.json").read_text())
    assert planned["actors"] == 8
    assert all(seconds > 0 for seconds in planned["forecast"]["seconds"].values())
    assert planned["rates"]["pairs"] > 0
    assert planned["work"]["pair_queries"] == 3
    found = {path.name for path in (tmp_path / "run").iterdir()}
    assert found - {"plan"} == {"corpus", "config.json", "plan.json", "preflight"}
    assert not [path for path in (tmp_path / "run").glob("plan/**/*") if path.is_file()]


def test_a_solver_is_in_the_plan(tmp_path: Path) -> None:
    values = {"methods": ["ekfac", "cosine"], "damping_scale": [0.1, 0.01]}
    solver = {"name": "pcg", "steps": 4, "sequences": 20}
    plans = []
    for name, scan in (("plain", values), ("solver", {**values, "solver": solver})):
        (tmp_path / name).mkdir()
        with Run(tiny_run(tmp_path / name, scan=scan), ProgressLog(quiet=True)) as run:
            run.tokenize()
            plans.append(run.plan(actors=2))
            n_weights = sum(shape.n_parameters for shape in run.replica.shapes.values())
    plain, refined = plans
    assert "refine" not in plain.forecast.seconds
    [solves] = refined.work.solves
    assert (solves.n_banks, solves.n_queries, solves.n_weights) == (2, 3, n_weights)
    # Of two actors one has two of three queries, and goes through the sample six times.
    operations = 2 * 6 * (6 + 8 * 2) * solves.n_tokens * n_weights
    assert solves.operations(2) == operations
    assert refined.forecast.seconds["refine"] == pytest.approx(refined.rates.refine * operations)
    assert refined.rates.refine > 0
    assert refined.forecast.stored["refined queries at full rank"] == 2 * 3 * 4 * n_weights
    assert refined.forecast.memory["vectors and factors of the solver"] > 2 * 8 * 4 * n_weights


def test_representer_points_are_in_the_plan(tmp_path: Path) -> None:
    """Beside another method and alone, in which no gradients are counted."""
    plans = []
    for name, methods in (("beside", ["cosine", "representer"]), ("alone", ["representer"])):
        (tmp_path / name).mkdir()
        scan = {"methods": methods, "representer": {"steps": 120}}
        with Run(tiny_run(tmp_path / name, scan=scan), ProgressLog(quiet=True)) as run:
            run.tokenize()
            plans.append(run.plan(actors=2))
            n_tokens, n_sequences = run.corpus.n_tokens, run.corpus.n_sequences
            n_classes, width = run.replica.last_layer.weight_VD.shape
            n_asked = sum(len(one.completion) for q in run.queries for one in q.answers)
    for planned in plans:
        refit, layer = planned.work.refit, planned.rates.layer
        assert refit is not None
        assert layer is not None
        assert min(layer.features, layer.refit, layer.rescore) > 0
        # All tokens of a sequence but its first are targets.
        assert refit.n_targets == pytest.approx(n_tokens - n_sequences, rel=0.1)
        told = (refit.n_classes, refit.width, refit.steps, refit.target_bytes, refit.n_asked)
        assert told == (n_classes, width, 120, 4 * width, n_asked)
        seconds = planned.forecast.seconds
        # The forward pass is shared, and the fit is one replica's.
        assert seconds["features"] == pytest.approx(layer.features * n_tokens / 2)
        assert seconds["refit"] == pytest.approx(layer.refit * refit.operations)
        assert planned.work.represented_tokens > 0
        stored, memory = planned.forecast.stored, planned.forecast.memory
        assert stored["what the last layer sees of targets"] == refit.features_bytes
        assert stored["last layer, fitted again"] == 16 * n_classes * width
        assert memory["fit of the last layer"] > refit.features_bytes
    beside, alone = plans
    assert (beside.work.n_banks, alone.work.n_banks) == (1, 0)
    assert alone.rates.rescore == 0 < beside.rates.rescore
    assert alone.forecast.memory["query banks"] == 0
    assert alone.rates.scan > 0
    assert alone.rates.partial_bytes > 0


def test_rows_that_cannot_be_scored_do_not_stop_a_plan(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def bad_rows(table: Any, *_: object) -> dict[int, str]:
        ids = table["sequence_id"].to_pylist()
        return {row: "it is bad" for row, sequence_id in enumerate(ids) if sequence_id == 0}

    monkeypatch.setattr("rayinfluence.dataflow.compute.replica.bad_rows", bad_rows)
    theirs = tmp_path / "run" / "plan" / "notes.txt"
    theirs.parent.mkdir(parents=True)
    theirs.write_text("a user's")
    with Run(tiny_run(tmp_path, scan={"methods": ["cosine", "kfac", "diagonal"]})) as run:
        run.tokenize()
        planned = run.plan(actors=1)
        assert planned.forecast.seconds["rescore"] > 0
        assert planned.rates.pairs > 0
    with Run(tiny_run(tmp_path, scan={"pair_scores": 0})) as run:
        assert run.plan(actors=1).rates.pairs == 0
    assert [path.name for path in theirs.parent.iterdir()] == ["notes.txt"]


@pytest.mark.parametrize(("platform", "unit"), [("linux", 1024), ("darwin", 1)])
def test_peak_memory_is_in_bytes(monkeypatch: pytest.MonkeyPatch, platform: str, unit: int) -> None:
    held = SimpleNamespace(ru_maxrss=3 * 2**20 // unit)
    usage = SimpleNamespace(RUSAGE_SELF=0, getrusage=lambda who: held)
    monkeypatch.setitem(sys.modules, "resource", usage)
    monkeypatch.setattr("sys.platform", platform)
    assert calibrate.peak_bytes() == 3 * 2**20


def test_a_run_can_be_imported_where_there_is_no_resource_module() -> None:
    """As on Windows."""
    program = (
        "import sys; sys.modules['resource'] = None; import rayinfluence.dataflow.run; "
        "from rayinfluence.dataflow.jobs.calibrate import peak_bytes; print(peak_bytes())"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout == "0\n", done.stderr
