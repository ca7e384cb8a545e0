"""Kinds of objectives: what a model is trained to say, and so how it is loaded and called.

Nothing here imports torch: which kind a config.json tells is known before anything is loaded.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from rayinfluence.errors import ConfigError

CAUSAL, MASKED, CLASSIFICATION, SEQ2SEQ = "causal", "masked", "classification", "seq2seq"
#: Of modules that take rows of features; the configuration calls the second ``classification``.
REGRESSION, CLASSES_OF_ROWS = "regression", "classification of rows"
OF_ROWS = frozenset({REGRESSION, CLASSES_OF_ROWS})
#: Their vocabulary, as they take bits of numbers in the place of ids: any 32 of them are one.
NUMBERS = 2**32


@dataclass(frozen=True)
class ObjectiveKind:
    """A kind of objective, as transformers has it.

    Attributes:
        name: as the configuration calls it.
        loader: the class that loads models of it.
        mapping: where transformers says which types of models it has for it.
        model: what such a model is called in a sentence.
        endings: of the names of its classes.
    """

    name: str
    loader: str
    mapping: str
    model: str
    endings: tuple[str, ...]


KINDS: Mapping[str, ObjectiveKind] = {
    kind.name: kind
    for kind in (
        ObjectiveKind(
            CAUSAL,
            "AutoModelForCausalLM",
            "MODEL_FOR_CAUSAL_LM_MAPPING",
            "causal language model",
            ("ForCausalLM", "LMHeadModel"),
        ),
        ObjectiveKind(
            MASKED,
            "AutoModelForMaskedLM",
            "MODEL_FOR_MASKED_LM_MAPPING",
            "masked language model",
            ("ForMaskedLM",),
        ),
        ObjectiveKind(
            CLASSIFICATION,
            "AutoModelForSequenceClassification",
            "MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING",
            "classifier of texts",
            ("ForSequenceClassification",),
        ),
        ObjectiveKind(
            SEQ2SEQ,
            "AutoModelForSeq2SeqLM",
            "MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING",
            "model of sources and targets",
            ("ForConditionalGeneration",),
        ),
        # Whoever built a module says of which kind it is, and how it is loaded.
        ObjectiveKind(REGRESSION, "", "", "regression of rows", ()),
        ObjectiveKind(CLASSES_OF_ROWS, "", "", "classifier of rows", ()),
    )
}


def kind_of_class(name: str, has_encoder: bool) -> str | None:
    """The kind of a class of transformers by its name, where that tells.

    What generates under a condition may also be a decoder that sees images.
    """
    for kind in KINDS.values():
        if name.endswith(kind.endings) and (has_encoder or kind.name != SEQ2SEQ):
            return kind.name
    return None


def told_kind(config: Mapping[str, Any]) -> str | None:
    """The kind that a config.json tells by its ``architectures``; None where they do not."""
    named = config.get("architectures")
    has_encoder = config.get("is_encoder_decoder") is True
    names = named if isinstance(named, list) else []
    kinds = {kind_of_class(str(name), has_encoder) for name in names}
    return kinds.pop() if len(kinds) == 1 else None


def resolved_kind(wanted: str, config: Mapping[str, Any]) -> str:
    """The kind of a model's objective.

    Args:
        wanted: by the run's configuration; ``auto`` is what config.json tells, and ``causal`` where
            it tells nothing.
        config: the model's config.json.

    Raises:
        ConfigError: config.json tells another one.
    """
    told = told_kind(config)
    if wanted == "auto":
        return told or CAUSAL
    if told is not None and told != wanted:
        names = ", ".join(map(str, config["architectures"]))
        raise ConfigError(
            f"objective.kind: {wanted}, and the model is a {KINDS[told].model} by its config.json "
            f"(architectures: {names}). Set `objective.kind: {told}`, or leave it out; or name a "
            f"{KINDS[wanted].model} under `model`."
        )
    return wanted
