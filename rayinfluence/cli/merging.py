"""`rayinfluence merge`: results of several seeds as means with standard errors."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from rayinfluence.cli.comparing import fingerprint_of, versioned
from rayinfluence.cli.options import AsJson, EndpointUrl
from rayinfluence.cli.saying import say
from rayinfluence.cli.showing import all_results, say_report, write_report
from rayinfluence.display import Part, Shown, show


def merge(
    runs: Annotated[
        list[str],
        typer.Argument(
            metavar="RUN...",
            help="The runs of models that differ in their seed: run directories, or the runs' YAML "
            "files; RUN@FINGERPRINT for results that are not the current ones.",
        ),
    ],
    into: Annotated[
        str, typer.Option(metavar="FOLDER", help="Where the merged results go; may be s3://.")
    ],
    as_json: AsJson = False,
    endpoint_url: EndpointUrl = None,
) -> None:
    """Merge results of several seeds: of each score the mean, and its standard error."""
    from rayinfluence.addresses import expanded, why_no_address
    from rayinfluence.dataflow.places import run_place, storage_of
    from rayinfluence.dataflow.seeds.merge import merge_seeds
    from rayinfluence.dataflow.seeds.sources import Source
    from rayinfluence.errors import ConfigError
    from rayinfluence.storage.store import Store

    if why := why_no_address(into):
        raise ConfigError(f"--into: {why}")
    sources = []
    for one in runs:
        place, version = versioned(one)
        store = run_place(place, endpoint_url).store
        sources.append(Source(one, store, all_results(store, fingerprint_of(store, version))))
    folder = expanded(into)
    store = Store(folder, storage_of(endpoint_url, folder).options(folder))
    manifest = merge_seeds(sources, store)
    results = all_results(store)
    write_report(store, results)
    told = manifest["seeds"]
    of_what = "all scores" if told["of_all_scores"] else "scores of the survivors of all"
    asked = {q for one in results.values() if not one.meaning.of_itself for q in one.queries}
    parts: list[Part] = [
        f"{store.url}: means over {told['n']} seeds of {of_what}, by {', '.join(results)}, of "
        f"{len(asked):,} queries"
    ]
    values: dict[str, Any] = {
        "run": store.url,
        "results": manifest["fingerprint"],
        "methods": list(results),
        "warnings": manifest["warnings"],
        **told,
    }
    show(Shown(parts, values), as_json)
    for text in manifest["warnings"]:
        say(f"warning: {text}", error=True)
    say_report(store, error=as_json)
