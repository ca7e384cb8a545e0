"""What training maximised of a sequence: the objective's section of a configuration."""

from __future__ import annotations

import re
from typing import Literal

from pydantic import Field, field_validator, model_validator

from rayinfluence.config_places import Section
from rayinfluence.config_sentences import shown

#: Those of `objective_kinds.py`, and what the model's config.json tells.
_KINDS = ("auto", "causal", "masked", "classification", "seq2seq", "regression")


class ObjectiveConfig(Section):
    """What training maximised of a sequence; it decides factors and the gradients of sequences."""

    kind: str = "auto"
    """``causal``: log-probabilities of tokens given those before them.

    ``masked``: of tokens that are masked, given all others. ``classification``: of the class that
    ``corpus.label_column`` names, given the text. ``seq2seq``: of the tokens of a target
    given its source (``corpus.prompt_column``) and those before. ``auto`` is what the model's
    config.json tells by its architectures, and ``causal`` where it tells nothing. Of rows of
    features (``model_function``): ``regression``, of numbers, or ``classification``. And
    ``module:function`` is a function of your own, of the logits of such a model and their labels.
    """
    loss: str = "all"
    """Which tokens counted: ``all`` (but the first, which nothing predicts), ``completion``, or a
    column of the documents that lists characters as ``[[start, end], ...]``.

    ``completion``: what follows the prompt (``corpus.prompt_column``), or what the assistant says
    where ``corpus.text_column`` holds messages.
    """
    reduction: Literal["sum", "mean"] = "sum"
    """Over the tokens of a sequence that counted; by ``mean`` each sequence counts alike."""
    mask_rate: float | None = Field(default=None, gt=0, le=1)
    """The share of a sequence's tokens that training masked, of a masked language model.

    None is 0.15, as BERT has it.
    """

    @field_validator("kind")
    @classmethod
    def _is_a_kind(cls, kind: str) -> str:
        if ":" in kind:
            return of_a_module(kind)
        if kind not in _KINDS:
            named = ", ".join(f"'{one}'" for one in _KINDS)
            raise ValueError(f"must be {named} or module:function, not {shown(kind)}")
        return kind

    @model_validator(mode="after")
    def _is_a_sum_of_its_own(self) -> ObjectiveConfig:
        if self.function is not None and self.reduction == "mean":
            raise ValueError(
                f"{self.function} says by itself how tokens are added up. "
                "Divide there, and leave reduction: mean out."
            )
        return self

    @property
    def function(self) -> str | None:
        """What training maximised, where it is a function of the user's own."""
        return self.kind if ":" in self.kind else None

    @property
    def of_model(self) -> str:
        """The kind that the model has to have; ``auto`` where its config.json decides."""
        return "auto" if self.function else self.kind

    @property
    def column(self) -> str | None:
        """The column of documents that says what counted, where one does."""
        return None if self.loss in ("all", "completion") else self.loss


def of_a_module(name: str) -> str:
    """The name of a function of the user's own.

    Raises:
        ValueError: it is none.
    """
    if not re.fullmatch(r"\w+(\.\w+)*:\w+", name):
        raise ValueError(
            "must be module:function, as in `my_functions:margin` for `def margin` in "
            f"my_functions.py, not {shown(name)}"
        )
    return name
