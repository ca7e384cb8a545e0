"""What ``kubectl kustomize`` makes of a folder; and the cron overlay's RayJob, made of gpu-spot's.

``python tests/k8s/kube_render.py`` writes that RayJob where its overlay reads it.
"""

from __future__ import annotations

import copy
import shutil
import subprocess
from pathlib import Path
from typing import Any

import yaml

Manifest = dict[str, Any]
CRON = Path("k8s/overlays/cron/rayjob.yaml")


def kustomize(folder: Path) -> list[Manifest]:
    """Build a folder without a cluster or a network.

    Raises:
        ValueError: it does not build, or there is no kubectl.
    """
    kubectl = shutil.which("kubectl")
    if kubectl is None:
        raise ValueError("kubectl is not installed: the overlays cannot be built.")
    done = subprocess.run(
        [kubectl, "kustomize", str(folder)], capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise ValueError(f"{folder.name} does not build: {done.stderr.strip()}")
    return list(yaml.load_all(done.stdout, Loader=yaml.CSafeLoader))


def rayjobs(manifests: list[Manifest]) -> list[Manifest]:
    """The RayJobs among manifests, those that a ConfigMap holds for a CronJob included."""
    held = [
        yaml.safe_load(text)
        for manifest in manifests
        if manifest["kind"] == "ConfigMap"
        for key, text in manifest.get("data", {}).items()
        if key == CRON.name
    ]
    return [manifest for manifest in [*manifests, *held] if manifest.get("kind") == "RayJob"]


def cron_rayjob(root: Path) -> str:
    """The overlay gpu-spot's RayJob, deleted a day after its end so that its name is free again."""
    (rayjob,) = rayjobs(kustomize(root / "k8s/overlays/gpu-spot"))
    rayjob = copy.deepcopy(rayjob)
    rayjob["metadata"]["name"] = "rayinfluence-cron"
    spec = rayjob["spec"]
    del spec["shutdownAfterJobFinishes"], spec["ttlSecondsAfterFinished"]
    spec["deletionStrategy"] = {
        "deletionRules": [
            {"policy": policy, "condition": {**condition, "ttlSeconds": seconds}}
            for condition in ({"jobStatus": "SUCCEEDED"}, {"jobDeploymentStatus": "Failed"})
            for policy, seconds in (("DeleteCluster", 600), ("DeleteSelf", 86400))
        ]
    }
    head = "# Written by `make k8s-cron` from the overlay gpu-spot; do not edit.\n"
    return head + yaml.safe_dump(rayjob, sort_keys=False)


if __name__ == "__main__":
    ROOT = Path(__file__).parents[2]
    (ROOT / CRON).write_text(cron_rayjob(ROOT), "utf-8")
