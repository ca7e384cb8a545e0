"""A run beside its proximal Bregman responses: the run's own question, kept where it was found."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from rayinfluence.config import RunConfig
from rayinfluence.dataflow.layout import EVALUATION
from rayinfluence.dataflow.run import Run
from rayinfluence.dataflow.stages.progress import ProgressLog
from rayinfluence.errors import ConfigError, NumericsError
from rayinfluence.evaluation.pbrf import report
from rayinfluence.evaluation.pbrf.report import Pbrf, pbrf_report
from rayinfluence.evaluation.pbrf.response import Search
from rayinfluence.storage.store import Store
from rayinfluence.testing import tiny_run

Say = Callable[..., tuple[int, str, str]]
#: So much of it that responses are as good as linear, and a minimum is found in seconds.
DAMPED = {"methods": ["ekfac"], "damping_scale": 1000.0, "rank": "dense", "scores": "dense"}


def configured(folder: Path) -> RunConfig:
    return tiny_run(folder, 20, scan=DAMPED, modules=["transformer.h.0.mlp.*"])


def reported(config: RunConfig, n_sequences: int = 6, **more: object) -> Pbrf:
    with Run(config, ProgressLog(Console(file=io.StringIO()))) as run:
        return pbrf_report(run, n_sequences, 2, **more)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[RunConfig, Pbrf]:
    config = configured(tmp_path_factory.mktemp("pbrf"))
    return config, reported(config)


def test_what_is_predicted_is_what_the_run_scores(made: tuple[RunConfig, Pbrf]) -> None:
    config, found = made
    with Run(config, ProgressLog(Console(file=io.StringIO()))) as run:
        results = run.all()["ekfac"]
    columns = []
    for query in ("q0", "q1"):
        rows = results.scores(query).to_pylist()
        of_id = {row["sequence_id"]: row["score"] for row in rows}
        columns.append([of_id[one] for one in found.sequence_ids])
    expected = found.epsilon * np.array(columns).T
    np.testing.assert_allclose(found.predicted_ZQ["ekfac"], expected, rtol=1e-4)
    assert found.query_ids == ("q0", "q1")
    assert found.epsilon == -1 / found.n_basis == -1 / results.manifest["n_training_sequences"]


def test_much_damped_influences_are_what_is_found(made: tuple[RunConfig, Pbrf]) -> None:
    _, found = made
    assert (found.gradients_Z <= 0.005).all()
    assert found.pearson("ekfac").shape == (2,)
    assert (found.pearson("ekfac") > 0.99).all()
    assert (found.spearman("ekfac") > 0.8).all()
    # In the same unit, and of the same sign.
    ratio = found.responses_ZQ / found.predicted_ZQ["ekfac"]
    assert 0.8 < np.median(ratio) < 1.25
    assert found.predicted_ZQ.keys() == {"ekfac", "kfac", "gradient_product", "identity"}


def test_a_command_shows_how_near_each_method_is(made: tuple[RunConfig, Pbrf], say: Say) -> None:
    config, found = made
    sizes = ("--set", "evaluation.pbrf.sequences=6", "--set", "evaluation.pbrf.queries=2")
    code, printed, errors = say("evaluate", "pbrf", config.run, *sizes)
    assert code == 0, errors
    assert "Predicted changes beside proximal Bregman responses" in printed
    assert f"6 sequences were taken out of {found.n_basis}, one at a time" in printed
    code, printed, errors = say("evaluate", "pbrf", config.run, *sizes, "--json", "--quiet")
    values = json.loads(printed)
    ekfac = next(one for one in values["methods"] if one["method"] == "ekfac")
    assert ekfac["pearson"]["mean"] == pytest.approx(found.pearson("ekfac").mean())
    assert values["responses"] == found.responses_ZQ.tolist()
    code, printed, errors = say("evaluate", "something", config.run)
    assert code == 2
    assert "evaluate CONFIG`, with damping, pbrf or leave-one-out before it" in errors


def test_what_is_there_is_not_looked_for_again(made: tuple[RunConfig, Pbrf]) -> None:
    config, found = made
    store = Store(config.run) / EVALUATION
    before = {key: store.read(key) for key in store.list()}
    assert len(before) == 6
    lost, damaged = sorted(before)[:2]
    store.delete(lost)
    store.write(damaged, before[damaged][:-9])
    again = reported(config)
    np.testing.assert_array_equal(again.responses_ZQ, found.responses_ZQ)
    assert {key: store.read(key) for key in store.list()} == before


def test_what_did_not_converge_is_refused_and_so_are_too_few(
    made: tuple[RunConfig, Pbrf],
) -> None:
    config, _ = made
    few = Search(tolerance=1e-30, most_evaluations=1)
    with pytest.raises(
        NumericsError, match=r"3 of 3 .* did not converge: of sequence \d+ the grad"
    ):
        reported(config, 3, search=few)
    with pytest.raises(ConfigError, match="2 sequences are too few"):
        reported(config, 2)


def test_few_that_did_not_converge_are_named_and_kept(
    made: tuple[RunConfig, Pbrf], monkeypatch: pytest.MonkeyPatch
) -> None:
    config, whole = made
    assert not whole.unfinished_Z.any()
    second, largest = np.sort(whole.gradients_Z)[-2:]
    almost = Search(tolerance=float(largest + second) / 2, most_evaluations=1)
    with pytest.raises(NumericsError, match=r"1 of 6 .* did not converge"):
        reported(config, search=almost)
    monkeypatch.setattr(report, "_MOST_UNFINISHED", 0.2)
    found = reported(config, search=almost)
    np.testing.assert_array_equal(found.unfinished_Z, whole.gradients_Z == largest)
    np.testing.assert_array_equal(found.responses_ZQ, whole.responses_ZQ)
