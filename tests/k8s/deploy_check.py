"""All that is wrong with deploy/, as sentences."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
import tempfile
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import ray
import yaml
from kube_run import parsed, pins

from rayinfluence.config import RunConfig
from rayinfluence.dataflow.runners.ray.metrics import METRICS, TAGS
from rayinfluence.errors import ConfigError

#: Metrics of Ray 2.60 that tests/k8s/test_deployed.py finds on a running cluster, with labels that
#: are used; the GPU's where there is one.
RAY_METRICS = {
    "ray_resources": {"Name", "State"},
    "ray_actors": {"State", "Source"},
    "ray_object_store_memory": {"Location"},
    "ray_node_mem_used": {"instance"},
    "ray_node_mem_total": {"instance"},
    "ray_node_disk_free": {"instance"},
}
GPU_METRICS = {"ray_node_gpus_utilization": {"instance"}}
#: Ray's ports and the flags of `ray start` that set them.
PORTS = {
    "--port": 6379,
    "--dashboard-port": 8265,
    "--metrics-export-port": 8080,
    "--object-manager-port": 8076,
    "--node-manager-port": 8077,
    "--runtime-env-agent-port": 8078,
    "--dashboard-agent-grpc-port": 8079,
    "--dashboard-agent-listen-port": 52365,
    "--min-worker-port": 10002,
    "--max-worker-port": 10201,
}
_HEAD_ONLY = {"--port", "--dashboard-port"}
#: What our compose file may use; compose itself has far more.
_SERVICE_KEYS = {
    "image", "build", "environment", "secrets", "volumes", "shm_size", "mem_limit", "cap_drop",
    "security_opt", "restart", "depends_on", "ports", "command", "stop_grace_period",
    "healthcheck", "profiles",
}  # fmt: skip
_CONDITIONS = {"service_healthy", "service_started", "service_completed_successfully"}
#: The S3 server of the compose file takes any keys.
_NO_SECRETS = {"AWS_ACCESS_KEY_ID": "any", "AWS_SECRET_ACCESS_KEY": "any"}


def problems(root: Path) -> Iterator[str]:
    """Check deploy/ of a project's root."""
    yield from dockerfile(root)
    yield from compose(root)
    for name in ("aws", "gcp"):
        yield from launcher(root, name)
    yield from helm(root)
    yield from locks(root)
    yield from monitoring(root)
    yield from documented_ports(root)


def image(root: Path, variant: str) -> str:
    """The image's name and tag, without a registry."""
    version = re.search(r'^version = "(.+)"', (root / "pyproject.toml").read_text("utf-8"), re.M)
    assert version is not None
    return f"rayinfluence:{version[1]}-ray{pins(root)['ray']}-{variant}"


def dockerfile(root: Path) -> Iterator[str]:
    """The rules of hadolint that matter here, and ours."""
    text = (root / "deploy/Dockerfile").read_text("utf-8")
    stages = _stages(text)
    for name, steps in stages.items():
        for word, rest in steps:
            if word == "ADD" or (word == "RUN" and re.search(r"\b(sudo|curl|wget)\b", rest)):
                yield f"Dockerfile {name}: {word} {rest[:40]} brings what nothing pins"
            if word == "RUN" and "pip install" in rest:
                yield from _installs(name, rest)
            base = rest.split()[0]
            loose = re.search(r"(^|:)latest\b|^[^:$]+$", base)
            if word == "FROM" and loose and base not in stages:
                yield f"Dockerfile {name}: {rest} is not pinned"
            if word in ("ENV", "ARG") and re.search(r"(TOKEN|SECRET|PASSWORD|_KEY)=", rest):
                yield f"Dockerfile {name}: a secret is written into the image"
    for variant in ("cpu", "cuda"):
        steps = stages.get(variant, [])
        if not steps or steps[-1][0] != "USER" or steps[-1][1].split(":")[0] in ("root", "0"):
            yield f"Dockerfile {variant}: runs as root"
        if "pip check" not in " ".join(rest for _, rest in steps):
            yield f"Dockerfile {variant}: nothing checks that the packages fit together"
        if image(root, variant) not in text:
            yield f"Dockerfile: its head does not build {image(root, variant)}"
    runtime = dict(stages.get("runtime", []))
    if "/api/healthz" not in runtime.get("HEALTHCHECK", ""):
        yield "Dockerfile: no healthcheck of the Ray node"
    if "RAY_AUTH_MODE=token" not in runtime.get("ENV", ""):
        yield "Dockerfile: token authentication is not on"
    pinned = re.search(r"ARG PYTHON_IMAGE=\S+:\d+\.\d+\.\d+-[\w-]+", text)
    if not pinned:
        yield "Dockerfile: PYTHON_IMAGE has no full version"
    if "SOURCE_DATE_EPOCH" not in text:
        yield "Dockerfile: the wheel's bytes depend on when it is built"
    for source in re.findall(r"^COPY (?!--from)(.+)$", text, re.MULTILINE):
        for path in source.split()[:-1]:
            if not (root / path).exists():
                yield f"Dockerfile: COPY {path}: there is no such file"
            elif f"!{path.split('/')[0]}" not in (root / ".dockerignore").read_text("utf-8"):
                yield f"Dockerfile: COPY {path}: .dockerignore leaves it out"


def _stages(text: str) -> dict[str, list[tuple[str, str]]]:
    """Instructions by stage, each with its text on one line."""
    lines = [line for line in text.splitlines() if line.strip() and not line.startswith("#")]
    joined = re.sub(r"\s*\\\n\s*", " ", "\n".join(lines))
    stages: dict[str, list[tuple[str, str]]] = {}
    name = "head"
    for line in joined.splitlines():
        word, rest = line.split(maxsplit=1)
        if word == "FROM":
            name = rest.split()[-1]
        stages.setdefault(name, []).append((word, rest))
    return stages


def _installs(name: str, command: str) -> Iterator[str]:
    for part in command.split("&&"):
        if "pip install" not in part:
            continue
        if "--no-cache-dir" not in part:
            yield f"Dockerfile {name}: pip's cache stays in the image"
        hashed = "--require-hashes" in part or "--no-index" in part
        torch = "download.pytorch.org" in part and part.split()[-1] == "torch" and "-c " in part
        if not hashed and not torch:
            yield f"Dockerfile {name}: installs without hashes: {part.strip()}"


def compose(root: Path) -> Iterator[str]:
    """Our compose file, strictly: keys, references, and what it opens."""
    file = yaml.safe_load((root / "deploy/compose/compose.yaml").read_text("utf-8"))
    services: dict[str, dict[str, Any]] = file["services"]
    if unknown := file.keys() - {"name", "x-ray", "services", "secrets", "volumes"}:
        yield f"compose: unknown keys {sorted(unknown)}"
    for name, service in services.items():
        where = f"compose {name}"
        if unknown := service.keys() - _SERVICE_KEYS:
            yield f"{where}: unknown keys {sorted(unknown)}"
        for port in service.get("ports", []):
            if not re.fullmatch(r"127\.0\.0\.1:\d+:\d+", port):
                yield f"{where}: port {port} is open to the network"
        if service.get("cap_drop") != ["ALL"] or service.get("security_opt") != [
            "no-new-privileges:true"
        ]:
            yield f"{where}: keeps capabilities, or may gain privileges"
        if "mem_limit" not in service:
            yield f"{where}: nothing limits its memory"
        if not re.fullmatch(r"[\w./-]+:v?\d[\w.-]+", service["image"]):
            yield f"{where}: image {service['image']} is not pinned"
        for other, how in service.get("depends_on", {}).items():
            if other not in services or how.get("condition") not in _CONDITIONS:
                yield f"{where}: depends on {other}, which is not there or not so"
        if unknown := set(service.get("secrets", [])) - file["secrets"].keys():
            yield f"{where}: there is no secret {sorted(unknown)}"
        yield from _mounts(where, root, service, file["volumes"])
        for key, value in service.get("environment", {}).items():
            secretive = re.search(r"TOKEN$|SECRET|PASSWORD|KEY", key)
            if secretive and _NO_SECRETS.get(key) != value:
                yield f"{where}: {key} is written out"
        if service["image"].startswith("rayinfluence"):
            yield from _ours(where, root, service)
    moto = f"motoserver/moto:{pins(root)['moto']}"
    if services["s3"]["image"] != moto:
        yield f"compose s3: not {moto}, the version that tests use"
    yield from _compose_run(root, services)


def _mounts(
    where: str, root: Path, service: dict[str, Any], named: dict[str, Any]
) -> Iterator[str]:
    for mount in service.get("volumes", []):
        source = mount.split(":")[0]
        if source.startswith("."):
            if not (root / "deploy/compose" / source).exists():
                yield f"{where}: there is no file {source}"
            if not mount.endswith(":ro"):
                yield f"{where}: {source} can be written to"
        elif source not in named:
            yield f"{where}: there is no volume {source}"


def _ours(where: str, root: Path, service: dict[str, Any]) -> Iterator[str]:
    if service["image"] != image(root, "cpu") or service["build"]["target"] != "cpu":
        yield f"{where}: image {service['image']} is not {image(root, 'cpu')}"
    environment = service.get("environment", {})
    if environment.get("RAY_AUTH_MODE") != "token":
        yield f"{where}: token authentication is off"
    if environment.get("RAY_AUTH_TOKEN_PATH") != "/run/secrets/ray-token":
        yield f"{where}: does not take the token from its secret"
    words = shlex.split(service["command"])
    if words[:1] == ["rayinfluence"]:
        yield from (f"{where}: {problem}" for problem in parsed(words))
    if words[:2] == ["ray", "start"]:
        yield from (f"{where}: {problem}" for problem in start_command(words))


def start_command(words: list[str]) -> Iterator[str]:
    """What is wrong with a `ray start`: flags that there are not, ports that are not ours."""
    from ray.scripts.scripts import start

    known = {option for parameter in start.params for option in parameter.opts}
    given = dict(word.split("=", 1) if "=" in word else (word, "") for word in words[2:])
    if unknown := given.keys() - known:
        yield f"ray start has no {sorted(unknown)}"
    head = "--head" in given
    for flag, port in PORTS.items():
        if (head or flag not in _HEAD_ONLY) and given.get(flag) != str(port):
            yield f"ray start: {flag} is {given.get(flag)}, not {port}"


def _compose_run(root: Path, services: dict[str, dict[str, Any]]) -> Iterator[str]:
    try:
        config = RunConfig.load(root / "deploy/compose/run.yaml")
    except ConfigError as error:
        yield f"compose: {error}"
        return
    commands = [str(service.get("command", "")) for service in services.values()]
    cpus = sum(int(flag) for c in commands for flag in re.findall(r"--num-cpus=(\d+)", c))
    if cpus < config.runner.actors + 1:
        yield f"compose: {cpus} CPUs for {config.runner.actors} replicas and their reads"


def launcher(root: Path, name: str) -> Iterator[str]:
    """A cluster-launcher file against Ray's own schema, and what that does not say."""
    where = f"cluster/{name}.yaml"
    file = yaml.safe_load((root / "deploy/cluster" / f"{name}.yaml").read_text("utf-8"))
    schema = json.loads((Path(ray.__file__).parent / "autoscaler/ray-schema.json").read_text())
    for error in jsonschema.Draft7Validator(schema).iter_errors(file):
        yield f"{where}: {'/'.join(map(str, error.absolute_path))}: {error.message}"
    types = file.get("available_node_types", {})
    head = types.get(file.get("head_node_type"))
    if head is None:
        yield f"{where}: head_node_type {file.get('head_node_type')} is no node type"
        return
    if head.get("resources", {}).get("CPU") != 0 or "GPU" in head.get("resources", {}):
        yield f"{where}: work may be placed on the head"
    for kind, node in types.items():
        spot = bool(
            node["node_config"].get("InstanceMarketOptions")
            or {"preemptible": True} in node["node_config"].get("scheduling", [])
        )
        if spot == (node is head):
            yield f"{where}: {kind}: the head is on demand and the workers are spot"
        if (
            node is not head
            and not 0 < node["min_workers"] < node["max_workers"] <= file["max_workers"]
        ):
            yield f"{where}: {kind}: nothing to scale between"
        identity = {"aws": "IamInstanceProfile", "gcp": "serviceAccounts"}[name]
        if identity not in node["node_config"]:
            yield f"{where}: {kind}: has no identity, so it would need keys"
    if not file["docker"]["image"].endswith(f"/{image(root, 'cuda')}"):
        yield f"{where}: image {file['docker']['image']} is not {image(root, 'cuda')}"
    if file.get("file_mounts") != {"/home/ray/.ray/auth_token": "~/.ray/auth_token"}:
        yield f"{where}: the token does not reach the nodes"
    for side in ("head", "worker"):
        command = file[f"{side}_start_ray_commands"][-1]
        mode, *words = shlex.split(command)
        if mode != "RAY_AUTH_MODE=token":
            yield f"{where}: {side}: token authentication is off"
        yield from (f"{where}: {side}: {problem}" for problem in start_command(words))
        if side == "head" and "--dashboard-host=127.0.0.1" not in words:
            yield f"{where}: the dashboard listens to the network"


def helm(root: Path) -> Iterator[str]:
    """The operator's values."""
    values = yaml.safe_load((root / "deploy/helm/kuberay-operator.yaml").read_text("utf-8"))
    crds = (root / "tests/k8s/crds/SOURCE.md").read_text("utf-8")
    if f"KubeRay {values['image']['tag']}" not in crds:
        yield f"helm: operator {values['image']['tag']} is not the one whose schema is checked"
    if values.get("watchNamespace") != ["rayinfluence"] or not values["singleNamespaceInstall"]:
        yield "helm: the operator's rights are not limited to the namespace of runs"
    waits = {entry["name"]: entry["value"] for entry in values.get("env", [])}
    if int(waits.get("RAYJOB_STATUS_CHECK_TIMEOUT_SECONDS", 300)) < 1800:
        yield "helm: a head that is replaced slowly fails the run for good, whatever backoffLimit"
    resources = values["resources"]
    if resources["requests"]["memory"] != resources["limits"]["memory"]:
        yield "helm: memory request is not limit"


def locks(root: Path) -> Iterator[str]:
    """Hashed requirements are the constraints' versions, and hold all that is needed but torch."""
    pinned = {_normal(name): version for name, version in pins(root).items()}
    found: set[str] = set()
    for lock in ("requirements.lock", "build.lock"):
        text = (root / "deploy" / lock).read_text("utf-8")
        for entry in re.split(r"\n(?=\S)", text.strip()):
            name, version = re.match(r"([\w.-]+)==([^\s;\\]+)", entry).groups()  # type: ignore
            found.add(_normal(name))
            if pinned.get(_normal(name)) != version:
                yield f"{lock}: {name} {version}, constraints.txt has {pinned.get(_normal(name))}"
            if "--hash=sha256:" not in entry:
                yield f"{lock}: {name} has no hash"
    project = tomllib.loads((root / "pyproject.toml").read_text("utf-8"))["project"]
    # The overlay dev and the compose file run the demo; the one for GKE reads gs:// addresses.
    # Documents of any format are read on workers.
    wanted = [*project["dependencies"]]
    wanted += [
        name
        for extra in ("demo", "gcs", "html", "warc", "copies")
        for name in project["optional-dependencies"][extra]
    ]
    names = {_normal(re.split(r"[^\w.-]", requirement)[0]) for requirement in wanted}
    if missing := names - found - {"torch"}:
        yield f"requirements.lock lacks {sorted(missing)}; run `make lock`"
    if "torch" in found:
        yield "requirements.lock pins one of torch's builds"


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def expressions(root: Path) -> Iterator[tuple[str, str]]:
    """Every PromQL expression of dashboard and rules, with where it is."""
    board = json.loads(
        (root / "deploy/monitoring/grafana/dashboards/rayinfluence.json").read_text("utf-8")
    )
    for panel in board["panels"]:
        for target in panel["targets"]:
            yield f"panel {panel['title']!r}", target["expr"]
    for alert in alerts(root):
        yield f"alert {alert['alert']}", alert["expr"]


def alerts(root: Path) -> list[dict[str, Any]]:
    """The alerts of the rules file."""
    rules = yaml.safe_load((root / "deploy/monitoring/rules.yaml").read_text("utf-8"))
    return [rule for group in rules["groups"] for rule in group["rules"]]


def exported() -> dict[str, set[str]]:
    """Names under which Prometheus knows our counters and those of Ray, with labels."""
    ours = {f"ray_{name}_total": {*TAGS, *metric.tags} for name, metric in METRICS.items()}
    return ours | RAY_METRICS | GPU_METRICS


def monitoring(root: Path) -> Iterator[str]:
    """Dashboard and rules query what is exported, by labels that it has; promtool agrees."""
    known = exported()
    for where, expression in expressions(root):
        names = re.findall(r"\bray_\w+", expression)
        if not names:
            yield f"{where}: queries nothing"
        for name in names:
            if name not in known:
                yield f"{where}: there is no metric {name}"
        labels = set(re.findall(r"[{,]\s*(\w+)\s*(?:=~|!~|!=|=)", expression))
        for grouped in re.findall(r"\bby \(([\w, ]+)\)", expression):
            labels |= {label.strip() for label in grouped.split(",")}
        allowed = {label for name in names for label in known.get(name, set())}
        if unknown := labels - allowed:
            yield f"{where}: its metrics have no label {sorted(unknown)}"
    operate = (root / "docs/operate.md").read_text("utf-8")
    for alert in alerts(root):
        if f"### {alert['alert']}" not in operate:
            yield f"alert {alert['alert']}: docs/operate.md does not say what to do"
    yield from _promtool(root)


def promtool() -> str | None:
    """The program, from the path or from where `make .tools/prometheus` unpacks it."""
    unpacked = Path(__file__).parents[2] / ".tools/prometheus/usr/bin"
    return shutil.which("promtool") or shutil.which("promtool", path=str(unpacked))


def _promtool(root: Path) -> Iterator[str]:
    program = promtool()
    if program is None:
        yield "promtool is not installed: rules cannot be tested; run `make .tools/prometheus`"
        return
    with tempfile.TemporaryDirectory() as folder:
        rules = Path(folder) / "rules.yaml"
        shutil.copy(root / "deploy/monitoring/rules.yaml", rules)
        shutil.copy(Path(__file__).parent / "rules_test.yaml", folder)
        # A dashboard's expressions become recording rules, which promtool parses.
        boards = [
            {"record": f"e{index}", "expr": expression.replace("$run", ".*")}
            for index, (_, expression) in enumerate(expressions(root))
        ]
        (Path(folder) / "board.yaml").write_text(
            yaml.safe_dump({"groups": [{"name": "board", "rules": boards}]})
        )
        for arguments in (
            ["check", "rules", "rules.yaml", "board.yaml"],
            ["test", "rules", "rules_test.yaml"],
        ):
            done = subprocess.run(
                [program, *arguments], cwd=folder, capture_output=True, text=True, check=False
            )
            if done.returncode:
                said = (done.stdout + done.stderr).strip()
                yield f"promtool {' '.join(arguments[:2])}: {said[-400:]}"


def documented_ports(root: Path) -> Iterator[str]:
    """docs/security.md lists the ports that are opened, and the image says the same."""
    table = (root / "docs/security.md").read_text("utf-8")
    documented = set(re.findall(r"^\| (\d+(?:-\d+)?) \|", table, re.MULTILINE))
    numbers = {str(port) for flag, port in PORTS.items() if "worker-port" not in flag}
    wanted = numbers | {f"{PORTS['--min-worker-port']}-{PORTS['--max-worker-port']}"}
    if documented != wanted:
        yield f"docs/security.md: ports {sorted(documented ^ wanted)} differ"
    exposed = re.search(r"^EXPOSE (.+)$", (root / "deploy/Dockerfile").read_text("utf-8"), re.M)
    if exposed is None or set(exposed[1].split()) != wanted:
        yield "Dockerfile: EXPOSE does not list Ray's ports"
    policies = (root / "k8s/base/networkpolicies.yaml").read_text("utf-8")
    opened = set(re.findall(r"protocol: TCP, port: (\d+)\}", policies)) | {
        f"{first}-{last}" for first, last in re.findall(r"port: (\d+), endPort: (\d+)", policies)
    }
    if opened - {"53", "443"} != wanted:
        yield f"networkpolicies.yaml: ports {sorted((opened - {'53', '443'}) ^ wanted)} differ"
