"""What a last layer sees, read part by part: the same points and the same fit, held or not."""

from __future__ import annotations

import pytest
import torch

from rayinfluence.dataflow.jobs import stored_points
from rayinfluence.dataflow.jobs.stored_points import StoredPoints
from rayinfluence.errors import DamagedError
from rayinfluence.influence.representers import LastLayerFit, Points
from rayinfluence.storage.store import Store
from rayinfluence.storage.tensors import write_tensors

D, V, CPU = 5, 7, torch.device("cpu")
#: Of the parts; one has none.
SIZES = (30, 20, 0, 25, 15)
#: Bytes of a target: features, label and weight, in float64.
ROW = 8 * (D + 2)


class Counting(Store):
    """Notes which objects are read."""

    read_keys: list[str]

    def read(self, key: str) -> bytes:
        self.read_keys.append(key)
        return super().read(key)


@pytest.fixture
def stored(tmp_path_factory: pytest.TempPathFactory) -> tuple[Counting, list[str], list[Points]]:
    store = Counting(str(tmp_path_factory.mktemp("features")))
    object.__setattr__(store, "read_keys", [])
    generator = torch.Generator().manual_seed(0)
    keys, points = [f"{number}.safetensors" for number in range(len(SIZES))], []
    for key, n in zip(keys, SIZES, strict=True):
        tensors = {
            "features": torch.randn(n, D, generator=generator, dtype=torch.float64),
            "labels": torch.randint(0, V, (n,), generator=generator),
            "weights": torch.rand(n, generator=generator, dtype=torch.float64),
        }
        write_tensors(store, key, tensors, {})
        if n:
            points.append(Points(tensors["features"], tensors["labels"], tensors["weights"]))
    return store, keys, points


def same(found: list[Points], expected: list[Points]) -> bool:
    return len(found) == len(expected) and all(
        torch.equal(getattr(ours, name), getattr(theirs, name))
        for ours, theirs in zip(found, expected, strict=True)
        for name in ("features_ND", "labels_N", "weights_N")
    )


@pytest.mark.parametrize(("room", "again"), [(0, 5), (30, 4), (49, 4), (50, 2), (75, 1), (90, 0)])
def test_the_first_parts_are_held_and_the_others_read_in_each_pass(
    stored: tuple[Counting, list[str], list[Points]],
    room: int,
    again: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """With room for so many targets."""
    store, keys, expected = stored
    monkeypatch.setattr(stored_points, "HELD_BYTES", {"cpu": room * ROW})
    points = StoredPoints(store, keys, CPU)
    assert same(list(points), expected)
    assert store.read_keys == keys
    for _ in range(2):
        store.read_keys.clear()
        assert same(list(points), expected)
        assert store.read_keys == keys[len(keys) - again :]


def test_a_pass_that_is_left_off_does_not_lose_or_repeat_what_follows(
    stored: tuple[Counting, list[str], list[Points]],
) -> None:
    store, keys, expected = stored
    points = StoredPoints(store, keys, CPU)
    assert same([next(iter(points))], expected[:1])
    assert same(list(points), expected)


def test_a_fit_has_the_same_bits_whatever_is_held(
    stored: tuple[Counting, list[str], list[Points]], monkeypatch: pytest.MonkeyPatch
) -> None:
    store, keys, expected = stored
    before_VD = torch.randn(V, D, generator=torch.Generator().manual_seed(1), dtype=torch.float64)

    def fitted(points: object) -> torch.Tensor:
        fit = LastLayerFit(points, before_VD, 0.02, 1.0)  # type: ignore[arg-type]
        assert fit.n_points == sum(SIZES)
        return fit.end(fit.run(fit.begin(), 200, 1e-6), torch.float64).weight_VD

    in_memory_VD = fitted(expected)
    for room in (0, 50):
        monkeypatch.setattr(stored_points, "HELD_BYTES", {"cpu": room * ROW})
        assert torch.equal(fitted(StoredPoints(store, keys, CPU)), in_memory_VD)


def test_a_damaged_part_is_said(stored: tuple[Counting, list[str], list[Points]]) -> None:
    store, keys, _ = stored
    body = store.read(keys[3])
    store.write(keys[3], body[:-1] + bytes([body[-1] ^ 1]))
    with pytest.raises(DamagedError, match=keys[3]):
        list(StoredPoints(store, keys, CPU))
