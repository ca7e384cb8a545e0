"""Weights and banks travel once per node: workers see the object store's memory, not a copy."""

from pathlib import Path

import pytest
import torch

from rayinfluence.model.load import disassemble
from rayinfluence.storage.shared import ALIGNMENT
from rayinfluence.testing import tiny_llama

pytestmark = pytest.mark.cluster


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="needs Linux")
def test_a_replica_s_weights_lie_in_the_object_store(ray_cluster: None) -> None:
    import ray

    # All of it is inside, since workers cannot import this module.
    def look(parts):  # type: ignore[no-untyped-def]
        import ray
        import torch

        from rayinfluence.model.load import assemble

        replica = assemble(*ray.get(parts[0]), torch.device("cpu"))
        lines = open("/proc/self/maps").read().splitlines()  # noqa: PTH123, SIM115
        found = []
        for name, weight in replica.named_parameters():
            address = weight.data_ptr()
            for line in lines:
                start, end = (int(bound, 16) for bound in line.split()[0].split("-"))
                if start <= address < end:
                    found.append((name, line.split(maxsplit=5)[-1], address))
        return found

    reference = ray.put(disassemble(tiny_llama(dtype=torch.float32)))
    found = ray.get(ray.remote(num_cpus=1)(look).remote([reference]))
    assert len(found) == len(list(tiny_llama().parameters()))
    for name, mapping, address in found:
        assert "plasma" in mapping, f"{name} lies in {mapping!r}"
        assert address % ALIGNMENT == 0, name
