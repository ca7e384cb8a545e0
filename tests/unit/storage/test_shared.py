import pickle
import subprocess
import sys

import numpy as np
import pytest
import torch

from rayinfluence.storage.shared import ALIGNMENT, SharedTensors

TENSORS = {
    "f32": torch.arange(6.0).reshape(2, 3),
    "f64": torch.arange(4.0, dtype=torch.float64),
    "bf16": torch.arange(5.0).bfloat16(),
    "i64": torch.arange(3),
    "bool": torch.tensor([True, False, True]),
    "scalar": torch.tensor(2.5),
    "empty": torch.zeros(0, 4, dtype=torch.bfloat16),
    "turned": torch.arange(6.0).reshape(2, 3).T,
}


def aligned(n_bytes: int) -> np.ndarray:
    """Memory as Ray's object store hands it out."""
    raw = np.zeros(n_bytes + ALIGNMENT, dtype=np.uint8)
    start = -raw.ctypes.data % ALIGNMENT
    return raw[start : start + n_bytes]


def test_tensors_travel_out_of_band_and_come_back_equal() -> None:
    buffers: list[pickle.PickleBuffer] = []
    body = pickle.dumps(SharedTensors(TENSORS), protocol=5, buffer_callback=buffers.append)
    assert sum(b.raw().nbytes for b in buffers) == sum(
        t.numel() * t.element_size() for t in TENSORS.values()
    )
    assert len(body) < 4000  # the numbers are not in it
    back = pickle.loads(body, buffers=buffers)
    assert isinstance(back, SharedTensors)
    assert list(back) == list(TENSORS)
    for name, tensor in TENSORS.items():
        assert back[name].dtype == tensor.dtype
        assert back[name].shape == tensor.shape
        assert torch.equal(back[name], tensor)
        assert back[name].data_ptr() % ALIGNMENT == 0 or not tensor.numel()


def test_aligned_memory_is_shared_and_other_memory_is_copied() -> None:
    buffers: list[pickle.PickleBuffer] = []
    shared = SharedTensors(x=torch.arange(1000.0))
    body = pickle.dumps(shared, protocol=5, buffer_callback=buffers.append)
    store = aligned(buffers[0].raw().nbytes)
    store[:] = np.frombuffer(buffers[0].raw(), dtype=np.uint8)
    store.flags.writeable = False  # Ray's is read-only
    back = pickle.loads(body, buffers=[store])
    assert back["x"].data_ptr() == store.ctypes.data
    assert torch.equal(back["x"], shared["x"])

    crooked = aligned(store.nbytes + 4)[4:]
    crooked[:] = store
    copied = pickle.loads(body, buffers=[crooked])
    assert copied["x"].data_ptr() % ALIGNMENT == 0
    crooked[:] = 0
    assert torch.equal(copied["x"], shared["x"])


@pytest.mark.parametrize("protocol", [2, 5])
def test_plain_pickles_work_as_well(protocol: int) -> None:
    back = pickle.loads(pickle.dumps(SharedTensors(TENSORS), protocol=protocol))
    assert all(torch.equal(back[name], tensor) for name, tensor in TENSORS.items())


def test_another_process_can_read_them() -> None:
    program = (
        "import pickle, sys; tensors = pickle.load(sys.stdin.buffer); "
        "print(type(tensors).__name__, tensors['f32'].sum().item())"
    )
    body = pickle.dumps(SharedTensors(f32=TENSORS["f32"]), protocol=5)
    done = subprocess.run([sys.executable, "-c", program], input=body, capture_output=True)
    assert done.stdout.decode().split() == ["SharedTensors", "15.0"], done.stderr.decode()
