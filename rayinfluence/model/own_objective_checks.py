"""Is an objective of the user's own one that influence can be had of? Asked before the run.

Influence is of a sum over sequences: the value of one, and its gradient, may depend on nothing but
that sequence. The same logits are given each time, in float64, so that the model has no part in it.

B sequence in batch, T token, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor, nn

from rayinfluence.errors import ConfigError, brief
from rayinfluence.guest import same_draws
from rayinfluence.model.batches import Batch, make_batch
from rayinfluence.model.head import forward_logits
from rayinfluence.model.own_objective import OwnObjective
from rayinfluence.model.targets import Objective

#: Lengths of the made-up sequences.
_LENGTHS = (7, 12, 9)
#: What rounding may do to a value or a gradient, as the function may compute in float32.
_ROUNDING = 1e-4
_SUM = "Influence is of a sum over sequences"


def refuse_unfit(
    own: OwnObjective,
    model: nn.Module,
    objective: Objective,
    ordinary: Sequence[int],
    context: int,
    masked: bool,
) -> None:
    """Try a function on made-up sequences, together and each alone.

    Args:
        own: the function.
        model: whose logits it is given.
        objective: of the kind of the model.
        ordinary: token ids without a meaning of their own.
        context: the most tokens of a sequence in this run.
        masked: whether the loss of training counted a part of each sequence.

    Raises:
        ConfigError: it fails, draws at random, gives no finite number for each sequence, has no
            gradient, or a value or its gradient depends on other sequences or on padding.
    """
    generator = np.random.default_rng(0)
    lengths = [min(length, context) for length in _LENGTHS]
    sequences = [generator.choice(np.asarray(ordinary), length) for length in lengths]
    tried = _Tried(own, objective, sequences, masked, next(model.parameters()).device)
    whole = tried.batch()
    with torch.no_grad():
        logits_BTV = forward_logits(model, objective.targets(whole).given(whole)).double()
    logits_BTV.requires_grad_(True)
    with same_draws(), torch.enable_grad():
        values_B = tried.values(whole, logits_BTV)
        _refuse_other_values(tried, whole, logits_BTV, values_B.detach())
        _refuse_other_gradients(tried, whole, logits_BTV, values_B)


@dataclass(frozen=True)
class _Tried:
    """The function with the sequences that it is tried on."""

    own: OwnObjective
    objective: Objective
    sequences: Sequence[np.ndarray]
    masked: bool
    device: torch.device

    def batch(self, rows: Sequence[int] | None = None) -> Batch:
        """Some of them, as they would be in a run: each has its id, and one of two classes."""
        rows = range(len(self.sequences)) if rows is None else rows
        some = [self.sequences[row] for row in rows]
        masks = [np.arange(len(one)) >= len(one) // 2 for one in some] if self.masked else None
        return make_batch(some, rows, self.device, masks, np.asarray(rows) % 2)

    def values(self, batch: Batch, logits_BTV: Tensor) -> Tensor:
        """The values [B] of some of them."""
        return self.own.values(logits_BTV, batch, self.objective.targets(batch))


def _refuse_other_values(tried: _Tried, whole: Batch, logits_BTV: Tensor, values_B: Tensor) -> None:
    """Refuse values that are others the second time, beside others, or with padding."""
    own, again_B = tried.own, tried.values(whole, logits_BTV).detach()
    if not torch.equal(values_B.nan_to_num(), again_B.nan_to_num()):
        raise ConfigError(
            f"{own} gives {values_B.tolist()} and then {again_B.tolist()} of the same logits. "
            "Nothing that is computed twice would agree: take what is random out of it, and change "
            "nothing in place."
        )
    if not bool(torch.isfinite(values_B).all()):
        raise ConfigError(
            f"{own} gives {values_B.tolist()} for made-up sequences, and a finite number of each "
            "is needed: see that it divides by nothing that may be 0, and takes the logarithm of "
            "nothing that may be."
        )
    least = _ROUNDING * float(values_B.abs().max())
    for row, length in enumerate(whole.lengths_B.tolist()):
        batch, only = tried.batch([row]), logits_BTV[row : row + 1].detach()
        # Of a classifier there is one place, whatever the tokens are.
        alone = float(tried.values(batch, only[:, :length])[0])
        if logits_BTV.shape[1] > length:
            padded = float(tried.values(_widened(batch, whole), only)[0])
            if not abs(padded - alone) <= least:
                raise ConfigError(
                    f"{own} gives {padded:.6g} for a sequence with padding, and {alone:.6g} "
                    f"without. {_SUM}, whatever their batches are padded to: leave out places "
                    "whose label is -100, or that are beyond lengths_B."
                )
        if not abs(float(values_B[row]) - alone) <= least:
            raise ConfigError(
                f"{own} gives {float(values_B[row]):.6g} for a sequence in a batch of "
                f"{len(values_B)}, and {alone:.6g} alone. {_SUM}, and the value of one may not "
                "depend on the others: take no mean, maximum or rank over the batch."
            )


def _widened(batch: Batch, whole: Batch) -> Batch:
    """A sequence alone, padded as it is in the whole batch."""
    missing = whole.shape[1] - batch.shape[1]
    tokens_BT = nn.functional.pad(batch.tokens_BT, (0, missing))
    return replace(batch, tokens_BT=tokens_BT)


def _refuse_other_gradients(
    tried: _Tried, whole: Batch, logits_BTV: Tensor, values_B: Tensor
) -> None:
    """Refuse gradients that are none, not finite, or in others' logits or those of padding."""
    own = tried.own
    if not values_B.requires_grad:
        raise ConfigError(
            f"{own} gives what has no gradient in the logits, as after `.detach()`, `.item()` or "
            "`argmax`. Make it of differentiable operations."
        )
    found = [_gradient(own, value, logits_BTV) for value in values_B]
    largest = max(float(one.abs().max()) for one in found)
    if not largest:
        raise ConfigError(
            f"{own} has a gradient of zero in all logits of made-up sequences: nothing can be "
            "attributed. See that it depends on the logits, and on labels that are not -100."
        )
    for row, (gradient_BTV, length) in enumerate(zip(found, whole.lengths_B.tolist(), strict=True)):
        ours_TV = gradient_BTV[row]
        at_padding, of_others = ours_TV[length:], gradient_BTV.abs().sum((1, 2))
        of_others[row] = 0.0
        if float(of_others.max()) > _ROUNDING * largest:
            raise ConfigError(
                f"{own} gives a sequence a value whose gradient is also in the logits of others of "
                f"its batch. {_SUM}, and the value of one may not depend on the others: take no "
                "mean, maximum or rank over the batch, detached or not."
            )
        if len(at_padding) and float(at_padding.abs().max()) > _ROUNDING * largest:
            raise ConfigError(
                f"{own} gives a value whose gradient is also in the logits of padding. Leave out "
                "places whose label is -100, or that are beyond lengths_B."
            )


def _gradient(own: OwnObjective, value: Tensor, logits_BTV: Tensor) -> Tensor:
    """Of one value in all logits."""
    try:
        (found,) = torch.autograd.grad(value, [logits_BTV], retain_graph=True, allow_unused=True)
    except RuntimeError as error:  # of an operation that is not differentiable, or changed in place
        raise ConfigError(f"{own} cannot be differentiated: {brief(error)}.") from error
    if found is None:
        return torch.zeros_like(logits_BTV)
    if not bool(torch.isfinite(found).all()):
        raise ConfigError(
            f"{own} has a gradient that is NaN or infinite for made-up sequences, as a root or a "
            "logarithm has at 0. Make it finite there."
        )
    return found
