"""What our manifests may never do, whatever the API server would let them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from kube_pods import Pods, matches, pods
from kube_render import Manifest, rayjobs

_DASHBOARD = 8265
_METRICS = 8080
_GCS = 6379
#: Whom the dashboard is open to: the operator, and the pod that submits.
_DASHBOARD_CLIENTS = (
    {
        "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "kuberay-system"}},
        "podSelector": {"matchLabels": {"app.kubernetes.io/name": "kuberay-operator"}},
    },
    {"podSelector": {"matchLabels": {"app.kubernetes.io/component": "submitter"}}},
)
_NODES = [{"podSelector": {"matchLabels": {"ray.io/is-ray-node": "yes"}}}]
_SECRETIVE = re.compile(r"key|token|secret|password|credential", re.IGNORECASE)
_KEYLESS = {
    "eks-irsa": ("eks.amazonaws.com/role-arn", r"arn:aws:iam::\d{12}:role/[\w-]+"),
    "gke-workload-identity": (
        "iam.gke.io/gcp-service-account",
        r"[\w-]+@[\w-]+\.iam\.gserviceaccount\.com",
    ),
}
_VOLUMES = {"configMap", "emptyDir", "persistentVolumeClaim", "projected", "secret"}
#: Flags of `ray start` whose ports only Ray's nodes reach, and how a NetworkPolicy writes them.
_PORT_FLAGS = (
    "object-manager-port",
    "node-manager-port",
    "runtime-env-agent-port",
    "dashboard-agent-grpc-port",
    "dashboard-agent-listen-port",
)


def problems(overlay: str, manifests: list[Manifest]) -> Iterator[str]:
    """Every way in which an overlay is less safe than it has to be."""
    found = list(pods(manifests))
    yield from _kinds(manifests)
    for of_template in found:
        yield from _restricted(of_template)
        yield from _environment(of_template)
    for rayjob in rayjobs(manifests):
        yield from _cluster(rayjob)
    yield from _network(manifests, found)
    yield from _rights(manifests, found)
    if overlay in _KEYLESS:
        yield from _keyless(overlay, manifests, found)


def _kinds(manifests: list[Manifest]) -> Iterator[str]:
    for manifest in manifests:
        if manifest["kind"] == "Secret":
            yield f"Secret {manifest['metadata']['name']}: secrets are named, never brought"
        if manifest["kind"] in ("Ingress", "Service", "ClusterRole", "ClusterRoleBinding"):
            yield f"{manifest['kind']}: no run needs one"
        namespace = manifest["metadata"].get("namespace")
        if manifest["kind"] != "Namespace" and namespace != "rayinfluence":
            yield f"{manifest['kind']} {manifest['metadata']['name']} is in namespace {namespace}"
    levels = [
        manifest["metadata"].get("labels", {}).get("pod-security.kubernetes.io/enforce")
        for manifest in manifests
        if manifest["kind"] == "Namespace"
    ]
    if levels != ["restricted"]:
        yield f"the namespace enforces the pod security level {levels}, not restricted"


def _restricted(found: Pods) -> Iterator[str]:
    """Pod Security's level restricted, which the namespace would refuse the pod by."""
    spec = found.spec
    security = spec.get("securityContext", {})
    if security.get("runAsNonRoot") is not True or not security.get("runAsUser"):
        yield f"{found.where}: may run as root"
    if security.get("seccompProfile", {}).get("type") != "RuntimeDefault":
        yield f"{found.where}: no seccomp profile"
    for key in ("hostNetwork", "hostPID", "hostIPC"):
        if spec.get(key):
            yield f"{found.where}: {key}"
    for volume in spec.get("volumes", []):
        if not volume.keys() - {"name"} <= _VOLUMES:
            yield f"{found.where}: volume {volume['name']} is of a forbidden type"
    for container in found.containers:
        yield from _contained(f"{found.where} {container['name']}", container)


def _contained(where: str, container: dict[str, Any]) -> Iterator[str]:
    security = container.get("securityContext", {})
    if security.get("allowPrivilegeEscalation") is not False:
        yield f"{where}: may gain privileges"
    if security.get("capabilities") != {"drop": ["ALL"]}:
        yield f"{where}: keeps capabilities"
    if security.get("privileged") or security.get("runAsUser") == 0:
        yield f"{where}: is privileged"
    if any("hostPort" in port for port in container.get("ports", [])):
        yield f"{where}: opens a port of its node"


def _environment(found: Pods) -> Iterator[str]:
    for container in found.containers:
        for variable in container.get("env", []):
            name = variable["name"]
            if "value" in variable and _SECRETIVE.search(name):
                yield f"{found.where}: {name} is written out; take it from a Secret"
            if name == "RAY_AUTH_MODE":
                yield f"{found.where}: RAY_AUTH_MODE is the operator's to set"


def _cluster(rayjob: Manifest) -> Iterator[str]:
    cluster = rayjob["spec"]["rayClusterSpec"]
    if cluster.get("authOptions", {}).get("mode") != "token":
        yield "token authentication is off"
    head = cluster["headGroupSpec"]
    if head.get("enableIngress") or head.get("serviceType", "ClusterIP") != "ClusterIP":
        yield "the dashboard is exposed: the head's service leaves the cluster"
    if cluster.get("enableInTreeAutoscaling"):
        security = cluster.get("autoscalerOptions", {}).get("securityContext", {})
        yield from _contained("autoscaler", {"securityContext": security})


def _network(manifests: list[Manifest], found: list[Pods]) -> Iterator[str]:
    policies = [manifest for manifest in manifests if manifest["kind"] == "NetworkPolicy"]
    closed = {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}
    if closed not in [policy["spec"] for policy in policies]:
        yield "no NetworkPolicy denies everything"
    for policy in policies:
        name, spec = policy["metadata"]["name"], policy["spec"]
        selected = [of for of in found if matches(spec["podSelector"], of.labels)]
        if not selected:
            yield f"NetworkPolicy {name} selects no pod"
        for rule in spec.get("ingress", []):
            yield from _ingress(f"NetworkPolicy {name}", rule, selected, found)
        for rule in spec.get("egress", []):
            yield from _egress(f"NetworkPolicy {name}", rule)
    for group in (of for of in found if of.ray):
        yield from _open_ports(group, policies)


def _ingress(
    name: str, rule: dict[str, Any], selected: list[Pods], found: list[Pods]
) -> Iterator[str]:
    peers, ports = rule.get("from", []), rule.get("ports", [])
    if not peers or not ports or any(not peer for peer in peers):
        yield f"{name}: lets everybody in, or in everywhere"
        return
    if any("ipBlock" in peer for peer in peers):
        yield f"{name}: lets addresses in"
    reaches = [port for port in ports if port["port"] <= _DASHBOARD <= port.get("endPort", 0)]
    reaches += [port for port in ports if port["port"] == _DASHBOARD]
    if reaches and any(of.is_head for of in selected):
        for peer in peers:
            if peer not in _DASHBOARD_CLIENTS:
                yield f"{name}: exposes the dashboard to {peer}"
    for peer in peers:
        ours = "namespaceSelector" not in peer
        if ours and not any(matches(peer.get("podSelector", {}), of.labels) for of in found):
            yield f"{name}: no pod is like {peer}"


def _egress(name: str, rule: dict[str, Any]) -> Iterator[str]:
    if not rule.get("ports"):
        yield f"{name}: lets pods out everywhere"
    for peer in rule.get("to", []):
        block = peer.get("ipBlock", {})
        if block.get("cidr") == "0.0.0.0/0" and "169.254.0.0/16" not in block.get("except", []):
            yield f"{name}: lets pods reach the node's metadata service"


def _open_ports(group: Pods, policies: list[Manifest]) -> Iterator[str]:
    """Ray's ports are set, and open among nodes, both ways: these and no others."""
    flags = (group.ray or {}).get("rayStartParams", {})
    missing = [flag for flag in (*_PORT_FLAGS, "min-worker-port") if flag not in flags]
    if missing:
        yield f"{group.where}: {missing[0]} is not set, so Ray would pick a port that is closed"
        return
    wanted = {(int(flags[flag]), int(flags[flag])) for flag in _PORT_FLAGS}
    wanted |= {(int(flags["min-worker-port"]), int(flags["max-worker-port"])), (_GCS, _GCS)}
    for side, key in (("ingress", "from"), ("egress", "to")):
        opened = {
            (port["port"], port.get("endPort", port["port"]))
            for policy in policies
            if matches(policy["spec"]["podSelector"], group.labels)
            for rule in policy["spec"].get(side, [])
            if rule.get(key) == _NODES
            for port in rule["ports"]
        }
        if opened != wanted:
            yield f"{group.where}: {side} among nodes: {sorted(opened ^ wanted)} differ"
    if int(flags.get("metrics-export-port", 0)) != _METRICS:
        yield f"{group.where}: metrics are not on port {_METRICS}"
    if int(flags.get("dashboard-port", _DASHBOARD)) != _DASHBOARD:
        yield f"{group.where}: the dashboard is not on port {_DASHBOARD}"


def _rights(manifests: list[Manifest], found: list[Pods]) -> Iterator[str]:
    """Who may ask the Kubernetes API for anything, and for what."""
    accounts = {m["metadata"]["name"]: m for m in manifests if m["kind"] == "ServiceAccount"}
    scales = any(
        rayjob["spec"]["rayClusterSpec"].get("enableInTreeAutoscaling")
        for rayjob in rayjobs(manifests)
    )
    for of in found:
        name = of.spec.get("serviceAccountName")
        if name not in accounts:
            yield f"{of.where}: there is no ServiceAccount {name}"
        asks = of.group == "cron" or (of.is_head and scales)
        if of.spec.get("automountServiceAccountToken") is not asks:
            yield f"{of.where}: automountServiceAccountToken must be {str(asks).lower()}"
    heads = {of.spec.get("serviceAccountName") for of in found if of.is_head}
    for name, account in accounts.items():
        if account.get("automountServiceAccountToken") is not (scales and name in heads):
            yield f"ServiceAccount {name}: automountServiceAccountToken is wrong"
    for manifest in manifests:
        if manifest["kind"] == "Role":
            wanted = [{"apiGroups": ["ray.io"], "resources": ["rayjobs"], "verbs": ["create"]}]
            if manifest["rules"] != wanted:
                yield f"Role {manifest['metadata']['name']} grants more than creating RayJobs"
        if manifest["kind"] == "RoleBinding":
            subjects = [subject["name"] for subject in manifest["subjects"]]
            if not set(subjects) <= accounts.keys() or subjects != ["rayinfluence-cron"]:
                yield f"RoleBinding {manifest['metadata']['name']} binds {subjects}"


def _keyless(overlay: str, manifests: list[Manifest], found: list[Pods]) -> Iterator[str]:
    annotation, pattern = _KEYLESS[overlay]
    for manifest in manifests:
        if manifest["kind"] == "ServiceAccount":
            value = manifest["metadata"].get("annotations", {}).get(annotation, "")
            if not re.fullmatch(pattern, value):
                yield f"ServiceAccount {manifest['metadata']['name']} has no {annotation}"
    for of in found:
        for container in of.containers:
            secrets = [source for source in container.get("envFrom", []) if "secretRef" in source]
            secrets += [
                variable
                for variable in container.get("env", [])
                if "secretKeyRef" in variable.get("valueFrom", {})
            ]
            if secrets:
                yield f"{of.where}: takes long-lived keys from a Secret"
        if any("secret" in volume for volume in of.spec.get("volumes", [])):
            yield f"{of.where}: mounts a Secret"
