"""Modules that are fitted in passes of their own have the factors that they have in one."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from cases import PARAMETERS, token_sequences
from device import DEVICE
from harness import fit_factors, make_replica

from rayinfluence.dataflow.compute import module_groups as module
from rayinfluence.dataflow.compute.module_groups import module_groups
from rayinfluence.model.modules import ModuleShape


@pytest.mark.parametrize("case", PARAMETERS)
def test_factors_are_the_same_to_the_last_bit(
    case: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    replica, sequences = make_replica(case, 20), token_sequences()
    at_once = fit_factors(replica, sequences, tmp_path / "one").by_module()
    monkeypatch.setitem(module._GROUP_BYTES, DEVICE.type, 1)
    groups = module_groups(replica.shapes, DEVICE.type)
    assert len(groups) == len({shape.source for shape in replica.shapes.values()}) > 1
    factors = fit_factors(replica, sequences, tmp_path / "several")
    lanes = factors.store.list("covariance")
    assert {key.split("/")[2] for key in lanes} == {f"group-{i}" for i in range(len(groups))}
    for name, theirs in factors.by_module().items():
        for part, tensor in theirs.to_tensors().items():
            assert torch.equal(tensor, at_once[name].to_tensors()[part]), (name, part)


def test_a_group_fits_and_has_all_that_share_their_inputs() -> None:
    shapes = {
        name: ModuleShape(name, 2**14, 2**14, False, source)
        for name, source in (("q", "q"), ("a", "a"), ("k", "q"), ("b", "b"))
    }
    # 1 GiB a matrix: q and k have five, the others three each; 4 GiB are one of these at most.
    assert module_groups(shapes, "cpu") == (("q", "k"), ("a",), ("b",))
    assert module_groups(shapes, "cuda") == (("q", "k", "a", "b"),)
