"""Probes beside results: texts of no corpus with the scores that results' queries give them.

They are in no table: whoever asks is told, and nothing is written.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from rayinfluence.storage.results.meaning import Meaning
from rayinfluence.storage.results.schema import (
    beyond_linear,
    is_predicted,
    log_probability_of,
)


@dataclass(frozen=True)
class ProbedText:
    """A text as the model saw it.

    Attributes:
        name: tells it from the others, to people.
        partition: what it is one of several of; None where texts came without.
        text: as it was given, whole.
        tokens: that were scored.
        token_texts: theirs; joined, what of the text was scored.
        n_cut: tokens at its end that were not, as a sequence of the run has no more.
        loss_mask: which of the tokens counted, where the run's loss is on some and the text has a
            completion, or where masks or targets count; None where all of them did, or a class.
    """

    name: str
    partition: str | None
    text: str
    tokens: list[int]
    token_texts: list[str]
    n_cut: int
    loss_mask: list[bool] | None


@dataclass(frozen=True)
class ProbeScore:
    """What a query gives a text.

    Attributes:
        score: the method's, with the query as the scan had it; what the scan would have found.
        delta_nats: score / N, as of a survivor; None by a method that predicts no change.
        beyond_linear: whether that is no prediction; None where there is none.
        token_scores: by token, as of a survivor; their sum is the score up to rounding.
        layer_scores: by module, likewise; empty by a method that has no layers.
    """

    score: float
    delta_nats: float | None
    beyond_linear: bool | None
    token_scores: list[float]
    layer_scores: dict[str, float]


@dataclass(frozen=True)
class Partition:
    """What a query gives the texts of a partition, on average.

    Attributes:
        name: of the partition.
        n_texts: in it.
        score: the mean of theirs.
        delta_nats: the same; None by a method that predicts no change.
        beyond_linear: whether that is no prediction; None where there is none.
    """

    name: str
    n_texts: int
    score: float
    delta_nats: float | None
    beyond_linear: bool | None


def predicted(
    score: float, meaning: Meaning, n_training: int, query: Mapping[str, Any]
) -> tuple[float | None, bool | None]:
    """What a score predicts: ``delta_nats`` and ``beyond_linear``; None where there is nothing.

    Args:
        score: of a text, or the mean of several.
        meaning: of the method's scores.
        n_training: N.
        query: its row.
    """
    if not (meaning.predicts and is_predicted(query)):
        return None, None
    delta = score / n_training
    return delta, beyond_linear(delta, log_probability_of(query))


@dataclass(frozen=True)
class Probed:
    """Texts and their scores.

    Attributes:
        method: that they are scored by.
        meaning: of its scores.
        results: the fingerprint of the results that the queries are of.
        n_training_sequences: N.
        loss: of the run's training, ``objective.loss``.
        queries: by id, what the results say of each.
        texts: in the order in which they were given.
        scores: by query, of each text.
    """

    method: str
    meaning: Meaning
    results: str
    n_training_sequences: int
    loss: str
    queries: Mapping[str, Mapping[str, Any]]
    texts: Sequence[ProbedText]
    scores: Mapping[str, Sequence[ProbeScore]]

    @property
    def counted_whole(self) -> list[str]:
        """Names of texts of which all tokens count, though the run's loss counted some alone.

        None by methods that know nothing of a loss.
        """
        if self.loss == "all" or not self.meaning.of_predictions:
            return []
        return [text.name for text in self.texts if text.loss_mask is None]

    def partitions(self, query_id: str) -> list[Partition]:
        """The partitions in the order in which they were given, with what a query gives them."""
        members: dict[str, list[ProbeScore]] = {}
        for text, score in zip(self.texts, self.scores[query_id], strict=True):
            if text.partition is not None:
                members.setdefault(text.partition, []).append(score)
        found = []
        for name, some in members.items():
            mean = sum(one.score for one in some) / len(some)
            query = self.queries[query_id]
            change = predicted(mean, self.meaning, self.n_training_sequences, query)
            found.append(Partition(name, len(some), mean, *change))
        return found

    def to_json(self) -> dict[str, Any]:
        """As plain values; the reference has the keys."""
        return {
            "format": 1,
            "method": self.method,
            "meaning": asdict(self.meaning),
            "results": self.results,
            "n_training_sequences": self.n_training_sequences,
            "loss": self.loss,
            "texts": [asdict(text) for text in self.texts],
            "queries": [
                {
                    "query_id": query_id,
                    "scores": [asdict(score) for score in scores],
                    "partitions": [asdict(one) for one in self.partitions(query_id)],
                }
                for query_id, scores in self.scores.items()
            ],
        }
