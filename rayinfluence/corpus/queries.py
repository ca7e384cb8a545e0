"""Queries: what the model said (or would say) to what.

Read from JSONL and checked before anything runs.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from rayinfluence.corpus.lines import instead_of_text, other_encoding, parsed, why_none
from rayinfluence.corpus.magic import why_not_queries
from rayinfluence.corpus.tokenizer import encode
from rayinfluence.errors import QueryError
from rayinfluence.storage.digest import digest
from rayinfluence.storage.store import Store

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

#: Queries in a message.
_NAMED = 3
#: Characters of a completion in a message.
_SHOWN = 40


@dataclass(frozen=True)
class Query:
    """f = log p(completion | prompt), summed over the completion's tokens."""

    query_id: str
    prompt: str
    completion: str
    metadata: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class EncodedQuery:
    """A query as tokens: those from ``first_target`` on are the completion.

    Attributes:
        query: as it was asked.
        tokens: of prompt and completion as one text.
        first_target: where the tokens begin whose log-probability is summed.
        unscored: the text of a token of the completion that is the first of all, and so is not
            predicted from anything.
        across: the text of a token that ends in the completion and takes more than spaces and
            line breaks from the prompt.
    """

    query: Query
    tokens: tuple[int, ...]
    first_target: int
    unscored: str = ""
    across: str = ""

    @property
    def digest(self) -> str:
        """What decides its gradient: the tokens, and which of them count."""
        return digest([list(self.tokens), self.first_target])


def read_queries(file: Store) -> list[Query]:
    """Read queries.jsonl.

    Raises:
        QueryError: it is not JSON lines, a line is not a query, an id comes twice, a completion is
            empty, or there is none.
    """
    queries: list[Query] = []
    lines_of: dict[str, int] = {}
    body = file.read("")
    if said := why_not_queries(body) or other_encoding(body):
        raise QueryError(f"{file.url} {said}")
    # Not splitlines(): a JSON string may hold a line separator of Unicode.
    for number, line in enumerate(body.split(b"\n"), start=1):
        if not line.strip():
            continue
        place = f"{file.url}:{number}"
        try:
            row = parsed(line, number, _refuse_constant)
        except (ValueError, RecursionError) as error:
            if _is_one_value(body):
                raise QueryError(
                    f"{file.url} is one JSON value over several lines, and queries are read as "
                    "JSON lines: write each object on a line of its own (`jq -c '.[]'` does so to "
                    "a list)."
                ) from error
            raise QueryError(f"{place} is {why_none(error)}.") from error
        query = _query(row, place)
        if query.query_id in lines_of:
            raise QueryError(
                f"{place}: query_id {query.query_id!r} is already that of line "
                f"{lines_of[query.query_id]}; give each query an id of its own."
            )
        lines_of[query.query_id] = number
        queries.append(query)
    if not queries:
        raise QueryError(f"{file.url} holds no query; write one JSON object a line.")
    return queries


def _is_one_value(body: bytes) -> bool:
    """Whether several lines are one JSON value together."""
    try:
        json.loads(body)
    except (ValueError, RecursionError):
        return False
    return b"\n" in body.strip()


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON number")


def _query(row: Any, place: str) -> Query:
    known = {"query_id", "prompt", "completion", "metadata"}
    if isinstance(row, list):
        raise QueryError(
            f"{place}: a list, and a query needs the keys of an object: write each on a line of "
            "its own (`jq -c '.[]'`)."
        )
    if not isinstance(row, dict) or not {"query_id", "prompt", "completion"} <= row.keys():
        raise QueryError(f"{place}: a query needs the keys query_id, prompt and completion.")
    if unknown := sorted(row.keys() - known):
        raise QueryError(f"{place}: unknown key {unknown[0]!r}; put what is yours under metadata.")
    for key in ("query_id", "prompt", "completion"):
        if not isinstance(row[key], str):
            raise QueryError(f"{place}: {key} must be a string{instead_of_text(row[key])}.")
    if not row["query_id"]:
        raise QueryError(f"{place}: query_id is empty.")
    if not row["completion"]:
        raise QueryError(
            f"{place}: the completion of query {row['query_id']!r} is empty; there is nothing to "
            "explain."
        )
    metadata = row.get("metadata") or {}
    if not isinstance(metadata, dict):
        raise QueryError(f"{place}: metadata must be an object.")
    return Query(row["query_id"], row["prompt"], row["completion"], metadata)


def encode_queries(
    queries: Sequence[Query],
    tokenizer: PreTrainedTokenizerFast,
    context: int | None,
    vocabulary: int | None = None,
) -> list[EncodedQuery]:
    """Tokenise prompt and completion as one text, as the model saw such text in training.

    A token that holds both the end of the prompt and the start of the completion counts as
    completion. The first token of all has nothing to be predicted from, as in any sequence:
    :func:`border_warnings` says where that leaves out a part of a completion.

    Raises:
        QueryError: a query is longer than the context, has a token that the model does not know,
            or leaves no token to predict.
    """
    encoded = []
    texts = [query.prompt + query.completion for query in queries]
    for query, encoding in zip(queries, encode(tokenizer, texts), strict=True):
        boundary = len(query.prompt)
        at_border = next(
            (i for i, (_, end) in enumerate(encoding.offsets) if end > boundary),
            len(encoding.tokens),
        )
        first = max(at_border, 1)
        if context is not None and len(encoding.tokens) > context:
            # Without a prompt it would be too long still.
            part = "prompt" if len(encoding.tokens) - first < context else "completion"
            raise QueryError(
                f"query {query.query_id!r} has {len(encoding.tokens)} tokens, and the model's "
                f"context is {context}; shorten its {part}."
            )
        if vocabulary is not None and max(encoding.tokens, default=0) >= vocabulary:
            raise QueryError(
                f"query {query.query_id!r} has token id {max(encoding.tokens)}, outside the "
                f"model's vocabulary of {vocabulary}. Name the tokenizer that the model was "
                "trained with under `tokenizer`; or, if that is this one, ask without that token."
            )
        if at_border == len(encoding.tokens):
            raise QueryError(
                f"query {query.query_id!r} leaves no token to predict: the tokenizer makes none of "
                f"its completion {query.completion[:_SHOWN]!r}, whose characters it strips or does "
                "not know. Give it a completion with other characters in it."
            )
        if first >= len(encoding.tokens):
            alone = len(encoding.tokens) == 1 and at_border == 0
            why = "; prompt and completion are one token, and nothing comes before it" * alone
            raise QueryError(
                f"query {query.query_id!r} leaves no token to predict{why}: give it a longer "
                "completion, or a prompt that ends before that token."
            )
        start, end = encoding.offsets[at_border]
        token = (query.prompt + query.completion)[start:end]
        unscored = token if at_border < first else ""
        across = token if query.prompt[start:].strip() and not unscored else ""
        encoded.append(EncodedQuery(query, tuple(encoding.tokens), first, unscored, across))
    return encoded


def border_warnings(queries: Sequence[EncodedQuery]) -> list[str]:
    """Say where another text is scored than a query's completion: less of it, or more."""
    without = [(one.unscored, one) for one in queries if one.unscored]
    across = [(one.across, one) for one in queries if one.across]
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


def _completions(found: Sequence[tuple[str, EncodedQuery]]) -> str:
    return f"{len(found):,} completions" if len(found) > 1 else "a completion"


def _tokens(found: Sequence[tuple[str, EncodedQuery]]) -> str:
    """The tokens of some queries, and how many more there are."""
    named = ", ".join(f"{token!r} of {one.query.query_id!r}" for token, one in found[:_NAMED])
    return named + (f" and {len(found) - _NAMED:,} more" if len(found) > _NAMED else "")
