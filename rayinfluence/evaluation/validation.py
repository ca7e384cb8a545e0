"""A file of documents that models are asked for: their mean log-probability per token.

It is a query like others, a set of texts of which each token has the same weight, so that whatever
measures queries measures it: f = -(mean loss per token), in nats per token.
"""

from __future__ import annotations

from rayinfluence.config import RunConfig
from rayinfluence.corpus.documents import read_documents
from rayinfluence.corpus.forms import Document
from rayinfluence.corpus.queries import EncodedAnswer, EncodedQuery
from rayinfluence.corpus.query_forms import Answer, Query
from rayinfluence.corpus.tokenizer import encode
from rayinfluence.dataflow.begin.parts import Parts
from rayinfluence.dataflow.begin.reading import columns_of
from rayinfluence.errors import ConfigError, InputError
from rayinfluence.objective_kinds import CAUSAL, KINDS
from rayinfluence.storage.store import Store

#: The query's id.
VALIDATION = "validation"
_KEY = "evaluation.shapley.validation"


def validation_query(run: Parts, path: str) -> EncodedQuery:
    """The documents of a file as a query.

    Texts are cut where the model's context ends; the first token of each part is predicted from
    nothing, and does not count.

    Args:
        run: with its tokenizer and context.
        path: of the file; in a form that the corpus may be in, with its columns.

    Raises:
        ConfigError: there is no such file, or the model is no causal language model.
        InputError: a row of it is no text, or none has a token to predict.
        CorpusError: the file is of no format that we read, or has no text column.
    """
    if run.inputs.kind != CAUSAL:
        raise ConfigError(
            f"{_KEY}: the mean log-probability of texts is of causal language models, and this is "
            f"a {KINDS[run.inputs.kind].model}: ask its queries (`utilities: [queries]`)."
        )
    texts = _texts(run.config, path)
    parts = [
        encoding.tokens[start : start + run.context]
        for encoding in encode(run.tokenizer, texts)
        for start in range(0, len(encoding.tokens), run.context)
    ]
    parts = [part for part in parts if len(part) > 1]
    n_targets = sum(len(part) - 1 for part in parts)
    if not n_targets:
        raise InputError(f"{_KEY}: {path} has no text of two tokens; name another file.")
    answer = Answer("", "", 1 / n_targets, mean=True)
    return EncodedQuery(
        Query(VALIDATION, (answer,) * len(parts), kind="set"),
        tuple(EncodedAnswer(tuple(part), 1, 1 / n_targets) for part in parts),
    )


def _texts(config: RunConfig, path: str) -> list[str]:
    """Of the documents, in their order."""
    file = Store(path, config.storage.options(path))
    if not file.exists(""):
        raise ConfigError(f"{_KEY}: there is no file {path}.")
    found = []
    for number, one in enumerate(read_documents(file, columns_of(config)), 1):
        if not isinstance(one, Document):
            raise InputError(f"{_KEY}: {one.place} is no document: {one.reason}. Leave it out.")
        if not one.text:
            raise InputError(f"{_KEY}: document {number} of {path} has no text. Leave it out.")
        found.append(one.text)
    return found
