"""What of a model can be tracked, where derivatives tell less than usual."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from rayinfluence.config import RunConfig
from rayinfluence.dataflow.begin.tracked import TrackedModel
from rayinfluence.dataflow.compute.replica import Numerics
from rayinfluence.errors import ModelError
from rayinfluence.testing import tiny_gpt2, tiny_run


def test_layers_may_be_named_where_no_derivative_leads_to_the_first_of_them(
    tmp_path: Path, change: Callable[..., RunConfig]
) -> None:
    config = tiny_run(tmp_path)
    model = tiny_gpt2(dtype=torch.float32)
    model.transformer.drop.forward = lambda embedded: torch.from_numpy(embedded.numpy())

    def tracked(config: RunConfig) -> TrackedModel:
        return TrackedModel.of(model, config, Numerics.of(config), lambda _model: range(48))

    with pytest.raises(ModelError, match=r"Can't call numpy\(\) on Tensor that requires grad"):
        tracked(config)
    found = tracked(change(config, modules=["*.mlp.*"]))
    assert len(found.replica.modules) == 4
    assert found.parts == {}
