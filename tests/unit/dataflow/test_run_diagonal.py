"""A run by the diagonal of the Fisher matrix: alone, and beside EK-FAC with factors of its own."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from whole_runs import Change, Contents, Execute, survivors

from rayinfluence.config import RunConfig
from rayinfluence.dataflow.run import Run
from rayinfluence.dataflow.status import clean, status
from rayinfluence.errors import ConfigError
from rayinfluence.report import render_page
from rayinfluence.storage.results import Results
from rayinfluence.storage.store import Store
from rayinfluence.testing import tiny_run

pytestmark = pytest.mark.runs

SCAN = {"methods": ["diagonal"]}


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> tuple[RunConfig, Results]:
    """A run by nothing else; nobody may change it."""
    config = tiny_run(tmp_path_factory.mktemp("alone"), scan=SCAN)
    with Run(config) as run:
        return config, run.all()["diagonal"]


def test_it_makes_no_covariances_and_no_eigenbases(alone: tuple[RunConfig, Results]) -> None:
    config, results = alone
    [folder] = (Path(config.run) / "factors").iterdir()
    assert {path.name for path in folder.iterdir()} == {"moments", "modules", "manifest.json"}
    assert not {"covariance", "eigen"} & set(results.manifest["stages"])
    assert results.manifest["factors"] is None
    assert results.manifest["diagonal_factors"]["fingerprint"] == folder.name
    assert set(results.manifest["methods"]["diagonal"]["damping"]) == set(
        results.manifest["model"]["modules"]
    )


def test_reports_and_status_say_what_was_fitted(alone: tuple[RunConfig, Results]) -> None:
    config, results = alone
    page = render_page({"diagonal": results})
    for said in ("with the diagonal of the Fisher matrix", "Error of the diagonal"):
        assert said in page
    assert "Error of the factors" not in page
    found = status(Store(config.run), Store(f"{config.run}/corpus"))
    assert any("diagonal fitted on" in stage.remark for stage in found.stages)


def test_beside_ekfac_both_have_what_they_have_alone(
    alone: tuple[RunConfig, Results], tmp_path: Path, execute: Execute, contents: Contents
) -> None:
    """Asked for later it is no other choice, and nothing of what was there changes."""
    config = tiny_run(tmp_path, scan={"methods": ["ekfac"]})
    execute(config)
    before = contents(Path(config.run))
    both = config.model_copy(
        update={"scan": config.scan.model_copy(update={"methods": ["ekfac", "diagonal"]})}
    )
    results = execute(both)
    after = contents(Path(config.run))
    made = {key: body for key, body in before.items() if re.match("factors|queries|scan/", key)}
    assert made.items() <= after.items()
    ours = contents(Path(alone[0].run))
    theirs = [key for key in ours if re.match("factors/.*/modules|scan/.*/partials/", key)]
    assert theirs
    assert all(after[key] == ours[key] for key in theirs)
    # What shares a block of the second pass shares its batches.
    assert survivors(results["diagonal"]) == pytest.approx(survivors(alone[1]), rel=1e-4)
    manifest = results["ekfac"].manifest
    assert manifest["factors"]["fingerprint"] != manifest["diagonal_factors"]["fingerprint"]
    page = render_page(results)
    assert "Error of the factors" in page
    assert "Error of the diagonal" in page


def test_it_is_another_estimate_than_ekfac(
    alone: tuple[RunConfig, Results], tmp_path: Path, execute: Execute
) -> None:
    ekfac = survivors(execute(tiny_run(tmp_path, scan={"methods": ["ekfac"]}))["ekfac"])
    assert ekfac != survivors(alone[1])


def test_other_labels_are_refused_as_those_of_ekfac_are(
    tmp_path: Path, execute: Execute, change: Change
) -> None:
    """And blocks, which it has none of, are no other choice."""
    config = tiny_run(tmp_path, 20, scan=SCAN)
    first = execute(config)["diagonal"]
    blocks = config.model_copy(update={"fit": config.fit.model_copy(update={"blocks": 2})})
    assert survivors(execute(blocks)["diagonal"]) == survivors(first)
    other = config.model_copy(update={"fit": config.fit.model_copy(update={"labels": "data"})})
    with pytest.raises(ConfigError, match=r"fit\.labels"):
        execute(other)


def test_what_is_lost_or_damaged_is_made_again_to_the_same_bytes(
    tmp_path: Path, execute: Execute, contents: Contents
) -> None:
    config = tiny_run(tmp_path, 20, scan={"methods": ["diagonal", "ekfac"]})
    execute(config)
    run = Path(config.run)
    before = contents(run)
    for path in sorted(run.glob("factors/*/modules/*.safetensors"))[::3]:
        path.write_bytes(path.read_bytes()[:-4])
    for path in [*run.rglob("queries/*/*"), *run.rglob("rescored/*"), *run.rglob("results/**/*")]:
        if path.is_file():
            path.unlink()
    execute(config)
    assert contents(run) == before
    clean(Store(config.run), ["factors"])
    assert not (run / "factors").exists()


@pytest.mark.parametrize("bound", [0.9])
def test_its_sample_may_grow_until_it_is_sure(
    tmp_path: Path, execute: Execute, monkeypatch: pytest.MonkeyPatch, bound: float
) -> None:
    """As that of EK-FAC; the held-out set needs no bases either."""
    monkeypatch.setattr("rayinfluence.dataflow.stages.sample._LOWEST_LIMIT", 0.0)
    fit = {"lanes": 2, "error_bound": bound}
    config = tiny_run(tmp_path, 200, scan=SCAN, fit=fit)
    manifest = execute(config)["diagonal"].manifest["diagonal_factors"]
    assert len(manifest["rounds"]) > 2
    assert manifest["error"] is not None


def test_a_plan_counts_moments_alone(tmp_path: Path) -> None:
    plans = {}
    for methods in (["diagonal"], ["ekfac"], ["ekfac", "diagonal"]):
        with Run(tiny_run(tmp_path / "-".join(methods), 12, scan={"methods": methods})) as run:
            plans[tuple(methods)] = run.plan()
    ours, ekfac, both = plans.values()
    assert ours.work.fit_tokens == 0 < ours.work.moment_tokens == ekfac.work.moment_tokens
    assert ours.forecast.seconds["covariance"] == ours.forecast.seconds["eigen"] == 0
    assert 0 < ours.forecast.stored["factors"] < ekfac.forecast.stored["factors"]
    assert both.work.moment_tokens == 2 * ours.work.moment_tokens
    stored = [plan.forecast.stored["factors"] for plan in (ours, ekfac, both)]
    assert stored[2] == stored[0] + stored[1]
