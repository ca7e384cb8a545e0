"""Keys of a configuration that a command line sets."""

import pytest
import yaml

from rayinfluence.config import RunConfig
from rayinfluence.config_set import with_set
from rayinfluence.errors import ConfigError

BEFORE = {"run": "r", "model": "m", "scan": {"top": 5, "rank": 4}, "objective": "causal"}


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ([], BEFORE),
        (["scan.top=50"], {**BEFORE, "scan": {"top": 50, "rank": 4}}),
        (["run=a=b"], {**BEFORE, "run": "a=b"}),
        (["scan.rank=dense"], {**BEFORE, "scan": {"top": 5, "rank": "dense"}}),
        (["fit.lanes=3", "fit.blocks=2"], {**BEFORE, "fit": {"lanes": 3, "blocks": 2}}),
        (["queries="], {**BEFORE, "queries": None}),
        (["scan={top: 1}"], {**BEFORE, "scan": {"top": 1}}),
        (["corpus.documents=[a.jsonl, b]"], {**BEFORE, "corpus": {"documents": ["a.jsonl", "b"]}}),
        (["objective.loss=x"], {**BEFORE, "objective": {"kind": "causal", "loss": "x"}}),
    ],
)  # fmt: skip
def test_settings_are_put_where_their_dots_say(
    settings: list[str], expected: dict[str, object]
) -> None:
    before = yaml.safe_dump(BEFORE)
    assert with_set(BEFORE, settings) == expected
    assert yaml.safe_dump(BEFORE) == before  # what was read is not changed


@pytest.mark.parametrize(
    ("settings", "phrase"),
    [
        (["scan.top"], "--set scan.top: write a key, = and its value"),
        (["=5"], "write a key"),
        (["scan..top=5"], "write a key"),
        (["scan.top=5", "scan.top=6"], "scan.top is set already, by scan.top=5"),
        (["scan.top=[1"], "--set scan.top=[1: the value cannot be read as YAML"),
        (["scan={a: 1, a: 2}"], "cannot be read as YAML: the key 'a' stands"),
        (["run.x=5"], "--set run.x=5: run has a value and no keys"),
        (["scan.top.x=5"], "scan.top has a value and no keys"),
        (["scan.tpo=5"], "unknown key 'scan.tpo'; did you mean 'top'"),
        (["skan.top=5"], "unknown key 'skan'; did you mean 'scan'"),
        (["scan.top=0"], "config with --set scan.top=0: scan.top: must be at least 1, not 0"),
    ],
)
def test_a_wrong_setting_is_a_sentence(settings: list[str], phrase: str) -> None:
    with pytest.raises(ConfigError) as caught:
        RunConfig.parse(dict(BEFORE), settings=settings)
    assert phrase in str(caught.value)
