"""How each kind of model is asked by whoever has never heard of us, and what its runs are of."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import naive
import numpy as np
import other_references as others
from harness import encoded
from other_kinds import CLASSES, CLS, N_WORDS, SEP, tokenizer
from torch import Tensor, nn

from rayinfluence.corpus.classes import Label
from rayinfluence.corpus.queries import EncodedAnswer, EncodedQuery
from rayinfluence.objective_kinds import CAUSAL, CLASSIFICATION, MASKED, SEQ2SEQ
from rayinfluence.storage.results import Survivor
from rayinfluence.testing.models import CONTEXT

Told = dict[str, Any]


class Asking(Protocol):
    """What is asked of a kind of model, and what it gives.

    Attributes:
        configured: of its runs.
    """

    configured: Mapping[str, Any]

    def write(self, folder: Path) -> None:
        """What a run has besides what ``tiny_run`` wrote."""

    def texts(self) -> list[others.Text]:
        """Some sequences; the first three are queries, too."""

    def told(self, texts: Sequence[others.Text]) -> Told:
        """What documents say of them besides their tokens."""

    def query(self, text: others.Text) -> EncodedQuery:
        """Of a text that asks for something."""

    def value(
        self, model: nn.Module, text: others.Text, labels: Sequence[int] | None = None
    ) -> Tensor:
        """Sum of log p(label), of the text's own labels without others."""

    def sampled(self, model: nn.Module, text: others.Text) -> Sequence[int]:
        """Labels that the model draws."""

    def covariances(
        self, model: nn.Module, names: Sequence[str], texts: Sequence[others.Text]
    ) -> dict[str, tuple[Tensor, Tensor]]:
        """A and S of each module."""

    def of_query(self, row: Mapping[str, Any]) -> others.Text:
        """What a run's query asked for."""

    def of_hit(self, hit: Survivor) -> others.Text:
        """A sequence that a run found."""


def _first(row: Mapping[str, Any]) -> int:
    return len(row["tokens"]) - int(row["n_completion_tokens"])


class OfNextTokens:
    """Every token but the first."""

    configured: Mapping[str, Any] = {}

    def write(self, folder: Path) -> None:
        """Nothing."""

    def texts(self) -> list[others.Text]:
        """Of random tokens."""
        generator = np.random.default_rng(0)
        lengths = generator.integers(2, 14, 6)
        some = [generator.integers(1, 47, int(length)) for length in lengths]
        return [
            others.Text(tokens, place, first=len(tokens) // 2) for place, tokens in enumerate(some)
        ]

    def told(self, _texts: Sequence[others.Text]) -> Told:
        """Nothing."""
        return {}

    def query(self, text: others.Text) -> EncodedQuery:
        """Of a completion."""
        return encoded(text.tokens, text.first or 1)

    def value(
        self, model: nn.Module, text: others.Text, labels: Sequence[int] | None = None
    ) -> Tensor:
        """Through the model's logits of one sequence."""
        return naive.log_probability(model, list(text.tokens), labels, text.first or 1)

    def sampled(self, model: nn.Module, text: others.Text) -> Sequence[int]:
        """By a loop."""
        return naive.sampled_labels(model, [text.tokens], [text.sequence_id], others.SEED)[0]

    def covariances(
        self, model: nn.Module, names: Sequence[str], texts: Sequence[others.Text]
    ) -> dict[str, tuple[Tensor, Tensor]]:
        """By a loop."""
        labels = [self.sampled(model, text) for text in texts]
        return naive.covariances(model, names, [text.tokens for text in texts], labels)

    def of_query(self, row: Mapping[str, Any]) -> others.Text:
        """By its tokens."""
        return others.Text(np.array(row["tokens"]), first=_first(row))

    def of_hit(self, hit: Survivor) -> others.Text:
        """By its tokens."""
        return others.Text(np.array(hit.tokens))


@dataclass(frozen=True)
class OfOthers:
    """Models of another kind, between a token that begins a text and one that ends it."""

    kind: str
    reference: others.Reference
    configured: Mapping[str, Any]

    def write(self, folder: Path) -> None:
        """Documents of words with a class each, or a source; and queries."""
        tokenizer().save_pretrained(folder / "model")
        generator = np.random.default_rng(0)

        def words(n: int) -> str:
            return " ".join(f"w{index}" for index in generator.integers(2, N_WORDS, n))

        rows = [
            {"text": words(1 + n % 5), "source": words(1 + n % 4), "class": n % len(CLASSES)}
            for n in range(12)
        ]
        queries = [
            {
                "query_id": f"q{n}",
                "prompt": words(3),
                "completion": name if self.kind == CLASSIFICATION else f" {words(2)}",
            }
            for n, name in enumerate(CLASSES)
        ]
        for name, lines in (("documents", rows), ("queries", queries)):
            (folder / f"{name}.jsonl").write_text("\n".join(map(json.dumps, lines)) + "\n")

    def texts(self) -> list[others.Text]:
        """Of random words."""
        generator = np.random.default_rng(0)
        found = []
        for place, length in enumerate((6, 8, 4, 9, 5, 7)):
            words = generator.integers(2, N_WORDS, length - 2)
            begin = 1 + place % (length - 2)
            tokens = np.array([CLS, *words, SEP])
            found.append(others.Text(tokens, place, begin + 1, None, place % len(CLASSES), begin))
        return found

    def told(self, texts: Sequence[others.Text]) -> Told:
        """Where targets begin, and classes."""
        masks = [[place >= one.begin for place in range(len(one.tokens))] for one in texts]
        return {"masks": masks, "classes": [one.label for one in texts]}

    def query(self, text: others.Text) -> EncodedQuery:
        """Of a completion, or of a class."""
        plain = encoded(text.tokens, text.first or 0)
        (answer,) = plain.answers
        if self.kind == CLASSIFICATION:
            label = Label(text.label or 0, "")
            answer = EncodedAnswer(answer.tokens, len(answer.tokens), label=label)
        if self.kind == SEQ2SEQ:
            answer = replace(answer, n_source=text.begin)
        return replace(plain, answers=(answer,))

    def value(
        self, model: nn.Module, text: others.Text, labels: Sequence[int] | None = None
    ) -> Tensor:
        """Through a call of transformers' on one text."""
        own = self.reference.labels(text) if labels is None else labels
        return others.value(self.reference, model, text, own)

    def sampled(self, model: nn.Module, text: others.Text) -> Sequence[int]:
        """By a loop."""
        return others.sampled(self.reference, model, text)

    def covariances(
        self, model: nn.Module, names: Sequence[str], texts: Sequence[others.Text]
    ) -> dict[str, tuple[Tensor, Tensor]]:
        """By a loop."""
        return others.covariances(self.reference, model, names, texts)

    def of_query(self, row: Mapping[str, Any]) -> others.Text:
        """By its tokens, after which a text ends that is no target."""
        tokens, first = row["tokens"], _first(row)
        if self.kind == SEQ2SEQ:
            return others.Text(np.array(tokens), first=first, begin=tokens.index(SEP) + 1)
        label = CLASSES.index(row["completion"]) if self.kind == CLASSIFICATION else None
        return others.Text(np.array([*tokens, SEP]), 0, first, len(tokens), label)

    def of_hit(self, hit: Survivor) -> others.Text:
        """By its tokens, its class, and where its source ends."""
        return others.Text(
            np.array(hit.tokens),
            hit.sequence_id,
            label=hit.metadata["class"],
            begin=hit.tokens.index(SEP) + 1,
        )


#: By kinds of objectives.
ASKING: Mapping[str, Asking] = {
    CAUSAL: OfNextTokens(),
    MASKED: OfOthers(
        MASKED,
        others.MaskedReference(),
        {"objective": {"mask_rate": others.RATE}},
    ),
    CLASSIFICATION: OfOthers(
        CLASSIFICATION,
        others.ClassReference(),
        {"corpus": {"label_column": "class"}},
    ),
    SEQ2SEQ: OfOthers(
        SEQ2SEQ,
        others.PairReference(),
        {"corpus": {"prompt_column": "source", "context": CONTEXT}},
    ),
}
