"""Which models a run directory was used with, and what each is.

Fingerprints hold a model's digest alone; what differs between two models is looked up here.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from rayinfluence.dataflow.layout import model_key
from rayinfluence.model.identity import model_differences, model_digest
from rayinfluence.storage.digest import differences
from rayinfluence.storage.store import Store, read_json_if_whole


@dataclass(frozen=True)
class ModelRecord:
    """The model of this run, and where those of earlier ones are written down.

    Attributes:
        store: the folder of that.
        identity: what the model is, as :func:`model_identity` gives it.
    """

    store: Store
    identity: Mapping[str, Any]

    @cached_property
    def digest(self) -> str:
        """The digest of what the model computes."""
        return model_digest(self.identity)

    def write(self) -> None:
        """Write it down, once the run is to go on with it."""
        key = model_key(self.digest)
        if not self.store.exists(key):
            body = json.dumps(self.identity, indent=1, sort_keys=True)
            self.store.write(key, body.encode())

    def differences(self, ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> list[str]:
        """What differs between two fingerprints, and within their models where those are known."""
        lines = []
        for line in differences(ours, theirs):
            path = line.partition(":")[0]
            inside = self._since(_at(theirs, path)) if path.split(".")[-1] == "model" else []
            lines += [f"{path}.{one}" for one in inside] or [line]
        return lines

    def _since(self, earlier: Any) -> list[str]:
        # An earlier release left no record.
        known = read_json_if_whole(self.store, model_key(earlier))
        return [] if known is None else model_differences(self.identity, known)


def _at(parts: Any, path: str) -> Any:
    for key in path.split("."):
        parts = parts.get(key) if isinstance(parts, Mapping) else None
    return parts
