"""Committed factors: where they are, what they were fitted on, which of them serve a plan."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from rayinfluence.curvature.ekfac import ModuleFactors
from rayinfluence.dataflow.jobs.handles import Stored, read_stored
from rayinfluence.dataflow.layout import MANIFEST, kind_of, module_key, with_manifest
from rayinfluence.dataflow.stages.sample import FitPlan
from rayinfluence.errors import DamagedError
from rayinfluence.storage.digest import Differences, differences
from rayinfluence.storage.store import Store, read_json
from rayinfluence.storage.tensors import read_header

#: Of all bases together, that are read in some seconds.
_FEW_NUMBERS = 1 << 28


@dataclass(frozen=True)
class Factors:
    """Committed factors: where they are and what they were fitted on."""

    store: Store
    fingerprint: str
    manifest: dict[str, Any]

    @property
    def n_sequences(self) -> int:
        """Sequences that they were fitted on."""
        return int(self.manifest["n_sequences"])

    @property
    def n_tokens(self) -> int:
        """Tokens that they were fitted on."""
        return int(self.manifest["n_tokens"])

    @property
    def n_routed(self) -> dict[str, int]:
        """Of modules that get some of the tokens, how many each got."""
        return dict(self.manifest.get("n_routed", {}))  # versions without experts knew none

    @property
    def unfitted(self) -> dict[str, int]:
        """Modules that no sequence had a gradient in, and their parameters."""
        moments = self.manifest["mean_moments"]
        return {
            name: d_out * (d_in + int(bias))
            for name, d_in, d_out, bias, _ in self.manifest["parts"]["modules"]
            if not moments[name]
        }

    @property
    def error(self) -> float | None:
        """The sampling error of a probe set's scores, relative; None where it is not known."""
        error = self.manifest["rounds"][-1]["error"]
        return None if error is None else float(error)

    @property
    def sources(self) -> dict[str, str]:
        """For each module the one that stands for its inputs."""
        return {name: source for name, *_, source in self.manifest["parts"]["modules"]}

    @property
    def bias(self) -> dict[str, bool]:
        """Whether each module has a bias."""
        return {name: bias for name, _, _, bias, _ in self.manifest["parts"]["modules"]}

    @property
    def is_small(self) -> bool:
        """Whether they are read sooner than a process starts."""
        modules = self.manifest["parts"]["modules"]
        return sum(int(m[1]) ** 2 + int(m[2]) ** 2 for m in modules) <= _FEW_NUMBERS

    def parts(self) -> dict[str, Stored]:
        """Where the factors are: ``inputs/<source>`` and ``outputs/<module>`` (with Lambda).

        Raises:
            DamagedError: a factor file is of other factors, another model or another block layout.
        """
        found = {}
        for module in self.manifest["parts"]["modules"]:
            name, *_, source = module
            key = module_key(name)
            header = read_header(self.store, key)
            about = {"fingerprint": self.fingerprint, "module": module}
            wrong = [field for field, value in about.items() if header.get(field) != value]
            if wrong:
                raise DamagedError(
                    f"{self.store.url}/{key} belongs to other factors (its {wrong[0]} is "
                    f"{header.get(wrong[0])}, expected {about[wrong[0]]}): another model, corpus "
                    f"or block layout. Delete {self.store.url} and fit again."
                )
            if source == name:
                found[f"inputs/{name}"] = Stored(self.store, key, "inputs_")
            found[f"outputs/{name}"] = Stored(self.store, key, ("outputs_", "moments"))
        return found

    def by_module(self) -> dict[str, ModuleFactors]:
        """All factors, module by module, in this process.

        Raises:
            DamagedError: a factor file is damaged, or of other factors.
        """
        tensors = {place: read_stored(stored) for place, stored in self.parts().items()}
        return {
            name: ModuleFactors.from_tensors(
                {**tensors[f"inputs/{source}"], **tensors[f"outputs/{name}"]}
            )
            for name, source in self.sources.items()
        }


def find_factors(root: Store, plan: FitPlan) -> Factors | None:
    """The committed factors of a plan, or None.

    Raises:
        DamagedError: the manifest in their folder is about other factors.
    """
    store = root / plan.fingerprint
    there = store.list()
    if MANIFEST not in there:
        return None
    manifest = read_json(store, MANIFEST)
    if reasons := differences(plan.parts, manifest["parts"]):
        raise DamagedError(
            f"{store.url}/{MANIFEST} is about other factors than its folder's name says: "
            f"{'; '.join(reasons[:3])}. Delete {store.url} and fit again."
        )
    modules = {module_key(module[0]) for module in manifest["parts"]["modules"]}
    return Factors(store, plan.fingerprint, manifest) if modules <= there.keys() else None


def shards_fitted_before(root: Store, n_shards: int, kind: str) -> list[int]:
    """Numbers of shards below ``n_shards`` that factors of a kind were fitted on, largest first."""
    found = {manifest["parts"]["n_shards"] for manifest in _manifests(root, kind)}
    return sorted((n for n in found if n < n_shards), reverse=True)


def why_not_reused(root: Store, plan: FitPlan, compare: Differences = differences) -> list[str]:
    """How the nearest of the factors of its kind that are there differ from what a plan wants."""
    others = [
        _differences(plan.parts, one["parts"], compare) for one in _manifests(root, plan.kind)
    ]
    return min(others, key=len, default=[])


def _differences(
    ours: Mapping[str, Any], theirs: Mapping[str, Any], compare: Differences
) -> list[str]:
    """How parts of factors differ, in words where a version knew no stopping rule by number."""
    lines = compare(ours, theirs)
    if "stopping" in theirs:
        return lines
    said = "they are an earlier version's, which stated errors that are too small"
    return [said, *(line for line in lines if not line.startswith("stopping."))]


def _manifests(root: Store, kind: str) -> list[dict[str, Any]]:
    found = [read_json(root, key) for key in with_manifest(root.list()).values()]
    return [manifest for manifest in found if kind_of(manifest["parts"]) == kind]
