"""What docs/evaluation.md shows works as it is shown."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml

import rayinfluence
from rayinfluence.config import RunConfig
from rayinfluence.evaluation import bank, subsets

PAGE = (Path(rayinfluence.__file__).parents[1] / "docs" / "evaluation.md").read_text("utf-8")


def block(language: str, holds: str) -> str:
    [found] = [b for b in re.findall(rf"```{language}\n(.*?)```", PAGE, re.S) if holds in b]
    return str(found)


def test_the_configuration_is_one() -> None:
    config = RunConfig.parse(yaml.safe_load(block("yaml", "evaluation:")))
    assert config.evaluation is not None
    assert config.evaluation.drop == {0.01: 80, 0.05: 40}


def test_the_recipe_keeps_its_contract() -> None:
    names: dict[str, Any] = {}
    exec(compile(block("python", "def train"), "evaluation.md", "exec"), names)
    sequences = [[1, 2, 3], [4, 5], [6, 7, 8, 9]]

    def weights_of(seen: list[float], seed: int = 0) -> torch.Tensor:
        model = names["train"](sequences, np.array(seen, dtype=np.float32), seed)
        return torch.cat([p.detach().flatten() for p in model.parameters()])

    whole = weights_of([1, 1, 1])
    assert torch.equal(whole, weights_of([1, 1, 1]))
    assert not torch.equal(whole, weights_of([1, 0, 1]))
    assert not torch.equal(whole, weights_of([1, 1, 1], seed=1))


def test_columns_and_designs_are_those_of_the_table() -> None:
    rows = re.findall(r"^\| ((?:`\w+`(?:, )?)+) \|", PAGE.partition("## The table")[2], re.M)
    assert re.findall(r"`(\w+)`", " ".join(rows)) == bank._COLUMNS.names
    designs = {getattr(subsets, n) for n in ("FULL", "HALF", "DROP", "ADD", "WITHOUT", "GROUPS")}
    [row] = [line for line in PAGE.splitlines() if line.startswith("| `design`")]
    assert set(re.findall(r"`(\w+)`", row)) == {"design"} | designs
    for name in ("without", "added", "additions", "group_draws"):
        assert f"`{name}`" in PAGE
        assert callable(getattr(subsets, name))
