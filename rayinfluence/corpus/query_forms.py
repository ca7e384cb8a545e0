"""What can be asked, as a line of queries.jsonl says it.

Whatever its form, a query asks for a weighted sum of what the model gives to answers: one of a
plain query, two of a contrast, any number of a set.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from rayinfluence.corpus.chat import Message, Span, messages_of
from rayinfluence.corpus.features import why_no_numbers
from rayinfluence.errors import QueryError
from rayinfluence.storage.digest import digest

Kind = Literal["completion", "contrast", "set"]
#: What is taken of each token, or class, that is asked for, and what that is called.
Measurement = Literal["log_probability", "logit", "margin", "prediction"]
LOG_PROBABILITY: Measurement = "log_probability"
_CALLED: Mapping[str, str] = {
    LOG_PROBABILITY: "log-probability",
    "logit": "logit",
    "margin": "margin against all others",
    "prediction": "prediction",
}
_NATS, PER_TOKEN = "nats", "nats per token"
_BESIDE_SEVERAL = {"prompt", "reduction", "measurement", "rather_than"}
_OF_QUERY, _OF_MEMBER = {"query_id", "metadata", "completions", "set"}, {"weight"}
#: Sizes of weights. Gradients are multiplied by them, and float32 has to hold what comes of it.
_LEAST_WEIGHT, _MOST_WEIGHT = 1e-6, 1e6
_ASKED = {
    "prompt",
    "completion",
    "messages",
    "reduction",
    "measurement",
    "spans",
    "rather_than",
    "features",
    "target",
}
#: Every key that means something, somewhere in a query.
KNOWN_KEYS = _OF_QUERY | _OF_MEMBER | _ASKED
#: What a query needs, in messages.
_NEEDED = (
    "a query needs the keys prompt and completion (or, in their place, messages, completions or "
    "set)"
)
#: Words and characters of a completion in an id that is made.
_WORDS, _CHARACTERS, _DIGITS = 3, 24, 8


@dataclass(frozen=True)
class Answer:
    """A completion after its prompt, and what of it is asked for.

    Attributes:
        prompt, completion: texts.
        weight: of what the model gives to it, in the query's sum.
        mean: whether that is the mean over the tokens that count, and not their sum.
        measurement: of each of these tokens, as it was asked for.
        in_contrast: whether it is a side of one, so that a margin is between the two.
        of_features: whether the prompt is a row of features, as JSON, and the completion a target.
        spans: characters of the completion, from and up to; tokens that have one of them count.
            All tokens do where there are none.
        messages: stand in the place of the prompt until they are rendered; without a completion
            the last of them is what was said.
        templated: whether a chat template made the prompt.
    """

    prompt: str
    completion: str
    weight: float = 1.0
    mean: bool = False
    spans: tuple[Span, ...] = ()
    messages: tuple[Message, ...] = ()
    templated: bool = False
    measurement: Measurement = LOG_PROBABILITY
    in_contrast: bool = False
    of_features: bool = False

    @property
    def measured(self) -> Measurement:
        """What is taken of each token; the log-odds of two are a difference of log p."""
        between_two = self.measurement == "margin" and self.in_contrast
        return LOG_PROBABILITY if between_two else self.measurement

    @property
    def unit(self) -> str:
        """Of what the model gives to it."""
        if self.measured == "prediction":
            return "units of the target"
        if self.measured == "logit":
            return "logits per token" if self.mean else "logits"
        return PER_TOKEN if self.mean else _NATS

    @property
    def called(self) -> str:
        """What the model gives to it, in words."""
        said = _CALLED[self.measured]
        return f"mean {said} per token" if self.mean else said

    @property
    def said(self) -> str:
        """The completion, also while it is the last of the messages."""
        return self.completion or self.messages[-1]["content"]


@dataclass(frozen=True)
class Query:
    """A question: f is the weighted sum of what the model gives to some answers.

    Attributes:
        query_id: as its author gave it.
        answers: of a contrast what is said, and then what is not, with the weight -1.
        metadata: its author's.
        kind: what was asked for.
    """

    query_id: str
    answers: tuple[Answer, ...]
    metadata: dict[str, Any] = field(default_factory=dict)
    kind: Kind = "completion"

    @classmethod
    def of(
        cls, query_id: str, prompt: str, completion: str, metadata: dict[str, Any] | None = None
    ) -> Query:
        """A plain query: log p(completion | prompt), summed over the completion's tokens."""
        return cls(query_id, (Answer(prompt, completion),), metadata or {})

    @property
    def unit(self) -> str:
        """Of f."""
        return self.answers[0].unit if self.answers else _NATS

    @property
    def is_difference(self) -> bool:
        """Whether f is a log-probability, or a difference of such, as log-odds are.

        What stands for the sequences themselves has no answers, and asks for theirs.
        """
        return self.unit == _NATS and all(abs(answer.weight) == 1 for answer in self.answers)

    def objective(self, of: str | None = None) -> str:
        """What was asked for, in words.

        Args:
            of: what an answer is given, if it is not its log-probability.
        """
        said = of or " and ".join(dict.fromkeys(answer.called for answer in self.answers))
        if self.kind == "set":
            return f"{said} of {len(self.answers)} completions, summed by their weights"
        spans = " and ".join(f"{start} to {end}" for start, end in self.answers[0].spans)
        where = f" at its characters {spans}" if spans else ""
        than = " rather than of another" if self.kind == "contrast" else ""
        return f"{said} of the completion{where}{than}"


def queries_of(row: Any, place: str) -> list[Query]:
    """The queries of a line: one, but of several ``completions`` as many.

    Args:
        row: its value.
        place: of the line, for messages.

    Raises:
        QueryError: it is none; what is wrong.
    """
    if not isinstance(row, dict):
        raise QueryError(f"{place}: {_NEEDED}, and this is no object with keys.")
    given = row.get("query_id")
    if "query_id" in row and not isinstance(given, str):
        raise QueryError(f"{place}: query_id must be a string.")
    if given == "":
        raise QueryError(f"{place}: query_id is empty.")
    metadata = row.get("metadata") or {}
    if not isinstance(metadata, dict):
        raise QueryError(f"{place}: metadata must be an object.")
    reader = _Reader(place, _called(given))
    asked = {key: value for key, value in row.items() if key not in ("query_id", "metadata")}
    known = _OF_QUERY | _ASKED
    if "set" in row:
        reader.refuse_beside("set", asked, known)
        answers = reader.set(row["set"])
        return [Query(given or _made_id(asked, answers), answers, metadata, "set")]
    if "completions" in row:
        reader.refuse_beside("completions", asked, known, _BESIDE_SEVERAL)
        texts = row["completions"]
        if not isinstance(texts, list) or not texts:
            raise QueryError(f"{place}: completions must be a list of strings.")
        several = [{**asked, "completion": text} for text in texts]
        ids = [given and f"{given}/{number}" for number in range(len(texts))]
    else:
        several, ids = [asked], [given]
    kind: Kind = "contrast" if "rather_than" in row else "completion"
    queries = []
    for query_id, one in zip(ids, several, strict=True):
        answers = _Reader(place, _called(query_id)).answers(one, known)
        queries.append(Query(query_id or _made_id(one, answers), answers, metadata, kind))
    return queries


def _called(query_id: str | None) -> str:
    return f"query {query_id!r}" if query_id else "the query"


def _made_id(asked: Mapping[str, Any], answers: tuple[Answer, ...]) -> str:
    """The id of a query that came without: of what is asked, and so the same each time."""
    words = "-".join(re.findall(r"\w+", answers[0].said)[:_WORDS])[:_CHARACTERS].lower()
    return f"{words or 'query'}-{digest(asked)[:_DIGITS]}"


@dataclass(frozen=True)
class _Reader:
    """Reads what is asked for.

    Attributes:
        place: of the line.
        whose: what is read, as messages call it.
    """

    place: str
    whose: str

    def set(self, members: Any) -> tuple[Answer, ...]:
        if not isinstance(members, list) or not members:
            raise self._error("set must be a list of {prompt, completion, weight}")
        answers: list[Answer] = []
        for number, member in enumerate(members):
            if not isinstance(member, dict):
                raise self._error(f"set[{number}] must be an object with prompt and completion")
            reader = _Reader(f"{self.place}, set[{number}]", self.whose)
            weight = _finite(member.get("weight", 1))
            if weight is None:
                raise reader._error("weight must be a finite number")
            if weight and not _LEAST_WEIGHT <= abs(weight) <= _MOST_WEIGHT:
                raise reader._error(
                    f"weight is {weight:g}, and weights other than 0 are of a size from "
                    f"{_LEAST_WEIGHT:g} to {_MOST_WEIGHT:g}, of either sign: multiply or divide "
                    "all of the set by one number, which leaves the order of its scores as it is"
                )
            asked = {key: value for key, value in member.items() if key != "weight"}
            answers += reader.answers(asked, _OF_MEMBER | _ASKED, weight)
        if not any(answer.weight for answer in answers):
            raise self._error(
                "all weights of the set are 0, so nothing is asked for; weights of both signs may "
                "add up to 0"
            )
        if len(units := dict.fromkeys(answer.unit for answer in answers)) > 1:
            raise self._error(
                f"members of the set are in {' and '.join(units)}, which do not add up: give all "
                "of them one reduction and one measurement"
            )
        return tuple(answers)

    def answers(
        self, asked: Mapping[str, Any], known: AbstractSet[str], weight: float = 1.0
    ) -> tuple[Answer, ...]:
        """What is said, and then what it is said rather than."""
        of_features = "features" in asked
        if of_features:
            asked = self._as_text(asked)
        prompt, completion, messages = self._text(asked, known)
        mean = self._mean(asked.get("reduction", "sum"))
        measurement = self._measurement(asked.get("measurement", LOG_PROBABILITY))
        answer = Answer(
            prompt,
            completion,
            weight,
            mean,
            messages=messages,
            measurement=measurement,
            in_contrast="rather_than" in asked,
            of_features=of_features,
        )
        if "rather_than" not in asked:
            return (self._with_spans(answer, asked),)
        if "spans" in asked:
            raise self._error(
                "spans and rather_than are both given, and characters of the completion are not "
                "those of rather_than: leave one out"
            )
        other = asked["rather_than"]
        if not isinstance(other, str) or not other:
            raise self._error("rather_than must be a string that is not empty")
        if other == answer.said:
            raise self._error("rather_than is the completion itself, so the difference is 0")
        if messages and not completion:
            messages = (*messages[:-1], {**messages[-1], "content": other})
            return answer, replace(answer, weight=-weight, messages=messages)
        return answer, replace(answer, weight=-weight, completion=other)

    def refuse_beside(
        self,
        form: str,
        asked: Mapping[str, Any],
        known: AbstractSet[str],
        taken: AbstractSet[str] = frozenset(),
    ) -> None:
        """Refuse keys that say again, or otherwise, what a form says."""
        self._refuse_unknown(asked, known)
        if beside := sorted(asked.keys() - taken - {form}):
            where = "its members" if form == "set" else "queries of their own"
            raise self._error(f"{beside[0]} stands beside {form}; put it into {where}")

    def _refuse_unknown(self, asked: Mapping[str, Any], known: AbstractSet[str]) -> None:
        if unknown := sorted(asked.keys() - known):
            raise QueryError(
                f"{self.place}: unknown key {unknown[0]!r}; put what is yours under metadata."
            )

    def _as_text(self, asked: Mapping[str, Any]) -> dict[str, Any]:
        """What is asked of a row of features, as a prompt with its completion."""
        if "target" not in asked:
            raise self._error(
                "target is missing beside features: give the number that is asked for"
            )
        for key in ("prompt", "completion", "messages", "reduction", "spans"):
            if key in asked:
                raise self._error(f"{key} stands beside features; it is of texts, so leave it out")
        features = asked["features"]
        values = features.values() if isinstance(features, dict) else features
        if not isinstance(features, dict | list) or not features:
            raise self._error("features must be a list of numbers, or an object of them by column")
        for number, value in enumerate(values):
            name = list(features)[number] if isinstance(features, dict) else number
            if why := why_no_numbers(value):
                raise self._error(f"features[{name!r}] {why}")
        texts = {}
        for key in {"target", "rather_than"} & asked.keys():
            if isinstance(asked[key], list) or (why := why_no_numbers(asked[key])):
                raise self._error(f"{key} {'is a list' if isinstance(asked[key], list) else why}")
            texts[key] = json.dumps(float(asked[key]))
        others = {key: one for key, one in asked.items() if key not in ("features", "target")}
        said = {"prompt": json.dumps(features), "completion": texts.pop("target")}
        return {**others, **texts, **said}

    def _text(
        self, asked: Mapping[str, Any], known: AbstractSet[str]
    ) -> tuple[str, str, tuple[Message, ...]]:
        """Prompt, completion and messages."""
        if "messages" in asked:
            self._refuse_unknown(asked, known)
            for key in ("prompt", "completion"):
                if key in asked:
                    raise self._error(
                        f"{key} stands beside messages, the last of which is the completion; for "
                        "another, give the messages before it as prompt"
                    )
            return "", "", self._conversation("messages", asked["messages"])
        if not {"prompt", "completion"} <= asked.keys():
            raise QueryError(
                f"{self.place}: {_NEEDED}."
                if _OF_MEMBER.isdisjoint(known)
                else f"{self.place}: a member of a set needs the keys prompt and completion."
            )
        self._refuse_unknown(asked, known)
        prompt, completion = asked["prompt"], asked["completion"]
        if isinstance(completion, list):
            said = self._conversation("completion", completion)
            if not isinstance(prompt, list) or len(said) > 1:
                raise self._error(
                    f"completion is a list of {len(said)} messages, which is taken where it has "
                    "one and prompt is a list of the messages before it: give it so, or the whole "
                    "conversation as messages"
                )
            return "", "", (*self._messages("prompt", prompt), *said)
        if not isinstance(completion, str):
            raise self._error(
                f"completion must be a string{_quoted(completion)}, or a list of one message"
            )
        if not completion:
            raise QueryError(
                f"{self.place}: the completion of {self.whose} is empty; there is nothing to "
                "explain."
            )
        if isinstance(prompt, list):
            return "", completion, self._messages("prompt", prompt)
        if not isinstance(prompt, str):
            raise self._error(f"prompt must be a string{_quoted(prompt)}, or a list of messages")
        return prompt, completion, ()

    def _conversation(self, key: str, value: Any) -> tuple[Message, ...]:
        """Messages of which the last is asked about."""
        messages = self._messages(key, value)
        if messages[-1]["role"] != "assistant":
            raise self._error(
                f"the last of {key} is from {messages[-1]['role']!r}, and what is asked about is "
                "what the assistant says: end with a message of the role 'assistant'"
            )
        if not messages[-1]["content"].strip():
            raise self._error(f"the last of {key} is empty; there is nothing to explain")
        return messages

    def _messages(self, key: str, value: Any) -> tuple[Message, ...]:
        messages = messages_of(value)
        if isinstance(messages, str):
            raise self._error(f"{key} {messages}")
        return messages

    def _mean(self, reduction: Any) -> bool:
        if reduction not in ("sum", "mean"):
            raise self._error("reduction must be sum or mean")
        return bool(reduction == "mean")

    def _measurement(self, measurement: Any) -> Measurement:
        if not isinstance(measurement, str) or measurement not in _CALLED:
            raise self._error(f"measurement must be one of {', '.join(_CALLED)}")
        found: Measurement = measurement  # type: ignore[assignment]
        return found

    def _with_spans(self, answer: Answer, asked: Mapping[str, Any]) -> Answer:
        if "spans" not in asked:
            return answer
        spans, length = asked["spans"], len(answer.said)
        wanted = (
            f"spans must be a list of [start, end], from 0 to {length}, the completion's length"
        )
        if not isinstance(spans, list) or not spans:
            raise self._error(wanted)
        found = []
        for span in spans:
            if not isinstance(span, list) or len(span) != 2 or not all(map(_is_int, span)):
                raise self._error(wanted)
            start, end = span
            if not 0 <= start < end <= length:
                what = "is empty" if start == end else "is not in the completion"
                raise self._error(
                    f"the span [{start}, {end}] {what}: that has {length} characters, so give 0 <= "
                    f"start < end <= {length}"
                )
            found.append((start, end))
        return replace(answer, spans=tuple(found))

    def _error(self, what: str) -> QueryError:
        return QueryError(f"{self.place}: {what}.")


def _quoted(value: Any) -> str:
    """What makes a string of a number, or of a word that is no string."""
    return " (in YAML in quotes)" if isinstance(value, int | float) else ""


def _finite(value: Any) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        return float(value) if math.isfinite(value) else None
    except OverflowError:
        return None


def _is_int(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
