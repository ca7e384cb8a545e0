import random
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save

from rayinfluence.errors import DamagedError, StorageError
from rayinfluence.storage.store import Store
from rayinfluence.storage.tensors import read_header, read_tensors, tensor_bytes, write_tensors

DTYPES = [
    torch.float64,
    torch.float32,
    torch.bfloat16,
    torch.int64,
    torch.int32,
    torch.uint8,
    torch.bool,
]
HEADER = {"split": "abc", "counts": [1, 2], "reasons": {"7": "naïve \u2028"}, "none": None}


def some(dtype: torch.dtype, *shape: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(sum(shape) + 1)
    values = torch.randint(-100, 100, shape, generator=generator)
    return (values > 0) if dtype == torch.bool else values.to(dtype)


def same(ours: torch.Tensor, theirs: torch.Tensor) -> bool:
    return (
        ours.dtype == theirs.dtype
        and ours.shape == theirs.shape
        and tensor_bytes(ours) == tensor_bytes(theirs)
    )


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(str(tmp_path))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", [(), (0,), (3, 0, 2), (1,), (5,), (2, 3, 4)], ids=str)
def test_every_dtype_and_shape_comes_back(
    store: Store, dtype: torch.dtype, shape: tuple[int, ...]
) -> None:
    tensor = some(dtype, *shape)
    write_tensors(store, "t", {"x": tensor, "other": torch.ones(3)}, HEADER)
    tensors, header = read_tensors(store, "t")
    assert same(tensors["x"], tensor)
    assert header == HEADER
    assert same(read_tensors(store, "t", ["x"])[0]["x"], tensor)


def test_special_values_keep_their_bits(store: Store) -> None:
    values = torch.tensor([float("nan"), float("inf"), -float("inf"), -0.0, 1e-45])
    write_tensors(store, "t", {"x": values}, {})
    assert same(read_tensors(store, "t")[0]["x"], values)


def test_strided_tensors_are_stored_in_row_major_order(store: Store) -> None:
    tensor = torch.arange(24.0).reshape(4, 6)
    write_tensors(store, "t", {"turned": tensor.T, "cut": tensor[1:3, ::2]}, {})
    tensors, _ = read_tensors(store, "t")
    assert torch.equal(tensors["turned"], tensor.T)
    assert torch.equal(tensors["cut"], tensor[1:3, ::2])


def test_what_was_read_can_be_written_to(store: Store) -> None:
    write_tensors(store, "t", {"x": torch.zeros(3)}, {})
    tensors, _ = read_tensors(store, "t")
    tensors["x"] += 1
    assert torch.equal(read_tensors(store, "t")[0]["x"], torch.zeros(3))


def test_equal_content_gives_equal_bytes_whatever_the_order(store: Store) -> None:
    a, b = some(torch.float32, 3, 2), some(torch.int64, 5)

    def bytes_of(tensors: dict[str, torch.Tensor], header: dict[str, int]) -> bytes:
        write_tensors(store, "t", tensors, header)
        return store.read("t")

    first = bytes_of({"a": a, "b": b}, {"x": 1, "y": 2})
    assert first == bytes_of({"b": b.clone(), "a": a.clone()}, {"y": 2, "x": 1})
    assert first != bytes_of({"a": a, "b": b}, {"x": 1, "y": 3})


def test_an_object_in_the_place_of_another_is_refused_and_one_that_moved_with_its_folder_is_not(
    store: Store,
) -> None:
    fit = store / "f1"
    write_tensors(fit, "eigen/a", {"x": torch.ones(2)}, HEADER)
    body = fit.read("eigen/a")
    for folder, key in (("f1", "eigen/b"), ("f1", "modules/a"), ("f2", "eigen/a")):
        (store / folder).write(key, body)
        for read in (read_header, read_tensors):
            with pytest.raises(DamagedError, match=f"it is f1/eigen/a and not {folder}/{key}"):
                read(store / folder, key)
    moved = store / "elsewhere" / "f1"
    moved.write("eigen/a", body)
    assert read_header(moved, "eigen/a") == HEADER


def test_one_tensor_is_read_without_reading_the_rest(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_tensors(store, "t", {"big": torch.zeros(100_000), "small": torch.ones(2)}, {"h": 1})
    read: list[int] = []
    original = Store.read_range

    def counted(self: Store, key: str, start: int, length: int) -> bytes:
        read.append(length)
        return original(self, key, start, length)

    monkeypatch.setattr(Store, "read_range", counted)
    monkeypatch.setattr(Store, "read", None)
    assert torch.equal(read_tensors(store, "t", ["small"])[0]["small"], torch.ones(2))
    assert read_header(store, "t") == {"h": 1}
    assert sum(read) < 2000


def test_a_tensor_that_is_not_there_is_named(store: Store) -> None:
    write_tensors(store, "t", {"x": torch.ones(2)}, {})
    with pytest.raises(DamagedError, match="no tensor 'y'"):
        read_tensors(store, "t", ["y"])
    with pytest.raises(StorageError, match="does not exist"):
        read_tensors(store, "missing")


def test_every_truncation_is_refused(store: Store) -> None:
    write_tensors(store, "t", {"x": some(torch.float32, 4), "e": torch.zeros(0)}, HEADER)
    whole = store.read("t")
    for length in range(len(whole)):
        store.write("t", whole[:length])
        with pytest.raises(DamagedError, match=r"t is damaged .* makes it again"):
            read_tensors(store, "t")


def outcome(store: Store, names: list[str] | None) -> Any:
    try:
        tensors, header = read_tensors(store, "t", names)
    except DamagedError:
        return None
    return {name: (t.dtype, t.shape, tensor_bytes(t)) for name, t in tensors.items()}, header


@pytest.mark.parametrize("names", [None, ["x", "y"]], ids=["whole", "ranges"])
def test_no_flipped_bit_changes_what_is_read(store: Store, names: list[str] | None) -> None:
    tensors = {"x": some(torch.float32, 2, 3), "y": some(torch.int64, 6)}
    write_tensors(store, "t", tensors, {"bank": "b1", "n": 12})
    whole = store.read("t")
    intact = outcome(store, names)
    assert intact is not None
    refused = 0
    for place in range(len(whole)):
        for bit in random.Random(place).sample(range(8), 2):
            store.write("t", whole[:place] + bytes([whole[place] ^ 1 << bit]) + whole[place + 1 :])
            found = outcome(store, names)
            assert found in (None, intact), f"bit {bit} of byte {place} was changed unnoticed"
            refused += found is None
    assert refused > 0.95 * 2 * (len(whole) - 16)  # all but padding


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b'"dtype":"F32"', b'"dtype":"I32"'),  # the same bytes, read as other numbers
        (b'"dtype":"F32"', b'"dtype":"Q32"'),
        (b'"shape":[2,3]', b'"shape":[3,2]'),
        (b'"shape":[2,3]', b'"shape":[9,9]'),
        (b'"data_offsets":[0,24]', b'"data_offsets":[8,24]'),
        (b'"data_offsets":[0,24]', b'"data_offsets":[-,24]'),
        (b'"data_offsets":[0,24]', b'"data_offsetz":[0,24]'),
        (b'"x":{', b'"z":{'),
        (b"bank", b"bunk"),
    ],
)
def test_an_edited_header_is_refused(store: Store, old: bytes, new: bytes) -> None:
    write_tensors(store, "t", {"x": some(torch.float32, 2, 3)}, {"bank": "b1"})
    body = store.read("t")
    assert old in body
    store.write("t", body.replace(old, new))
    for names in (None, ["x"]):
        with pytest.raises(DamagedError):
            read_tensors(store, "t", names)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"\0" * 8,
        b"\xff" * 100,
        b"an entirely different file",
        (2).to_bytes(8, "little") + b"12",
        (2).to_bytes(8, "little") + b"[]",
        (2).to_bytes(8, "little") + b"{}",
        (100_000).to_bytes(8, "little") + b"[" * 100_000,
        save({"x": torch.ones(2)}),
        save({"x": torch.ones(2)}, metadata={"rayinfluence": "{}"}),
        save({"x": torch.ones(2)}, metadata={"rayinfluence": "3"}),
    ],
    ids=range(11),
)
def test_other_files_are_refused(store: Store, body: bytes) -> None:
    store.write("t", body)
    with pytest.raises(DamagedError, match="damaged or not ours"):
        read_tensors(store, "t")
    with pytest.raises(DamagedError, match="damaged or not ours"):
        read_header(store, "t")
