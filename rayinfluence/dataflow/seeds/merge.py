"""Results of several seeds -> results whose scores are means, with standard errors.

Where all runs kept all scores, means are over every sequence that all have scored, and exact; where
one did not, over the survivors that all have kept.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rayinfluence.dataflow.layout import CONFIG
from rayinfluence.dataflow.manifest import write_manifest
from rayinfluence.dataflow.seeds.hits import Hits
from rayinfluence.dataflow.seeds.method import MethodOfSeeds, ids_of
from rayinfluence.dataflow.seeds.queries import asked_by_all
from rayinfluence.dataflow.seeds.rows import Asked
from rayinfluence.dataflow.seeds.sequences import write_sequences
from rayinfluence.dataflow.seeds.sources import Source, in_common, in_order
from rayinfluence.dataflow.seeds.telling import of_a_part, warnings_of
from rayinfluence.dataflow.stages.results import write_queries
from rayinfluence.errors import ConfigError
from rayinfluence.storage.digest import digest
from rayinfluence.storage.results import QUERIES, table_key
from rayinfluence.storage.store import Store
from rayinfluence.text import without_credentials

#: Raised whenever the same results would be merged into others.
_VERSION = 1
#: Of the table of queries, what the manifest says of each.
_OF_A_QUERY = ("query_id", "digest", "objective", "unit", "value", "log_probability", "warning")
#: What a manifest says of how one run went.
_OF_A_RUN = ("stages", "warnings", "tables", "fingerprint", "set_aside", "filter", "pair_scores")
#: Sections that say something as a whole alone.
_WHOLE = ("objective", "selection")


def merge_seeds(given: Sequence[Source], into: Store) -> dict[str, Any]:
    """Merge results, and make them the current ones of a folder; in whichever order, the same.

    Returns:
        Their manifest.

    Args:
        given: results of each seed.
        into: a folder that is no run's.

    Raises:
        ConfigError: they are of more than seeds, or have no question in common, or the folder is a
            run's.
        StorageError: a table, or scores, are missing or damaged.
    """
    if into.exists(CONFIG):
        raise ConfigError(
            f"--into: {into.url} is the directory of a run, whose results these would not be. Name "
            "a folder of their own."
        )
    sources = in_order(given)
    asked, left_out = _asked(sources)
    dense = all(source.keeps_all for source in sources)
    fingerprint = digest(
        {
            "version": _VERSION,
            "seeds": [[one.fingerprint, dict(one.manifest["tables"])] for one in sources],
        }
    )
    methods = [MethodOfSeeds(name, sources, asked, dense) for name in sources[0].results]
    found = [method.find(into) for method in methods]
    tables = write_sequences(methods[0].results, ids_of(found), into, fingerprint)
    for method, of_method in zip(methods, found, strict=True):
        tables |= method.write(of_method, into, fingerprint)
    rows = [one.row for one in asked.values()]
    key = table_key(fingerprint, QUERIES)
    tables[QUERIES] = write_queries(into, key, rows, fingerprint)
    hits = {
        method.name: {asked[query].row["query_id"]: one for query, one in of_method.hits.items()}
        for method, of_method in zip(methods, found, strict=True)
    }
    manifest = {
        **_of_all([source.manifest for source in sources]),
        "fingerprint": fingerprint,
        "tables": tables,
        "methods": {
            method.name: method.told(of_method)
            for method, of_method in zip(methods, found, strict=True)
        },
        "queries": [{key: row.get(key) for key in _OF_A_QUERY} for row in rows],
        "dense_scores": sources[0].manifest["dense_scores"] if dense else None,
        "seeds": _seeds(sources, hits, dense, left_out),
        "warnings": _warnings(sources, hits, dense, left_out),
    }
    write_manifest(into, manifest)
    return manifest


def _asked(sources: Sequence[Source]) -> tuple[dict[str, Asked], list[str]]:
    """The questions that all were asked, by digest, and the names of the others.

    Raises:
        ConfigError: there is none.
    """
    tables: list[dict[str, dict[str, Any]]] = []
    for source in sources:
        there: dict[str, dict[str, Any]] = {}
        for results in source.results.values():
            for row in results.queries.values():
                there.setdefault(row["digest"], row)
        order = [one["digest"] for one in source.manifest["queries"]]
        tables.append({query: there[query] for query in dict.fromkeys(order) if query in there})
    common = [query for query in tables[0] if all(query in table for table in tables)]
    if not common:
        named = " and ".join(source.place for source in sources)
        raise ConfigError(
            f"{named} have no question in common: those are the same whose tokens are, and what of "
            "them counts. Give the runs one file of `queries`."
        )
    names = {query: row["query_id"] for table in tables for query, row in table.items()}
    left_out = sorted(name for query, name in names.items() if query not in common)
    kind = (sources[0].manifest.get("objective") or {}).get("kind")
    found = {query: asked_by_all([table[query] for table in tables], kind) for query in common}
    return found, left_out


def _of_all(manifests: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """What holds for all seeds; splits that one lacks, the means lack."""
    common = {key: of for key, of in in_common(manifests).items() if key not in _OF_A_RUN}
    for key in _WHOLE:
        if any(one.get(key) != common.get(key) for one in manifests):
            common.pop(key, None)
    aside = {one["digest"]: one for of in manifests for one in of.get("set_aside") or ()}
    return {
        **common,
        "n_sequences": min(one["n_sequences"] for one in manifests),
        "set_aside": [aside[key] for key in sorted(aside)],
    }


def _seeds(
    sources: Sequence[Source],
    hits: Mapping[str, Mapping[str, Hits]],
    dense: bool,
    left_out: Sequence[str],
) -> dict[str, Any]:
    """What the manifest says of the runs, and of what not all of them have."""
    runs = []
    for source in sources:
        model, config = source.manifest["model"], source.manifest["config"]
        runs.append(
            {
                "run": without_credentials(source.store.url),
                "results": source.fingerprint,
                "model": {key: model.get(key) for key in ("path", "commit", "digest")},
                "seed": config.get("seed"),
                "warnings": list(source.manifest.get("warnings") or ()),
            }
        )
    return {
        "n": len(sources),
        "of_all_scores": dense,
        "runs": runs,
        "queries_left_out": list(left_out),
        "sequences": {
            method: {
                query_id: {
                    "by_all": one.n_scored,
                    "not_by_all": one.n_not_by_all,
                    "hits_cut": one.n_cut,
                }
                for query_id, one in of_queries.items()
            }
            for method, of_queries in hits.items()
        },
    }


def _warnings(
    sources: Sequence[Source],
    hits: Mapping[str, Mapping[str, Hits]],
    dense: bool,
    left_out: Sequence[str],
) -> list[str]:
    """Those of merging, and those that all runs have; the manifest has each run's with it."""
    theirs = [source.manifest.get("warnings") or () for source in sources]
    shared = [text for text in theirs[0] if all(text in of for of in theirs)]
    of_parts = (of_a_part(without_credentials(one.place), one.manifest) for one in sources)
    return [*warnings_of(hits, dense, left_out), *filter(None, of_parts), *shared]
