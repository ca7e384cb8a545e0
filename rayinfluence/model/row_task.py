"""What a module of the user's own is built for: rows of features, and a target of each.

Such a module takes features [B, F] and gives predictions [B] or [B, 1], or logits of classes
[B, C].
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from rayinfluence.named_function import NamedFunction

_NAME = "row_task"


@dataclass(frozen=True)
class RowTask:
    """What is known of a module that takes rows.

    Attributes:
        kind: ``regression``, or that of classes of rows.
        n_features: F.
        builder: the function that has built it.
    """

    kind: str
    n_features: int
    builder: NamedFunction

    @property
    def n_tokens(self) -> int:
        """Numbers of a row, with its target."""
        return self.n_features + 1

    def given_to(self, model: nn.Module) -> nn.Module:
        """The module, which knows its task from now on, also as a copy."""
        setattr(model, _NAME, self)
        return model


def row_task(model: nn.Module) -> RowTask | None:
    """What a module is built for; None of a model of texts."""
    found = getattr(model, _NAME, None)
    return found if isinstance(found, RowTask) else None
