"""The head of the page: what was run, on what, and how to read a score."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rayinfluence.report.card import definitions
from rayinfluence.report.heat import LEVELS
from rayinfluence.report.markup import Html, join, tag
from rayinfluence.report.settings import documents
from rayinfluence.report.text import count, percent
from rayinfluence.report.trust import is_dense, trust
from rayinfluence.storage.results import Results, is_predicted
from rayinfluence.text import without_credentials

_MAX_QUARANTINED = 50

Manifest = Mapping[str, Any]


def title(manifest: Manifest) -> str:
    """The page's title: the last part of the model's path, if it is known."""
    path = str((manifest.get("model") or {}).get("path") or "").rstrip("/")
    return f"Influence report: {path.rsplit('/', 1)[-1]}" if path else "Influence report"


def run_summary(results_by_method: Mapping[str, Results]) -> Html:
    """Title, facts of the run, how to read a score, warnings."""
    manifests = [results.manifest for results in results_by_method.values()]
    first = manifests[0]
    warnings = dict.fromkeys(str(w) for m in manifests for w in m.get("warnings") or [])
    return tag(
        "header",
        tag("h1", title(first)),
        definitions(_facts(results_by_method)),
        _reading(first, results_by_method),
        trust(results_by_method),
        _warnings(list(warnings)),
        _quarantined(results_by_method),
        _provenance(results_by_method),
    )


def _facts(results_by_method: Mapping[str, Results]) -> list[tuple[str, str]]:
    manifest = next(iter(results_by_method.values())).manifest
    model, corpus = manifest.get("model") or {}, manifest.get("corpus") or {}
    rows = [
        (
            "Model",
            _phrase(model, architecture="{}", parameters="{} parameters"),
        ),
        ("Coverage", _coverage(model)),
        (
            "Corpus",
            _phrase(
                {**corpus, **manifest},
                n_sequences="{} sequences",
                n_tokens="{} tokens",
                documents="{} documents",
                empty_documents="{} empty documents",
                shards="{} shards",
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
            scanned_sequences="{} sequences scanned",
            scanned_tokens="{} tokens scanned",
        )
        rows.append((f"Method {results.method}", facts))
    rows.append(("Numerics", _pairs(manifest.get("numerics"))))
    return [(name, value) for name, value in rows if value]


def _provenance(results_by_method: Mapping[str, Results]) -> Html:
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
        ("Versions", _pairs(manifest.get("versions"))),
    ]
    known = [(name, value) for name, value in rows if value]
    if not known and not modules:
        return Html()
    body = join((definitions(known), modules))
    return tag("details", tag("summary", "Provenance"), body, class_="fold")


def _reading(manifest: Manifest, results_by_method: Mapping[str, Results]) -> Html:
    """Sign and scale in two sentences, and the scale of the colours."""
    meanings = {name: results.meaning for name, results in results_by_method.items()}
    undirected = [name for name, meaning in meanings.items() if not meaning.directed]
    of_itself = [name for name, meaning in meanings.items() if meaning.of_itself]
    silent = [name for name, results in results_by_method.items() if not _predicts(results)]
    n = count(manifest.get("n_training_sequences") or manifest["n_sequences"])
    swatches = [
        *(tag("b", "\u2007", class_=f"n{level}") for level in range(LEVELS, 0, -1)),
        *(tag("b", "\u2007", class_=f"p{level}") for level in range(1, LEVELS + 1)),
    ]
    own = (manifest.get("objective") or {}).get("function")
    maximised = "log-probability" if own is None else "value of what training maximised"
    sentences = []
    if len(undirected) + len(of_itself) < len(meanings):
        sentences.append(
            "A positive score is an estimate that training on the sequence makes the completion "
            "more likely (a proponent), a negative one that it makes it less likely (an opponent). "
        )
    if of_itself:
        sentences.append(
            f"A score by {', '.join(of_itself)} is of the sequence's own {maximised}, which "
            "training on it raises: none is negative, and none is an opponent. "
        )
    if len(silent) < len(meanings):
        whose = "of that" if len(of_itself) == len(meanings) else "of the completion's"
        sentences.append(
            f"Scores are raw; divided by the number of training sequences, {n}, they are delta "
            f"nats: the predicted change {whose} log-probability if the sequence is "
            "seen once more. "
        )
    if any(meaning.of_predictions for meaning in meanings.values()):
        sentences.append(
            "A coloured token is one whose prediction, and what it does to later ones, carries the "
            "score; colours are relative to the strongest token of its sequence. "
        )
    if silent:
        verbs = "predicts no change, and has" if len(silent) == 1 else "predict no change, and have"
        sentences.append(f"{', '.join(silent)} {verbs} no delta nats. ")
    if undirected:
        sentences.append(
            f"A score by {', '.join(undirected)} says how alike two texts are, and nothing of what "
            "training would change; a coloured token is one that both have. "
        )
    if len(meanings) > 1:
        sentences.append("Scores of different methods are not on one scale. ")
    legend = tag("span", "lowers ", *swatches, " raises", class_="legend text")
    return tag("p", *sentences, legend, class_="reading")


def _warnings(warnings: Sequence[str]) -> Html:
    return join(tag("p", warning, class_="warning") for warning in warnings)


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
    return tag("div", table, class_="scroll")


def _code(config: Mapping[str, Any]) -> str:
    return "the folder's own (trust_remote_code)" if config.get("trust_remote_code") else ""


def _damping(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, int | float) else "none"


def _coverage(model: Mapping[str, Any]) -> str:
    if model.get("coverage") is None:
        return ""
    whose = " of its adapter" if model.get("frozen_parameters") else ""
    text = f"{percent(model['coverage'])} of the parameters{whose}"
    if model.get("tracked_parameters") is not None:
        text += f" ({count(model['tracked_parameters'])})"
    if model.get("modules"):
        text += f", {count(len(model['modules']))} modules"
    return text


def _stages(stages: Mapping[str, Mapping[str, Any]]) -> Iterable[str]:
    for name, stage in stages.items():
        facts = []
        if stage.get("seconds") is not None:
            facts.append(f"{stage['seconds']:,.1f} s")
        if stage.get("tokens_per_second"):  # none where a stage reads no tokens
            facts.append(f"{stage['tokens_per_second']:,.0f} tokens/s")
        yield " ".join([str(name), ", ".join(facts)]).strip()


def _phrase(values: Mapping[str, Any], **templates: str) -> str:
    """The known values in words, in the order of the templates."""
    return ", ".join(
        template.format(count(values[key]))
        for key, template in templates.items()
        if values.get(key) is not None
    )


def _pairs(values: Mapping[str, Any] | None) -> str:
    known = {key: value for key, value in (values or {}).items() if value is not None}
    return ", ".join(f"{key} {value}" for key, value in known.items())


def _predicts(results: Results) -> bool:
    """Whether some scores of a method are predicted changes of log-probabilities."""
    return results.meaning.predicts and any(map(is_predicted, results.queries.values()))


def _method(results: Results) -> Mapping[str, Any]:
    return (results.manifest.get("methods") or {}).get(results.method) or {}
