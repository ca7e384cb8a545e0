"""Runs of mixtures of experts: what no text chooses is left out of scores, and said."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import GptOssForCausalLM

from rayinfluence.config import RunConfig
from rayinfluence.errors import NumericsError
from rayinfluence.report.page import render_page
from rayinfluence.report.text import percent
from rayinfluence.storage.results import Results
from rayinfluence.testing import tiny_gpt_oss, tiny_run

pytestmark = pytest.mark.runs

Execute = Callable[..., dict[str, Results]]
Change = Callable[..., RunConfig]
ROUTER = "model.layers.1.mlp.router"
NEVER = "model.layers.1.mlp.experts.3"
NEVER_UP, NEVER_DOWN = f"{NEVER}.gate_up_proj", f"{NEVER}.down_proj"


def mixture_run(folder: Path, **more: Any) -> RunConfig:
    """A run of a mixture of which one expert is never chosen."""
    torch.manual_seed(0)
    model = GptOssForCausalLM(tiny_gpt_oss().config)
    for weight in model.parameters():
        weight.data = 0.4 * torch.randn(weight.shape)
    model.get_submodule(ROUTER).bias.data[3] = -1e6
    return tiny_run(folder, 20, pretrained=model, attention="eager", **more)


def test_an_expert_that_no_sequence_chose_is_left_out_of_scores_and_said(
    tmp_path: Path, execute: Execute, said: Any
) -> None:
    results = execute(mixture_run(tmp_path, scan={"methods": ["ekfac", "kfac"]}))
    for name, of_method in results.items():
        unfitted = of_method.manifest["factors"]["unfitted"]
        assert unfitted.items() >= {NEVER_UP: 20 * 13, NEVER_DOWN: 12 * 11}.items()
        assert len(unfitted) < 16
        assert of_method.manifest["methods"][name]["damping"][NEVER_DOWN] == 0
        for hit in of_method.proponents("q0"):
            assert np.isfinite(hit.score)
            assert hit.layer_scores[NEVER_DOWN] == 0
            assert any(hit.layer_scores.values())
    share = sum(unfitted.values()) / (8 * (20 * 13 + 12 * 11))
    words = f"{len(unfitted)} of 16 layers ({share:.1%} of what is tracked) have no gradient in any"
    assert words in said.getvalue()
    assert NEVER_UP in said.getvalue()
    assert f"{len(unfitted)} modules, {percent(share)} of the tracked par" in render_page(results)


def test_with_an_absolute_damping_it_stays(tmp_path: Path, execute: Execute) -> None:
    results = execute(mixture_run(tmp_path, scan={"damping": 0.01}))
    assert "There the damping alone decides." in render_page(results)


def test_where_no_sequence_has_a_gradient_in_any_layer_the_fit_ends(
    tmp_path: Path, execute: Execute
) -> None:
    """The checks let experts wait: these alone are tracked, and no text ever chooses them."""
    modules = {"modules": [f"{NEVER}.*"]}
    with pytest.raises(NumericsError, match=r"none of the 2 tracked layers has a gradient in any"):
        execute(mixture_run(tmp_path, **modules))


def test_routers_are_layers_where_a_pattern_names_them_and_never_by_default(
    tmp_path: Path, execute: Execute, change: Change
) -> None:
    config = mixture_run(tmp_path)
    by_default = next(iter(execute(config).values())).manifest["model"]["modules"]
    assert by_default
    assert all(".experts." in name for name in by_default)
    named = execute(change(config, run=str(tmp_path / "other"), modules=["*.router"]))
    assert next(iter(named.values())).manifest["model"]["modules"] == [
        "model.layers.0.mlp.router",
        "model.layers.1.mlp.router",
    ]
