"""The methods that there are, by the names that a configuration has for them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from rayinfluence.corpus.queries import EncodedQuery
from rayinfluence.methods.bm25 import BM25
from rayinfluence.methods.influence import (
    DiagonalInfluence,
    EkfacInfluence,
    KfacInfluence,
    KohLiangInfluence,
)
from rayinfluence.methods.itself import SelfInfluence
from rayinfluence.methods.likeness import Cosine, GradientProduct
from rayinfluence.methods.method import (
    ITSELF,
    FactorKind,
    GradientMethod,
    Method,
    SelfMethod,
    SolvingMethod,
    TextMethod,
)
from rayinfluence.methods.representer import Representer
from rayinfluence.methods.tfidf import TFIDF
from rayinfluence.storage.results.meaning import ANY_UNIT, Meaning

#: Those that read gradients.
GRADIENT_METHODS: Mapping[str, GradientMethod] = {
    "ekfac": EkfacInfluence(),
    "kfac": KfacInfluence(),
    "diagonal": DiagonalInfluence(),
    "koh_liang": KohLiangInfluence(),
    "gradient_product": GradientProduct(),
    "cosine": Cosine(),
}
#: Those that read texts alone.
TEXT_METHODS: Mapping[str, TextMethod] = {"bm25": BM25(), "tfidf": TFIDF()}
#: Those that read each sequence by itself.
SELF_METHODS: Mapping[str, SelfMethod] = {"self_influence": SelfInfluence()}
#: Those that read what the last layer sees, after it was fitted again.
LAST_LAYER_METHODS: Mapping[str, Method] = {"representer": Representer()}
#: Those whose maps a solver refines, and the key of the scan's section that says which; of the
#: first that is none by default.
REFINABLE: Mapping[str, str] = {"ekfac": "solver", "koh_liang": "koh_liang"}
METHODS: Mapping[str, Method] = {
    **GRADIENT_METHODS,
    **TEXT_METHODS,
    **SELF_METHODS,
    **LAST_LAYER_METHODS,
}


def solving(method: str) -> SolvingMethod:
    """A method that has a solver."""
    return GRADIENT_METHODS[method] if method in GRADIENT_METHODS else SELF_METHODS[method]


def factors_of(method: str) -> FactorKind | None:
    """Which factors a method needs to be fitted."""
    if method in TEXT_METHODS or method in LAST_LAYER_METHODS:
        return None
    return solving(method).factors


def factors_needed(methods: Sequence[str]) -> list[FactorKind]:
    """Those that some methods need, each once."""
    return list(dict.fromkeys(kind for kind in map(factors_of, methods) if kind))


def meaning_of(method: str, own: str | None) -> Meaning:
    """What the scores of a method mean in a run.

    Args:
        method: its name.
        own: the function that training maximised, where it is the user's own: of how far the
            squares of its gradients are from its curvature nothing is known.
    """
    meaning = METHODS[method].meaning
    if own is None or factors_of(method) is None:
        return meaning
    return replace(
        meaning,
        description=f"{meaning.description} Up to a scale that is not known: training maximised a "
        f"function of the user's own ({own}), and squares of its gradients stand for its "
        "curvature.",
        unit=ANY_UNIT,
        predicts=False,
    )


def refined(meaning: Meaning, method: str, solver: str, curvature: str) -> Meaning:
    """What scores of a method mean whose queries a solver refined."""
    of = "the Gauss-Newton matrix" if curvature == "gauss_newton" else "the Hessian"
    did = "EK-FAC's inverse was refined" if method == "ekfac" else "Its inverse was solved for"
    if solver == "unrolled":
        did, solver = "taken back", "steps of a training at these weights, without damping,"
    said = f"{did} by {solver} on products of {of} (scan.{REFINABLE[method]})."
    return replace(meaning, description=f"{meaning.description} {said}")


def asks(method: str, query_digest: str) -> bool:
    """Whether a query is one of a method's: the run's, or the sequences themselves."""
    return (query_digest == ITSELF.digest) == (method in SELF_METHODS)


def asked(method: str, queries: Sequence[EncodedQuery]) -> list[EncodedQuery]:
    """Those of some queries that a method asks."""
    return [query for query in queries if asks(method, query.digest)]


def has_token_influences(method: str) -> bool:
    """Whether a score is a derivative of the sequence's log-probability, and so has parts of it."""
    return method in GRADIENT_METHODS and not GRADIENT_METHODS[method].normalised
