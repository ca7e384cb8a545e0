"""What the table of queries says of each: what is asked for, and what the model thinks of it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from rayinfluence.corpus.queries import EncodedAnswer, EncodedQuery
from rayinfluence.corpus.query_forms import LOG_PROBABILITY, Answer
from rayinfluence.corpus.tokenizer import token_texts

if TYPE_CHECKING:
    from rayinfluence.corpus.tokenizer import Coding

#: A completion's token below this probability, and not the model's first choice, makes a warning.
UNLIKELY = 0.1


@dataclass(frozen=True)
class _Said:
    """An answer, and what the model thinks of the tokens of its completion."""

    answer: Answer
    encoded: EncodedAnswer
    texts: list[str]
    log_probabilities: list[float]
    ranks: list[int]

    def of_counted(self) -> Iterator[tuple[str, float, int]]:
        """Text, log-probability and rank of each token that counts."""
        of_tokens = zip(self.texts, self.log_probabilities, self.ranks, strict=True)
        for counts, one in zip(self.encoded.counted, of_tokens, strict=True):
            if counts:
                yield one

    @property
    def log_probability(self) -> float:
        """Of the tokens that count, in nats."""
        return float(np.sum([log_p for _, log_p, _ in self.of_counted()]))

    @property
    def value(self) -> float:
        """What it adds to f, where that is of log-probabilities."""
        of_mean = sum(self.encoded.counted) if self.answer.mean else 1
        return self.encoded.weight * self.log_probability / of_mean


def completion_texts(answer: EncodedAnswer, tokenizer: Coding) -> list[str]:
    """The text that each token of a completion adds to those before it; or a class's name."""
    if answer.label is not None:
        return [answer.label.name]
    return list(token_texts(tokenizer, answer.tokens)[answer.first_target :])


def query_row(query: EncodedQuery, header: Mapping[str, Any], tokenizer: Coding) -> dict[str, Any]:
    """The row of a query.

    Args:
        query: as it was asked.
        header: log-probabilities and ranks of the tokens of all completions, and f where that is no
            sum of the former.
        tokenizer: of the model.
    """
    said, start = [], 0
    for answer, encoded in zip(query.query.answers, query.answers, strict=True):
        ours = slice(start, start + encoded.n_targets)
        texts = completion_texts(encoded, tokenizer)
        said.append(
            _Said(answer, encoded, texts, header["log_probabilities"][ours], header["ranks"][ours])
        )
        start = ours.stop
    asked = [one for one in said if one.encoded in query.spoken_for]
    by_parts = query.measurement == LOG_PROBABILITY
    value = sum(one.value for one in said) if by_parts else header["value"]
    return {
        "query_id": query.query.query_id,
        "digest": query.digest,
        "objective": query.objective,
        "unit": query.unit,
        "measurement": query.measurement,
        "value": float(value),
        **_of_one(said[0] if query.query.kind != "set" else None),
        **_of_other(said[1] if query.query.kind == "contrast" else None),
        "set": [_member(one) for one in said] if query.query.kind == "set" else None,
        "warning": _warning([one for each in asked for one in each.of_counted()]),
        "metadata": query.query.metadata,
    }


def _of_one(said: _Said | None) -> dict[str, Any]:
    """What the row says of the completion; nothing of a set, which has several.

    The target of a row of features is no token, and may have a density and no probability.
    """
    is_row = said is not None and said.answer.of_features
    return {
        "prompt": said and said.answer.prompt,
        "completion": said and said.answer.completion,
        "tokens": said and list(said.encoded.tokens),
        "n_completion_tokens": said and (None if is_row else len(said.texts)),
        "log_probability": said and said.log_probability,
        "token_texts": said and said.texts,
        "token_log_probabilities": said and said.log_probabilities,
        "token_ranks": said and said.ranks,
        "token_counts": None if is_row else said and list(said.encoded.counted),
        "greedy": None if is_row else said and all(rank == 1 for *_, rank in said.of_counted()),
    }


def _of_other(said: _Said | None) -> dict[str, Any]:
    return {
        "rather_than": said and said.answer.completion,
        "rather_than_log_probability": said and said.log_probability,
    }


def _member(said: _Said) -> dict[str, Any]:
    return {
        "weight": said.encoded.weight,
        "prompt": said.answer.prompt,
        "completion": said.answer.completion,
        "spans": [list(span) for span in said.answer.spans],
        "n_counted": sum(said.encoded.counted),
        "log_probability": said.log_probability,
    }


def _warning(tokens: Sequence[tuple[str, float, int]]) -> str | None:
    """That the model would hardly say something of what is asked for."""
    unlikely = [
        (text, log_p) for text, log_p, rank in tokens if rank > 1 and np.exp(log_p) < UNLIKELY
    ]
    if not unlikely:
        return None
    text, log_p = min(unlikely, key=lambda pair: pair[1])
    said = repr(text) if text else "a token that is a part of a character"
    return (
        f"the model would hardly say this: it gives {said} a probability of {np.exp(log_p):.2g}. "
        "The influences below are on a probability that is low already."
    )
