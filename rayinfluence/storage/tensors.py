"""Named tensors in one object.

The safetensors format, with a checksum per tensor and a JSON header.

Everything that a stage commits (accumulators, eigenbases, query factors, partials) is such an
object. The ``__metadata__`` of the file has one key, ``rayinfluence``: a JSON string {"body": ...,
"digest": digest of body} whose body is {"header": the writer's JSON, "object": which one it is,
"tensors": {name: [dtype, shape, digest of its bytes]}}. A single tensor can be read, and checked,
without reading the rest.

Which object it is: its key, and the folder that this begins in, which fingerprints name. One that
lies in the place of another is damaged, however whole it is; a run directory may be moved.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor

from rayinfluence.errors import DamagedError
from rayinfluence.storage.digest import canonical_json, digest_bytes
from rayinfluence.storage.store import Store

_DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
_NAMES = {dtype: name for name, dtype in _DTYPES.items()}
_KEY = "rayinfluence"


def tensor_bytes(tensor: Tensor) -> bytes:
    """The bytes of a tensor in row-major order."""
    flat = tensor.detach().cpu().contiguous().reshape(-1)
    return flat.view(torch.uint8).numpy().tobytes() if flat.numel() else b""


def write_tensors(
    store: Store, key: str, tensors: Mapping[str, Tensor], header: Mapping[str, Any]
) -> None:
    """Write named tensors and a JSON header as one atomic object.

    Equal content under the same key gives equal bytes.
    """
    local = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    body = canonical_json(
        {
            "header": header,
            "object": _object(store, key),
            "tensors": {
                name: [_NAMES[t.dtype], list(t.shape), digest_bytes(tensor_bytes(t))]
                for name, t in local.items()
            },
        }
    )
    metadata = canonical_json({"body": body, "digest": digest_bytes(body.encode())})
    store.write(key, save(local, metadata={_KEY: metadata}))


def read_header(store: Store, key: str) -> dict[str, Any]:
    """The JSON header alone, checked."""
    return _layout(store, key).header


def tensor_names(store: Store, key: str) -> list[str]:
    """The names of an object's tensors."""
    return list(_layout(store, key).ranges)


def read_tensors(
    store: Store, key: str, names: Iterable[str] | None = None
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read tensors (all, or those named) and the header, each checked against its checksum.

    Raises:
        DamagedError: the object is cut short or altered, or is another than its key says.
        StorageError: it is missing or cannot be read.
    """
    if names is None:
        # One request: partials are small and there are many.
        whole = store.read(key)
        layout = _Layout(store, key, lambda start, length: whole[start : start + length])
        parts = {name: whole[slice(*layout.range(name))] for name in layout.ranges}
    else:
        layout = _layout(store, key)
        parts = {}
        for name in names:
            start, end = layout.range(name)
            parts[name] = store.read_range(key, start, end - start)
    return {name: layout.tensor(name, part) for name, part in parts.items()}, layout.header


def _object(store: Store, key: str) -> str:
    """Which object it is, wherever the run directory is."""
    return f"{store.name}/{key}"


def _n_bytes(dtype: str, shape: list[int]) -> int:
    return math.prod(shape) * _DTYPES[dtype].itemsize


def _layout(store: Store, key: str) -> _Layout:
    """Of an object of which no more than the head is read."""
    return _Layout(store, key, lambda start, length: store.read_range(key, start, length))


class _Layout:
    """Where each tensor lies in one object, from its head."""

    def __init__(self, store: Store, key: str, read: Callable[[int, int], bytes]) -> None:
        self.place = f"{store.url}/{key}"
        try:
            length = int.from_bytes(read(0, 8), "little")
            if length > 1 << 28:
                raise ValueError("header length is implausible")
            entries = json.loads(read(8, length))
            metadata = json.loads(entries.pop("__metadata__")[_KEY])
            if digest_bytes(metadata["body"].encode()) != metadata["digest"]:
                raise ValueError("the header's checksum does not match")
            body = json.loads(metadata["body"])
            if (found := body.get("object", "an earlier version's")) != _object(store, key):
                raise ValueError(f"it is {found} and not {_object(store, key)}")
            self.header: dict[str, Any] = body["header"]
            self.tensors: dict[str, tuple[str, list[int], str]] = body["tensors"]
            written = {name: [dtype, shape] for name, (dtype, shape, _) in self.tensors.items()}
            if written != {name: [e["dtype"], e["shape"]] for name, e in entries.items()}:
                raise ValueError("the tensors are not those that were written")
            # Where a tensor starts needs no checksum: other bytes have another digest.
            self.ranges: dict[str, tuple[int, int]] = {}
            for name, entry in entries.items():
                start, end = entry["data_offsets"]
                dtype, shape, _ = self.tensors[name]
                if not 0 <= start < 1 << 62 or end - start != _n_bytes(dtype, shape):
                    raise ValueError(f"tensor {name!r} lies in an impossible place")
                self.ranges[name] = 8 + length + start, 8 + length + end
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise self._damaged(str(error)) from error

    def range(self, name: str) -> tuple[int, int]:
        if name not in self.ranges:
            raise self._damaged(f"it has no tensor {name!r}")
        return self.ranges[name]

    def tensor(self, name: str, part: bytes) -> Tensor:
        dtype, shape, written = self.tensors[name]
        if digest_bytes(part) != written:
            raise self._damaged(f"the checksum of tensor {name!r} does not match")
        if not part:
            return torch.empty(shape, dtype=_DTYPES[dtype])
        return torch.frombuffer(bytearray(part), dtype=_DTYPES[dtype]).reshape(shape).clone()

    def _damaged(self, why: str) -> DamagedError:
        return DamagedError(
            f"{self.place} is damaged or not ours: {why}. `rayinfluence run` makes it again."
        )
