"""The banks that methods are measured on: an evaluation of what is written goes through."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import yaml

from rayinfluence.config import RunConfig
from rayinfluence.dataflow.stages.progress import ProgressLog
from rayinfluence.evaluation.contenders import contenders
from rayinfluence.evaluation.evaluate import evaluate

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))

import quality_banks

pytestmark = pytest.mark.runs
FEWER = {
    "seeds": [0],
    "half": 2,
    "drop": {},
    "add": 2,
    "removal": {"queries": 1},
    "groups": {"key": "fact_id", "most": 2},
    "variants": {"pcg": {"solver": {"name": "pcg", "steps": 1, "sequences": 16}}},
}


def test_the_demo_s_bank_is_measured_from_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, quiet: ProgressLog
) -> None:
    arguments = ["quality_banks.py", "demo", "--folder", str(tmp_path)]
    monkeypatch.setattr(sys, "argv", arguments)
    quality_banks.main()
    values = yaml.safe_load((tmp_path / "demo" / "config.yaml").read_text())
    sizes = {"context": 128, "width": 8, "layers": 1, "heads": 2}
    options = {**values["evaluation"]["options"], "sizes": sizes, "epochs": 1, "batch": 64}
    section = {**values["evaluation"], **FEWER, "options": options}
    config = RunConfig.parse({**values, "evaluation": section, "scan": {"methods": ["ekfac"]}})
    found = evaluate(config, contenders(config), quiet)
    assert [one.name for one in found.protocols] == ["half"]
    first = found.methods[0]
    assert first.recall is not None
    # Half of the questions are ends of passages, to which no document belongs.
    assert first.recall.n == quality_banks.FACTS < len(found.queries)
    assert (Path(config.model) / "config.json").exists()


@pytest.mark.parametrize("path", sorted(quality_banks.JOBS.glob("*.yaml")), ids=lambda p: p.name)
def test_their_contenders_are_sound(path: Path) -> None:
    names = [one.name for one in contenders(RunConfig.load(path))]
    assert {"ekfac", "bm25", "hidden_state", "random"} <= set(names)
