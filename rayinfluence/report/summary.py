"""What stands below the hits: how scores are read and trusted, and what was run on what."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rayinfluence.report.glossary import glossary
from rayinfluence.report.markup import Html, definitions, join, tag
from rayinfluence.report.provenance import provenance
from rayinfluence.report.reading import scales
from rayinfluence.report.settings import documents
from rayinfluence.report.text import count, pairs, percent, things
from rayinfluence.report.trust import is_dense, trust
from rayinfluence.storage.results import Results

_MAX_QUARANTINED = 50

Manifest = Mapping[str, Any]


def about(results_by_method: Mapping[str, Results]) -> Html:
    """What stands below the hits: how to read scores, how far to trust them, what was run."""
    return tag(
        "footer",
        tag(
            "section",
            tag("h2", "How to read a score"),
            scales(results_by_method),
            tag("h3", "Words"),
            glossary(results_by_method),
            class_="box",
            id="reading",
        ),
        trust(results_by_method),
        tag(
            "section",
            tag("h2", "What was run"),
            definitions(_facts(results_by_method)),
            _quarantined(results_by_method),
            provenance(results_by_method),
            class_="box",
            id="run",
        ),
        class_="about",
    )


def _facts(results_by_method: Mapping[str, Results]) -> list[tuple[str, str]]:
    manifest = next(iter(results_by_method.values())).manifest
    model, corpus = manifest.get("model") or {}, manifest.get("corpus") or {}
    rows = [
        (
            "Model",
            _phrase(model, architecture="{}", parameters="{} parameter{s}"),
        ),
        ("Coverage", _coverage(model)),
        (
            "Corpus",
            _phrase(
                {**corpus, **manifest},
                n_sequences="{} sequence{s}",
                n_tokens="{} token{s}",
                documents="{} document{s}",
                empty_documents="{} empty document{s}",
                shards="{} shard{s}",
            ),
        ),
    ]
    rows.append(("Documents", documents(manifest)))
    for results in results_by_method.values():
        method = _method(results)
        facts = _phrase(
            {**method, "dense": "" if is_dense(method) else None},
            rank="rank {}",
            dense="dense: whole query gradients",
            scanned_sequences="{} sequence{s} scanned",
            scanned_tokens="{} token{s} scanned",
        )
        rows.append((f"Method {results.method}", facts))
    rows.append(("Numerics", pairs(manifest.get("numerics"))))
    return [(name, value) for name, value in rows if value]


def _quarantined(results_by_method: Mapping[str, Results]) -> Html:
    """Sequences that could not be scored: always counted, the first ones listed."""
    parts = []
    for results in results_by_method.values():
        rows = _method(results).get("quarantined") or []
        if not rows:
            continue
        items = [tag("li", _reason(row)) for row in rows[:_MAX_QUARANTINED]]
        if len(rows) > len(items):
            items.append(tag("li", f"{count(len(rows) - len(items))} more in the manifest"))
        n = len({row.get("sequence_id") for row in rows})
        # Some may have scores for other queries: each line says for which it has none.
        scored = "not scored for some queries" if any(map(_queries, rows)) else "not scored"
        label = f"{results.method}: {count(n)} quarantined, {scored}"
        parts.append(tag("details", tag("summary", label), tag("ul", *items), class_="fold"))
    return join(parts)


def _reason(row: Mapping[str, Any]) -> str:
    text = f"{row.get('sequence_id', 'unknown')}: {row.get('reason', 'no reason')}"
    queries = _queries(row)
    return f"{text} (for {', '.join(map(str, queries))})" if queries else text


def _queries(row: Mapping[str, Any]) -> Any:
    return row.get("queries")


def _coverage(model: Mapping[str, Any]) -> str:
    if model.get("coverage") is None:
        return ""
    whose = " of its adapter" if model.get("frozen_parameters") else ""
    text = f"{percent(model['coverage'])} of the parameters{whose}"
    if model.get("tracked_parameters") is not None:
        text += f" ({count(model['tracked_parameters'])})"
    if model.get("modules"):
        text += f", {things(len(model['modules']), 'module')}"
    return text


def _phrase(values: Mapping[str, Any], **templates: str) -> str:
    """The known values in words, in the order of the templates."""
    return ", ".join(
        template.format(count(values[key]), s="s" * (values[key] != 1))
        for key, template in templates.items()
        if values.get(key) is not None
    )


def _method(results: Results) -> Mapping[str, Any]:
    return (results.manifest.get("methods") or {}).get(results.method) or {}
