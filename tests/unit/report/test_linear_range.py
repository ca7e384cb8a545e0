"""N, and changes that are no predictions."""

from __future__ import annotations

import io
import math
from collections.abc import Callable
from pathlib import Path

import pytest
from rich.console import Console

import rayinfluence
from rayinfluence.config import RunConfig
from rayinfluence.errors import ConfigError
from rayinfluence.report import facts, render, render_page
from rayinfluence.report.text import BEYOND, prediction
from rayinfluence.storage.results import Results, beyond_linear
from rayinfluence.testing import tiny_run

Execute = Callable[..., dict[str, Results]]
Change = Callable[..., RunConfig]
Done = tuple[Path, RunConfig]


@pytest.mark.parametrize(
    ("delta", "log_probability", "beyond"),
    [
        (3.51, -2.26, True),  # to a probability of 3.5
        (0.3, -0.2, True),
        (0.2, -0.2, False),  # to 1 exactly
        (0.5, -9.0, False),
        (0.51, -9.0, True),
        (-0.51, -9.0, True),
        (-0.5, -0.1, False),
        (0.0, 0.0, False),
        (1e-9, 0.0, True),
    ],
)
def test_a_change_to_more_than_certainty_or_of_half_a_nat_is_no_prediction(
    delta: float, log_probability: float, beyond: bool
) -> None:
    assert beyond_linear(delta, log_probability) is beyond


def test_predictions_are_said_in_nats_and_in_words() -> None:
    assert prediction(0.02, False) == "+0.0200 nats, 1.02 times as likely"
    assert prediction(-0.4, False) == "-0.400 nats, 0.67 times as likely"
    assert prediction(0.001, False) == "+0.00100 nats"
    assert prediction(3.5, True) == BEYOND == "beyond the linear range: no prediction"


def test_the_table_marks_what_is_beyond_the_linear_range(finished: Done) -> None:
    results = rayinfluence.load_results(finished[1].run)
    for row in results.table.to_pylist():
        log_probability = results.queries[row["query_id"]]["log_probability"]
        assert row["beyond_linear"] is beyond_linear(row["delta_nats"], log_probability)


def test_a_method_without_curvature_predicts_no_change(tmp_path: Path, execute: Execute) -> None:
    config = tiny_run(tmp_path, scan={"methods": ["ekfac", "gradient_product"]})
    found = execute(config)
    table = found["gradient_product"].table
    assert table["delta_nats"].null_count == table["beyond_linear"].null_count == len(table) > 0
    assert found["ekfac"].table["delta_nats"].null_count == 0
    assert facts.together(found["gradient_product"], "q0") == ""
    assert facts.together(found["ekfac"], "q0")
    assert prediction(None, None) == ""
    page = render_page(found)
    assert "gradient_product predicts no change, and has no delta nats." in page
    said = io.StringIO()
    render(found["gradient_product"], Console(file=said, width=100))
    assert "together:" not in said.getvalue()
    assert "beyond" not in said.getvalue()


def test_a_corpus_that_is_a_sample_is_divided_by_what_it_is_a_sample_of(
    done: Done, execute: Execute, change: Change
) -> None:
    _, config = done
    before = rayinfluence.load_results(config.run)
    there = before.manifest["n_sequences"]
    assert before.manifest["n_training_sequences"] == there
    sample = change(config, corpus={"n_training_sequences": 1000 * there})
    partials = {p: p.stat().st_mtime_ns for p in Path(config.run).glob("scan/*/partials/*")}
    after = execute(sample)["ekfac"]
    assert after.manifest["n_sequences"] == there
    assert after.manifest["n_training_sequences"] == 1000 * there
    assert after.manifest["fingerprint"] != before.manifest["fingerprint"]
    assert after.table["score"].equals(before.table["score"])
    pairs = zip(*(r.table["delta_nats"].to_pylist() for r in (after, before)), strict=True)
    assert all(math.isclose(1000 * ours, theirs, rel_tol=1e-12) for ours, theirs in pairs)
    # Nothing is scanned again for it.
    assert {path: path.stat().st_mtime_ns for path in partials} == partials


def test_fewer_training_sequences_than_the_corpus_has_are_refused_before_the_fit(
    tmp_path: Path, execute: Execute
) -> None:
    config = tiny_run(tmp_path, corpus={"n_training_sequences": 5})
    with pytest.raises(ConfigError, match=r"corpus\.n_training_sequences: 5, and .* has 84 seq"):
        execute(config)
    assert not (tmp_path / "run" / "factors").exists()
