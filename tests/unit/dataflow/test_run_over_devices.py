"""Runs of a model whose blocks are dealt over two devices, which are pretended: the same bytes.

An operation whose tensors are not all on one of them is an error, as on GPUs.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from other_kinds import bert, tokenizer
from pretended import DEVICES, pretended
from torch import nn

from rayinfluence.config import RunConfig
from rayinfluence.dataflow.begin import parts
from rayinfluence.storage.results import Results
from rayinfluence.testing import tiny_llama, tiny_mixtral, tiny_run

Execute = Callable[..., dict[str, Results]]
Change = Callable[..., RunConfig]
Contents = Callable[[Path], dict[str, bytes]]
BY_GRADIENTS = ["ekfac", "kfac", "diagonal", "gradient_product", "cosine", "self_influence"]


def gpt2_run(folder: Path) -> RunConfig:
    """All methods by gradients, whole and cut, by layer and by token; the fit is bounded."""
    return tiny_run(
        folder,
        24,
        modules="all",
        fit={"error_bound": 0.5},
        scan={"methods": [*BY_GRADIENTS, "bm25"], "rank": 2},
    )


def llama_run(folder: Path) -> RunConfig:
    """Queries, keys and values share their inputs; influences by token, dense queries."""
    model = tiny_llama(dtype=torch.float32, attention="sdpa")
    scan = {"rank": "dense", "token_influences": True}
    return tiny_run(folder, 16, pretrained=model, modules="all", scan=scan)


def mixtral_run(folder: Path) -> RunConfig:
    """Experts, each by the tokens that chose it; the head and the embedding are tracked."""
    model = tiny_mixtral(dtype=torch.float32)
    layers = ["*experts*", "lm_head", "model.embed_tokens"]
    return tiny_run(folder, 16, pretrained=model, modules=layers)


def bert_run(folder: Path) -> RunConfig:
    config = tiny_run(folder, 16, pretrained=bert(torch.float32, "sdpa"), corpus={"context": 14})
    tokenizer().save_pretrained(folder / "model")
    return config


@pytest.mark.parametrize("make", [gpt2_run, llama_run, mixtral_run, bert_run])
def test_a_run_over_two_devices_writes_the_same_bytes(
    make: Callable[[Path], RunConfig],
    tmp_path: Path,
    execute: Execute,
    change: Change,
    contents: Contents,
    monkeypatch: pytest.MonkeyPatch,
    said: Any,
) -> None:
    config = make(tmp_path)
    execute(config)
    placed: list[nn.Module] = []

    def here(_device: str, _gpus: int | None, model: nn.Module) -> tuple[torch.device, ...]:
        placed.append(model)
        return DEVICES

    monkeypatch.setattr(parts, "devices_here", here)
    over = change(config, run=str(tmp_path / "over"))
    with pretended():
        execute(over)
    assert "its blocks are dealt over 2 GPUs" in said.getvalue()
    assert {weight.device for weight in placed[0].parameters()} == set(DEVICES)
    expected = contents(tmp_path / "run")
    found = contents(tmp_path / "over")
    assert found.keys() == expected.keys()
    assert [key for key in expected if found[key] != expected[key]] == []
