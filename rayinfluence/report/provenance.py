"""What few readers need and an audit does: whole digests, versions, seeds, times, modules."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from rayinfluence.report.markup import Html, definitions, join, tag
from rayinfluence.report.tables import scrolled
from rayinfluence.report.text import pairs
from rayinfluence.storage.results import Results
from rayinfluence.text import without_credentials


def provenance(results_by_method: Mapping[str, Results]) -> Html:
    """What few readers need and an audit does: whole digests, versions, wall time, modules."""
    manifest = next(iter(results_by_method.values())).manifest
    modules = _modules(results_by_method)
    model, tokenizer, corpus, factors, diagonal, config = (
        manifest.get(name) or {}
        for name in ("model", "tokenizer", "corpus", "factors", "diagonal_factors", "config")
    )
    storage = config.get("storage") or {}
    fingerprint = str(manifest.get("fingerprint") or "")
    banks = {
        name: ", ".join(_method(results).get("banks") or [])
        for name, results in results_by_method.items()
    }
    rows = [
        ("Results fingerprint", fingerprint),
        ("Seeds", "; ".join(_seeds(manifest))),
        ("Model path", str(model.get("path") or "")),
        ("Model commit", str(model.get("commit") or "")),
        ("Model's code", _code(config)),
        ("Model digest", str(model.get("digest") or "")),
        ("Base model's path", str(model.get("base") or "")),
        ("Tokenizer digest", str(tokenizer.get("digest") or "")),
        ("Corpus", without_credentials(str(corpus.get("url") or ""))),
        (
            "Object storage",
            without_credentials(str(storage.get("endpoint_url") or "")),
        ),
        ("Corpus fingerprint", str(corpus.get("fingerprint") or "")),
        ("Factors fingerprint", str(factors.get("fingerprint") or "")),
        ("Diagonal's fingerprint", str(diagonal.get("fingerprint") or "")),
        *((f"Query banks, {name}", digests) for name, digests in banks.items()),
        ("Queries", without_credentials(str(config.get("queries") or ""))),
        ("Stages", "; ".join(_stages(manifest.get("stages") or {}))),
        ("Versions", pairs(manifest.get("versions"))),
    ]
    known = [(name, value) for name, value in rows if value]
    if not known and not modules:
        return Html()
    return join((tag("h2", "Provenance"), definitions(known), modules))


def _modules(results_by_method: Mapping[str, Results]) -> Html:
    """A table of the tracked modules, with each method's damping."""
    dampings = {
        method: _method(results).get("damping") or {}
        for method, results in results_by_method.items()
    }
    first = next(iter(results_by_method.values())).manifest
    modules = dict.fromkeys(str(name) for name in (first.get("model") or {}).get("modules") or [])
    for damping in dampings.values():
        modules |= dict.fromkeys(damping)
    if not modules:
        return Html()
    damped = [method for method, damping in dampings.items() if damping]
    head = ["module", *(f"damping, {method}" for method in damped)]
    rows = [
        tag(
            "tr",
            tag("th", tag("bdi", module), scope="row"),
            *(tag("td", _damping(dampings[method].get(module))) for method in damped),
        )
        for module in modules
    ]
    table = tag(
        "table",
        tag("thead", tag("tr", *(tag("th", name, scope="col") for name in head))),
        tag("tbody", *rows),
    )
    return scrolled("Tracked modules", table)


def _code(config: Mapping[str, Any]) -> str:
    return "the folder's own (trust_remote_code)" if config.get("trust_remote_code") else ""


def _damping(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, int | float) else "none"


def _seeds(manifest: Mapping[str, Any]) -> Iterable[str]:
    """The runs that means are over."""
    for one in (manifest.get("seeds") or {}).get("runs") or ():
        model = one.get("model") or {}
        yield without_credentials(
            f"{one.get('run')} (results {one.get('results')}, model {model.get('path')}, "
            f"{model.get('digest')})"
        )


def _stages(stages: Mapping[str, Mapping[str, Any]]) -> Iterable[str]:
    for name, stage in stages.items():
        facts = []
        if stage.get("seconds") is not None:
            facts.append(f"{stage['seconds']:,.1f} s")
        if stage.get("tokens_per_second"):  # none where a stage reads no tokens
            facts.append(f"{stage['tokens_per_second']:,.0f} tokens/s")
        yield " ".join([str(name), ", ".join(facts)]).strip()


def _method(results: Results) -> Mapping[str, Any]:
    return (results.manifest.get("methods") or {}).get(results.method) or {}
