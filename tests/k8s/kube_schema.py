"""Manifests against schemas, strictly: Kubernetes' own kinds, and the RayJob with its CEL rules.

Every function yields sentences; none means valid.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import celpy
import jsonschema
import kubernetes_validate

KUBERNETES = kubernetes_validate.latest_version()
_CRD = Path(__file__).parent / "crds" / "rayjob-v1.json.gz"

Manifest = dict[str, Any]


def problems(manifest: Manifest) -> Iterator[str]:
    """What the API server would refuse in a manifest."""
    name = f"{manifest.get('kind')} {manifest.get('metadata', {}).get('name')}"
    if str(manifest.get("apiVersion", "")).startswith("ray.io/"):
        found = _ray(manifest)
    else:
        found = _core(manifest)
    yield from (f"{name}: {problem}" for problem in found)


def _core(manifest: Manifest) -> Iterator[str]:
    try:
        kubernetes_validate.validate(manifest, KUBERNETES, strict=True)
    except kubernetes_validate.ValidationError as error:
        yield f"{'/'.join(map(str, error.path))}: {error.message}"
    except kubernetes_validate.SchemaNotFoundError as error:
        yield str(error)


def _ray(manifest: Manifest) -> Iterator[str]:
    crd = _crd()
    if (manifest["apiVersion"], manifest["kind"]) != ("ray.io/v1", crd["kind"]):
        yield f"{manifest['apiVersion']} {manifest['kind']} is not a kind of ray.io that is checked"
        return
    completed = with_defaults(manifest, crd["schema"])
    for error in _validator().iter_errors(completed):
        yield f"{'/'.join(map(str, error.absolute_path))}: {error.message}"
    for group, template in pod_templates(manifest).items():
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "x"}, **template}
        pod["metadata"] = {"name": "x", **template.get("metadata", {})}
        yield from (f"pods of {group}: {problem}" for problem in _core(pod))
    yield from _cel(completed, crd["schema"], "")


def pod_templates(rayjob: Manifest) -> dict[str, dict[str, Any]]:
    """The pod templates of a RayJob by group: head, each worker group's name, submitter."""
    spec = rayjob["spec"]
    cluster = spec.get("rayClusterSpec", {})
    found = {"head": cluster.get("headGroupSpec", {}).get("template", {})}
    for group in cluster.get("workerGroupSpecs", []):
        found[group.get("groupName", "?")] = group.get("template", {})
    if "submitterPodTemplate" in spec:
        found["submitter"] = spec["submitterPodTemplate"]
    return found


@cache
def _crd() -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads(gzip.decompress(_CRD.read_bytes()))
    return loaded


@cache
def _validator() -> jsonschema.Draft202012Validator:
    return jsonschema.Draft202012Validator(_strict(_crd()["schema"], top=True))


def _strict(schema: Any, top: bool = False) -> Any:
    """A schema that refuses what Kubernetes would prune: keys that it does not name."""
    if isinstance(schema, list):
        return [_strict(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    strict = {
        key: {name: _strict(inner) for name, inner in value.items()}
        if key == "properties"
        else _strict(value)
        for key, value in schema.items()
    }
    if strict.pop("x-kubernetes-int-or-string", False):
        strict["type"] = ["integer", "string"]
    if strict.pop("nullable", False) and "type" in strict:
        strict["type"] = [strict["type"], "null"]
    free = strict.pop("x-kubernetes-preserve-unknown-fields", False)
    if "properties" in strict and "additionalProperties" not in strict and not free:
        strict["additionalProperties"] = False
    if top:
        # The API server checks metadata by rules of its own.
        strict["properties"]["metadata"] = {"type": "object"}
    return strict


def with_defaults(value: Any, schema: dict[str, Any]) -> Any:
    """A value with the defaults of its schema filled in, as the API server does."""
    if isinstance(value, dict):
        named = schema.get("properties", {})
        rest = schema.get("additionalProperties", {})
        filled = {
            key: with_defaults(inner, named.get(key, rest if isinstance(rest, dict) else {}))
            for key, inner in value.items()
        }
        for key, inner in named.items():
            if key not in filled and "default" in inner:
                filled[key] = with_defaults(inner["default"], inner)
        return filled
    if isinstance(value, list):
        return [with_defaults(item, schema.get("items", {})) for item in value]
    return value


def _cel(value: Any, schema: dict[str, Any], path: str) -> Iterator[str]:
    for rule in schema.get("x-kubernetes-validations", []):
        # Rules about the object as it was before hold for updates alone.
        if "oldSelf" not in rule["rule"] and not _holds(rule["rule"], value):
            yield f"{path}: {rule['message']}"
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from _cel(inner, schema.get("properties", {}).get(key, {}), f"{path}/{key}")
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from _cel(item, schema.get("items", {}), f"{path}/{index}")


@cache
def _program(rule: str) -> Any:
    environment = celpy.Environment()
    return environment.program(environment.compile(rule))


def _holds(rule: str, value: Any) -> bool:
    return bool(_program(rule).evaluate({"self": celpy.json_to_cel(value)}))
