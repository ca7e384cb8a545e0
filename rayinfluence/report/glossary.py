"""The words of a page: it travels without the documentation."""

from __future__ import annotations

from collections.abc import Mapping

from rayinfluence.report.markup import Html, definitions
from rayinfluence.storage.results import LINEAR_RANGE, Results

_OF_ALL = {
    "sequence": "a run of tokens that was scored: a whole document, or a chunk of a long one",
    "token": "a piece of text that the model reads and predicts as one",
    "rank": "the place of a hit among all sequences of its side, strongest first",
    "near copy": "a hit that has most of its runs of five tokens in common with a better one",
    "lift": "how much more often a group is among the first hits than in the corpus",
}
_OF_QUESTIONS = {"completion": "the answer that is asked about, after its prompt"}
_OF_GRADIENTS = {
    "block": "one of the like layers of a model, counted from the first",
    "suspect": "the score came out otherwise when it was computed beside other sequences",
    "in the scan": "what the pass over all sequences found, before the hits were scored again",
}
_OF_PREDICTIONS = {
    "nat": "a change of a log-probability: +0.1 is a factor of 1.105, +0.69 doubles",
    "to first order": "by the slope of the model at its weights, as if the step were tiny",
    "beyond the linear range": (
        f"a change of more than {LINEAR_RANGE} nats, or to a probability above 1: a slope says "
        "nothing of it, and no number is shown"
    ),
}


def glossary(results_by_method: Mapping[str, Results]) -> Html:
    """The words that the methods of a page need."""
    meanings = [results.meaning for results in results_by_method.values()]
    words = dict(_OF_ALL)
    if not all(meaning.of_itself for meaning in meanings):
        words |= _OF_QUESTIONS
    if any(meaning.has_layers for meaning in meanings):
        words |= _OF_GRADIENTS
    if any(meaning.predicts for meaning in meanings):
        words |= _OF_PREDICTIONS
    return definitions(sorted(words.items()))
