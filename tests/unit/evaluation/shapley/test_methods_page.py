"""What docs/methods.md shows of values is what there is."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

import rayinfluence
from rayinfluence.config import RunConfig
from rayinfluence.config_evaluation import ShapleyConfig
from rayinfluence.evaluation.shapley.estimators import Stopping
from rayinfluence.evaluation.shapley.neighbour_job import _MOST_BYTES
from rayinfluence.evaluation.shapley.semivalues import MOST_EXACT, Semivalue

DOCS = Path(rayinfluence.__file__).parents[1] / "docs"
SECTION = (DOCS / "methods.md").read_text("utf-8")
SECTION = SECTION.partition("## Shapley values")[2].partition("\n## ")[0]


def test_the_configuration_is_one_and_has_every_key() -> None:
    [block] = re.findall(r"```yaml\n(.*?)```", SECTION, re.S)
    told = yaml.safe_load(block)
    config = RunConfig.parse(told)
    assert config.evaluation is not None
    assert config.evaluation.shapley is not None
    assert told["evaluation"]["shapley"].keys() == ShapleyConfig.model_fields.keys() - {"by"}
    assert "`by: enumeration` or `by: sampling`" in SECTION


def test_every_key_has_a_line_in_the_reference() -> None:
    reference = (DOCS / "reference.md").read_text("utf-8")
    rows = " ".join(line for line in reference.splitlines() if "`evaluation.shapley" in line)
    for key in ShapleyConfig.model_fields:
        assert f"`evaluation.shapley.{key}`" in rows or f"`.{key}`" in rows


def test_numbers_are_those_of_the_code() -> None:
    assert f"of up to {MOST_EXACT} groups" in SECTION
    assert f"after {Stopping(1, 1).least} orders at least" in SECTION
    assert f"up to {_MOST_BYTES >> 30} GiB" in SECTION
    assert Semivalue("beta", 4, 1).shares(5)[0] == pytest.approx(1 / 2)
