"""Probes as rows of a split: their tokens, and what of them training would predict."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from rayinfluence.corpus.chunks import Chunk, Framing, chunks
from rayinfluence.corpus.classes import label_of
from rayinfluence.corpus.forms import mask
from rayinfluence.corpus.shards import LABEL, LOSS_MASK
from rayinfluence.corpus.spans import Spans
from rayinfluence.corpus.tokenizer import Encoding, encode, joined, token_texts, with_ending
from rayinfluence.dataflow.begin.probes import Probe
from rayinfluence.errors import InputError
from rayinfluence.model.masking import Masking, masked_places
from rayinfluence.objective_kinds import CAUSAL, CLASSIFICATION, MASKED, SEQ2SEQ
from rayinfluence.storage.results import ProbedText

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

#: The sequence id that masks of a text without a completion are drawn for. It is the same for all,
#: so that what is said in other words is masked at the same places as far as it is as long.
_DRAWN_FOR = 0


@dataclass(frozen=True)
class Counting:
    """What training predicted of a sequence.

    Attributes:
        kind: of its objective.
        context: most tokens of a sequence.
        framing: what stands at the ends of documents.
        some: whether its loss counted some tokens alone: of completions, theirs.
        masking: of a masked language model.
        seed: of the run.
    """

    kind: str
    context: int
    framing: Framing
    some: bool
    masking: Masking | None
    seed: int

    @property
    def cuts(self) -> bool:
        """Whether a longer text is cut, as training would have it."""
        return self.kind in (CAUSAL, MASKED)

    def of_text(self, one: Probe, encoding: Encoding) -> list[bool] | None:
        """Which tokens of a whole text count; None where the kind of model says so.

        Of those that masks are drawn for, the first that fit into a sequence.
        """
        if self.kind == SEQ2SEQ:
            return [place >= encoding.n_source for place in range(len(encoding.tokens))]
        if self.kind == CLASSIFICATION or not (self.some or self.kind == MASKED):
            return None
        if one.completion_start is not None:
            spans = [(one.completion_start, len(one.text))]
            return mask(encoding.offsets, spans)
        if self.masking is None:
            return None
        tokens = encoding.tokens[: self.context]
        places = masked_places(np.array(tokens), self.masking, self.seed, _DRAWN_FOR)
        return [place in places for place in range(len(tokens))]


def tokenised(
    tokenizer: PreTrainedTokenizerFast, probes: Sequence[Probe], counting: Counting
) -> list[ProbedText]:
    """Texts as tokens, as many as a sequence of the run has at most.

    Raises:
        InputError: of a completion no token is predicted, or a text is too long for a model that
            gets it whole.
    """
    texts, context = [], counting.context
    encodings = _encoded(tokenizer, probes, counting.kind)
    for one, encoding in zip(probes, encodings, strict=True):
        n_tokens = len(encoding.tokens)
        if n_tokens > context and not counting.cuts:
            raise InputError(
                f"{one.name!r} cannot be scored: it has {n_tokens} tokens, and is not cut: at most "
                f"{context}, as many as a sequence of the run has. Shorten it."
            )
        masks = counting.of_text(one, encoding)
        cut = chunks([(encoding, masks)], context, 0, counting.framing)
        first_chunk, *others = [*cut] or [Chunk([], 0, Spans([]), None)]
        tokens, counts = first_chunk.tokens, first_chunk.masks
        first = 1 if counting.kind == CAUSAL else 0  # which nothing predicts
        if counts is not None and not any(counts[first:]):
            raise InputError(
                f"{one.name!r} cannot be scored: training counted some tokens, and of its no "
                f"such token is predicted among the first {context}, as many as a sequence of the "
                "run has. Shorten its prompt, or give one."
            )
        said = token_texts(tokenizer, tokens)
        n_cut = sum(len(other.tokens) - counting.framing.of_chunks for other in others)
        texts.append(ProbedText(one.name, one.partition, one.text, tokens, said, n_cut, counts))
    return texts


def _encoded(
    tokenizer: PreTrainedTokenizerFast, probes: Sequence[Probe], kind: str
) -> list[Encoding]:
    """Each text as a document of the run would be; of a classifier without its class."""
    whole = [one.text for one in probes]
    if kind == CAUSAL:
        return encode(tokenizer, whole)
    if kind == MASKED:
        return [with_ending(one) for one in encode(tokenizer, whole)]
    borders = [one.completion_start or 0 for one in probes]
    pairs = list(zip(whole, borders, strict=True))
    sources = [with_ending(one) for one in encode(tokenizer, [text[:n] for text, n in pairs])]
    if kind == CLASSIFICATION:
        return sources
    targets = [with_ending(one) for one in encode(tokenizer, [text[n:] for text, n in pairs])]
    return [joined(*both) for both in zip(sources, targets, borders, strict=True)]


def labels_of_probes(probes: Sequence[Probe], classes: Sequence[str]) -> list[int]:
    """The class that each text names as its completion.

    Raises:
        InputError: it names none.
    """
    labels = []
    for one in probes:
        label = label_of(one.text[one.completion_start or 0 :].strip(), classes)
        if isinstance(label, str):
            raise InputError(
                f"{one.name!r} cannot be scored: its completion names no class: it {label}."
            )
        labels.append(label.index)
    return labels


def rows_of(texts: Sequence[ProbedText], labels: Sequence[int] | None = None) -> pa.Table:
    """Texts as the rows of a split, whose ids are their places."""
    return pa.table(
        {
            "sequence_id": pa.array(range(len(texts)), pa.int64()),
            "tokens": pa.array([text.tokens for text in texts], pa.list_(pa.int32())),
            LOSS_MASK: pa.array([text.loss_mask for text in texts], pa.list_(pa.bool_())),
            LABEL: pa.nulls(len(texts)) if labels is None else pa.array(labels, pa.int32()),
        }
    )
