"""Seeded mistakes: each, made in a copy of the project, has to be caught for the right reason.

A mistake is one replacement in one file; what is checked is an overlay's name, or ``deploy``.
"""

from __future__ import annotations

from typing import NamedTuple


class Mistake(NamedTuple):
    """What is written instead of what, where, what is checked, and what the complaint says."""

    file: str
    old: str
    new: str
    check: str
    complaint: str


_JOB = "k8s/base/rayjob.yaml"
_GPU = "k8s/components/gpu-spot/rayjob.yaml"
_SCALING = "k8s/components/autoscaling/rayjob.yaml"
_NETWORK = "k8s/base/networkpolicies.yaml"
_EKS = "k8s/overlays/eks-irsa/kustomization.yaml"
_GKE = "k8s/overlays/gke-workload-identity/kustomization.yaml"
_CRON = "k8s/overlays/cron/cronjob.yaml"
_DEV = "k8s/overlays/dev/rayjob.yaml"
_COMPOSE = "deploy/compose/compose.yaml"
_AWS = "deploy/cluster/aws.yaml"
_IMAGE = "deploy/Dockerfile"
_BOARD = "deploy/monitoring/grafana/dashboards/rayinfluence.json"
_RULES = "deploy/monitoring/rules.yaml"

MISTAKES: dict[str, Mistake] = {
    # What the schemas refuse.
    "typo in a field": Mistake(_JOB, "backoffLimit: 3", "backofLimit: 3", "dev", "backofLimit"),
    "typo deep in a pod": Mistake(
        _JOB, "readinessProbe: &ready", "readynessProbe: &ready", "dev", "readynessProbe"
    ),
    "wrong type": Mistake(_JOB, "backoffLimit: 3", 'backoffLimit: "3"', "dev", "'3' is not of"),
    "bad quantity": Mistake(_GPU, "memory: 56Gi", "memory: 56 Gi", "gpu-spot", "56 Gi"),
    "old version of the API": Mistake(_JOB, "ray.io/v1", "ray.io/v1alpha1", "dev", "v1alpha1"),
    "typo in a core kind": Mistake(_NETWORK, "ingress:\n", "ingresses:\n", "dev", "ingresses"),
    "unknown kind of policy": Mistake(
        _NETWORK, "[Ingress, Egress]", "[Ingres, Egress]", "dev", "no NetworkPolicy denies"
    ),
    "unknown authentication mode": Mistake(
        _JOB, "mode: token", "mode: tokens", "dev", "'tokens' is not one of"
    ),
    "two conditions in one deletion rule": Mistake(
        "k8s/overlays/cron/rayjob.yaml",
        "jobStatus: SUCCEEDED\n",
        "jobStatus: SUCCEEDED\n        jobDeploymentStatus: Failed\n",
        "cron",
        "cannot be used together within the same deletion condition",
    ),
    # What the operator refuses.
    "unknown submission mode": Mistake(
        _JOB, "submissionMode: K8sJobMode", "submissionMode: K8sMode", "dev", "submissionMode"
    ),
    "name too long": Mistake(
        _JOB, "  name: rayinfluence\n  labels", f"  name: {'r' * 48}\n  labels", "dev", "at most 47"
    ),
    "more replicas at least than at most": Mistake(
        _JOB, "minReplicas: 2", "minReplicas: 3", "dev", "more than maxReplicas"
    ),
    "shell syntax in the entrypoint": Mistake(
        _JOB, "run /etc/rayinfluence/run.yaml", "run a.yaml && echo", "dev", "shell syntax"
    ),
    "deletion rules beside shutdown": Mistake(
        "k8s/overlays/cron/rayjob.yaml",
        "spec:\n  activeDeadlineSeconds",
        "spec:\n  shutdownAfterJobFinishes: true\n  activeDeadlineSeconds",
        "cron",
        "exclude each other",
    ),
    "Ray too old for tokens": Mistake(
        _JOB, 'rayVersion: "2.60.0"', 'rayVersion: "2.51.0"', "dev", "2.52.0 or later"
    ),
    "resources of a group given twice": Mistake(
        _JOB,
        "- groupName: workers",
        '- groupName: workers\n        resources: {CPU: "3"}',
        "dev",
        "given twice",
    ),
    "gated field": Mistake(
        _JOB,
        "    authOptions:",
        "    networkPolicy: {mode: DenyAll}\n    authOptions:",
        "dev",
        "feature gate",
    ),
    # Safety.
    "root user": Mistake(_JOB, "runAsUser: 1000", "runAsUser: 0", "dev", "may run as root"),
    "privileges": Mistake(
        _JOB,
        "allowPrivilegeEscalation: false",
        "allowPrivilegeEscalation: true",
        "dev",
        "may gain privileges",
    ),
    "autoscaler with capabilities": Mistake(
        _SCALING, "capabilities: {drop: [ALL]}", "capabilities: {}", "gpu-spot", "autoscaler: keeps"
    ),
    "namespace not restricted": Mistake(
        "k8s/base/namespace.yaml", "enforce: restricted", "enforce: baseline", "dev", "baseline"
    ),
    "token authentication off": Mistake(_JOB, "mode: token", "mode: disabled", "dev", "is off"),
    "a secret written out": Mistake(
        _JOB,
        "- {name: OMP_NUM_THREADS",
        "- {name: AWS_SECRET_ACCESS_KEY, value: x}\n                - {name: OMP_NUM_THREADS",
        "dev",
        "is written out",
    ),
    "dashboard open to a namespace": Mistake(
        _NETWORK,
        "monitoring\n      ports:\n        - {protocol: TCP, port: 8080}",
        "monitoring\n      ports:\n        - {protocol: TCP, port: 8265}",
        "dev",
        "exposes the dashboard",
    ),
    "dashboard open to a range": Mistake(
        _NETWORK, "port: 8076}", "port: 8000, endPort: 8300}", "dev", "exposes the dashboard"
    ),
    "dashboard open to everybody": Mistake(
        _NETWORK,
        "              app.kubernetes.io/component: submitter\n      ports",
        "              app.kubernetes.io/component: submitter\n        - {}\n      ports",
        "dev",
        "lets everybody in",
    ),
    "dashboard behind a load balancer": Mistake(
        _JOB,
        "    headGroupSpec:",
        "    headGroupSpec:\n      serviceType: LoadBalancer",
        "dev",
        "dashboard is exposed",
    ),
    "a port that Ray needs is closed": Mistake(
        _NETWORK, "        - {protocol: TCP, port: 8077} # node manager\n", "", "dev", "8077"
    ),
    "a port left to chance": Mistake(
        _JOB, '\n        node-manager-port: "8077"\n', "\n", "dev", "node-manager-port is not set"
    ),
    "metadata service in reach": Mistake(
        _NETWORK, "            except: [169.254.0.0/16]\n", "", "dev", "metadata service"
    ),
    "submitter that nobody lets in": Mistake(
        _JOB, "component: submitter", "component: submit", "dev", "selects no pod"
    ),
    "workers with a token of the API": Mistake(
        "k8s/base/serviceaccounts.yaml",
        "worker\nautomountServiceAccountToken: false",
        "worker\nautomountServiceAccountToken: true",
        "dev",
        "automountServiceAccountToken is wrong",
    ),
    "autoscaler without its token": Mistake(
        _SCALING,
        "automountServiceAccountToken\n  value: true",
        "automountServiceAccountToken\n  value: false",
        "gpu-spot",
        "must be true",
    ),
    "a Role that grants too much": Mistake(
        _CRON, "verbs: [create]", 'verbs: ["*"]', "cron", "grants more"
    ),
    "a typo in the role's address": Mistake(
        _EKS, "arn:aws:iam::123456789012", "arn:aws:iam:123456789012", "eks-irsa", "role-arn"
    ),
    "long-lived keys on EKS": Mistake(
        _EKS,
        "  - ../../components/autoscaling",
        "  - ../../components/autoscaling\n  - ../../components/s3-keys",
        "eks-irsa",
        "long-lived keys",
    ),
    "no account on GKE": Mistake(
        _GKE,
        "iam.gke.io/gcp-service-account",
        "iam.gke.io/service-account",
        "gke-workload-identity",
        "has no iam.gke.io/gcp-service-account",
    ),
    # References, versions, sizes.
    "mismatched rayVersion": Mistake(
        _JOB, 'rayVersion: "2.60.0"', 'rayVersion: "2.59.0"', "dev", "rayVersion is 2.59.0"
    ),
    "mismatched image tag": Mistake(
        "k8s/base/kustomization.yaml",
        "0.1.0-ray2.60.0-cpu",
        "0.1.0-ray2.59.0-cpu",
        "dev",
        "is not rayinfluence 0.1.0 on Ray",
    ),
    "CPU image on GPU nodes": Mistake(
        "k8s/components/gpu-spot/kustomization.yaml",
        "-cuda",
        "-cpu",
        "gpu-spot",
        "the image is for cpu",
    ),
    "constraint moved on alone": Mistake(
        "constraints.txt", "ray==2.60.0", "ray==2.61.0", "dev", "constraints.txt has 2.61.0"
    ),
    "typo in a ConfigMap's name": Mistake(
        _GPU,
        "configMap: {name: rayinfluence-run}",
        "configMap: {name: rayinfluence-runs}",
        "eks-irsa",
        "there is no ConfigMap rayinfluence-runs",
    ),
    "typo in a ConfigMap's key": Mistake(
        _JOB, "key: model-url", "key: model_url", "gpu-spot", "has no key model_url"
    ),
    "undocumented Secret": Mistake(
        "k8s/components/s3-keys/kustomization.yaml",
        "rayinfluence-s3}",
        "rayinfluence-keys}",
        "gpu-spot",
        "how to make the Secret",
    ),
    "model of a hub that may not be asked": Mistake(
        "k8s/components/hub/kustomization.yaml",
        'value: "0"',
        'value: "1"',
        "hub",
        "the head may ask no hub",
    ),
    "model of a hub without a place": Mistake(
        "k8s/components/hub/kustomization.yaml",
        "value: false",
        "value: true",
        "hub",
        "HF_HOME is on no volume that the head may write to",
    ),
    "service account that is not there": Mistake(
        _JOB,
        "serviceAccountName: rayinfluence-head",
        "serviceAccountName: rayinfluence",
        "dev",
        "there is no ServiceAccount rayinfluence",
    ),
    "claim that is not there": Mistake(
        "k8s/overlays/dev/volume.yaml",
        "name: rayinfluence-data",
        "name: data",
        "dev",
        "no PersistentVolumeClaim",
    ),
    "volume mounted and not declared": Mistake(
        _JOB,
        "{name: models, mountPath: /models}",
        "{name: model, mountPath: /models}",
        "gpu-spot",
        "mounted or declared, not both",
    ),
    "unknown key in the run's configuration": Mistake(
        "k8s/overlays/gpu-spot/run.yaml",
        "  max_actors",
        "  max_actor",
        "gpu-spot",
        "did you mean 'max_actors'",
    ),
    "typo in the entrypoint": Mistake(
        _JOB,
        "entrypoint: rayinfluence run",
        "entrypoint: rayinfluence rum",
        "dev",
        "No such command",
    ),
    "option that the script has not": Mistake(
        _JOB, "args: [--config,", "args: [--conf1g,", "gpu-spot", "fetch_model.py"
    ),
    "entrypoint reads another file": Mistake(
        _JOB,
        "/etc/rayinfluence/run.yaml\n  submissionMode",
        "/etc/rayinfluence/config.yaml\n  submissionMode",
        "dev",
        "no ConfigMap puts on the head",
    ),
    "more replicas than GPUs": Mistake(
        "k8s/overlays/gpu-spot/run.yaml",
        "max_actors: 8",
        "max_actors: 16",
        "gpu-spot",
        "runner asks for (2, 16)",
    ),
    "GPU run on nodes without": Mistake(
        "k8s/overlays/dev/run.yaml", "device: cpu", "device: cuda", "dev", "device is cuda"
    ),
    "local run directory that workers lack": Mistake(
        "k8s/overlays/dev/run.yaml", "run: /data/run", "run: /var/run-1", "dev", "no volume with"
    ),
    "missing toleration": Mistake(
        _GPU,
        "    - {key: nvidia.com/gpu, operator: Exists, effect: NoSchedule}\n",
        "",
        "gpu-spot",
        "no toleration of nvidia.com/gpu",
    ),
    "missing toleration of spot nodes": Mistake(
        _GPU,
        "    - {key: spot, operator: Exists, effect: NoSchedule}\n",
        "",
        "kueue",
        "no toleration of spot",
    ),
    "head on spot nodes": Mistake(
        _GPU, "value: {pool: on-demand}", "value: {pool: gpu-spot}", "gpu-spot", "land on a spot"
    ),
    "work on the head": Mistake(_JOB, 'num-cpus: "0"', 'num-cpus: "2"', "dev", "on the head"),
    "memory request below its limit": Mistake(
        _JOB,
        "requests: {cpu: 100m, memory: 1Gi}",
        "requests: {cpu: 100m, memory: 512Mi}",
        "dev",
        "is not its limit",
    ),
    "object store larger than /dev/shm": Mistake(
        _GPU, "sizeLimit: 22Gi", "sizeLimit: 16Gi", "gpu-spot", "does not hold the object store"
    ),
    "spill volume of another name": Mistake(
        _DEV,
        "{name: ray-logs, mountPath: /tmp/ray}",
        "{name: spill, mountPath: /tmp/ray}",
        "dev",
        "need the volume ray-logs",
    ),
    "volumes larger than the pod's storage": Mistake(
        _GPU, "emptyDir: {sizeLimit: 50Gi}", "emptyDir: {sizeLimit: 90Gi}", "gpu-spot", "evict it"
    ),
    "probe on the wrong port": Mistake(
        _JOB,
        "{path: /api/healthz, port: 52365}\n                initialDelaySeconds: 60",
        "{path: /api/healthz, port: 8265}\n                initialDelaySeconds: 60",
        "dev",
        "livenessProbe does not ask",
    ),
    "grace too short for a split": Mistake(
        _JOB,
        "terminationGracePeriodSeconds: 120",
        "terminationGracePeriodSeconds: 30",
        "dev",
        "within a grace of 30 s",
    ),
    "no retry of a dead head": Mistake(
        _JOB,
        "  backoffLimit: 3\n  submitterConfig",
        "  backoffLimit: 0\n  submitterConfig",
        "dev",
        "would not be tried again",
    ),
    "disruption budget that cannot count": Mistake(
        "k8s/base/poddisruptionbudget.yaml",
        "minAvailable: 1",
        "maxUnavailable: 0",
        "dev",
        "must say minAvailable",
    ),
    "wrong queue label": Mistake(
        "k8s/components/kueue/kustomization.yaml",
        "value: rayinfluence",
        "value: default",
        "kueue",
        "none of the documented ones",
    ),
    "queued and not suspended": Mistake(
        "k8s/components/kueue/kustomization.yaml",
        "value: true",
        "value: false",
        "kueue",
        "Kueue needs suspend",
    ),
    "suspended where nobody starts it": Mistake(
        _JOB,
        "  shutdownAfterJobFinishes",
        "  suspend: true\n  shutdownAfterJobFinishes",
        "dev",
        "nobody would start it",
    ),
    "Kueue and autoscaling": Mistake(
        "k8s/overlays/kueue/kustomization.yaml",
        "  - ../../components/kueue",
        "  - ../../components/autoscaling\n  - ../../components/kueue",
        "kueue",
        "fixed size",
    ),
    "cron's RayJob out of date": Mistake(
        _GPU, 'cpu: "7"', 'cpu: "6"', "cron", "run `make k8s-cron`"
    ),
    "CronJob that overlaps": Mistake(
        _CRON, "concurrencyPolicy: Forbid", "concurrencyPolicy: Allow", "cron", "beside another"
    ),
    "patch of a path that is not there": Mistake(
        _GPU,
        "workerGroupSpecs/0/rayStartParams/num-cpus",
        "workerGroupSpecs/1/num-cpus",
        "gpu-spot",
        "does not build",
    ),
    # What is hosted elsewhere.
    "image that runs as root": Mistake(
        _IMAGE, "USER 1000:1000\n\n", "USER root\n\n", "deploy", "cpu: runs as root"
    ),
    "image without hashes": Mistake(
        _IMAGE,
        "--require-hashes -r requirements.lock",
        "-r requirements.lock",
        "deploy",
        "installs without hashes",
    ),
    "base image that moves": Mistake(
        _IMAGE, "python:3.11.14-slim-bookworm", "python:slim", "deploy", "no full version"
    ),
    "image that copies what is left out": Mistake(
        ".dockerignore", "!jobs\n", "", "deploy", ".dockerignore leaves it out"
    ),
    "lock behind its constraint": Mistake(
        "constraints.txt", "pyarrow==26.0.1", "pyarrow==26.0.2", "deploy", "pyarrow 26.0.1"
    ),
    "lock without what the demo needs": Mistake(
        "pyproject.toml",
        'demo = ["bm25s>=0.2.12"]',
        'demo = ["bm26s"]',
        "deploy",
        "lacks ['bm26s']",
    ),
    "compose port open to the network": Mistake(
        _COMPOSE, '"127.0.0.1:8265:8265"', '"8265:8265"', "deploy", "open to the network"
    ),
    "typo in compose": Mistake(
        _COMPOSE, "stop_grace_period", "stop_grace_periode", "deploy", "stop_grace_periode"
    ),
    "compose without a token": Mistake(
        _COMPOSE,
        "RAY_AUTH_MODE: token",
        "RAY_AUTH_MODE: disabled",
        "deploy",
        "token authentication is off",
    ),
    "flag that `ray start` has not": Mistake(
        _COMPOSE, "--num-cpus=0", "--num-cpu=0", "deploy", "ray start has no"
    ),
    "typo in the cluster launcher": Mistake(
        _AWS, "idle_timeout_minutes", "idle_timeout_minute", "deploy", "idle_timeout_minute"
    ),
    "head type that is not there": Mistake(
        _AWS, "head_node_type: head", "head_node_type: ray.head", "deploy", "is no node type"
    ),
    "launcher's dashboard on the network": Mistake(
        _AWS,
        "--dashboard-host=127.0.0.1",
        "--dashboard-host=0.0.0.0",
        "deploy",
        "listens to the network",
    ),
    "launcher's workers not spot": Mistake(
        "deploy/cluster/gcp.yaml", "        - preemptible: true\n", "", "deploy", "workers are spot"
    ),
    "operator that gives up on heads": Mistake(
        "deploy/helm/kuberay-operator.yaml",
        'value: "3600"',
        'value: "300"',
        "deploy",
        "replaced slowly",
    ),
    "dashboard of a metric that is not there": Mistake(
        _BOARD,
        "ray_rayinfluence_tokens_total",
        "ray_rayinfluence_tokens",
        "deploy",
        "there is no metric ray_rayinfluence_tokens",
    ),
    "dashboard by a label that is not there": Mistake(
        _BOARD, "sum by (run, kind)", "sum by (run, reason)", "deploy", "no label ['reason']"
    ),
    "dashboard that does not parse": Mistake(
        _BOARD, "[5m])) * 60", "[5m]) * 60", "deploy", "promtool check"
    ),
    "alert that fires too late": Mistake(
        _RULES,
        "for: 15m\n        labels: {severity: page}",
        "for: 2h\n        labels: {severity: page}",
        "deploy",
        "promtool test",
    ),
    "alert that nobody explains": Mistake(
        "docs/operate.md", "### RayinfluenceStalled", "### Stalled", "deploy", "what to do"
    ),
    "documented port that is not opened": Mistake(
        "docs/security.md", "| 8079 |", "| 8099 |", "deploy", "docs/security.md: ports"
    ),
    "opened port that is not documented": Mistake(
        _NETWORK, "port: 8078}", "port: 8068}", "deploy", "networkpolicies.yaml: ports"
    ),
}
