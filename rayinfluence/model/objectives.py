"""The objective of each kind: of training, of a query, and of whole made-up sequences."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

from rayinfluence.model.classes import ClassOf
from rayinfluence.model.masking import MaskedSpan, MaskedTokens, Masking, OwnTokens
from rayinfluence.model.row_targets import TargetOfRow
from rayinfluence.model.targets import Mean, NextTokens, Objective, TargetTokens
from rayinfluence.objective_kinds import (
    CAUSAL,
    CLASSES_OF_ROWS,
    CLASSIFICATION,
    MASKED,
    OF_ROWS,
    SEQ2SEQ,
)


def _masked(on_masks: bool, masking: Masking | None, seed: int) -> Objective:
    assert masking is not None
    return MaskedTokens(masking, seed, on_masks)


#: Of training, by their kinds: given whether the corpus's loss masks say what counts, and how
#: tokens are masked, by which seed.
OBJECTIVES: Mapping[str, Callable[[bool, Masking | None, int], Objective]] = MappingProxyType(
    {
        CAUSAL: lambda on_masks, _masking, _seed: NextTokens(masked=on_masks),
        MASKED: _masked,
        CLASSIFICATION: lambda *_: ClassOf(),
        SEQ2SEQ: lambda *_: TargetTokens(),
        **{kind: lambda *_, kind=kind: TargetOfRow(kind == CLASSES_OF_ROWS) for kind in OF_ROWS},
    }
)


def objective_of(
    kind: str, loss: str, reduction: str, masking: Masking | None, seed: int
) -> Objective:
    """What training maximised of a sequence.

    Args:
        kind: of :data:`OBJECTIVES`.
        loss: ``all``, or whatever says that the masks of the corpus are asked.
        reduction: ``sum`` or ``mean`` over the targets of a sequence.
        masking: of a masked language model.
        seed: of the run.
    """
    found = OBJECTIVES[kind](loss != "all", masking, seed)
    return Mean(found) if reduction == "mean" else found


def asked(kind: str, first: int, end: int, masking: Masking | None, label: int | None) -> Objective:
    """Log p of the tokens of a query's completion, or of a class.

    Args:
        kind: of the model's objective.
        first: token of the completion.
        end: the token after its last.
        masking: of a masked language model: the completion is masked whole.
        label: the class that a classifier is asked for.
    """
    if label is not None:
        return ClassOf(label)
    if kind in OF_ROWS:
        return TargetOfRow(kind == CLASSES_OF_ROWS)
    if kind == MASKED:
        assert masking is not None
        return MaskedSpan(first, end, masking.token)
    return NextTokens(first)


def whole_text(kind: str) -> Objective:
    """What checks ask for of made-up sequences: each token, or the first class."""
    if kind == CLASSIFICATION:
        return ClassOf(0)
    if kind in OF_ROWS:
        return TargetOfRow(kind == CLASSES_OF_ROWS, label=0)
    if kind == SEQ2SEQ:
        return TargetTokens()
    return OwnTokens() if kind == MASKED else NextTokens()
