"""Weights and banks travel once per node: processes see the object store's memory, not a copy."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

from rayinfluence.dataflow.compute.replica import Numerics, Replica
from rayinfluence.model.load import freeze
from rayinfluence.storage.shared import ALIGNMENT
from rayinfluence.testing import tiny_llama

pytestmark = [
    pytest.mark.cluster,
    pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="needs Linux"),
]
NUMERICS = Numerics("float32", "cpu", 64, 120, "eager", 0)


def test_weights_lie_in_the_object_store_in_workers_and_in_the_driver(ray_cluster: None) -> None:
    import ray

    from rayinfluence.dataflow.runners.ray.actors import ModelParts

    # All of it is inside, since workers cannot import this module.
    def look(model):  # type: ignore[no-untyped-def]
        lines = open("/proc/self/maps").read().splitlines()  # noqa: PTH123, SIM115
        found = []
        for name, weight in model.named_parameters():
            address = weight.data_ptr()
            for line in lines:
                start, end = (int(bound, 16) for bound in line.split()[0].split("-"))
                if start <= address < end:
                    found.append((name, line.split(maxsplit=5)[-1], address))
        return found

    def look_there(parts, look):  # type: ignore[no-untyped-def]
        import ray

        return look(ray.get(parts[0]).build().model)

    model = tiny_llama(dtype=torch.float32)
    before = {name: weight.clone() for name, weight in model.named_parameters()}
    tracked = {"model.layers.0.mlp.up_proj": model.get_submodule("model.layers.0.mlp.up_proj")}
    ours = Replica(model, tracked, NUMERICS)
    reference = ray.put(ModelParts.of(ours, 0))
    there = ray.get(ray.remote(num_cpus=1)(look_there).remote([reference], look))
    for found in (there, look(model)):
        assert {name for name, _, _ in found} == before.keys()
        for name, mapping, address in found:
            assert "plasma" in mapping, f"{name} lies in {mapping!r}"
            assert address % ALIGNMENT == 0, name
    assert all(torch.equal(weight, before[name]) for name, weight in model.named_parameters())


def of_its_own() -> int:
    """Bytes that this process shares with nobody."""
    (line,) = re.findall(r"RssAnon:\s*(\d+) kB", Path("/proc/self/status").read_text())
    return 1024 * int(line)


def test_a_driver_that_has_given_its_weights_away_holds_no_copy(ray_cluster: None) -> None:
    from rayinfluence.dataflow.runners.ray.actors import ModelParts

    model = tiny_llama(dtype=torch.float32)
    name = "model.layers.0.mlp.up_proj"
    model.set_submodule("wide", torch.nn.Linear(2**12, 2**12))
    freeze(model)
    ours = Replica(model, {name: model.get_submodule(name)}, NUMERICS)
    size = sum(weight.nbytes for weight in model.parameters())
    before = of_its_own()
    parts = ModelParts.of(ours, 0)
    assert before - of_its_own() > 0.9 * size
    assert len(parts.weights) == len(dict(model.named_parameters()))
