"""Each family of models: whole runs, and all numbers against independent ones."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from families import FAMILIES, Family
from measured import prepare
from rows import Row, row
from shares import counted
from transformers import AutoModelForCausalLM

from rayinfluence.model.load import freeze
from rayinfluence.model.modules import Coverage, chosen, trackable
from rayinfluence.model.parts import parts_of
from rayinfluence.model.preflight import made_up
from rayinfluence.model.reach import reach
from rayinfluence.storage.results import Results

Execute = Callable[..., dict[str, Results]]
BY_NAME = {family.name: family for family in FAMILIES}
#: By dtype; float64 is meant throughout.
SAME = {"float64": 1e-9, "float32": 1e-4}
#: What models compute in float32 whatever the dtype is, a run has in it.
SAME_IN_RUNS = 1e-4


def checked(family: Family, folder: Path, execute: Execute) -> Row:
    if family.adapter:
        pytest.importorskip("peft")
    one = row(family, folder, execute)
    assert ("refused" in one) == family.refused, one
    if family.refused:
        return one
    limits = dict.fromkeys(one["errors"], SAME[family.dtype]) | {"run": SAME_IN_RUNS}
    assert {name: error for name, error in one["errors"].items() if error > limits[name]} == {}
    assert one["tiny"] == pytest.approx(one["coverage"], rel=1e-12)
    return one


@pytest.mark.models
@pytest.mark.parametrize("name", BY_NAME)
def test_a_family_is_attributed_as_autograd_and_loops_say(
    name: str, tmp_path: Path, execute: Execute, record_property: Callable[[str, object], None]
) -> None:
    record_property("row", checked(BY_NAME[name], tmp_path, execute))


@pytest.mark.models
@pytest.mark.parametrize("name", ["GPT2", "OPT", "Rwkv"])
def test_coverage_counted_without_weights_is_that_of_the_published_model(
    name: str, tmp_path: Path
) -> None:
    subject = prepare(BY_NAME[name], tmp_path)
    model = freeze(AutoModelForCausalLM.from_config(BY_NAME[name].config(published=True)))
    probe = made_up(range(48), torch.device("cpu"))
    layers = chosen(model, "all", parts_of(model, probe))
    found = reach(model, trackable(model), probe)
    expected = Coverage.of(model, layers, found).share
    assert counted(subject, model, subject.names).share == pytest.approx(expected, rel=1e-12)
