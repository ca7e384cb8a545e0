"""Queries: what the model said (or would say) to what.

Read from JSONL and checked before anything runs.
"""

from __future__ import annotations

import json
from codecs import BOM_UTF8
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from rayinfluence.corpus.tokenizer import encode
from rayinfluence.errors import QueryError
from rayinfluence.storage.digest import digest
from rayinfluence.storage.store import Store

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast


@dataclass(frozen=True)
class Query:
    """f = log p(completion | prompt), summed over the completion's tokens."""

    query_id: str
    prompt: str
    completion: str
    metadata: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class EncodedQuery:
    """A query as tokens: those from ``first_target`` on are the completion."""

    query: Query
    tokens: tuple[int, ...]
    first_target: int

    @property
    def digest(self) -> str:
        """What decides its gradient: the tokens, and which of them count."""
        return digest([list(self.tokens), self.first_target])


def read_queries(file: Store) -> list[Query]:
    """Read queries.jsonl.

    Raises:
        QueryError: a line is not a query, an id comes twice, a completion is empty, or there is
            none.
    """
    queries: list[Query] = []
    lines_of: dict[str, int] = {}
    # Not splitlines(): a JSON string may hold a line separator of Unicode.
    for number, line in enumerate(file.read("").removeprefix(BOM_UTF8).split(b"\n"), start=1):
        if not line.strip():
            continue
        place = f"{file.url}:{number}"
        try:
            row = json.loads(line.decode(), parse_constant=_refuse_constant)
            json.dumps(row, ensure_ascii=False).encode()  # half a surrogate pair is no text
        except (ValueError, RecursionError) as error:
            raise QueryError(f"{place} is not JSON: {error}") from error
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


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON number")


def _query(row: Any, place: str) -> Query:
    known = {"query_id", "prompt", "completion", "metadata"}
    if not isinstance(row, dict) or not {"query_id", "prompt", "completion"} <= row.keys():
        raise QueryError(f"{place}: a query needs the keys query_id, prompt and completion.")
    if unknown := sorted(row.keys() - known):
        raise QueryError(f"{place}: unknown key {unknown[0]!r}; put what is yours under metadata.")
    for key in ("query_id", "prompt", "completion"):
        if not isinstance(row[key], str):
            raise QueryError(f"{place}: {key} must be a string.")
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
    completion. With an empty prompt the first token is only conditioned on, as in any sequence.

    Raises:
        QueryError: a query is longer than the context, has a token that the model does not know,
            or leaves no token to predict.
    """
    encoded = []
    texts = [query.prompt + query.completion for query in queries]
    for query, encoding in zip(queries, encode(tokenizer, texts), strict=True):
        boundary = len(query.prompt)
        first = next(
            (i for i, (_, end) in enumerate(encoding.offsets) if end > boundary),
            len(encoding.tokens),
        )
        first = max(first, 1)
        if context is not None and len(encoding.tokens) > context:
            raise QueryError(
                f"query {query.query_id!r} has {len(encoding.tokens)} tokens, and the model's "
                "context is "
                f"{context}; shorten its prompt."
            )
        if vocabulary is not None and max(encoding.tokens, default=0) >= vocabulary:
            raise QueryError(
                f"query {query.query_id!r} has token id {max(encoding.tokens)}, outside the "
                f"model's vocabulary of {vocabulary}; ask it in other words."
            )
        if first >= len(encoding.tokens):
            raise QueryError(
                f"query {query.query_id!r} leaves no token to predict: give it a longer "
                "completion, or a prompt."
            )
        encoded.append(EncodedQuery(query, tuple(encoding.tokens), first))
    return encoded
