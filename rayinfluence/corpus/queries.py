"""Queries as tokens: what is asked of the model, and which tokens of it count."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from rayinfluence.corpus.chat import last_content, render
from rayinfluence.corpus.classes import Label, label_of
from rayinfluence.corpus.features import Features, float_of, why_no_class
from rayinfluence.corpus.query_forms import LOG_PROBABILITY, Answer, Measurement, Query
from rayinfluence.corpus.tokenizer import Encoding, encode, joined, with_ending
from rayinfluence.errors import ChatError, QueryError
from rayinfluence.named_function import NamedFunction
from rayinfluence.objective_kinds import (
    CAUSAL,
    CLASSES_OF_ROWS,
    CLASSIFICATION,
    KINDS,
    MASKED,
    OF_ROWS,
    REGRESSION,
    SEQ2SEQ,
)
from rayinfluence.storage.digest import digest

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

    from rayinfluence.corpus.tokenizer import Coding

#: Queries in a message.
_NAMED = 3
#: What is left of weights that cancel, as a share of their sizes: decimals have no exact sum.
_CANCELS = 1e-9
#: Characters of a completion in a message.
_SHOWN = 40


@dataclass(frozen=True)
class EncodedAnswer:
    """An answer as tokens: those from ``first_target`` on are the completion.

    Attributes:
        tokens: of prompt and completion as one text.
        first_target: where the tokens begin that are predicted.
        weight: of what the model gives to the answer, in the query's sum.
        shares: of what is measured of each token of the completion in that; 0 of those that do
            not count. None where each counts once.
        measurement: what that is.
        unscored: the text of a token of the completion that is the first of all, and so is not
            predicted from anything.
        across: the text of a token that ends in the completion and takes more than spaces and
            line breaks from the prompt.
        ending: what the model is given after these tokens, and is not asked for.
        label: the class that a classifier is asked for, of all the tokens.
        n_source: tokens before those of a target, of a model that has sources and targets.
    """

    tokens: tuple[int, ...]
    first_target: int
    weight: float = 1.0
    shares: tuple[float, ...] | None = None
    unscored: str = ""
    across: str = ""
    ending: tuple[int, ...] = ()
    label: Label | None = None
    n_source: int | None = None
    measurement: Measurement = LOG_PROBABILITY

    @property
    def completion(self) -> tuple[int, ...]:
        """The completion's tokens."""
        return self.tokens[self.first_target :]

    @property
    def asked(self) -> list[int | str]:
        """Where the completion begins, the class, and what is measured if not log p."""
        label = [] if self.label is None else [self.label.index]
        measured = [] if self.measurement == LOG_PROBABILITY else [self.measurement]
        return [self.first_target, *label, *measured]

    @property
    def decided_by(self) -> tuple[int, ...]:
        """The tokens that decide what the model gives: of a prediction not the target."""
        predicted = self.measurement == "prediction"
        return self.tokens[: self.first_target] if predicted else self.tokens

    @property
    def n_targets(self) -> int:
        """What is predicted: these tokens, or one class."""
        return len(self.completion) if self.label is None else 1

    @property
    def counted(self) -> tuple[bool, ...]:
        """Which of it counts."""
        if self.shares is None:
            return (True,) * self.n_targets
        return tuple(share > 0 for share in self.shares)


@dataclass(frozen=True)
class EncodedQuery:
    """A query as tokens.

    Attributes:
        query: as it was asked, its messages rendered.
        answers: in the same order as the query's.
        function: what an answer is given in the place of its log-probability.
    """

    query: Query
    answers: tuple[EncodedAnswer, ...]
    function: NamedFunction | None = None

    @property
    def objective(self) -> str:
        """What it asks for, in words."""
        return self.query.objective(None if self.function is None else self.function.name)

    @property
    def unit(self) -> str:
        """Of f."""
        return "that of query_function" if self.function else self.query.unit

    @property
    def measurement(self) -> Measurement | None:
        """What is taken of each token; of several things the one that is no log-probability."""
        if self.function is not None:
            return None
        others = (one.measurement for one in self.answers if one.measurement != LOG_PROBABILITY)
        return next(others, LOG_PROBABILITY)

    @property
    def predicts(self) -> bool:
        """Whether a change of f is one of a log-probability, or of a difference of such."""
        return self.function is None and self.query.is_difference

    @property
    def n_tokens(self) -> int:
        """Of all answers."""
        return sum(len(answer.tokens) for answer in self.answers)

    @property
    def spoken_for(self) -> tuple[EncodedAnswer, ...]:
        """The answers that it asks for, by their weights; all where it asks against all."""
        return tuple(one for one in self.answers if one.weight > 0) or self.answers

    @property
    def terms(self) -> tuple[int, ...]:
        """The tokens of the answers that it asks for, which methods of texts look for."""
        return tuple(token for answer in self.spoken_for for token in answer.tokens)

    @property
    def digest(self) -> str:
        """What decides its gradient: the tokens, how each of them counts, and the function."""
        plain = [one for one in self.answers if (one.weight, one.shares) == (1, None)]
        if self.function is None and len(plain) == len(self.answers) == 1:
            return digest([list(plain[0].tokens + plain[0].ending), *plain[0].asked])
        return digest(
            {
                "answers": [
                    [list(one.tokens + one.ending), *one.asked, one.weight, one.shares]
                    for one in self.answers
                ],
                "function": self.function and [self.function.name, self.function.digest],
            }
        )


def rendered(queries: Sequence[Query], tokenizer: PreTrainedTokenizerFast) -> list[Query]:
    """Queries with texts in the place of messages, as the tokenizer's chat template has them.

    Raises:
        QueryError: the tokenizer has no template, or it does not take a query's messages.
    """
    return [
        replace(query, answers=tuple(_rendered(query, one, tokenizer) for one in query.answers))
        if any(one.messages for one in query.answers)
        else query
        for query in queries
    ]


def _rendered(query: Query, answer: Answer, tokenizer: PreTrainedTokenizerFast) -> Answer:
    if not answer.messages:
        return answer
    try:
        if answer.completion:
            prompt = render(tokenizer, answer.messages, generation_prompt=True)
            return replace(answer, prompt=prompt, messages=(), templated=True)
        text, start = last_content(tokenizer, answer.messages)
    except ChatError as error:
        raise QueryError(f"query {query.query_id!r}: {error}.") from error
    if answer.spans and text[start:] != answer.said:
        raise QueryError(
            f"query {query.query_id!r}: the chat template of the tokenizer strips white space from "
            "the last of messages, so spans would count from elsewhere. Leave that out of it."
        )
    return replace(
        answer, prompt=text[:start], completion=text[start:], messages=(), templated=True
    )


def encode_queries(
    queries: Sequence[Query],
    tokenizer: Coding,
    context: int | None,
    vocabulary: int | None = None,
    function: NamedFunction | None = None,
    kind: str = CAUSAL,
    classes: Sequence[str] = (),
) -> list[EncodedQuery]:
    """Tokenise prompt and completion as one text, as the model saw such text in training.

    A token that holds both the end of the prompt and the start of the completion counts as
    completion. The first token of all has nothing to be predicted from, as in any sequence:
    :func:`border_warnings` says where that leaves out a part of a completion. A masked language
    model predicts that one too, and sees the tokens that end a text.

    Args:
        queries: with messages or without.
        tokenizer: of the model.
        context: the most tokens that the model takes.
        vocabulary: how many tokens it knows.
        function: what answers are given in the place of their log-probability.
        kind: of the model's objective.
        classes: names of a classifier's; its queries ask for one of a text, which is the prompt.

    Raises:
        QueryError: a query is longer than the context, has a token that the model does not know,
            leaves no token to predict, or asks for nothing; or its messages are not rendered.
    """
    if isinstance(tokenizer, Features):
        return [
            EncodedQuery(one, _of_rows(one, tokenizer, kind, len(classes)), function)
            for one in queries
        ]
    asked = rendered(queries, tokenizer)
    if kind == CLASSIFICATION:
        return [
            EncodedQuery(one, _of_classes(one, tokenizer, context, classes), function)
            for one in asked
        ]
    encodings = iter(_texts(tokenizer, asked, kind))
    encoded = []
    for query in asked:
        answers = tuple(_encoded(query, encodings, context, vocabulary, kind))
        _refuse_nothing(query, answers)
        encoded.append(EncodedQuery(query, answers, function))
    return encoded


def _texts(
    tokenizer: PreTrainedTokenizerFast, queries: Sequence[Query], kind: str
) -> list[Encoding]:
    """Of each answer prompt and completion, as one text or as a source and its target."""
    answers = [answer for query in queries for answer in query.answers]
    templated = [answer.templated for answer in answers]
    if kind != SEQ2SEQ:
        texts = [answer.prompt + answer.completion for answer in answers]
        return encode(tokenizer, texts, templated)
    sources = encode(tokenizer, [answer.prompt for answer in answers], templated)
    targets = encode(tokenizer, [answer.completion for answer in answers], templated)
    return [
        joined(with_ending(source), target, len(answer.prompt))
        for source, target, answer in zip(sources, targets, answers, strict=True)
    ]


def _of_classes(
    query: Query, tokenizer: PreTrainedTokenizerFast, context: int | None, classes: Sequence[str]
) -> tuple[EncodedAnswer, ...]:
    """A query's answers, each a class of its prompt."""
    answers, whose = [], f"query {query.query_id!r}"
    templated = [answer.templated for answer in query.answers]
    encodings = encode(tokenizer, [answer.prompt for answer in query.answers], templated)
    for answer, encoding in zip(query.answers, encodings, strict=True):
        label = label_of(answer.completion.strip(), classes)
        if isinstance(label, str):
            raise QueryError(
                f"{whose}: its completion names no class of the text in `prompt`: it {label}."
            )
        if answer.spans:
            raise QueryError(f"{whose} has spans, and its completion is a class. Leave them out.")
        tokens, ending = tuple(encoding.tokens), tuple(encoding.ending)
        n_tokens = len(tokens) + len(ending)
        if n_tokens < 2 or (context is not None and n_tokens > context):
            raise QueryError(
                f"{whose} has a text of {n_tokens} tokens under `prompt`, and the model takes from "
                f"2 to {context}: give it another one."
            )
        answers.append(
            EncodedAnswer(
                tokens,
                len(tokens),
                answer.weight,
                ending=ending,
                label=label,
                measurement=answer.measured,
            )
        )
    _refuse_nothing(query, answers)
    return tuple(answers)


def refuse_other_form(query: Query, kind: str) -> None:
    """Refuse a row of features of a model of texts, a text of one of rows, and what it has not.

    Args:
        query: as it was read.
        kind: of the model's objective.

    Raises:
        QueryError: it is of the other.
    """
    whose, of_numbers = f"query {query.query_id!r}", kind == REGRESSION
    known = ["log_probability", *(["prediction"] if of_numbers else ["logit", "margin"])]
    for answer in query.answers:
        if answer.of_features != (kind in OF_ROWS):
            wanted, given = "features and target", "a text"
            if answer.of_features:
                wanted, given = "prompt and completion", "features"
            raise QueryError(
                f"{whose} has {given}, and the model is a {KINDS[kind].model}: give {wanted}."
            )
        if answer.measurement not in known:
            raise QueryError(
                f"{whose} asks for the measurement {answer.measurement}, which a "
                f"{KINDS[kind].model} does not give: it gives "
                f"{', '.join(known[:-1])} and {known[-1]}."
            )


def _of_rows(query: Query, made: Features, kind: str, n_classes: int) -> tuple[EncodedAnswer, ...]:
    """A query's answers, each a row with its target."""
    answers, whose = [], f"query {query.query_id!r}"
    for answer in query.answers:
        tokens = made.tokens(f"[{answer.prompt}, {answer.completion}]")
        if isinstance(tokens, str):
            raise QueryError(f"{whose}: {tokens}.")
        if kind == CLASSES_OF_ROWS and (why := why_no_class(float_of(tokens[-1]), n_classes)):
            raise QueryError(f"{whose}: target {why}.")
        answers.append(
            EncodedAnswer(
                tuple(tokens), made.n_features, answer.weight, measurement=answer.measured
            )
        )
    _refuse_nothing(query, answers)
    return tuple(answers)


def _encoded(
    query: Query,
    encodings: Iterator[Encoding],
    context: int | None,
    vocabulary: int | None,
    kind: str,
) -> Iterator[EncodedAnswer]:
    """The answers of a query, of which the next encodings are."""
    for answer in query.answers:
        encoding = next(encodings)
        whose = f"query {query.query_id!r}"
        if query.kind == "contrast" and answer is not query.answers[0]:
            whose += ", whose completion is its `rather_than`,"
        elif query.kind == "set":
            whose += f", in its set after {answer.prompt[-_SHOWN:]!r},"
        boundary = len(answer.prompt)
        at_border = next(
            (i for i, (_, end) in enumerate(encoding.offsets) if end > boundary),
            len(encoding.tokens),
        )
        first = max(at_border, 1) if kind == CAUSAL else at_border
        ending = tuple(encoding.ending) if kind == MASKED else ()
        n_tokens = len(encoding.tokens) + len(ending)
        if context is not None and n_tokens > context:
            # Without a prompt it would be too long still.
            part = "prompt" if n_tokens - first < context else "completion"
            raise QueryError(
                f"{whose} has {n_tokens} tokens, and the model's context is {context}; "
                f"shorten its {part}."
            )
        if vocabulary is not None and max(encoding.tokens, default=0) >= vocabulary:
            raise QueryError(
                f"{whose} has token id {max(encoding.tokens)}, outside the model's vocabulary of "
                f"{vocabulary}. Name the tokenizer that the model was trained with under "
                "`tokenizer`; or, if that is this one, ask without that token."
            )
        if at_border == len(encoding.tokens):
            raise QueryError(
                f"{whose} leaves no token to predict: the tokenizer makes none of its completion "
                f"{answer.completion[:_SHOWN]!r}, whose characters it strips or does not know. "
                "Give it a completion with other characters in it."
            )
        if first >= len(encoding.tokens):
            alone = len(encoding.tokens) == 1 and at_border == 0
            why = "; prompt and completion are one token, and nothing comes before it" * alone
            raise QueryError(
                f"{whose} leaves no token to predict{why}: give it a longer completion, or a "
                "prompt that ends before that token."
            )
        shares = _shares(answer, encoding.offsets[first:])
        if shares is not None and not any(shares):
            raise QueryError(
                f"{whose} leaves no token to predict: no token that is predicted has a character "
                f"of its spans in {answer.completion[:_SHOWN]!r}. Give others, or a prompt."
            )
        start, end = encoding.offsets[at_border]
        token = (answer.prompt + answer.completion)[start:end]
        unscored = token if at_border < first else ""
        across = token if answer.prompt[start:].strip() and not unscored else ""
        tokens = tuple(encoding.tokens)
        yield EncodedAnswer(
            tokens,
            first,
            answer.weight,
            shares,
            unscored,
            across,
            ending,
            n_source=encoding.n_source or None,
            measurement=answer.measured,
        )


def _shares(answer: Answer, offsets: Sequence[tuple[int, int]]) -> tuple[float, ...] | None:
    """How much of the log-probability of each token is in what is asked for.

    Args:
        answer: what is asked for.
        offsets: characters of each token of the completion, in prompt and completion.
    """
    begins = len(answer.prompt)
    counted = [
        not answer.spans
        or any(start < begins + to and begins + since < end for since, to in answer.spans)
        for start, end in offsets
    ]
    share = 1 / max(sum(counted), 1) if answer.mean else 1.0
    if all(counted) and share == 1:
        return None
    return tuple(share if counts else 0.0 for counts in counted)


def _refuse_nothing(query: Query, answers: Sequence[EncodedAnswer]) -> None:
    """Refuse a query whose answers are the same, and cancel up to rounding."""
    weights: dict[tuple[object, ...], list[float]] = {}
    for one in answers:
        weights.setdefault((one.decided_by, *one.asked, one.shares), []).append(one.weight)
    if any(abs(sum(some)) > _CANCELS * sum(map(abs, some)) for some in weights.values()):
        return
    what = "its completion and its `rather_than`" if query.kind == "contrast" else "its answers"
    same = "tokens"
    if answers[0].measurement == "prediction":
        what, same = "its answers", "prediction (the target does not decide it)"
    elif query.answers[0].of_features:
        what = what.replace("completion", "target")
        same = "row"
    raise QueryError(
        f"query {query.query_id!r} asks for nothing: {what} are the same {same}, whose weights add "
        "up to 0."
    )


def border_warnings(queries: Sequence[EncodedQuery]) -> list[str]:
    """Say where another text is scored than a query's completion: less of it, or more."""
    answers = [(one, query.query.query_id) for query in queries for one in query.answers]
    without = [(one.unscored, query_id) for one, query_id in answers if one.unscored]
    across = [(one.across, query_id) for one, query_id in answers if one.across]
    warnings = []
    if without:
        warnings.append(
            f"queries: the first token of {_completions(without)} is not scored, as no token comes "
            f"before it that it could be predicted from: {_tokens(without)}. What follows it is. "
            "Give a prompt that ends before that token."
        )
    if across:
        warnings.append(
            f"queries: the first token of {_completions(across)} begins in the prompt, and is "
            f"scored whole: {_tokens(across)}. To have the completion alone scored, move what the "
            "token takes from the prompt into the completion."
        )
    return warnings


def _completions(found: Sequence[tuple[str, str]]) -> str:
    return f"{len(found):,} completions" if len(found) > 1 else "a completion"


def _tokens(found: Sequence[tuple[str, str]]) -> str:
    """The tokens of some queries, and how many more there are."""
    named = ", ".join(f"{token!r} of {query_id!r}" for token, query_id in found[:_NAMED])
    return named + (f" and {len(found) - _NAMED:,} more" if len(found) > _NAMED else "")
