"""What an answer is given by a query, from the model's logits: differentiable in them.

T token, V vocabulary, N token of the completion.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from rayinfluence.corpus.queries import EncodedAnswer
from rayinfluence.corpus.query_forms import Measurement
from rayinfluence.errors import ConfigError, brief
from rayinfluence.model.losses import log_probabilities, margins, wide

#: Of the user's own: logits [T, V] in float32 or float64, tokens [T], where the completion begins.
Function = Callable[[Tensor, Tensor, int], Any]


def logits(logits_NV: Tensor, labels_N: Tensor) -> Tensor:
    """The logits of the labels [N], which softmax knows up to one number for all of a row."""
    return wide(logits_NV).gather(1, labels_N[:, None])[:, 0]


#: What is taken of each token, given logits [N, V] and labels [N].
MEASUREMENTS: Mapping[Measurement, Callable[[Tensor, Tensor], Tensor]] = {
    "log_probability": log_probabilities,
    "logit": logits,
    "margin": margins,
    "prediction": lambda logits_NV, _labels_N: wide(logits_NV)[:, 0],
}


def of_measurements(answer: EncodedAnswer, measured_N: Tensor) -> Tensor:
    """The weighted sum of what is measured of the tokens that count."""
    if answer.shares is None:
        total = measured_N.sum()
    else:
        shares_N = torch.tensor(answer.shares, dtype=measured_N.dtype, device=measured_N.device)
        total = (measured_N * shares_N).sum()
    return total if answer.weight == 1 else total * answer.weight


def of_function(answer: EncodedAnswer, name: str, function: Function, logits_TV: Tensor) -> Tensor:
    """The weighted value of the user's own function.

    Args:
        answer: the tokens.
        name: of the function, for messages.
        function: the function.
        logits_TV: of all tokens.

    Raises:
        ConfigError: it fails, gives no scalar that depends on the logits, or gives another one
            when it is called again.
    """
    tokens_T = torch.tensor(answer.tokens, device=logits_TV.device)

    def value(logits_TV: Tensor) -> Tensor:
        try:
            found = function(logits_TV, tokens_T.clone(), answer.first_target)
        except (Exception, SystemExit) as error:  # it is the user's, and may fail in any way
            raise ConfigError(
                f"query_function: {name} fails: {type(error).__name__}: {brief(error)}."
            ) from error
        if not isinstance(found, Tensor) or found.ndim:
            shape = f" of shape {list(found.shape)}" if isinstance(found, Tensor) else ""
            raise ConfigError(
                f"query_function: {name} gives a {type(found).__name__}{shape}, and a tensor of no "
                "axes is needed, which one number is: sum or index what it gives."
            )
        return found

    found = value(wide(logits_TV))
    if logits_TV.requires_grad and not found.requires_grad:
        raise ConfigError(
            f"query_function: what {name} gives has no gradient in the logits, as after "
            "`.detach()`, `.item()` or `argmax`. Make it of differentiable operations."
        )
    with torch.no_grad():
        again = value(wide(logits_TV.detach()))
    if not torch.equal(found.detach().nan_to_num(), again.nan_to_num()):
        raise ConfigError(
            f"query_function: {name} gives {float(found.detach()):.6g} and then {float(again):.6g} "
            "of the same logits. Nothing that is computed twice would agree: take what is random "
            "out of it, and change nothing in place."
        )
    return found * answer.weight
