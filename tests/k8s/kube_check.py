"""All that is wrong with one overlay, as sentences."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import kube_operator
import kube_run
import kube_schema
import kube_security
from kube_render import kustomize, rayjobs

OVERLAYS = ("dev", "gpu-spot", "kueue", "eks-irsa", "gke-workload-identity", "hub", "cron")


def problems(root: Path, overlay: str) -> Iterator[str]:
    """Check an overlay of a project's root; what does not build is one problem."""
    try:
        manifests = kustomize(root / "k8s/overlays" / overlay)
    except ValueError as error:
        yield str(error)
        return
    held = [rayjob for rayjob in rayjobs(manifests) if rayjob not in manifests]
    refused = [found for m in [*manifests, *held] for found in kube_schema.problems(m)]
    yield from refused
    if refused:
        return  # the other checks take well-formed manifests
    for rayjob in rayjobs(manifests):
        yield from kube_operator.problems(rayjob)
    yield from kube_security.problems(overlay, manifests)
    yield from kube_run.problems(overlay, manifests, root)
