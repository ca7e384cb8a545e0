"""How to read a score: what its sign says, and what its size."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rayinfluence.report.heat import LEVELS
from rayinfluence.report.markup import Html, tag
from rayinfluence.report.text import count
from rayinfluence.storage.results import Results, is_predicted


def signs(results_by_method: Mapping[str, Results]) -> Html:
    """What the sign says, and the scale of the colours."""
    undirected, of_itself = _undirected(results_by_method), _of_itself(results_by_method)
    own = _manifest(results_by_method).get("objective") or {}
    maximised = "log-probability"
    if own.get("function") is not None:
        maximised = "value of what training maximised"
    swatches = [
        *(tag("b", "\u2007", class_=f"n{level}") for level in range(LEVELS, 0, -1)),
        *(tag("b", "\u2007", class_=f"p{level}") for level in range(1, LEVELS + 1)),
    ]
    sentences = []
    of_groups = [name for name, one in results_by_method.items() if one.meaning.of_groups]
    measured = [
        name
        for name, one in results_by_method.items()
        if one.meaning.measured and name not in of_groups
    ]
    if measured:
        sentences.append(
            f"A positive score by {', '.join(measured)} says that models that were trained without "
            "the sequence found the completion less likely (a proponent), a negative one that they "
            "found it more likely (an opponent). "
        )
    if of_groups:
        sentences.append(
            f"A positive effect by {', '.join(of_groups)} says that models that were trained "
            "without the group found the completion less likely, a negative one that they found it "
            "more likely. "
        )
    if len(undirected) + len(of_itself) + len(measured) + len(of_groups) < len(results_by_method):
        sentences.append(
            "A positive score is an estimate that training on the sequence makes the completion "
            "more likely (a proponent), a negative one that it makes it less likely (an opponent). "
        )
    if of_itself:
        sentences.append(
            f"A score by {', '.join(of_itself)} is of the sequence's own {maximised}, which "
            "training on it raises: none is negative, and none is an opponent. "
        )
    if undirected:
        sentences.append(
            f"A score by {', '.join(undirected)} says how alike two texts are, and nothing of what "
            "training would change; a coloured token is one that both have. "
        )
    legend = tag("span", "lowers ", *swatches, " raises", class_="legend text")
    return tag("p", *sentences, legend, class_="reading")


def scales(results_by_method: Mapping[str, Results]) -> Html:
    """What the size says: of scores, and of colours."""
    meanings = [results.meaning for results in results_by_method.values()]
    of_itself = _of_itself(results_by_method)
    silent = [name for name, results in results_by_method.items() if not _predicts(results)]
    manifest = _manifest(results_by_method)
    n = count(manifest.get("n_training_sequences") or manifest["n_sequences"])
    sentences = []
    if len(silent) < len(meanings):
        whose = "of that" if len(of_itself) == len(meanings) else "of the completion's"
        sentences.append(
            f"Scores are raw; divided by the number of training sequences, {n}, they are delta "
            f"nats: the predicted change {whose} log-probability if the sequence is "
            "seen once more. "
        )
    if any(meaning.of_predictions for meaning in meanings):
        sentences.append(
            "A coloured token is one whose prediction, and what it does to later ones, carries the "
            "score; colours are relative to the strongest token of its sequence. "
        )
    if silent:
        verbs = "predicts no change, and has" if len(silent) == 1 else "predict no change, and have"
        sentences.append(f"{', '.join(silent)} {verbs} no delta nats. ")
    if len(meanings) > 1:
        sentences.append("Scores of different methods are not on one scale. ")
    return tag("p", *sentences)


def _manifest(results_by_method: Mapping[str, Results]) -> Mapping[str, Any]:
    return next(iter(results_by_method.values())).manifest


def _undirected(results_by_method: Mapping[str, Results]) -> list[str]:
    return [name for name, one in results_by_method.items() if not one.meaning.directed]


def _of_itself(results_by_method: Mapping[str, Results]) -> list[str]:
    return [name for name, one in results_by_method.items() if one.meaning.of_itself]


def _predicts(results: Results) -> bool:
    """Whether some scores of a method are predicted changes of log-probabilities."""
    return results.meaning.predicts and any(map(is_predicted, results.queries.values()))
