"""What representer points need of a model: refused before a document is read."""

from __future__ import annotations

from rayinfluence.dataflow.compute.replica import Replica
from rayinfluence.errors import ModelError
from rayinfluence.objective_kinds import REGRESSION


def refuse_no_last_layer(replica: Replica) -> str | None:
    """See that one linear layer makes logits of classes; what to beware of.

    Args:
        replica: the model, with its numerics.

    Raises:
        ModelError: none does, or the model predicts numbers.
    """
    if replica.numerics.objective == REGRESSION:
        raise ModelError(
            "representer: the model predicts numbers, and representer points are of logits of "
            "tokens or classes. Take `representer` out of scan.methods."
        )
    found = replica.last_layer
    if not found.is_tied:
        return None
    return (
        f"representer: the weight of the last layer, {found.name!r}, is the embedding of tokens, "
        "too. It is fitted again by itself, and the embedding stays as it is: scores are of a "
        "model whose two are apart."
    )
