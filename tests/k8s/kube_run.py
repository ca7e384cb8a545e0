"""What an overlay says about the run it is for: that its parts belong together."""

from __future__ import annotations

import argparse
import contextlib
import io
import re
import runpy
import shlex
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import typer.main
import yaml
from kube_pods import Pods, amount, matches, pods, resource
from kube_render import CRON, Manifest, cron_rayjob, rayjobs

from rayinfluence.addresses import hub_address
from rayinfluence.cli import app
from rayinfluence.config import RunConfig
from rayinfluence.errors import ConfigError

_GPU = "nvidia.com/gpu"
_IMAGE = re.compile(r"(?:.+/)?rayinfluence:([\d.]+)-ray([\d.]+)-(cpu|cuda)")
#: Clouds tell a spot node at most two minutes ahead.
_LONGEST_GRACE = 120
_SPOT = {
    "pool": "gpu-spot",
    "karpenter.sh/capacity-type": "spot",
    "cloud.google.com/gke-spot": "true",
}
#: What the taint of each kind of spot node is called; Karpenter sets none by itself.
_SPOT_TAINTS = {"pool": "spot", "cloud.google.com/gke-spot": "cloud.google.com/gke-spot"}


def problems(overlay: str, manifests: list[Manifest], root: Path) -> Iterator[str]:
    """Every way in which an overlay contradicts itself, the package, or the documentation."""
    found = list(pods(manifests))
    yield from _versions(found, rayjobs(manifests), root)
    for of in found:
        yield from _references(of, manifests, root)
        yield from _volumes(of)
        yield from _memory(of)
        if of.ray:
            yield from _node(of)
    for rayjob in rayjobs(manifests):
        yield from _entrypoint(rayjob, manifests, found, root)
        yield from _size(rayjob, manifests, found)
        yield from _survives(rayjob)
        yield from _queued(overlay, rayjob, root)
        yield from _autoscaler(rayjob)
    yield from _disruptions(manifests, found)
    if overlay == "cron":
        yield from _cron(manifests, root)


def pins(root: Path) -> dict[str, str]:
    """The versions in constraints.txt."""
    lines = (root / "constraints.txt").read_text("utf-8").splitlines()
    return dict(line.split("==") for line in lines if "==" in line)


def _versions(found: list[Pods], jobs: list[Manifest], root: Path) -> Iterator[str]:
    project = tomllib.loads((root / "pyproject.toml").read_text("utf-8"))["project"]["version"]
    ray = pins(root)["ray"]
    for rayjob in jobs:
        if (given := rayjob["spec"]["rayClusterSpec"].get("rayVersion")) != ray:
            yield f"rayVersion is {given}, and constraints.txt has {ray}"
    tags = set()
    for of in (of for of in found if of.group != "cron"):
        for container in of.containers:
            match = _IMAGE.fullmatch(container.get("image", ""))
            if not match:
                yield f"{of.where}: {container.get('image')} says no version"
                continue
            tags.add(container["image"])
            if match.groups()[:2] != (project, ray):
                yield f"{of.where}: image {match[0]} is not rayinfluence {project} on Ray {ray}"
            if (match[3] == "cuda") != any(resource(c, _GPU) for o in found for c in o.containers):
                yield f"{of.where}: the image is for {match[3]}"
    if len(tags) > 1:
        yield f"nodes of one cluster run several images: {sorted(tags)}"


def _references(of: Pods, manifests: list[Manifest], root: Path) -> Iterator[str]:
    """Every name that a pod template uses is there: ConfigMaps and keys, claims, Secrets."""
    maps = {m["metadata"]["name"]: m["data"] for m in manifests if m["kind"] == "ConfigMap"}
    claims = {m["metadata"]["name"] for m in manifests if m["kind"] == "PersistentVolumeClaim"}
    documented = (root / "docs/operate.md").read_text("utf-8")
    secrets = set()
    for volume in of.spec.get("volumes", []):
        if "configMap" in volume and volume["configMap"]["name"] not in maps:
            yield f"{of.where}: there is no ConfigMap {volume['configMap']['name']}"
        if "persistentVolumeClaim" in volume:
            claim = volume["persistentVolumeClaim"]["claimName"]
            if claim not in claims:
                yield f"{of.where}: there is no PersistentVolumeClaim {claim}"
        if "secret" in volume:
            secrets.add(volume["secret"]["secretName"])
    for container in of.containers:
        for source in container.get("envFrom", []):
            secrets |= {source["secretRef"]["name"]} if "secretRef" in source else set()
        for variable in container.get("env", []):
            origin = variable.get("valueFrom", {})
            key = origin.get("configMapKeyRef")
            if key and key["key"] not in maps.get(key["name"], {}):
                yield f"{of.where}: ConfigMap {key['name']} has no key {key['key']}"
            if key := origin.get("secretKeyRef"):
                secrets.add(key["name"])
    for secret in sorted(secrets):
        if f"create secret generic {secret}" not in documented:
            yield f"{of.where}: docs/operate.md does not say how to make the Secret {secret}"


def _volumes(of: Pods) -> Iterator[str]:
    volumes = {volume["name"]: volume for volume in of.spec.get("volumes", [])}
    if len(volumes) < len(of.spec.get("volumes", [])):
        yield f"{of.where}: two volumes of one name"
    mounted = {m["name"] for c in of.containers for m in c.get("volumeMounts", [])}
    for name in sorted(mounted ^ volumes.keys()):
        yield f"{of.where}: volume {name} is mounted or declared, not both"
    for container in of.containers:
        paths = [mount["mountPath"] for mount in container.get("volumeMounts", [])]
        if len(set(paths)) < len(paths):
            yield f"{of.where}: two volumes at one path"
    disk = [v["emptyDir"] for v in volumes.values() if "emptyDir" in v]
    for volume in disk:
        if "sizeLimit" not in volume:
            yield f"{of.where}: an emptyDir without a limit can fill its node"
    on_disk = sum(amount(v.get("sizeLimit", 0)) for v in disk if v.get("medium") != "Memory")
    allowed = sum(resource(c, "ephemeral-storage") for c in of.spec["containers"])
    if on_disk > allowed:
        yield f"{of.where}: volumes may grow to more than its ephemeral-storage, and evict it"


def _memory(of: Pods) -> Iterator[str]:
    for container in of.containers:
        asked, most = (resource(container, "memory", side) for side in ("requests", "limits"))
        if not asked or asked != most:
            yield f"{of.where} {container['name']}: memory request {asked} is not its limit {most}"
        if not resource(container, "cpu", "requests"):
            yield f"{of.where} {container['name']}: no CPU is requested"
        if resource(container, _GPU) != resource(container, _GPU, "requests"):
            yield f"{of.where} {container['name']}: GPU request and limit differ"


def _node(of: Pods) -> Iterator[str]:
    """A Ray node: shared memory, spill, probes, and time to finish what it has begun."""
    assert of.ray is not None
    container, flags = of.spec["containers"][0], of.ray.get("rayStartParams", {})
    mounts = {mount["mountPath"]: mount["name"] for mount in container.get("volumeMounts", [])}
    volumes = {volume["name"]: volume for volume in of.spec.get("volumes", [])}
    shared = volumes.get(mounts.get("/dev/shm", ""), {}).get("emptyDir", {})
    store = float(flags.get("object-store-memory", 0))
    if shared.get("medium") != "Memory" or not 0 < store <= amount(shared.get("sizeLimit", 0)):
        yield f"{of.where}: /dev/shm does not hold the object store"
    if resource(container, "memory") <= amount(shared.get("sizeLimit", 0)):
        yield f"{of.where}: /dev/shm, which counts as memory, leaves none"
    # The operator shares the volume of this very name with the autoscaler.
    if mounts.get("/tmp/ray") != "ray-logs":
        yield f"{of.where}: spilled objects and logs need the volume ray-logs at /tmp/ray"
    agent = int(flags.get("dashboard-agent-listen-port", 0))
    for probe in ("readinessProbe", "livenessProbe"):
        wanted = {"path": "/api/healthz", "port": agent}
        if container.get(probe, {}).get("httpGet") != wanted:
            yield f"{of.where}: {probe} does not ask {wanted}"
    grace = of.spec.get("terminationGracePeriodSeconds", 30)
    if of.is_worker:
        command = (
            container.get("lifecycle", {}).get("preStop", {}).get("exec", {}).get("command", [])
        )
        waits = int(command[-1]) if command and command[-1].isdigit() else 0
        if not 60 <= waits < grace <= _LONGEST_GRACE:
            yield f"{of.where}: waits {waits} s for splits within a grace of {grace} s"
    else:
        if flags.get("num-cpus") != "0" or resource(container, _GPU):
            yield f"{of.where}: work may be placed on the head"
    yield from _placement(of, container)


def _placement(of: Pods, container: Mapping[str, Any]) -> Iterator[str]:
    selector = of.spec.get("nodeSelector", {})
    spot = [key for key, value in _SPOT.items() if selector.get(key) == value]
    tolerated = {
        tolerate["key"]
        for tolerate in of.spec.get("tolerations", [])
        if tolerate.get("operator") == "Exists" and tolerate.get("effect") == "NoSchedule"
    }
    if of.is_head and (spot or tolerated):
        yield f"{of.where}: the head may land on a spot node"
    if of.is_head and resource_of_workers_is_gpu(of) and not (selector or "affinity" in of.spec):
        yield f"{of.where}: nothing keeps the head off spot nodes"
    if resource(dict(container), _GPU):
        if _GPU not in tolerated:
            yield f"{of.where}: no toleration of {_GPU}, whose taint GPU nodes have"
        if not spot:
            yield f"{of.where}: selects no spot nodes"
    for key in spot:
        if key in _SPOT_TAINTS and _SPOT_TAINTS[key] not in tolerated:
            yield f"{of.where}: no toleration of {_SPOT_TAINTS[key]}, whose taint spot nodes have"


def resource_of_workers_is_gpu(of: Pods) -> bool:
    """Whether the image of a head is the GPU one, so that its workers are on other nodes."""
    return str(of.spec["containers"][0].get("image", "")).endswith("-cuda")


def _entrypoint(
    rayjob: Manifest, manifests: list[Manifest], found: list[Pods], root: Path
) -> Iterator[str]:
    words = shlex.split(rayjob["spec"].get("entrypoint", ""))
    yield from parsed(words)
    heads = [of for of in found if of.is_head]
    for of in heads:
        for container in of.spec.get("initContainers", []):
            command = [*container.get("command", []), *container.get("args", [])]
            yield from parsed(command, root)
        if words and words[-1] not in _mounted(of, manifests):
            yield f"the entrypoint reads {words[-1]}, which no ConfigMap puts on the head"


def parsed(words: list[str], root: Path | None = None) -> Iterator[str]:
    """What our command line, or a script in jobs/, would refuse."""
    if words[:1] == ["python"]:
        script = (root or Path()) / "jobs" / Path(words[1]).name
        if not script.exists():
            yield f"{words[1]}: there is no such script"
        elif complaint := _refused(runpy.run_path(str(script))["parser"](), words[2:]):
            yield f"{' '.join(words)!r}: {complaint}"
        return
    if words[:1] != ["rayinfluence"]:
        yield f"{' '.join(words)!r} is not our command line"
        return
    group = typer.main.get_command(app)
    try:
        context = group.make_context("rayinfluence", [*words[1:]], resilient_parsing=False)
        rest = [*getattr(context, "_protected_args", []), *context.args]
        name, command, arguments = group.resolve_command(context, rest)
        command.make_context(name, arguments, parent=context)
    except Exception as error:
        yield f"{' '.join(words)!r}: {type(error).__name__}: {error}"


def _refused(parser: argparse.ArgumentParser, arguments: list[str]) -> str:
    said = io.StringIO()
    with contextlib.redirect_stderr(said):
        try:
            parser.parse_args(arguments)
        except SystemExit:
            return said.getvalue().splitlines()[-1]
    return ""


def _mounted(of: Pods, manifests: list[Manifest]) -> dict[str, str]:
    """Files that ConfigMaps put into the head's first container, with their text."""
    maps = {m["metadata"]["name"]: m["data"] for m in manifests if m["kind"] == "ConfigMap"}
    volumes = {volume["name"]: volume for volume in of.spec.get("volumes", [])}
    return {
        f"{mount['mountPath']}/{key}": text
        for mount in of.spec["containers"][0].get("volumeMounts", [])
        if "configMap" in volumes.get(mount["name"], {})
        for key, text in maps.get(volumes[mount["name"]]["configMap"]["name"], {}).items()
    }


def _size(rayjob: Manifest, manifests: list[Manifest], found: list[Pods]) -> Iterator[str]:
    """The run's configuration parses, and asks for the nodes that the cluster has."""
    words = shlex.split(rayjob["spec"].get("entrypoint", ""))
    (head,) = (of for of in found if of.is_head)
    text = _mounted(head, manifests).get(words[-1] if words else "")
    if text is None:
        return
    try:
        config = RunConfig.parse(yaml.safe_load(text), "run.yaml")
    except ConfigError as error:
        yield f"the ConfigMap's run.yaml: {error}"
        return
    yield from _places(config, head, [of for of in found if of.is_worker])
    for of in (of for of in found if of.is_worker):
        assert of.ray is not None
        gpus = resource(of.spec["containers"][0], _GPU)
        if (config.device == "cuda") != bool(gpus):
            yield f"device is {config.device}, and a worker has {gpus:.0f} GPUs"
        cpus = float(of.ray["rayStartParams"].get("num-cpus", 0))
        # A replica takes a CPU, and a read beside it half of one.
        per_node = int(gpus) // (config.runner.gpus_per_actor or 1) if gpus else int(cpus - 1)
        if cpus < per_node + 1:
            yield f"{of.where}: {cpus:.0f} CPUs leave none to read with beside {per_node} replicas"
        least, most = (per_node * of.ray[key] for key in ("minReplicas", "maxReplicas"))
        wanted = (config.runner.actors, config.runner.max_actors or config.runner.actors)
        if wanted != (least, most):
            yield f"runner asks for {wanted} replicas, and the workers hold {(least, most)}"


def _places(config: RunConfig, head: Pods, workers: list[Pods]) -> Iterator[str]:
    def has(of: Pods, path: str) -> bool:
        mounts = of.spec["containers"][0].get("volumeMounts", [])
        return any(path.startswith(f"{mount['mountPath']}/") for mount in mounts)

    if hub_address(config.model):
        yield from _fetched(config.model, head)
    elif not has(head, config.model):
        yield f"the head has no volume with {config.model}"
    shared = [config.run, config.queries, config.corpus.path, *config.corpus.documents]
    for path in (path for path in shared if path and "://" not in path):
        for of in (head, *workers):
            if not has(of, path):
                yield f"{of.where}: has no volume with {path}"


def _fetched(model: str, head: Pods) -> Iterator[str]:
    """The driver may ask a hub, and has room for what it fetches."""
    container = head.spec["containers"][0]
    values = {variable["name"]: variable.get("value", "") for variable in container["env"]}
    if values.get("HF_HUB_OFFLINE") != "0":
        yield f"the head may ask no hub, and the model is {model}"
    mounts = [m for m in container["volumeMounts"] if not m.get("readOnly")]
    if not any(values.get("HF_HOME", "").startswith(f"{m['mountPath']}/") for m in mounts):
        yield f"HF_HOME is on no volume that the head may write to, and the model is {model}"


def _survives(rayjob: Manifest) -> Iterator[str]:
    spec = rayjob["spec"]
    if spec.get("backoffLimit", 0) < 1:
        yield "backoffLimit: a run whose head dies would not be tried again"
    ends = spec.get("shutdownAfterJobFinishes") or "deletionStrategy" in spec
    if not ends:
        yield "the cluster would stay, and cost, after the run"
    if "activeDeadlineSeconds" not in spec:
        yield "nothing bounds what a run may cost"
    if "gcsFaultToleranceOptions" in spec["rayClusterSpec"]:
        yield "a head that is kept alive does not keep its driver; the ledger is the recovery"


def _queued(overlay: str, rayjob: Manifest, root: Path) -> Iterator[str]:
    spec, cluster = rayjob["spec"], rayjob["spec"]["rayClusterSpec"]
    queue = rayjob["metadata"].get("labels", {}).get("kueue.x-k8s.io/queue-name")
    if overlay != "kueue":
        if spec.get("suspend") or queue:
            yield "suspended, or queued, where nobody would start it"
        return
    queues = re.findall(
        r"kind: LocalQueue\nmetadata:\n  name: (\S+)", (root / "docs/operate.md").read_text("utf-8")
    )
    if queue not in queues:
        yield f"queue {queue} is none of the documented ones, {queues}"
    if spec.get("suspend") is not True or not spec.get("shutdownAfterJobFinishes"):
        yield "Kueue needs suspend and shutdownAfterJobFinishes"
    if cluster.get("enableInTreeAutoscaling") or len(cluster["workerGroupSpecs"]) > 7:
        yield "Kueue admits clusters of fixed size with at most 7 worker groups"


def _autoscaler(rayjob: Manifest) -> Iterator[str]:
    cluster = rayjob["spec"]["rayClusterSpec"]
    if not cluster.get("enableInTreeAutoscaling"):
        if "autoscalerOptions" in cluster:
            yield "autoscalerOptions where nothing scales"
        return
    options = cluster.get("autoscalerOptions", {})
    asked, most = (
        options.get("resources", {}).get(side, {}).get("memory") for side in ("requests", "limits")
    )
    if options.get("version") != "v2" or not asked or asked != most:
        yield "the autoscaler is not v2, or its memory request is not its limit"
    for group in cluster["workerGroupSpecs"]:
        if group["minReplicas"] >= group["maxReplicas"]:
            yield f"{group['groupName']}: nothing to scale between"


def _disruptions(manifests: list[Manifest], found: list[Pods]) -> Iterator[str]:
    budgets = [m["spec"] for m in manifests if m["kind"] == "PodDisruptionBudget"]
    if not budgets:
        yield "a drain would take the head away"
    for budget in budgets:
        selected = [of.group for of in found if matches(budget["selector"], of.labels)]
        if selected != ["head"]:
            yield f"the disruption budget covers {selected}, not the head alone"
        # Kubernetes counts pods of custom resources by minAvailable alone.
        if budget.get("minAvailable") != 1 or "maxUnavailable" in budget:
            yield "the disruption budget must say minAvailable: 1"


def _cron(manifests: list[Manifest], root: Path) -> Iterator[str]:
    held = (root / CRON).read_text("utf-8")
    if held != cron_rayjob(root):
        yield "rayjob.yaml is not what the overlay gpu-spot gives; run `make k8s-cron`"
    (cron,) = (m for m in manifests if m["kind"] == "CronJob")
    spec = cron["spec"]
    if spec.get("concurrencyPolicy") != "Forbid" or spec["jobTemplate"]["spec"]["backoffLimit"]:
        yield "the CronJob may start a run beside another"
    if len(spec["schedule"].split()) != 5:
        yield f"schedule {spec['schedule']!r} is not five fields"
    template = spec["jobTemplate"]["spec"]["template"]["spec"]
    container = template["containers"][0]
    mount = container["volumeMounts"][0]["mountPath"]
    if f"{mount}/{CRON.name}" not in container["args"]:
        yield f"the CronJob does not create {mount}/{CRON.name}"
