"""Runs of a model whose blocks are dealt over two devices, which are pretended: the same bytes.

An operation whose tensors are not all on one of them is an error, as on GPUs.
"""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from other_kinds import t5, tokenizer
from pretended import DEVICES, pretended
from torch import nn
from transformers import MixtralForCausalLM

from rayinfluence.config import RunConfig
from rayinfluence.dataflow.begin import parts
from rayinfluence.dataflow.compute.devices import gpus_for
from rayinfluence.dataflow.compute.replica import Numerics, Replica
from rayinfluence.errors import ConfigError, ModelError
from rayinfluence.model.modules import track
from rayinfluence.model.placement import dealt, device_of_tokens, place
from rayinfluence.storage.results import Results
from rayinfluence.testing import tiny_gpt2, tiny_llama, tiny_mixtral, tiny_mlp, tiny_run

pytestmark = pytest.mark.runs

Execute = Callable[..., dict[str, Results]]
Change = Callable[..., RunConfig]
Contents = Callable[[Path], dict[str, bytes]]
NUMERICS = Numerics("float64", "cpu", 64, 2**17, "eager", 0)
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
    """Experts, each by the tokens that chose it; the head is tracked."""
    torch.manual_seed(0)
    model = MixtralForCausalLM(tiny_mixtral().config)
    layers = ["*experts.0.*", "lm_head"]
    return tiny_run(folder, 8, pretrained=model, modules=layers, attention="eager")


def t5_run(folder: Path) -> RunConfig:
    """Blocks of a decoder on both devices share what the encoder gives."""
    config = tiny_run(
        folder,
        pretrained=t5(torch.float32, "sdpa"),
        modules=["decoder*EncDecAttention.[kv]", "encoder*.wi"],
        dtype="float64",
        attention="eager",
        corpus={"context": 18, "prompt_column": "source"},
        scan={"top": 100, "rank": "dense", "methods": ["ekfac", "gradient_product"]},
    )
    tokenizer().save_pretrained(folder / "model")
    rows = [{"id": str(i), "source": f"w{i} w3", "text": f"w{i + 1} w7 w{i + 2}"} for i in range(9)]
    (folder / "documents.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return config


@pytest.fixture
def over(
    tmp_path: Path, execute: Execute, change: Change, monkeypatch: pytest.MonkeyPatch, said: Any
) -> Callable[[RunConfig], dict[str, Results]]:
    """Do a run that was done again over two devices, in a directory of its own."""

    def run(config: RunConfig) -> dict[str, Results]:
        placed: list[nn.Module] = []

        def here(_device: str, _gpus: int | None, model: nn.Module) -> tuple[torch.device, ...]:
            placed.append(model)
            return DEVICES

        monkeypatch.setattr(parts, "devices_here", here)
        shutil.copytree(tmp_path / "run" / "preflight", tmp_path / "over" / "preflight")
        with pretended():
            results = execute(change(config, run=str(tmp_path / "over")))
        assert "its blocks are dealt over 2 GPUs" in said.getvalue()
        assert {weight.device for weight in placed[0].parameters()} == set(DEVICES)
        return results

    return run


@pytest.mark.parametrize("make", [gpt2_run, llama_run, mixtral_run])
def test_a_run_over_two_devices_writes_the_same_bytes(
    make: Callable[[Path], RunConfig],
    over: Callable[[RunConfig], dict[str, Results]],
    tmp_path: Path,
    execute: Execute,
    contents: Contents,
) -> None:
    config = make(tmp_path)
    execute(config)
    over(config)
    expected = contents(tmp_path / "run")
    found = contents(tmp_path / "over")
    assert found.keys() == expected.keys()
    assert [key for key in expected if found[key] != expected[key]] == []


def test_what_blocks_on_both_devices_share_is_the_same_but_for_rounding(
    over: Callable[[RunConfig], dict[str, Results]], tmp_path: Path, execute: Execute
) -> None:
    """Its gradient is a sum over blocks, which each device begins by itself."""
    config = t5_run(tmp_path)
    expected, found = execute(config), over(config)
    for method, results in expected.items():
        for query in results.queries:
            scores = {hit.sequence_id: hit.score for hit in results.proponents(query)}
            again = {hit.sequence_id: hit.score for hit in found[method].proponents(query)}
            assert scores
            assert again == pytest.approx(scores, rel=1e-6)


def test_blocks_are_dealt_in_their_order_by_their_bytes() -> None:
    model = tiny_llama()
    found = dealt(model, DEVICES)
    assert found == {"model.layers.0": DEVICES[0], "model.layers.1": DEVICES[1]}
    with pytest.raises(ModelError, match=r"has 2 blocks .* dealt over 3 GPUs\. Set `runner\."):
        dealt(model, [*DEVICES, DEVICES[0]])
    with pytest.raises(ModelError, match="has 0 blocks"):
        dealt(tiny_mlp(), DEVICES)


def test_blocks_that_share_weights_are_on_the_first_device() -> None:
    model = tiny_gpt2()
    first, second = model.transformer.h
    second.mlp.c_fc.weight = first.mlp.c_fc.weight
    assert set(dealt(model, DEVICES).values()) == {DEVICES[0]}


def test_tied_weights_stay_tied_and_tokens_are_on_the_first_device() -> None:
    with pretended():
        model = place(tiny_gpt2(), DEVICES)
        assert model.lm_head.weight is model.transformer.wte.weight
        assert device_of_tokens(model) == DEVICES[0]
        assert model.transformer.h[1].mlp.c_fc.weight.device == DEVICES[1]


def test_a_model_that_goes_around_its_blocks_is_refused_in_words() -> None:
    model = tiny_gpt2()
    replica = Replica(model, track(model, ["*c_fc"]), NUMERICS)
    blocks = model.transformer.h
    blocks[0].register_forward_hook(lambda *call: blocks[1].mlp(call[2]))
    with pretended(), pytest.raises(ModelError, match=r"with its blocks on 2 GPUs: .*calling the"):
        Replica.over(DEVICES, model, replica.modules, NUMERICS, replica.shapes)


@pytest.mark.parametrize(
    ("weights", "sizes", "expected"),
    [(40, [80], 1), (40, [80, 80], 1), (41, [80, 80, 80], 2), (200, [80, 80, 80], 3), (9, [], 0)],
)
def test_in_one_process_weights_take_half_of_as_few_gpus_as_can_be(
    weights: int, sizes: list[int], expected: int
) -> None:
    assert gpus_for(weights, sizes) == expected


@pytest.mark.parametrize("device", ["auto", "cpu"])
def test_several_gpus_are_refused_without_their_device(tmp_path: Path, device: str) -> None:
    with pytest.raises(ConfigError, match=r"gpus_per_actor: 2 .* need `device: cuda`, and it is"):
        tiny_run(tmp_path, device=device, runner={"gpus_per_actor": 2})


def test_more_gpus_than_there_are_are_refused(
    tmp_path: Path, execute: Execute, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 1)
    config = tiny_run(tmp_path, device="cuda", runner={"gpus_per_actor": 2})
    with pytest.raises(ConfigError, match=r"gpus_per_actor: 2, and this machine has 1 CUDA device"):
        execute(config)
