"""The section of a configuration that says how models are trained again."""

from __future__ import annotations

from typing import Any

import pytest

from rayinfluence.config import RunConfig
from rayinfluence.config_evaluation import EvaluationConfig, RecipeConfig
from rayinfluence.errors import ConfigError

MINIMAL = {"run": "runs/a", "model": "models/a"}
SIZES = {"context": 8, "width": 4, "layers": 1, "heads": 1}


def parsed(**evaluation: Any) -> EvaluationConfig:
    found = RunConfig.parse({**MINIMAL, "evaluation": evaluation}).evaluation
    assert found is not None
    return found


def test_a_run_has_none_by_default_and_a_section_may_be_empty() -> None:
    assert RunConfig.parse(MINIMAL).evaluation is None
    assert RunConfig.parse({**MINIMAL, "evaluation": None}).evaluation is None
    assert parsed() == EvaluationConfig()
    assert parsed(options=None).options == RecipeConfig()


def test_a_section_is_what_it_was_after_json() -> None:
    values = {
        "options": {"start": "models/start", "epochs": 2},
        "half": 8,
        "drop": {0.01: 80, 0.05: 40},
        "seeds": [0, 2],
    }
    config = RunConfig.parse({**MINIMAL, "evaluation": values})
    again = RunConfig.model_validate_json(config.model_dump_json())
    assert again == config
    assert again.evaluation is not None
    assert again.evaluation.drop == {0.01: 80, 0.05: 40}
    own = RunConfig.parse({**MINIMAL, "evaluation": {"recipe": "mine:train"}})
    assert RunConfig.parse(own.model_dump()) == own


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"recpie": "x"}, "unknown key 'evaluation.recpie'; did you mean 'recipe'"),
        ({"options": {"epoch": 1}}, "unknown key 'evaluation.options.epoch'; did you mean"),
        ({"options": {"sizes": {**SIZES, "depth": 2}}}, "unknown key 'evaluation.options.sizes"),
        ({"recipe": "mine"}, "must be module:function"),
        ({"recipe": "mine:train", "options": {"epochs": 2}}, "options.epochs: mine:train decides"),
        ({"options": {"start": "a", "sizes": SIZES}}, "start and sizes: a model is tuned, or new"),
        ({"options": {"sizes": {"width": 4}}}, "evaluation.options.sizes.context: is missing"),
        ({"seeds": [1, 1]}, "seeds have to be different"),
        ({"seeds": []}, "evaluation.seeds: must hold at least 1"),
        ({"seeds": [-1]}, "and 0 at least"),
        ({"drop": {0: 3}}, "0: 3: write a share between 0 and 1"),
        ({"drop": {1.5: 3}}, "1.5: 3: write a share"),
        ({"drop": {0.1: -3}}, "0.1: -3: write a share"),
        ({"half": -1}, "evaluation.half: must be at least 0"),
        ({"shapley": {"values": ["owen"]}}, "evaluation.shapley.values"),
        ({"shapley": {"alpha": 0}}, "evaluation.shapley.alpha: must be more than 0"),
        ({"shapley": {"utilities": ["validation"]}}, "validation: it is a file of documents"),
        ({"shapley": {"validation": "held.jsonl"}}, "give both, or neither"),
        ({"shapley": {"groups": 1}}, "evaluation.shapley.groups: must be at least 2"),
        ({"bank": "s3://key:hidden@bucket/x"}, "evaluation.bank: there is a password"),
    ],
)
def test_what_is_wrong_is_said_in_words(values: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError) as refused:
        parsed(**values)
    assert said in str(refused.value)
