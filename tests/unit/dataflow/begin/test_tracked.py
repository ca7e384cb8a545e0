"""What of a model can be tracked, where derivatives tell less than usual."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from rayinfluence.config import RunConfig
from rayinfluence.dataflow.begin.tracked import TrackedModel
from rayinfluence.dataflow.compute.replica import Numerics
from rayinfluence.errors import ModelError
from rayinfluence.model.load import freeze
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


class Block(nn.Module):
    """Layers of which one is for texts of some lengths alone."""

    def __init__(self, at: Callable[[int], bool]) -> None:
        super().__init__()
        self.up, self.down, self.far = nn.Linear(8, 16), nn.Linear(16, 8), nn.Linear(8, 8)
        self.at = at

    def forward(self, hidden: Tensor) -> Tensor:
        hidden = hidden + self.down(torch.tanh(self.up(hidden)))
        return hidden + torch.tanh(self.far(hidden)) if self.at(hidden.shape[1]) else hidden


class Long(nn.Module):
    """Two such blocks, and a tower that only pictures reach."""

    def __init__(self, at: Callable[[int], bool]) -> None:
        super().__init__()
        self.embed, self.head = nn.Embedding(48, 8), nn.Linear(8, 48)
        self.blocks = nn.Sequential(Block(at), Block(at))
        self.vision = nn.Linear(8, 8)

    def forward(self, tokens_BT: Tensor) -> Tensor:
        return self.head(self.blocks(self.embed(tokens_BT)))


LENGTHS: dict[str, Callable[[int], bool]] = {
    "more than 30": lambda n: n > 30,
    "more than 500": lambda n: n > 500,
    "20 to 40": lambda n: 20 <= n <= 40,
    "less than 5": lambda n: n < 5,
    "odd": lambda n: n % 2 == 1,
    "even": lambda n: n % 2 == 0,
}


@pytest.mark.parametrize("modules", [None, ["*"]])
@pytest.mark.parametrize("at", LENGTHS)
def test_layers_that_texts_of_some_lengths_use_are_tracked_and_a_tower_is_not(
    at: str, modules: list[str] | None, tmp_path: Path, change: Callable[..., RunConfig]
) -> None:
    config = change(tiny_run(tmp_path, corpus={"context": 512}), modules=modules)
    torch.manual_seed(0)
    model = freeze(Long(LENGTHS[at]))
    found = TrackedModel.of(model, config, Numerics.of(config), lambda _model: range(48))
    layers = [f"blocks.{n}.{part}" for n in range(2) for part in ("up", "down", "far")]
    assert [*found.replica.modules] == (layers if modules is None else ["head", *layers])
    assert found.reach.outside == ("vision",)
    assert found.coverage.reached == sum(
        weight.numel() for name, weight in model.named_parameters() if "vision" not in name
    )


def test_what_is_used_beyond_the_run_s_context_alone_is_not_reached(
    tmp_path: Path, change: Callable[..., RunConfig]
) -> None:
    config = change(tiny_run(tmp_path, corpus={"context": 30}), modules=["*"])
    model = freeze(Long(LENGTHS["more than 30"]))
    found = TrackedModel.of(model, config, Numerics.of(config), lambda _model: range(48))
    assert found.reach.outside == ("blocks.0.far", "blocks.1.far", "vision")
