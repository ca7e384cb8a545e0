"""Which results there are: versions, their manifests, and what schema they are of."""

from __future__ import annotations

from typing import Any

from rayinfluence.errors import DamagedError, StorageError
from rayinfluence.storage.results.schema import SCHEMA_VERSION
from rayinfluence.storage.store import Store, read_json

#: Folder of the run directory.
RESULTS = "results"
_OF_A_VERSION = "manifest.json"
#: Names the current results.
MANIFEST = f"{RESULTS}/{_OF_A_VERSION}"


def version_manifest(fingerprint: str) -> str:
    """Where the manifest of some results is, current ones or not."""
    return table_key(fingerprint, _OF_A_VERSION)


def table_key(fingerprint: str, name: str) -> str:
    """Where a table of some results is."""
    return f"{RESULTS}/{fingerprint}/{name}"


def versions(store: Store) -> list[str]:
    """Fingerprints of all results that a run directory holds, by when they were written."""
    found = store.list(RESULTS)
    keys = [key for key in found if key.endswith(f"/{_OF_A_VERSION}") and key != MANIFEST]
    return [key.split("/")[1] for key in sorted(keys, key=lambda k: found[k].modified or 0.0)]


def schema_version(manifest: dict[str, Any]) -> int:
    """The version of the schema that results are of, by their manifest."""
    version = manifest.get("schema_version", 1)
    return version if isinstance(version, int) else 0


def read_results_manifest(
    store: Store, version: str | None = None, any_schema: bool = False
) -> dict[str, Any]:
    """The manifest of a run directory's results.

    Args:
        store: the run directory.
        version: fingerprint of the results; None names the current ones.
        any_schema: whether those of a schema that is not ours will do.

    Raises:
        DamagedError: it is not one that a run has written.
        StorageError: it is missing, cannot be read, or is of another version of the schema.
    """
    key = MANIFEST if version is None else version_manifest(version)
    manifest = read_json(store, key)
    methods, queries = manifest.get("methods"), manifest.get("queries")
    if not (methods and isinstance(methods, dict) and isinstance(queries, list)):
        raise DamagedError(
            f"{store.url}/{key} is no manifest of results: it names no methods or no queries. If a "
            "run wrote it, delete it and run again; if not, this is no run directory."
        )
    if schema_version(manifest) != SCHEMA_VERSION and not any_schema:
        raise StorageError(other_schema(store, manifest))
    if not isinstance(manifest.get("tables"), dict) and not any_schema:
        raise DamagedError(f"{store.url}/{key} names no tables: delete it and run again.")
    return manifest


def other_schema(store: Store, manifest: dict[str, Any]) -> str:
    """What to say of results of a schema that is not ours."""
    theirs = schema_version(manifest)
    wrote = (manifest.get("versions") or {}).get("rayinfluence")
    by = f", which rayinfluence {wrote} wrote" if wrote else ""
    return (
        f"{store.url} has results of schema version {theirs}{by}, and this version of rayinfluence "
        f"reads schema version {SCHEMA_VERSION}: `rayinfluence run` on its config makes them "
        "again and leaves the others where they are, or read them with the version of "
        "rayinfluence that wrote them."
    )
