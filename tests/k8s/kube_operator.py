"""What the KubeRay operator (v1.7.0, its default feature gates) refuses, or fails on, after the API
server has accepted a RayJob.

Facts from ray-operator/controllers/ray/utils/validation.go and common/{job,pod}.go of
github.com/ray-project/kuberay; the schema holds none of them.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from itertools import pairwise
from typing import Any

import yaml

Manifest = dict[str, Any]

#: 63, less what the operator appends for the cluster and its head service, less its own 6.
_LONGEST_NAME = 47
_SUBMISSION_MODES = {"K8sJobMode", "HTTPMode", "InteractiveMode", "SidecarMode"}
_DNS_1035 = re.compile(r"[a-z]([-a-z0-9]*[a-z0-9])?")
_LABEL = re.compile(r"([A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?)?")
#: Whoever is deleted first waits no longer than who is deleted later.
_DELETION_ORDER = ("DeleteWorkers", "DeleteCluster", "DeleteSelf")
_OLDEST_WITH_TOKENS = (2, 52)


def problems(rayjob: Manifest) -> Iterator[str]:
    """What is wrong with a RayJob, its defaults not yet filled in."""
    name, spec = rayjob["metadata"].get("name", ""), rayjob["spec"]
    if len(name) > _LONGEST_NAME or not _DNS_1035.fullmatch(name):
        yield f"name {name!r}: at most {_LONGEST_NAME} of a-z, 0-9 and -, beginning with a letter"
    yield from _job(spec)
    yield from _deletion(spec)
    if (cluster := spec.get("rayClusterSpec")) is not None:
        yield from _cluster(cluster)


def _job(spec: Mapping[str, Any]) -> Iterator[str]:
    mode = spec.get("submissionMode", "K8sJobMode")
    selected = bool(spec.get("clusterSelector"))
    if mode not in _SUBMISSION_MODES:
        yield f"submissionMode {mode!r} is none of {', '.join(sorted(_SUBMISSION_MODES))}"
    if not selected and spec.get("rayClusterSpec") is None:
        yield "neither rayClusterSpec nor clusterSelector is set"
    if selected and (spec.get("suspend") or spec.get("backoffLimit", 0) > 0):
        yield "clusterSelector goes with neither suspend nor backoffLimit"
    if spec.get("suspend") and not spec.get("shutdownAfterJobFinishes"):
        yield "suspend needs shutdownAfterJobFinishes"
    if spec.get("backoffLimit", 0) > 0 and mode == "InteractiveMode":
        yield "InteractiveMode does not retry; take backoffLimit out"
    if mode == "SidecarMode" and {"submitterPodTemplate", "submitterConfig"} & spec.keys():
        yield "SidecarMode takes neither submitterPodTemplate nor submitterConfig"
    for key in ("activeDeadlineSeconds", "preRunningDeadlineSeconds"):
        if spec.get(key, 1) <= 0:
            yield f"{key} must be positive"
    for key in ("backoffLimit", "ttlSecondsAfterFinished"):
        if spec.get(key, 0) < 0:
            yield f"{key} must not be negative"
    try:
        yaml.safe_load(spec.get("runtimeEnvYAML", ""))
    except yaml.YAMLError:
        yield "runtimeEnvYAML is not YAML"
    # The line is pasted into a shell script after `ray job submit ... --`.
    if not spec.get("entrypoint", "").strip():
        yield "there is no entrypoint"
    if re.search(r"[;&|<>`$\n]", spec.get("entrypoint", "").strip()):
        yield "entrypoint: the submitter's shell would take its shell syntax for its own"


def _deletion(spec: Mapping[str, Any]) -> Iterator[str]:
    shutdown = spec.get("shutdownAfterJobFinishes", False)
    if not shutdown and spec.get("ttlSecondsAfterFinished", 0) > 0:
        yield "ttlSecondsAfterFinished needs shutdownAfterJobFinishes"
    rules = spec.get("deletionStrategy", {}).get("deletionRules", [])
    if rules and shutdown:
        yield "deletionRules and shutdownAfterJobFinishes exclude each other"
    seconds: dict[tuple[str, str], dict[str, int]] = {}
    for rule in rules:
        condition = rule["condition"]
        when = ("jobStatus", condition["jobStatus"]) if "jobStatus" in condition else ("", "Failed")
        of_policy = seconds.setdefault(when, {})
        if rule["policy"] in of_policy:
            yield f"two deletion rules for {rule['policy']} when {when[1]}"
        of_policy[rule["policy"]] = condition.get("ttlSeconds", 0)
    for of_policy in seconds.values():
        ordered = [policy for policy in _DELETION_ORDER if policy in of_policy]
        for first, second in pairwise(ordered):
            if of_policy[first] > of_policy[second]:
                yield f"{second} would come before {first}"
    scaling = spec.get("rayClusterSpec", {}).get("enableInTreeAutoscaling", False)
    if scaling and any(rule["policy"] == "DeleteWorkers" for rule in rules):
        yield "DeleteWorkers does not go with autoscaling"


def _cluster(cluster: Mapping[str, Any]) -> Iterator[str]:
    scaling = cluster.get("enableInTreeAutoscaling", False)
    head, workers = cluster.get("headGroupSpec", {}), cluster.get("workerGroupSpecs", [])
    for group in (head, *workers):
        yield from _group(group.get("groupName", "head"), group, scaling)
    for group in workers:
        yield from _replicas(group, scaling)
    options = cluster.get("autoscalerOptions", {})
    environment = {variable["name"]: variable.get("value") for variable in _environment(head)}
    if options.get("idleTimeoutSeconds", 0) < 0:
        yield "autoscalerOptions.idleTimeoutSeconds must not be negative"
    if scaling and "version" in options and "RAY_enable_autoscaler_v2" in environment:
        yield "autoscalerOptions.version and RAY_enable_autoscaler_v2 are both set"
    if not scaling and environment.get("RAY_enable_autoscaler_v2") in ("1", "true"):
        yield "RAY_enable_autoscaler_v2 needs enableInTreeAutoscaling"
    if "RAY_REDIS_ADDRESS" in environment and "gcsFaultToleranceOptions" not in cluster:
        yield "RAY_REDIS_ADDRESS needs gcsFaultToleranceOptions"
    for gated in ("networkPolicy", "tlsOptions", "historyServerOptions"):
        if gated in cluster:
            yield f"{gated} needs a feature gate that is off by default"
    auth = cluster.get("authOptions", {})
    if auth.get("enableK8sTokenAuth"):
        yield "authOptions.enableK8sTokenAuth is not supported for a RayJob"
    if auth.get("mode") == "token":
        version = re.match(r"(\d+)\.(\d+)\.\d+$", str(cluster.get("rayVersion", "")))
        if not version or tuple(map(int, version.groups())) < _OLDEST_WITH_TOKENS:
            yield "authOptions.mode token needs rayVersion 2.52.0 or later"


def _group(name: str, group: Mapping[str, Any], scaling: bool) -> Iterator[str]:
    pod = group.get("template", {}).get("spec", {})
    if not pod.get("containers"):
        yield f"{name}: it has no container"
    given = group.get("rayStartParams", {})
    if group.get("resources") and {"num-cpus", "num-gpus", "memory", "resources"} & given.keys():
        yield f"{name}: resources are given twice, by resources and by rayStartParams"
    if "labels" in given:
        yield f"{name}: rayStartParams.labels is not supported; use labels"
    for key, value in group.get("labels", {}).items():
        if not _LABEL.fullmatch(key.rsplit("/", 1)[-1]) or not _LABEL.fullmatch(str(value)):
            yield f"{name}: {key}={value} is not a label"
    # Autoscaler v2, the operator's choice for this Ray.
    if scaling and pod.get("restartPolicy", "Never") != "Never":
        yield f"{name}: restartPolicy must be Never or unset with autoscaler v2"


def _replicas(group: Mapping[str, Any], scaling: bool) -> Iterator[str]:
    name = group.get("groupName")
    least, most = group.get("minReplicas"), group.get("maxReplicas")
    if not scaling and (least is None or most is None):
        yield f"{name}: minReplicas and maxReplicas must be set where nothing scales"
    if (least or 0) < 0 or (most or 0) < 0:
        yield f"{name}: replicas must not be negative"
    if least is not None and most is not None and least > most:
        yield f"{name}: minReplicas {least} is more than maxReplicas {most}"
    if not scaling and not (least or 0) <= group.get("replicas", 0) <= (most or 0):
        yield f"{name}: replicas is outside minReplicas and maxReplicas"
    if scaling and group.get("suspend"):
        yield f"{name}: a group cannot be suspended with autoscaling"


def _environment(group: Mapping[str, Any]) -> list[dict[str, Any]]:
    containers = group.get("template", {}).get("spec", {}).get("containers", [])
    return containers[0].get("env", []) if containers else []
