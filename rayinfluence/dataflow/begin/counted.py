"""Which tokens of documents the loss of training counted: what says so, and what came of it."""

from __future__ import annotations

from dataclasses import dataclass

from rayinfluence.config import RunConfig
from rayinfluence.corpus.beginning import Beginning
from rayinfluence.corpus.chat import MARKS, UNTOLD
from rayinfluence.corpus.corpus import Corpus
from rayinfluence.errors import ConfigError, CorpusError
from rayinfluence.objective_kinds import CLASSIFICATION, KINDS, MASKED, OF_ROWS, SEQ2SEQ


@dataclass(frozen=True)
class Counted:
    """What of a corpus is predicted under an objective.

    Attributes:
        tokens: that are; the first of a sequence is not, as nothing stands before it. None where
            some are masked, or a sequence has a class or a target.
        sequences_without: sequences that have none: their gradient, and so their score, is zero.
    """

    tokens: int | None
    sequences_without: int


def refuse_plain_texts(config: RunConfig, first: Beginning) -> None:
    """See that documents say what a loss on completions counted, as far as the first ones tell.

    Raises:
        ConfigError: one does not.
    """
    if config.objective.loss != "completion":
        return
    for document in first.documents:
        if document.tokens is not None:
            raise ConfigError(
                "objective.loss: completion, and documents are token ids (corpus.tokens), of "
                "which no prompt is known. Name the column that says of each what counted under "
                "objective.loss (labels with -100, or a mask of 0 and 1); or set it to all if all "
                "of it was trained on."
            )
        if document.counted is None and not document.messages:
            raise ConfigError(
                f"objective.loss: completion, and document {document.document_id!r} is a text of "
                "which nothing says where its completion begins. Name the column of prompts under "
                "corpus.prompt_column, or a column of messages ([{role, content}, ...]) under "
                "corpus.text_column; or mark the completion by {% generation %} and "
                "{% endgeneration %} in a corpus.template; or set objective.loss to all if all of "
                "it was trained on."
            )


def untold_chats(config: RunConfig, first: Beginning) -> str | None:
    """Say of how many chats a loss on completions is not told what it counted, if of any.

    Args:
        config: of the run.
        first: documents, as texts.
    """
    untold = [one for one in first.documents if one.templated and one.counted is None]
    if config.objective.loss != "completion" or not untold:
        return None
    return (
        f"objective.loss: completion, and of {len(untold):,} of {first.whose} {UNTOLD}, such as "
        f"{untold[0].document_id!r}: {MARKS}. Or leave such documents out, or set objective.loss "
        "to all if all of it was trained on."
    )


def counted(config: RunConfig, corpus: Corpus, kind: str) -> Counted:
    """What of a corpus the objective counts.

    Args:
        config: of the run.
        corpus: that is there.
        kind: of the objective.

    Raises:
        ConfigError: the corpus was tokenised for another kind of model, or with another column for
            it.
        CorpusError: some sequences do not say what counts, or nothing of any sequence does.
    """
    objective, url = config.objective, corpus.store.url
    files = corpus.manifest.files
    masked, tokens, without = (
        sum(file.get(key, 0) for file in files) for key in ("masked", "counted_tokens", "uncounted")
    )
    made_for = corpus.manifest.settings.kind
    if made_for != kind:
        raise ConfigError(
            f"corpus.path: the corpus at {url} was tokenised for a {KINDS[made_for].model}, and "
            f"the model is a {KINDS[kind].model}, which sees a document otherwise. Name its "
            "documents under corpus.documents, and another corpus.path."
        )
    if kind == SEQ2SEQ:  # each has a target
        return Counted(tokens, without)
    if kind in (MASKED, CLASSIFICATION, *OF_ROWS):
        return Counted(None, 0)
    if objective.loss == "all":
        return Counted(corpus.n_tokens - corpus.n_sequences, 0)
    there = corpus.manifest.settings.mask_column
    if objective.column != there:
        told = "no column" if there is None else f"the column {there!r}"
        raise ConfigError(
            f"objective.loss: {objective.loss}, and the corpus at {url} was tokenised with {told} "
            "of what counts. Set objective.loss to what it was, or give this one another "
            "corpus.path."
        )
    if masked < corpus.n_sequences:
        raise CorpusError(
            f"objective.loss: {objective.loss}, and {corpus.n_sequences - masked:,} of "
            f"{corpus.n_sequences:,} sequences of the corpus at {url} do not say which of their "
            f"tokens counted: they are of texts without a prompt, or of messages where {UNTOLD}. "
            "Tokenise documents that do into another corpus.path (prompts under "
            f"corpus.prompt_column, or messages; {MARKS}), or set objective.loss to all."
        )
    if not tokens:
        raise CorpusError(
            f"objective.loss: {objective.loss}, and no token of the corpus at {url} counts: all "
            f"{masked:,} sequences have a gradient of zero. Check what the documents say of it, or "
            "set objective.loss to all."
        )
    return Counted(tokens, without)
