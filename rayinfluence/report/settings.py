"""What was chosen, and decides how scores are to be read, in words."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rayinfluence.report.text import count, shorten
from rayinfluence.text import without_credentials

_MAX_NAMED = 8
#: Longer names are cut, with what tells them apart at their end.
_WIDTH = 120

#: Layers by their part in a block.
_KINDS = {
    "mlp": "the MLP layers of every block, or all of its layers in a model without MLPs.",
    "attention": "the layers of every block that mix tokens: attention, or what is in its place.",
    "all": "all linear layers of every block.",
}

#: What a mean is, beside a sum.
_MEAN = (
    ". Training maximised the mean over those of a sequence (objective.reduction: mean), so that "
    "each sequence counts alike, however long it is"
)

Manifest = Mapping[str, Any]


def choices(manifest: Manifest) -> list[tuple[str, str]]:
    """Names and sentences of what the configuration chose; empty where it is not known."""
    return [
        ("Layers", _layers(manifest)),
        ("Curvature", _curvature(manifest, "factors")),
        ("Curvature, diagonal", _curvature(manifest, "diagonal_factors")),
        ("Damping", _damping(manifest)),
        ("Solver", _solver(manifest)),
        ("Sequences", _sequences(manifest)),
        ("Training", _objective(manifest)),
    ]


def documents(manifest: Manifest) -> str:
    """Where the documents are, and what of them was read."""
    corpus = _section(manifest, "corpus")
    if "documents" not in corpus:
        return ""
    named = corpus["documents"] or []
    if not named:
        return "none are named: shards that were there already were used as they are"
    column = corpus.get("text_column") or "text"
    read = "" if column == "text" else f" (the text is in {shorten(column, _WIDTH)})"
    return _listed([without_credentials(str(one)) for one in named], "; ") + read


def _layers(manifest: Manifest) -> str:
    config = manifest.get("config") or {}
    if "modules" not in config:
        return ""
    wanted = config["modules"] or "mlp"
    if isinstance(wanted, str):
        return _KINDS.get(wanted, wanted)
    return f"those that match {_listed(map(str, wanted), ', ')}."


def _curvature(manifest: Manifest, kind: str) -> str:
    """What factors are of, how coarse they are and what they were fitted on."""
    factors, fit = manifest.get(kind), _section(manifest, "fit")
    if not factors:
        return ""
    sentences = {
        "sampled": "Of labels that the model itself drew (the true Fisher).",
        "data": (
            "Of the documents' own tokens instead of labels that the model drew (fit.labels: data, "
            "the empirical Fisher): scores are not comparable with those of sampled labels."
        ),
    }
    parts = [sentences.get(fit.get("labels", ""), "")]
    if (fit.get("blocks") or 1) > 1 and kind == "factors":
        parts.append(
            f"A and S of each module were cut into {count(fit['blocks'])} blocks (fit.blocks), and "
            "what lies between blocks was taken for zero: coarser than EK-FAC as a whole."
        )
    if (n := factors.get("n_sequences")) is not None:
        there = manifest.get("n_sequences")
        of = "" if there is None else f" of {count(there)}"
        wanted = fit.get("sequences")
        most = "" if wanted is None else f" (about {count(wanted)} at most were asked for)"
        parts.append(f"Fitted on {count(n)} sequences{of}{most}.")
    return " ".join(part for part in parts if part)


def _damping(manifest: Manifest) -> str:
    """What the damping of each module was made of."""
    if not any(method.get("damping") for method in (manifest.get("methods") or {}).values()):
        return ""
    scan = _section(manifest, "scan")
    if scan.get("damping") is not None:
        return f"{scan['damping']:.3g} for every module"
    scale = scan.get("damping_scale")
    if isinstance(scale, list):
        said = " and ".join(f"{one:.3g}" for one in scale)
        return f"{said} times the mean of a module's Lambda, each for results of its own"
    return "" if scale is None else f"{scale:.3g} times the mean of a module's Lambda"


def _solver(manifest: Manifest) -> str:
    """How queries were solved for, and how far that came."""
    methods = (manifest.get("methods") or {}).items()
    said = [_solved(name, one["solver"]) for name, one in methods if one.get("solver")]
    return " ".join(filter(None, said))


def _solved(method: str, solver: Mapping[str, Any]) -> str:
    if not solver["queries"]:
        return ""
    of = "Gauss-Newton matrix" if solver["curvature"] == "gauss_newton" else "Hessian"
    queries = solver["queries"].values()
    before, after = (
        _range([one[key] for one in queries]) for key in ("residual_before", "residual")
    )
    lost = _range([one["lost_by_rank"] for one in queries])
    ours = method.startswith("ekfac")
    how = f"refined by {solver['name']} (scan.solver)" if ours else f"solved by {solver['name']}"
    left = (
        f"what is left unsolved of a gradient is {after} of it, and was {before} with EK-FAC alone"
    )
    if solver["name"] == "unrolled":
        how = f"taken back through {solver['steps']} steps of a training (scan.solver), undamped"
        left = f"so many steps leave {after} of a gradient, and EK-FAC's solution leaves {before}"
    return (
        f"queries by {method} were {how}, with the {of} of "
        f"{count(solver['sequences'])} sequences: {left}. Of what was solved, the rank of the scan "
        f"loses {lost}."
    )


def _range(values: Sequence[float]) -> str:
    """The least and the most."""
    least, most = (f"{one:.2g}" for one in (min(values), max(values)))
    return least if least == most else f"{least} to {most}"


def _sequences(manifest: Manifest) -> str:
    """How documents were cut, which decides what a score is a score of."""
    context = (manifest.get("preflight") or {}).get("context")
    if context is None:
        return ""
    text = (
        f"of at most {count(context)} tokens each: a longer document is several, and a score is of "
        "one of them"
    )
    tokenizer = (manifest.get("config") or {}).get("tokenizer")
    return text + (
        f"; by the tokenizer in {without_credentials(str(tokenizer))}." if tokenizer else "."
    )


def _objective(manifest: Manifest) -> str:
    """What training is taken to have maximised of a sequence, and how many tokens that is."""
    found = manifest.get("objective")
    if not found:
        return ""
    if function := found.get("function"):
        return (
            f"it maximised {shorten(str(function), _WIDTH)}, a function of the user's own "
            f"(objective.kind). Of what it was given {_counted(found)}"
        )
    return _counted(found)


def _counted(found: Mapping[str, Any]) -> str:
    """What of a sequence counts, and how many tokens that is."""
    if found.get("kind") == "masked":
        return (
            "what counts are tokens that were masked and predicted from all others: "
            f"{found['mask_rate']:.3g} of each sequence's (objective.mask_rate), drawn once"
            f"{_MEAN if found.get('reduction') == 'mean' else ''}."
        )
    if found.get("kind") == "classification":
        return "what counts is the class of each sequence, given all of it."
    if found.get("kind") == "seq2seq":
        mean = _MEAN if found.get("reduction") == "mean" else ""
        return (
            f"what counts are targets, given their sources: {count(found['tokens'])} tokens{mean}."
        )
    loss = found.get("loss", "all")
    what = {
        "all": "all tokens of a sequence but the first, as if training had predicted each",
        "completion": (
            "the tokens of completions alone (objective.loss: completion): what follows a prompt, "
            "or what the assistant says"
        ),
    }.get(loss, f"the tokens that the documents' {shorten(str(loss), _WIDTH)} lists")
    text = f"what counts is {what}: {count(found['tokens'])} tokens"
    if without := found.get("sequences_without"):
        text += f"; {count(without)} sequences have none, and so a score of zero"
    if found.get("reduction") == "mean":
        text += _MEAN
    return f"{text}."


def _listed(names: Iterable[str], separator: str) -> str:
    shown: Sequence[str] = [shorten(name, _WIDTH, keep="end") for name in names]
    more = f" and {count(len(shown) - _MAX_NAMED)} more" if len(shown) > _MAX_NAMED else ""
    return separator.join(shown[:_MAX_NAMED]) + more


def _section(manifest: Manifest, name: str) -> Mapping[str, Any]:
    return (manifest.get("config") or {}).get(name) or {}
