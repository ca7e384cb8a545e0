"""How many GPUs a replica takes, what lies on the fullest, and what to set where that is too much.

No GPU is there: their sizes are pretended, and what would lie on them is counted.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM

from rayinfluence import cli
from rayinfluence.config import RunConfig
from rayinfluence.dataflow.compute.devices import refuse_too_small
from rayinfluence.dataflow.compute.replica import Numerics, Replica
from rayinfluence.dataflow.jobs import calibrate
from rayinfluence.dataflow.plan.forecast import Share
from rayinfluence.dataflow.plan.fullest import shares_of, told
from rayinfluence.dataflow.plan.inspecting import inspect
from rayinfluence.errors import ConfigError
from rayinfluence.model.modules import track
from rayinfluence.testing import tiny_gpt2, tiny_llama, tiny_mlp, tiny_run

Say = Callable[..., tuple[int, str, str]]
NUMERICS = Numerics("float32", "cpu", 64, 64, "eager", 0)
GPUS = [torch.device("cuda", one) for one in range(2)]


@pytest.fixture
def gpus(monkeypatch: pytest.MonkeyPatch) -> Callable[[int, int], None]:
    """Have so many of so many bytes."""

    def have(number: int, size: int) -> None:
        monkeypatch.setattr("torch.cuda.is_available", lambda: True)
        monkeypatch.setattr("torch.cuda.device_count", lambda: number)
        monkeypatch.setattr("torch.cuda.mem_get_info", lambda _device: (0, size))
        monkeypatch.setattr("torch.cuda.max_memory_allocated", lambda _device: 7)

    return have


def replica_of(model: nn.Module, modules: list[str]) -> Replica:
    return Replica(model, track(model, modules), NUMERICS)


def bytes_of(model: nn.Module, prefix: str) -> int:
    return sum(weight.nbytes for name, weight in model.named_parameters() if prefix in name)


def test_a_device_has_its_blocks_and_the_first_what_is_in_none() -> None:
    model = tiny_llama(dtype=torch.float32)
    replica = replica_of(model, ["*"])
    first, second = shares_of(replica, 2)
    assert second.weights == bytes_of(model, "layers.1.")
    assert first.weights == bytes_of(model, "") - second.weights
    assert second.modules == [name for name in replica.modules if "layers.1." in name]
    assert {*first.modules, *second.modules} == set(replica.modules)
    assert shares_of(replica, 0) == shares_of(replica, 1)
    assert shares_of(replica, 1) == [Share(bytes_of(model, ""), list(replica.modules))]


def test_weights_that_are_tied_lie_once() -> None:
    model = tiny_gpt2(dtype=torch.float32)
    first, second = shares_of(replica_of(model, ["*.c_fc"]), 2)
    assert first.weights + second.weights == sum(one.nbytes for one in model.parameters())


@pytest.mark.parametrize(
    ("size", "words"),
    [
        (900, "up to 900 B at once, which fits"),
        (899, "which does not fit: set `runner.gpus_per_actor: 2`, with which it is 450 B"),
        (449, "nor over more GPUs of a node: raise `fit.blocks`, lower `scan.rank`"),
    ],
)
def test_what_does_not_fit_is_told_with_what_to_set(size: int, words: str) -> None:
    replica = replica_of(tiny_llama(), ["*"])
    said = told(replica, 1, size, lambda shares: 900 // len(shares))
    assert said.startswith(f"a replica takes 1 GPU of {size} B")
    assert words in said


def test_weights_that_do_not_fit_a_gpu_are_refused_with_how_many_they_take(
    gpus: Callable[[int, int], None],
) -> None:
    model = tiny_llama(dtype=torch.float32)
    whole = bytes_of(model, "")
    first, _ = shares_of(replica_of(model, ["*"]), 2)
    gpus(1, whole)
    refuse_too_small(model, GPUS[:1])
    gpus(1, whole - 1)
    # Weights take half of a GPU at most, if so many GPUs can be had.
    with pytest.raises(ConfigError, match=r"lie on one GPU of .* with 1 GPU for a replica\. How"):
        refuse_too_small(model, GPUS[:1])
    gpus(2, first.weights)
    refuse_too_small(model, GPUS)
    refuse_too_small(model, [torch.device("cpu")])


def test_the_number_that_is_named_leaves_half_of_each_gpu(
    gpus: Callable[[int, int], None],
) -> None:
    sizes = {"vocab_size": 8, "hidden_size": 16, "intermediate_size": 64, "num_hidden_layers": 8}
    model = LlamaForCausalLM(LlamaConfig(**sizes, num_attention_heads=2))
    # Eight blocks that are alike, and little beside.
    gpus(8, int(0.55 * bytes_of(model, "")))
    with pytest.raises(ConfigError, match=r"Set `runner\.gpus_per_actor: 4`, on nodes"):
        refuse_too_small(model, GPUS[:1])


def test_a_model_without_blocks_has_one_gpu(gpus: Callable[[int, int], None]) -> None:
    gpus(8, 10)
    with pytest.raises(ConfigError, match="Take larger GPUs, or a narrower `dtype`"):
        refuse_too_small(tiny_mlp(), GPUS[:1])


def test_inspect_counts_what_lies_on_the_fullest_gpu(
    tmp_path: Path, gpus: Callable[[int, int], None]
) -> None:
    run = tiny_run(tmp_path, pretrained=tiny_llama(dtype=torch.float32), modules="all")
    run = RunConfig.parse({**run.model_dump(), "device": "cuda", "dtype": "float32"})
    gpus(2, 2**30)
    one = inspect(run)
    assert (one.gpus, one.fullest) == (1, one.bytes)
    values = run.model_dump()
    two = inspect(RunConfig.parse({**values, "runner": {**values["runner"], "gpus_per_actor": 2}}))
    shares = shares_of(two.tracked.replica, 2)
    shapes = two.tracked.replica.shapes
    fullest = two.fullest
    assert fullest.weights in [share.weights for share in shares]
    (share,) = (share for share in shares if share.weights == fullest.weights)
    assert fullest.gradient == 4 * sum(shapes[name].n_parameters for name in share.modules)
    assert two.bytes == one.bytes
    assert one.bytes.gradient > fullest.gradient
    assert (fullest.activations, fullest.window) == (one.bytes.activations, one.bytes.window)
    assert (two.memory, two.gpus) == (2**30, 2)
    assert "a replica takes 2 GPUs of 1.0 GiB; on the fullest lie up to" in two.on_gpus
    assert two.to_json()["memory"]["fullest"]["weights"] == fullest.weights


def test_inspect_says_what_to_set_where_a_gpu_is_too_small(
    tmp_path: Path, gpus: Callable[[int, int], None], say: Say
) -> None:
    run = tiny_run(tmp_path, pretrained=tiny_llama(dtype=torch.float32), modules="all")
    run = RunConfig.parse({**run.model_dump(), "device": "cuda", "dtype": "float32"})
    (tmp_path / "run.yaml").write_text(run.model_dump_json())
    gpus(1, 2**30)
    size = inspect(run).bytes
    gpus(1, max(size.fit, size.scan) - 1)
    code, out, error = say("inspect", tmp_path / "run.yaml")
    assert (code, error) == (0, "")
    assert "GPUs         a replica takes 1 GPU of" in out
    assert "does not fit: set `runner.gpus_per_actor: 2`, with which it is" in out


@pytest.mark.parametrize(("size", "words"), [(2**30, "which fits"), (100, "which does not fit")])
def test_plan_says_how_many_gpus_a_replica_takes_and_what_is_on_the_fullest(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    size: int,
    words: str,
    execute: Callable[..., object],
) -> None:
    monkeypatch.setattr("torch.cuda.mem_get_info", lambda _device: (0, size))
    monkeypatch.setattr("torch.cuda.max_memory_allocated", lambda _device: 7)
    monkeypatch.setattr(calibrate, "_gpus", lambda _replica: set(GPUS))
    config = tiny_run(tmp_path, pretrained=tiny_llama(dtype=torch.float32))
    (tmp_path / "run.yaml").write_text(config.model_dump_json())
    with pytest.raises(SystemExit) as ended:
        cli.main(["plan", str(tmp_path / "run.yaml"), "--actors", "3"])
    assert not ended.value.code
    said = capsys.readouterr().out
    assert "a replica takes 2 GPUs of" in said
    assert words in said
    assert "memory of its fullest GPU" in said
    planned = json.loads((tmp_path / "run" / "plan.json").read_text())
    whole, fullest = planned["forecast"]["memory"], planned["forecast"]["fullest"]
    assert whole["CUDA device, measured"] == 7
    assert all(0 < fullest[name] <= whole[name] for name in fullest)
    assert fullest["query banks"] == whole["query banks"] / 2  # two blocks that are alike
    hours = planned["hours"] * 3 * 2
    assert f"{hours:.3g} actor-hours" in said


def test_a_gpu_that_is_too_small_for_a_plan_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, say: Say
) -> None:
    def full(*_: object, **__: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr("torch.cuda.mem_get_info", lambda _device: (0, 2**30))
    monkeypatch.setattr(calibrate, "_gpus", lambda _replica: set(GPUS))
    monkeypatch.setattr(calibrate, "fold_covariance", full)
    (tmp_path / "run.yaml").write_text(tiny_run(tmp_path).model_dump_json())
    code, _, error = say("plan", tmp_path / "run.yaml")
    assert code == 2
    assert "plan: a replica over 2 GPUs of 1.0 GiB ran out of their memory" in error
    assert "Set `runner.gpus_per_actor: 4`" in error
