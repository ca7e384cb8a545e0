"""What was asked, and what the model gives it: the question of one query."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from rayinfluence.report.asked import members, objective, said
from rayinfluence.report.markup import Html, escape_parts, join, note, tag, warning
from rayinfluence.report.panes import parts_of
from rayinfluence.report.text import (
    BY_ITSELF,
    count,
    drawn_together,
    percent,
    shorten,
)
from rayinfluence.storage.results import is_itself
from rayinfluence.storage.results.likelihood import n_counted, per_token_probability

_TEASER = 90
_PROMPT = 600
_RUBY_TOKENS = 40


def teaser(query: Mapping[str, Any]) -> list[Html]:
    """The end of the prompt, the completion, and rather than what, on one line."""
    if is_itself(query):
        return [tag("b", BY_ITSELF)]
    prompt, completion, other = said(query)
    completion, other = shorten(completion, _TEASER), shorten(other, _TEASER)
    prompt = shorten(prompt, max(20, _TEASER - len(completion)), keep="end")
    than = [Html(" rather than "), tag("bdi", other)] if other else []
    return [tag("bdi", prompt), Html(" "), tag("b", tag("bdi", completion)), *than]


def _asked(query: Mapping[str, Any]) -> Html:
    """Prompt and completion, and what is asked for where they do not say it all."""
    if found := members(query):
        shown = tag("ol", *(tag("li", *_member(one)) for one in found), class_="text")
    else:
        shown = _prompt(query)
    *_, other = said(query)
    than = tag("p", "rather than ", tag("span", other, dir="auto"), class_="text")
    about = objective(query)
    return join((shown, than if other else "", note(f"Asked for: {about}") if about else ""))


def _member(one: Mapping[str, Any]) -> list[Html]:
    """A completion of a set."""
    prompt = shorten(one["prompt"], _PROMPT, keep="end")
    completion = tag("b", tag("bdi", shorten(one["completion"], _PROMPT)))
    weight, probability = f"{one['weight']:g} times ", f" {one['log_probability']:.2f} nats"
    return [join((weight,)), tag("bdi", prompt), Html(" "), completion, join((probability,))]


def question(query: Mapping[str, Any]) -> Html:
    """Prompt and completion, the completion's probability, and whether the model would say it."""
    return tag("div", _asked(query), _facts(query), _warning(query), class_="question")


def _prompt(query: Mapping[str, Any]) -> Html:
    prompt = str(query.get("prompt") or "")
    early, late = prompt[:-_PROMPT], prompt[-_PROMPT:]
    folded = tag(
        "details",
        tag("summary", f"{count(len(early))} characters before"),
        tag("div", early, class_="text", dir="auto"),
        class_="fold",
    )
    # Beside a prompt of the other direction its tokens would be in that one's order.
    direction = "auto" if prompt else None
    completion = tag("span", _completion(query), class_="completion", dir=direction)
    shown = tag("div", tag("span", late, class_="prompt"), completion, class_="text", dir="auto")
    return join((folded if early else "", shown))


def _completion(query: Mapping[str, Any]) -> Html:
    """The completion with each token's probability: beneath while they are few, else on hover.

    Letters and signs that are drawn together would come apart above numbers of their own.
    """
    texts = query.get("token_texts") or []
    scores = query.get("token_log_probabilities") or []
    if not texts or len(texts) != len(scores):
        return join([str(query.get("completion") or "")])
    beneath = len(texts) <= _RUBY_TOKENS and not drawn_together(texts)
    parts = []
    chosen: Sequence[int | None] = parts_of(query) or [None] * len(texts)
    for text, score, part in zip(escape_parts(texts), scores, chosen, strict=True):
        probability = math.exp(min(score, 0.0)) if math.isfinite(score) else 0.0
        label = percent(probability)
        token = tag(
            "b",
            text,
            class_=f"c{int(8 * probability + 0.5)}",
            title=f"{label}, {score:.2f} nats",
            data_part=None if part is None else str(part),
        )
        if beneath:
            token = tag("ruby", token, tag("rt", label))
        parts.append(token)
    return join(parts)


def _facts(query: Mapping[str, Any]) -> Html:
    facts: list[tuple[str, str]] = []
    if query.get("log_probability") is not None:
        facts.append(("log-probability", f"{query['log_probability']:.2f} nats"))
    if query.get("rather_than_log_probability") is not None:
        facts.append(("of the other", f"{query['rather_than_log_probability']:.2f} nats"))
    per_token = per_token_probability(dict(query))
    if per_token is not None:
        tokens = n_counted(dict(query))
        plural = "s" * (tokens != 1)
        facts.append(("per token", f"{percent(per_token)} over {tokens} token{plural}"))
    if query.get("greedy") is not None:
        facts.append(("the model's own first choice", "yes" if query["greedy"] else "no"))
    metadata = query.get("metadata") or {}
    facts += [(str(key), str(value)) for key, value in metadata.items()]
    pairs = (tag("div", tag("dt", name), tag("dd", value)) for name, value in facts)
    return tag("dl", *pairs, class_="facts") if facts else Html()


def _warning(query: Mapping[str, Any]) -> Html:
    return warning(str(query["warning"])) if query.get("warning") else Html()
