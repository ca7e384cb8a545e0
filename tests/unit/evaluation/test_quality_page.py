"""What docs/quality.md shows is what there is."""

from __future__ import annotations

import re
from pathlib import Path

import yaml

import rayinfluence
from rayinfluence.config import RunConfig
from rayinfluence.config_evaluation import EvaluationConfig
from rayinfluence.evaluation.baselines import HIDDEN_STATE, RANDOM
from rayinfluence.evaluation.claims import RECALL_AT
from rayinfluence.evaluation.contenders import BASELINES, UNROLLED, contenders
from rayinfluence.evaluation.tail_patch import LEARNING_RATE
from rayinfluence.influence.intervals import DRAWS

DOCS = Path(rayinfluence.__file__).parents[1] / "docs"
PAGE = (DOCS / "quality.md").read_text("utf-8")
#: Keys that are no referee's.
OTHERS = {
    "recipe",
    "options",
    "seeds",
    "bank",
    "variants",
    "dampings",
    "pbrf",
    "shapley",
    "unrolled",
}


def test_the_configuration_is_one_and_its_variants_are_methods() -> None:
    [block] = re.findall(r"```yaml\n(.*?)```", PAGE, re.S)
    names = [one.name for one in contenders(RunConfig.parse(yaml.safe_load(block)))]
    assert names[:3] == ["ekfac", "bm25", "ekfac at 0.01"]
    assert set(names) == {*names[:3], *BASELINES, UNROLLED, HIDDEN_STATE, RANDOM}
    for name in (*BASELINES, UNROLLED, HIDDEN_STATE, RANDOM):
        assert f"`{name}`" in PAGE


def test_every_key_has_a_referee_and_a_line_in_the_reference() -> None:
    rows = re.findall(r"^\| [^|]+ \| `(\w+)` \|", PAGE, re.M)
    assert set(rows) == set(EvaluationConfig.model_fields) - OTHERS
    reference = (DOCS / "reference.md").read_text("utf-8")
    for key in EvaluationConfig.model_fields:
        assert f"`evaluation.{key}" in reference


def test_numbers_are_those_of_the_code() -> None:
    assert f"{DRAWS:,} draws" in PAGE
    assert f"Adam ({LEARNING_RATE:.0e}".replace("e-04", "e-4") in PAGE
    assert f"recall@{RECALL_AT}" in PAGE
