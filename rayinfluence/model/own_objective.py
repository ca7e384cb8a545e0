"""An objective of the user's own: a function of logits and labels, with a value per sequence.

It is what training maximised of each sequence, as log p is of the kinds that we know; a loss has
another sign. Influence needs a sum over sequences that is differentiable: each call sees that there
is a value of each sequence, and `own_objective_checks` all else, before the run.

B sequence in batch, T token, V vocabulary; of a classifier V are classes, and there is no T.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from rayinfluence.errors import ConfigError, brief
from rayinfluence.model.batches import Batch
from rayinfluence.model.losses import wide
from rayinfluence.model.targets import Targets
from rayinfluence.named_function import NamedFunction
from rayinfluence.objective_kinds import CLASSIFICATION

#: The label of a place where nothing is predicted: what ``torch.nn.functional.cross_entropy``
#: leaves out unless told otherwise.
NO_LABEL = -100


@dataclass(frozen=True)
class OwnObjective:
    """A function of the user's own, as it is called.

    Attributes:
        named: the function by its name.
        kind: of the model's objective.
        function: given logits [B, T, V] in float32 or float64, labels [B, T], tokens [B, T] and
            lengths [B], the values [B]. A label is what the logits at its own place are to predict,
            :data:`NO_LABEL` where that does not count. Of a classifier logits are [B, V] and labels
            [B].
    """

    named: NamedFunction
    kind: str
    function: Callable[..., Any]

    @classmethod
    def load(cls, named: NamedFunction, kind: str) -> OwnObjective:
        """Import the function in this process.

        Raises:
            ConfigError: it is not there, or another one than the driver's.
        """
        return cls(named, kind, named.load())

    def values(self, logits_BTV: Tensor, batch: Batch, targets: Targets) -> Tensor:
        """What training maximised of each sequence [B].

        Args:
            logits_BTV: of the batch as the model is given it; of a classifier [B, 1, V].
            batch: the sequences.
            targets: of the kind of the model, which say what may be predicted where.

        Raises:
            ConfigError: the function fails, or gives no floating-point number for each sequence.
        """
        shape = logits_BTV.shape[:2]
        labels_BT = targets.labels_N.new_full(shape, NO_LABEL).flatten()
        labels_BT = labels_BT.index_copy(0, targets.places_N, targets.labels_N).view(shape)
        logits, lengths_B = wide(logits_BTV), batch.on_device(batch.lengths_B)
        if self.kind == CLASSIFICATION:
            logits, labels_BT = logits[:, 0], labels_BT[:, 0]
        try:
            found = self.function(logits, labels_BT, batch.tokens_BT.clone(), lengths_B)
        except (Exception, SystemExit) as error:  # it is the user's, and may fail in any way
            raise ConfigError(
                f"{self} fails on a batch of {len(lengths_B)} sequences: {type(error).__name__}: "
                f"{brief(error)}."
            ) from error
        if not (
            isinstance(found, Tensor)
            and found.is_floating_point()
            and found.shape == lengths_B.shape
        ):
            raise ConfigError(
                f"{self} gives {_described(found)} for {len(lengths_B)} sequences, and a "
                f"floating-point number of each is needed, [{len(lengths_B)}]: what training "
                "maximised of it alone. Add up over its tokens, and not over sequences."
            )
        return wide(found)

    def __str__(self) -> str:
        """For the beginning of a message."""
        return f"{self.named.key}: {self.named.name}"


def _described(found: Any) -> str:
    if not isinstance(found, Tensor):
        return "nothing" if found is None else f"a {type(found).__name__}"
    kind = "" if found.is_floating_point() else f" of {str(found.dtype).removeprefix('torch.')}"
    return (
        f"a tensor [{', '.join(map(str, found.shape))}]{kind}"
        if found.ndim
        else (f"one number{kind}")
    )
