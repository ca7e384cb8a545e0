"""Sequences that a model cannot be scored on are set aside by id, and change no other's score."""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from torch import nn
from transformers import GPT2Config, GPT2LMHeadModel

from rayinfluence.config import RunConfig
from rayinfluence.corpus.shards import SCHEMA
from rayinfluence.dataflow.compute.replica import Numerics, Replica, own_labels
from rayinfluence.errors import ConfigError, CorpusError, NumericsError
from rayinfluence.model.batches import Batch
from rayinfluence.model.modules import track
from rayinfluence.model.rows import Rows
from rayinfluence.storage.results import Results
from rayinfluence.testing import tiny_gpt2, tiny_mlp, tiny_run

Execute = Callable[[RunConfig], dict[str, Results]]
NUMERICS = Numerics("float32", "cpu", 64, 2**17, "sdpa", 0)


def table(*sequences: list[int]) -> pa.Table:
    rows = [{"tokens": tokens, "n_tokens": len(tokens)} for tokens in sequences]
    ids = pa.array(range(100, 100 + len(rows)), pa.int64())
    return pa.Table.from_pylist(rows, SCHEMA).append_column("sequence_id", ids)


def replica(model: nn.Module | None = None, **numerics: Any) -> Replica:
    model = model or tiny_gpt2(dtype=torch.float32, attention="sdpa")
    return Replica(model, track(model, ["*"]), Numerics(**{**vars(NUMERICS), **numerics}))


def test_batches_hold_every_good_row_once_and_no_more_tokens_than_allowed() -> None:
    lengths = [2, 16, 5, 9, 3, 3, 7, 12, 2, 2]
    quarantine: dict[int, str] = {}
    batches = list(replica().batches(table(*[[1] * n for n in lengths]), quarantine))
    assert sorted(i for b in batches for i in b.sequence_ids) == list(range(100, 110))
    assert quarantine == {}
    for batch in batches:
        assert batch.tokens_BT.numel() <= 64
        assert [lengths[i - 100] for i in batch.sequence_ids] == batch.lengths_B.tolist()
    assert all(len(b.sequence_ids) == 1 for b in replica(batch_tokens=1).batches(
        table(*[[1] * n for n in lengths]), {}
    ))  # fmt: skip


def test_bad_rows_are_set_aside_and_known_ones_left_out() -> None:
    quarantine = {101: "known before"}
    rows = table([1, 2], [1, 2, 3], [1], [47, 48], [1] * 17, [4, 5])
    [batch] = replica().batches(rows, quarantine)
    assert sorted(batch.sequence_ids) == [100, 105]
    assert quarantine.keys() == {101, 102, 103, 104}
    assert "at least 2" in quarantine[102]
    assert "token id 48" in quarantine[103]
    assert "context is 16" in quarantine[104]


def overflowing(token: int) -> nn.Module:
    """A model whose logits are infinite after one token, and finite after all others."""
    model = tiny_mlp(dtype=torch.float32)

    def overflow(module: nn.Module, inputs: Any, output: torch.Tensor) -> torch.Tensor:
        return torch.where((inputs[0] == token)[..., None], float("inf"), output)

    model.register_forward_hook(overflow)
    return model


def test_a_sequence_that_overflows_is_left_out_and_the_rest_is_as_if_it_had_never_been() -> None:
    ours = replica(overflowing(7))
    gradients: dict[str, torch.Tensor] = {}

    def step(batch: Batch, name: str, rows: Rows) -> None:
        gradients[name] = rows.grads_BRO.transpose(1, 2) @ rows.inputs_BRI

    def run(*sequences: list[int]) -> tuple[list[int], dict[int, str], dict[str, torch.Tensor]]:
        quarantine: dict[int, str] = {}
        [batch] = ours.batches(table(*sequences), quarantine)
        done = ours.run(batch, own_labels, step, quarantine)
        return [] if done is None else done.sequence_ids.tolist(), quarantine, dict(gradients)

    good = [[1, 2, 3], [4, 5, 6]]
    left, quarantine, mixed = run(good[0], [1, 7, 3], good[1], [7, 1, 2])
    assert left == [100, 102]
    assert quarantine == dict.fromkeys((101, 103), "its log-probability is not finite")
    _, none, alone = run(*good)
    assert none == {}
    assert all(torch.equal(mixed[name], alone[name]) for name in alone)
    assert run([1, 7, 3], [7, 7, 7])[0] == []
    # The last token predicts nothing, so nothing overflows after it.
    assert run([1, 2, 7])[0] == [100]


def test_numerics_follow_the_configuration() -> None:
    config = RunConfig.parse({"run": "r", "model": "m", "device": "cpu"})
    assert Numerics.of(config) == Numerics("float32", "cpu", 2048, 2**17, "sdpa", 0)
    chosen = {"dtype": "bfloat16", "batch_tokens": 7, "scan": {"split_tokens": 9}, "seed": 3}
    config = RunConfig.parse({**config.model_dump(), **chosen})
    assert Numerics.of(config) == Numerics("bfloat16", "cpu", 7, 9, "sdpa", 3)
    assert Numerics.of(config).torch_dtype == torch.bfloat16


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device here")
def test_a_device_that_is_not_there_is_refused() -> None:
    values = {"run": "r", "model": "m", "device": "cuda", "runner": {"name": "inline"}}
    with pytest.raises(ConfigError, match="cuda is not available here; set `device: cpu`"):
        Numerics.of(RunConfig.parse(values))


@pytest.mark.parametrize(
    ("device", "workers", "line"),
    [
        ("auto", None, "device cpu, float32"),
        ("auto", "cpu", "device cpu, float32 (no node of the cluster has a GPU now)"),
        ("auto", "cuda", "device cuda, bfloat16 (workers have GPUs; this process has none)"),
        ("cpu", "cuda", "device cpu, float32 (workers have GPUs; this process has none)"),
        (
            "cuda",
            "cpu",
            "device cuda, bfloat16 (no node of the cluster has a GPU now: workers wait for one)",
        ),
    ],
)
def test_the_device_is_decided_where_the_work_runs(
    monkeypatch: pytest.MonkeyPatch, device: str, workers: str | None, line: str
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    config = RunConfig.parse({"run": "r", "model": "m", "device": device})
    assert Numerics.of(config, workers).place(workers) == line


def test_a_gpu_of_the_head_is_none_of_the_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    config = RunConfig.parse({"run": "r", "model": "m"})
    assert Numerics.of(config, "cpu").device == "cpu"
    assert Numerics.of(config).device == "cuda"


def test_a_scorer_without_its_device_says_so_and_is_not_tried_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import pyarrow as pa

    from rayinfluence.dataflow.runners.ray import actors

    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    for name in ("get", "put"):
        monkeypatch.setattr(actors.ray, name, lambda one: one)
    ours = replica(tiny_mlp())
    parts = actors.ModelParts.of(ours, 0)
    numerics = Numerics(**{**vars(NUMERICS), "device": "cuda"})
    parts = dataclasses.replace(parts, numerics=numerics, gpus=1)
    monkeypatch.setattr(actors, "log_as_json", lambda run: None)
    [row] = actors.Scorer([parts], [None], None, "run")(pa.table({"bundle": ["[]"]})).to_pylist()
    assert row["error"] == "ConfigError"
    assert "sees no CUDA device" in row["reason"]


# Whole runs with a word after which the model's numbers overflow.

POISON = "w45"


def poisoned_run(folder: Path, last: list[str], sign: float = -1.0, **values: Any) -> RunConfig:
    """A run whose model overflows on one word; ``last`` are documents after 200 good ones."""
    config = tiny_run(folder, **values)
    torch.manual_seed(0)
    model = GPT2LMHeadModel(
        GPT2Config(
            vocab_size=48,
            n_positions=16,
            n_embd=12,
            n_layer=2,
            n_head=2,
            bos_token_id=0,
            eos_token_id=0,
            tie_word_embeddings=False,
        )
    )
    # One number far from the others: their differences overflow, and the log-probability is NaN.
    # Were all alike (sign 1), it would be finite and its gradient would not.
    model.transformer.wte.weight.data[46] = sign * 3e38
    model.transformer.wte.weight.data[46, 0] = 3e38
    model.save_pretrained(folder / "model")
    generator = np.random.default_rng(0)
    texts = [
        " ".join(f"w{word}" for word in generator.integers(0, 40, generator.integers(3, 12)))
        for _ in range(200)
    ]
    rows = [{"id": f"d{i}", "text": text, "source": "s"} for i, text in enumerate(texts + last)]
    (folder / "documents.jsonl").write_text("\n".join(map(json.dumps, rows)))
    row = {"query_id": "q", "prompt": "w1 w2", "completion": " w3 w4"}
    (folder / "queries.jsonl").write_text(json.dumps(row))
    return config


def scores(results: Results) -> dict[int, float]:
    rows = results.table.to_pylist()
    assert all(np.isfinite(row["score"]) for row in rows)
    assert all(np.isfinite(row["token_scores"]).all() for row in rows)
    return {row["sequence_id"]: row["score"] for row in rows}


@pytest.mark.parametrize(
    ("sign", "in_fit", "in_scan"),
    [
        (-1.0, "its log-probability is not finite", "its log-probability is not finite"),
        (1.0, "its gradient is not finite", "its influence is not finite"),
    ],
)
def test_a_sequence_that_is_not_finite_is_set_aside_by_id_in_fit_and_scan(
    tmp_path: Path, execute: Execute, sign: float, in_fit: str, in_scan: str
) -> None:
    (tmp_path / "with").mkdir()
    (tmp_path / "without").mkdir()
    texts = ["w1 w2 w3", f"w1 {POISON} w2", f"w4 w5 w6 {POISON} w2"]
    results = execute(poisoned_run(tmp_path / "with", texts, sign))["ekfac"]
    manifest = results.manifest
    assert manifest["methods"]["ekfac"]["quarantined"] == [
        {"sequence_id": 201, "reason": in_scan},
        {"sequence_id": 202, "reason": in_scan},
    ]
    assert manifest["methods"]["ekfac"]["scanned_sequences"] == 201
    assert manifest["factors"]["quarantined"] == [[201, in_fit], [202, in_fit]]
    assert manifest["factors"]["n_sequences"] == 201
    assert manifest["corpus"]["bad_sequences"] == []  # its tokens are good ones
    assert results.groups["n_sequences"].to_pylist() == [201]
    # The ids of all others stay as they are when the last ones go.
    alone = execute(poisoned_run(tmp_path / "without", texts[:1], sign))["ekfac"]
    assert alone.manifest["methods"]["ekfac"]["quarantined"] == []
    assert scores(results) == pytest.approx(scores(alone), rel=1e-3)


def test_a_model_that_is_finite_on_few_sequences_is_refused(
    tmp_path: Path, execute: Execute
) -> None:
    config = poisoned_run(tmp_path, [f"w1 {POISON} w2"] * 5)
    with pytest.raises(CorpusError, match=r"5 of 205 sequences .* not finite"):
        execute(config)
    assert not list((tmp_path / "run" / "factors").glob("*/manifest.json"))


def test_a_query_that_is_not_finite_is_named(tmp_path: Path, execute: Execute) -> None:
    config = poisoned_run(tmp_path, [])
    row = {"query_id": "bad", "prompt": f"w1 {POISON}", "completion": " w3"}
    (tmp_path / "queries.jsonl").write_text(json.dumps(row))
    with pytest.raises(NumericsError, match=r"query 'bad': .* not finite; try `dtype: float32`"):
        execute(config)


@pytest.mark.parametrize("where", ["inputs", "grads"])
def test_a_gradient_that_is_not_finite_is_set_aside_too(
    tmp_path: Path, execute: Execute, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    """The loss is finite, and what one module saw of one sequence is not."""
    from rayinfluence.dataflow.compute import replica as module

    original = module.backward

    def poisoned(modules: Any, shape: Any, objective: Any, consume: Any, sides: Any = None) -> None:
        batch = getattr(consume, "args", [None])[0]

        def spoil(name: str, rows: Rows) -> None:
            if name.endswith("h.1.mlp.c_fc") and batch is not None:
                inputs, grads = rows.inputs_BRI.clone(), rows.grads_BRO.clone()
                spoilt = inputs if where == "inputs" else grads
                spoilt[np.flatnonzero(batch.sequence_ids == 100), 0, 0] = float("inf")
                rows = Rows(inputs, grads, rows.n_tokens)
            consume(name, rows)

        original(modules, shape, objective, spoil, sides)

    monkeypatch.setattr(module, "backward", poisoned)
    results = execute(poisoned_run(tmp_path, []))["ekfac"]
    manifest = results.manifest
    assert manifest["factors"]["quarantined"] == [[100, "its gradient is not finite"]]
    [aside] = manifest["methods"]["ekfac"]["quarantined"]
    assert aside == {"sequence_id": 100, "reason": "its influence is not finite"}
    assert manifest["methods"]["ekfac"]["scanned_sequences"] == 199
    scores(results)


def test_a_device_that_adds_in_any_order_is_told_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rayinfluence.model.repeatable._ANY_ORDER", {"cpu"})
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    ours = replica()
    [batch] = ours.batches(table([1, 2, 3]), {})
    seen: list[bool] = []
    ours.run(
        batch, own_labels, lambda *_: seen.append(torch.are_deterministic_algorithms_enabled()), {}
    )
    assert seen
    assert all(seen)
    assert not torch.are_deterministic_algorithms_enabled()


def test_a_model_without_an_order_runs_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rayinfluence.model.repeatable._ANY_ORDER", {"cpu"})
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    model = tiny_gpt2(dtype=torch.float32, attention="sdpa")

    def unordered(_module: nn.Module, args: tuple[Any, ...]) -> None:
        torch.zeros(3).put_(torch.tensor([0]), torch.ones(1))

    model.transformer.h[0].register_forward_pre_hook(unordered)
    ours = replica(model)
    [batch] = ours.batches(table([1, 2, 3]), {})
    with pytest.warns(UserWarning, match="last bits.*put_"):
        assert ours.run(batch, own_labels, lambda *_: None, {}) is batch
