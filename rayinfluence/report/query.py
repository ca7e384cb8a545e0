"""One query of the page: the question, and what raises and what lowers its completion."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from rayinfluence.report.asked import members, objective, raised, said
from rayinfluence.report.card import card
from rayinfluence.report.facts import rescoring, together
from rayinfluence.report.groups import Groups, groups_section
from rayinfluence.report.markup import Html, escape_parts, join, tag
from rayinfluence.report.text import (
    BY_ITSELF,
    count,
    drawn_together,
    n_counted,
    per_token_probability,
    percent,
    shorten,
)
from rayinfluence.storage.results import Direction, Results, Survivor, is_difference, is_itself

_TEASER = 90
_PROMPT = 600
_RUBY_TOKENS = 40

#: What a method found, with the groups and a sentence of statistics of every query.
Found = tuple[Results, Groups, Mapping[str, str]]


def query_section(
    number: int,
    query: Mapping[str, Any],
    methods: Sequence[Found],
    *,
    per_side: int,
    fold: int,
    unfolded: bool,
) -> Html:
    """One query as a section that can be folded.

    Args:
        number: its place in the page, from 1; names its anchor.
        query: its entry in the manifest.
        methods: what each method found.
        per_side: how many proponents and opponents to show.
        fold: how many characters of text to keep on each side of a sequence's hottest part.
        unfolded: whether the section starts open.
    """
    summary = tag(
        "summary",
        tag("span", str(number), class_="rank"),
        tag("h2", tag("bdi", shorten(query["query_id"], _TEASER))),
        tag("span", *teaser(query), class_="teaser"),
    )
    return tag(
        "details",
        summary,
        Html() if is_itself(query) else _question(query),
        _methods(number, query["query_id"], methods, per_side, fold),
        class_="query",
        id=f"q{number}",
        open=unfolded,
    )


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
    return join((shown, than if other else "", _note(f"Asked for: {about}") if about else ""))


def _member(one: Mapping[str, Any]) -> list[Html]:
    """A completion of a set."""
    prompt = shorten(one["prompt"], _PROMPT, keep="end")
    completion = tag("b", tag("bdi", shorten(one["completion"], _PROMPT)))
    weight, probability = f"{one['weight']:g} times ", f" {one['log_probability']:.2f} nats"
    return [join((weight,)), tag("bdi", prompt), Html(" "), completion, join((probability,))]


def _question(query: Mapping[str, Any]) -> Html:
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
    for text, score in zip(escape_parts(texts), scores, strict=True):
        probability = math.exp(min(score, 0.0)) if math.isfinite(score) else 0.0
        label = percent(probability)
        token = tag(
            "b", text, class_=f"c{int(8 * probability + 0.5)}", title=f"{label}, {score:.2f} nats"
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
        facts.append(("greedy choice", "yes" if query["greedy"] else "no"))
    metadata = query.get("metadata") or {}
    facts += [(str(key), str(value)) for key, value in metadata.items()]
    pairs = (tag("div", tag("dt", name), tag("dd", value)) for name, value in facts)
    return tag("dl", *pairs, class_="facts") if facts else Html()


def _warning(query: Mapping[str, Any]) -> Html:
    return tag("p", str(query["warning"]), class_="warning") if query.get("warning") else Html()


def _methods(
    number: int,
    query_id: str,
    methods: Sequence[Found],
    per_side: int,
    fold: int,
) -> Html:
    """A panel per method; with more than one, radio buttons choose which panel is seen."""
    panels = []
    for index, (results, groups, statistics) in enumerate(methods):
        body = join(
            (
                _panel(results, query_id, per_side, fold),
                _note(statistics.get(query_id, "")),
                groups_section(groups.get(query_id, [])),
            )
        )
        panel = tag("div", body, class_="panel")
        if len(methods) > 1:
            name = f"q{number}-m{index}"
            pick = tag(
                "input",
                type="radio",
                class_="pick",
                id=name,
                name=f"q{number}-method",
                value=str(index),
                checked=index == 0,
            )
            label = tag("label", tag("bdi", results.method), for_=name)
            panels += [pick, label]
        panels.append(panel)
    return tag("div", *panels, class_="methods" if len(methods) > 1 else "method")


def _note(text: str) -> Html:
    return tag("p", text, class_="quiet") if text else Html()


def _panel(results: Results, query_id: str, per_side: int, fold: int) -> Html:
    if query_id not in results.queries:
        return tag("p", "This method was not run on this query.", class_="quiet")
    sides: dict[str, tuple[Sequence[Survivor], Direction]] = {
        "Proponents": (results.proponents(query_id, per_side), "proponent"),
        "Opponents": (results.opponents(query_id, per_side), "opponent"),
    }
    meaning = results.meaning
    if meaning.of_itself:
        del sides["Opponents"]  # no score is negative
    shown = [(side, s) for side, (found, _) in sides.items() for s in found]
    largest = max((abs(s.score) for _, s in shown if math.isfinite(s.score)), default=0.0)
    query = results.queries[query_id]
    odds = is_difference(query)
    names = {s.sequence_id: f"{side.lower()[:-1]} {s.rank}" for side, s in shown}
    columns = [
        _side(
            side,
            results.count(query_id, kind),
            [card(s, largest, fold, names, meaning.ahead, odds) for s in found],
            raised(query) if meaning.directed else None,
        )
        for side, (found, kind) in sides.items()
    ]
    notes = (_note(together(results, query_id)), _note(rescoring(results, query_id)))
    return join((tag("div", *columns, class_="sides"), *notes))


def _side(side: str, found: int, cards: Sequence[Html], what: str | None) -> Html:
    """One side; ``what`` its sequences are estimated to raise or lower, if anything."""
    raises = side == "Proponents"
    verb, adjective = ("raise", "alike") if raises else ("lower", "unlike")
    about = f" {adjective}" if what is None else f" estimated to {verb} {what}"
    heading = tag("h3", side, tag("small", about))
    rest = found - len(cards)
    body = tag("ol", *cards) if found else tag("p", "None were found.", class_="quiet")
    more = f"{count(rest)} more in the results table (Parquet); {len(cards)} are shown here."
    note = tag("p", more, class_="quiet") if rest > 0 else Html()
    return tag("section", heading, body, note, class_=f"side {side.lower()}")
