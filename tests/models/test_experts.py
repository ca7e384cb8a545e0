"""Mixtures whose experts are stacked: each expert is attributed, by the tokens that chose it.

What is expected comes from the model as transformers loads it, whose experts are single parameters.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import naive
import numpy as np
import pytest
import torch
from families import EXPERTS, Family, tiny_model
from harness import bases_of, fit_factors, operator_of, table
from torch import Tensor, nn
from transformers import AutoModelForCausalLM

from rayinfluence.dataflow.compute.module_groups import module_groups
from rayinfluence.dataflow.compute.replica import Numerics, Replica, own_labels
from rayinfluence.model.experts import take_apart
from rayinfluence.model.load import load_model
from rayinfluence.model.modules import Coverage, shape_of, track
from rayinfluence.model.reach import Reach
from rayinfluence.storage.results import Results
from rayinfluence.testing import tiny_run

pytestmark = pytest.mark.models
#: Routers, norms and softmax of most families compute in float32 whatever the dtype is.
SAME = 1e-5


@pytest.fixture(params=EXPERTS, ids=lambda family: family.kind)
def family(request: pytest.FixtureRequest) -> Family:
    return request.param


@pytest.fixture
def folder(family: Family, tmp_path: Path) -> Path:
    tiny_model(family).save_pretrained(tmp_path / "model")
    return tmp_path


def untouched(folder: Path) -> nn.Module:
    """The model as transformers has it, in float64, with its own code of experts."""
    return AutoModelForCausalLM.from_pretrained(
        folder / "model",
        dtype=torch.float64,
        attn_implementation="eager",
        experts_implementation="eager",
    ).eval()


def replica_of(family: Family, folder: Path, batch_tokens: int = 40) -> Replica:
    model = load_model(str(folder / "model"), torch.float64, attention="eager")
    numerics = Numerics("float64", "cpu", batch_tokens, 2**17, "eager", 3)
    return Replica(model, track(model, family.modules), numerics)


def sequences(n: int = 6) -> list[np.ndarray]:
    generator = np.random.default_rng(0)
    return [generator.integers(1, 47, int(length)) for length in generator.integers(2, 14, n)]


def fused_gradients(
    model: nn.Module, names: list[str], tokens: np.ndarray, labels: list[int] | None = None
) -> dict[str, Tensor]:
    """D of a sequence by module, of which experts' are slices of stacked parameters'."""
    twin = naive.trainable(model)
    naive.log_probability(twin, list(tokens), labels).backward()
    parameters = dict(twin.named_parameters())
    return {name: _slice(parameters, twin, name) for name in names}


def _slice(parameters: dict[str, nn.Parameter], model: nn.Module, name: str) -> Tensor:
    if f"{name}.weight" in parameters:
        return _with_bias(parameters[f"{name}.weight"], parameters.get(f"{name}.bias"))
    experts, number, which = name.rsplit(".", 2)
    if which.isdigit():  # JetMoe's, of which each layer is a stack
        return _gradient(parameters[f"{experts}.{number}.weight"])[int(which)]
    stack = parameters[f"{experts}.{which}"]
    module = model.get_submodule(experts)
    weight = _gradient(stack)[int(number)]
    # What is stored as [I, O] gives as many outputs as it has columns.
    transposed = getattr(module, "is_transposed", "Llama4" in type(module).__name__)
    weight = weight.T if transposed else weight
    bias = parameters.get(f"{experts}.{which}_bias")
    return weight if bias is None else torch.cat([weight, _gradient(bias)[int(number), :, None]], 1)


def _gradient(parameter: nn.Parameter) -> Tensor:
    return torch.zeros_like(parameter) if parameter.grad is None else parameter.grad


def _with_bias(weight: nn.Parameter, bias: nn.Parameter | None) -> Tensor:
    if bias is None:
        return _gradient(weight)
    return torch.cat([_gradient(weight), _gradient(bias)[:, None]], dim=1)


def test_a_model_taken_apart_says_what_it_said(family: Family, folder: Path) -> None:
    plain, ours = untouched(folder), replica_of(family, folder).model
    assert not any(p.ndim == 3 and "conv" not in name for name, p in ours.named_parameters())
    assert sum(p.numel() for p in plain.parameters()) == sum(p.numel() for p in ours.parameters())
    for tokens in sequences():
        given = torch.from_numpy(tokens)[None]
        with torch.no_grad():
            expected, found = plain(given).logits, ours(given).logits
        assert float((found - expected).norm() / expected.norm()) < 1e-6


def test_gradients_of_sequences_are_those_of_the_stacked_parameters(
    family: Family, folder: Path
) -> None:
    plain, replica, some = untouched(folder), replica_of(family, folder), sequences()
    found: dict[tuple[int, str], Tensor] = {}

    def step(batch, name, rows) -> None:
        for index, sequence_id in enumerate(batch.sequence_ids):
            inputs, grads = rows.inputs_BRI[index], rows.grads_BRO[index]
            gradient = grads.T @ inputs
            if replica.shapes[name].bias:
                gradient = torch.cat([gradient, grads.sum(dim=0)[:, None]], dim=1)
            found[int(sequence_id), name] = gradient

    for batch in replica.batches(table(some), {}):
        replica.run(batch, own_labels, step, {})
    names = list(replica.modules)
    routed = [name for name in names if replica.shapes[name].routed]
    assert routed
    chosen = 0
    for index, tokens in enumerate(some):
        expected = fused_gradients(plain, names, tokens)
        scale = max(float(one.norm()) for one in expected.values())
        for name, gradient in expected.items():
            one = found.get((index, name), torch.zeros_like(gradient))
            assert float((one - gradient).norm()) <= SAME * scale, (index, name)
            chosen += name in routed and bool(gradient.any())
    assert 0 < chosen < len(routed) * len(some)  # some experts have none


def test_factors_are_those_of_explicit_loops(family: Family, folder: Path) -> None:
    """A and S over the tokens that chose an expert, Lambda over all sequences."""
    replica, some = replica_of(family, folder), sequences(12)
    names = list(replica.modules)
    operator = operator_of(fit_factors(replica, some, folder / "fit"))
    plain = untouched(folder)
    labels = naive.sampled_labels(plain, some, range(len(some)), 3)
    covariances = naive.covariances(replica.model, names, some, labels)
    per_sequence = [
        fused_gradients(plain, names, tokens, row) for tokens, row in zip(some, labels, strict=True)
    ]
    moments = naive.moments(per_sequence, bases_of(operator))
    for name, one in operator.items():
        factors = one.factors
        if name not in covariances:
            assert not factors.moments.any()
            continue
        sides = ((factors.inputs_basis, factors.inputs_eigenvalues),
                 (factors.outputs_basis, factors.outputs_eigenvalues))  # fmt: skip
        for (basis, values), expected in zip(sides, covariances[name], strict=True):
            found = basis.dense() @ torch.diag(values) @ basis.dense().T
            assert float((found - expected).norm()) <= SAME * float(expected.norm()) + 1e-12, name
        scale = max(float(one.norm()) for one in moments.values())
        assert float((factors.moments - moments[name]).norm()) <= SAME * scale, name


def test_a_whole_run_attributes_experts(
    family: Family, tmp_path: Path, execute: Callable[..., dict[str, Results]]
) -> None:
    methods = {"methods": ["ekfac", "gradient_product"]}
    config = tiny_run(
        tmp_path, 20, pretrained=tiny_model(family), dtype="float64", attention="eager",
        scan={"rank": "dense", **methods},
    )  # fmt: skip
    results = execute(config)
    manifest = results["ekfac"].manifest
    experts = [name for name in manifest["model"]["modules"] if re.search(r"\.3(\.|$)", name)]
    assert experts
    assert manifest["model"]["coverage"] > 0.2
    plain = untouched(tmp_path)
    scores = results["gradient_product"]
    names = manifest["model"]["modules"]
    rows = {hit.sequence_id: hit for hit in scores.proponents("q0")}
    assert rows
    query = scores.queries["q0"]
    twin = naive.trainable(plain)
    first = len(query["tokens"]) - query["n_completion_tokens"]
    naive.log_probability(twin, query["tokens"], first=first).backward()
    parameters = dict(twin.named_parameters())
    of_query = {name: _slice(parameters, twin, name) for name in names}
    for hit in rows.values():
        of_sequence = fused_gradients(plain, names, np.array(hit.tokens))
        expected = sum(float((of_query[name] * of_sequence[name]).sum()) for name in names)
        assert hit.score == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("family", EXPERTS, ids=lambda family: family.checkpoint)
def test_the_defaults_are_most_of_a_published_checkpoint(family: Family) -> None:
    """By its sizes alone, without memory for its numbers; thousands of experts take seconds."""
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(family.config(published=True))
    billions = sum(weight.numel() for weight in model.parameters()) / 1e9
    assert billions == pytest.approx(family.billions, rel=0.01)
    take_apart(model)
    tracked = track(model)
    everything = Reach(frozenset(), {}, (), ())
    assert Coverage.of(model, tracked, everything).share > 0.8
    groups = module_groups({name: shape_of(name, one) for name, one in tracked.items()}, "cuda")
    assert sum(map(len, groups)) == len(tracked)
