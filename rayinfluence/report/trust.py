"""How far to trust the page: what the numbers are, how sure, and what nobody looked at."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rayinfluence.report.markup import Html, tag
from rayinfluence.report.part import filtered, selected
from rayinfluence.report.settings import choices
from rayinfluence.report.text import count, percent, shorten
from rayinfluence.storage.results import LINEAR_RANGE, Results

_MAX_NAMED = 8
_PROOF = (
    "train again without the sequences, and ask again. Until then say “estimated”, not “caused”."
)

Manifest = Mapping[str, Any]


def trust(results_by_method: Mapping[str, Results]) -> Html:
    """The box; what the manifest does not know is left out."""
    manifest = next(iter(results_by_method.values())).manifest
    rows: list[tuple[str, str]] = [
        (f"Method {method}", results.meaning.description)
        for method, results in results_by_method.items()
    ]
    predicts = any(results.meaning.predicts for results in results_by_method.values())
    model = _model(results_by_method)
    rows += [
        ("Linear range", _linear(manifest) if predicts else ""),
        *choices(manifest),
        ("Looked at", _coverage(model)),
        ("Not looked at", _untracked(model)),
        ("Not reached by text", _unreached(manifest) if model else ""),
        ("Error of the factors", _factor_error(manifest.get("factors") or {})),
        ("Error of the diagonal", _factor_error(manifest.get("diagonal_factors") or {})),
        ("Singular covariances", _singular((manifest.get("factors") or {}).get("singular"))),
        ("Not fitted", _unfitted(manifest)),
        *((f"Rank, {name}", _rank(results)) for name, results in results_by_method.items()),
        ("Selected", selected(manifest)),
        *((f"Filter, {name}", filtered(results)) for name, results in results_by_method.items()),
        ("Left out", left_out(results_by_method)),
        ("Proof", "" if _all_measured(results_by_method) else _PROOF),
    ]
    pairs = [(tag("dt", name), tag("dd", text)) for name, text in rows if text]
    body = tag("dl", *(part for pair in pairs for part in pair))
    return tag("section", tag("h2", "How far to trust this"), body, class_="box", id="trust")


def _all_measured(results_by_method: Mapping[str, Results]) -> bool:
    return all(one.meaning.measured for one in results_by_method.values())


def looked_at(results_by_method: Mapping[str, Results]) -> str:
    """How much of the model is tracked; empty where no method asks it, or the manifest says not."""
    return _coverage(_model(results_by_method))


def left_out(results_by_method: Mapping[str, Results]) -> str:
    """What of the documents no score is about; empty where the manifest does not say."""
    manifest = next(iter(results_by_method.values())).manifest
    return "; ".join(_left_out(manifest, results_by_method.values()))


def _model(results_by_method: Mapping[str, Results]) -> Manifest:
    """What a manifest says of the model; nothing where no method goes by its layers."""
    results = list(results_by_method.values())
    has_layers = any(one.meaning.has_layers for one in results)
    return results[0].manifest.get("model") or {} if has_layers else {}


def _linear(manifest: Manifest) -> str:
    n, there = manifest.get("n_training_sequences"), manifest.get("n_sequences")
    text = (
        f"a change of more than {LINEAR_RANGE} nats, or one to a probability above 1, is beyond "
        "what a linear prediction can say, and its number is not shown."
    )
    if n is not None and there is not None and n > there:
        text += (
            f" Scores are divided by the {count(n)} sequences that the model is said to be "
            f"trained on, of which {count(there)} ({percent(there / n)}) are in this corpus: the "
            "others were not looked at."
        )
    return text


def _coverage(model: Manifest) -> str:
    tracked, reached = model.get("tracked_parameters"), model.get("reached_parameters")
    if tracked is None or not reached:
        return ""
    modules = len(model.get("modules") or [])
    frozen = model.get("frozen_parameters") or 0
    whose = "adapter" if frozen else "model"
    return (
        f"{percent(tracked / reached)} of the {whose}'s parameters ({count(tracked)} of "
        f"{count(reached)}), in {count(modules)} module{'s' * (modules != 1)}. "
        + (
            f"The {count(frozen)} of its base were frozen when it was trained."
            if frozen
            else "Influence through the others is not seen."
        )
    )


def _untracked(model: Manifest) -> str:
    sizes, reached = model.get("untracked") or {}, model.get("reached_parameters")
    if not sizes or not reached:
        return ""
    largest = sorted(sizes.items(), key=lambda item: (-item[1], item[0]))
    return _some([f"{shorten(name, 60)} ({percent(n / reached)})" for name, n in largest])


def _unreached(manifest: Manifest) -> str:
    """Parts of the model that other inputs than text go through, and no share counts."""
    names = (manifest.get("preflight") or {}).get("unreached") or []
    if not names:
        return ""
    return f"{_some([shorten(name, 60) for name in names])}; no share here counts them."


def _some(names: Sequence[str]) -> str:
    rest = len(names) - _MAX_NAMED
    return ", ".join(names[:_MAX_NAMED]) + (f" and {count(rest)} more" if rest > 0 else "")


def _factor_error(factors: Manifest) -> str:
    if "error" not in factors:
        return ""
    error, bound = factors["error"], factors.get("error_bound")
    if error is None:
        too_few = (
            "" if bound is None else f", which is too few to be within the {bound:.1%} asked for"
        )
        return f"not known: a single size of the sample was fitted{too_few}."
    asked = "no bound was asked for" if bound is None else f"{bound:.1%} was asked for"
    met = "" if bound is None else ", and met" if error <= bound else ", and NOT met"
    return (
        f"scores of a held-out set are within {error:.1%} of those of ever more sequences "
        f"({asked}{met})."
    )


def _singular(singular: Mapping[str, int] | None) -> str:
    if not singular:
        return ""
    worst = max(singular, key=lambda name: singular[name])
    return (
        f"{count(len(singular))}, most of all {shorten(worst, 80)} (directions without any "
        f"curvature: {count(singular[worst])}): there the damping decides."
    )


def _unfitted(manifest: Manifest) -> str:
    """The modules without curvature; the manifest has them with their parameters."""
    model = manifest.get("model") or {}
    factors = manifest.get("factors") or manifest.get("diagonal_factors") or {}
    sizes, tracked = factors.get("unfitted") or {}, model.get("tracked_parameters")
    if not sizes or not tracked:
        return ""
    absolute = ((manifest.get("config") or {}).get("scan") or {}).get("damping") is not None
    some = ", ".join(shorten(name, 60) for name in list(sizes)[:_MAX_NAMED])
    return (
        f"{count(len(sizes))} modules, {percent(sum(sizes.values()) / tracked)} of the tracked "
        f"parameters ({some}{', …' * (len(sizes) > _MAX_NAMED)}): no sequence that was fitted had "
        "a gradient in them. "
        + ("There the damping alone decides." if absolute else "Scores leave them out.")
    )


def _rank(results: Results) -> str:
    method = _method(results)
    if is_dense(method):
        return (
            "dense: query gradients were kept whole in the pass over all sequences, and no "
            "sequence was missed for its rank."
        )
    if method.get("rank") is None:
        return ""
    changes = [found for found in (method.get("rescoring") or {}).values() if found]
    moved = max((found["changed_ranks"] for found in changes), default=0)
    return (
        f"{count(method['rank'])} in the pass over all sequences. The survivors were scored again "
        f"at full rank, and {_moved(moved)}; a sequence that the low rank missed stays missed."
    )


def _moved(ranks: int) -> str:
    if not ranks:
        return "none of a query's first ranks changed hands"
    return f"up to {count(ranks)} of a query's first ranks changed hands"


def is_dense(method: Manifest) -> bool:
    """Whether whole query gradients met all sequences; a manifest that does not know says none."""
    return "rank" in method and method["rank"] is None


def _left_out(manifest: Manifest, results: Iterable[Results]) -> list[str]:
    corpus = manifest.get("corpus") or {}
    aside = manifest.get("set_aside") or []
    quarantined = {row["sequence_id"] for one in results for row in _quarantined(one)}
    in_fit = {
        row[0]
        for kind in ("factors", "diagonal_factors")
        for row in (manifest.get(kind) or {}).get("quarantined") or []
    }
    chosen, filtered_to = (manifest.get(n) or {} for n in ("selection", "filter"))
    bad_files, empty_files = (corpus.get(n) or [] for n in ("bad_files", "files_without_rows"))
    named = [
        (_fewer(chosen, "corpus_sequences", "sequences"), "sequences not selected", ""),
        (_fewer(filtered_to, "sequences", "candidates"), "sequences that were no candidates", ""),
        (len(aside), "splits that could not be scored", _names(aside)),
        (len(quarantined), "sequences quarantined in the scan", ""),
        (len(in_fit), "sequences quarantined in the fit", ""),
        (len(corpus.get("bad_sequences") or []), "sequences that the model cannot take", ""),
        (len(bad_files), "files that cannot be used, with all in them", _names(bad_files, "url")),
        (corpus.get("bad_documents") or 0, "rows that are no documents", ""),
        (corpus.get("empty_documents") or 0, "documents without text", ""),
        (corpus.get("short_documents") or 0, "documents of a single token", ""),
        (corpus.get("no_pages") or 0, "rows that are no pages", ""),
        (len(empty_files), "files without rows", _listed(empty_files)),
        (corpus.get("short_chunks") or 0, "ends of a single token", ""),
    ]
    if "set_aside" not in manifest:
        return []
    found = [f"{what}: {count(n)}{names}" for n, what, names in named if n]
    return found or ["nothing: every document and every sequence was scored"]


def _fewer(told: Manifest, whole: str, part: str) -> int:
    """By how many sequences a part is smaller than the whole; 0 where nothing is told."""
    return int(told[whole] - told[part]) if told else 0


def _names(several: Sequence[Mapping[str, Any]], key: str = "name") -> str:
    return _listed([one.get(key) for one in several])


def _listed(several: Sequence[Any]) -> str:
    names = [shorten(str(one), 80) for one in several[:_MAX_NAMED]]
    return f" ({'; '.join(names)}{'; ...' if len(several) > len(names) else ''})" if names else ""


def _quarantined(results: Results) -> Sequence[Mapping[str, Any]]:
    return _method(results).get("quarantined") or []


def _method(results: Results) -> Mapping[str, Any]:
    return (results.manifest.get("methods") or {}).get(results.method) or {}
