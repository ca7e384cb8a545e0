"""What passes over features of a last layer hold in memory, by how much may be held.

    .venv/bin/python tests/benchmarks/representer_memory.py FOLDER LIMIT_MIB

Writes random features to FOLDER, 640 MiB in 40 parts (655,360 targets, 256 wide, 16 classes), and
goes through them three times as a fit does, in a process that may hold LIMIT_MIB of them. Prints
how far its highest memory rose (Linux), the seconds of each pass, and a digest of the gradient,
which is the same for any limit.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import torch

from rayinfluence.dataflow.jobs import stored_points
from rayinfluence.dataflow.jobs.stored_points import StoredPoints
from rayinfluence.dataflow.runners.memory import peak_bytes, reset_peak
from rayinfluence.influence.representers import LastLayerFit
from rayinfluence.storage.digest import digest_bytes
from rayinfluence.storage.store import Store
from rayinfluence.storage.tensors import tensor_bytes, write_tensors

PARTS, ROWS, WIDTH, CLASSES = 40, 1 << 14, 256, 16


def made(store: Store) -> list[str]:
    """The parts, of an earlier call where there was one."""
    keys = [f"{number:02d}.safetensors" for number in range(PARTS)]
    for number, key in enumerate(keys):
        if store.exists(key):
            continue
        generator = torch.Generator().manual_seed(number)
        tensors = {
            "features": torch.randn(ROWS, WIDTH, generator=generator),
            "labels": torch.randint(0, CLASSES, (ROWS,), generator=generator),
        }
        write_tensors(store, key, tensors, {})
    return keys


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("limit", type=int)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    store = Store(str(arguments.folder))
    keys = made(store)
    stored_points.HELD_BYTES = {"cpu": arguments.limit << 20}
    weight_VD = torch.randn(CLASSES, WIDTH, generator=torch.Generator().manual_seed(0)).double()
    reset_peak()
    before, seconds, started = peak_bytes() or 0, [], time.monotonic()
    fit = LastLayerFit(StoredPoints(store, keys, torch.device("cpu")), weight_VD, None, 1.0)
    seconds.append(time.monotonic() - started)
    for _ in range(2):
        started = time.monotonic()
        _, gradient_VD = fit.value(weight_VD, torch.float32)
        seconds.append(time.monotonic() - started)
    risen = ((peak_bytes() or 0) - before) / (1 << 20)
    told = ", ".join(f"{one:.1f} s" for one in seconds)
    print(f"limit {arguments.limit} MiB: +{risen:.0f} MiB; passes {told}; gradient ", end="")
    print(digest_bytes(tensor_bytes(gradient_VD))[:12])


if __name__ == "__main__":
    main()
