"""Pods as they are made: each pod template of an overlay with what the operator adds to it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from kube_render import Manifest, rayjobs
from kube_schema import pod_templates

_UNITS = {"": 1, "m": 1e-3, "k": 1e3, "M": 1e6, "G": 1e9, "Ki": 2**10, "Mi": 2**20, "Gi": 2**30}


@dataclass(frozen=True)
class Pods:
    """The pods of one template.

    Args:
        owner: kind/name of what makes them.
        group: head, submitter, cron, or a worker group's name.
        labels: of the pods, with those that the operator sets.
        spec: of the pods.
        ray: the group of the RayCluster, for head and workers.
    """

    owner: str
    group: str
    labels: dict[str, str]
    spec: dict[str, Any]
    ray: dict[str, Any] | None = None

    @property
    def where(self) -> str:
        """For messages."""
        return f"{self.owner} {self.group}"

    @property
    def containers(self) -> list[dict[str, Any]]:
        """All containers, those that run first included."""
        return [*self.spec.get("initContainers", []), *self.spec.get("containers", [])]

    @property
    def is_head(self) -> bool:
        """Whether this is the head's template."""
        return self.labels.get("ray.io/node-type") == "head"

    @property
    def is_worker(self) -> bool:
        """Whether this is a worker group's template."""
        return self.labels.get("ray.io/node-type") == "worker"


def pods(manifests: list[Manifest]) -> Iterator[Pods]:
    """All pods that manifests lead to."""
    for rayjob in rayjobs(manifests):
        owner = f"RayJob/{rayjob['metadata']['name']}"
        cluster = rayjob["spec"].get("rayClusterSpec", {})
        groups = {"head": cluster.get("headGroupSpec")}
        groups |= {group.get("groupName"): group for group in cluster.get("workerGroupSpecs", [])}
        for name, template in pod_templates(rayjob).items():
            labels = dict(template.get("metadata", {}).get("labels", {}))
            if name != "submitter":
                labels |= {
                    "ray.io/is-ray-node": "yes",
                    "ray.io/node-type": "head" if name == "head" else "worker",
                    "ray.io/group": "headgroup" if name == "head" else name,
                }
            yield Pods(owner, name, labels, template.get("spec", {}), groups.get(name))
    for manifest in manifests:
        if manifest["kind"] == "CronJob":
            template = manifest["spec"]["jobTemplate"]["spec"]["template"]
            labels = template.get("metadata", {}).get("labels", {})
            yield Pods(f"CronJob/{manifest['metadata']['name']}", "cron", labels, template["spec"])


def amount(quantity: str | int | float) -> float:
    """The number that a Kubernetes quantity stands for."""
    text = str(quantity)
    digits = text.rstrip("mkMGiK")
    return float(digits) * _UNITS[text[len(digits) :]]


def resource(container: dict[str, Any], name: str, side: str = "limits") -> float:
    """How much of a resource a container asks for, or may use; 0 where it does not say."""
    return amount(container.get("resources", {}).get(side, {}).get(name, 0))


def matches(selector: dict[str, Any], labels: dict[str, str]) -> bool:
    """Whether a label selector of matchLabels alone selects a pod; an empty one selects all."""
    assert not selector.keys() - {"matchLabels"}, f"{selector} is more than these checks understand"
    wanted = selector.get("matchLabels", {})
    return all(labels.get(key) == value for key, value in wanted.items())
