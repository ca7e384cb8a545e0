"""Whether a model has second derivatives, as token influences need them: before anything is read.

An operation without one ends a run, where torch says so; a backward pass of somebody's own that
torch cannot see into gives another number, and nobody says so.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from rayinfluence.errors import ModelError
from rayinfluence.model.batches import make_batch
from rayinfluence.model.dtype import dtype_of
from rayinfluence.model.foreign import in_words
from rayinfluence.model.load import context_length
from rayinfluence.model.modules import ModuleShape
from rayinfluence.model.preflight import made_up, random_directions
from rayinfluence.model.targets import NextTokens
from rayinfluence.model.token_influences import Embedded, change_along, token_influences

_ADVICE = "Leave `scan.token_influences` out; scores by token need no second derivatives."
#: Embeddings are scaled by 1 +- these: one step is small enough for a model that bends much, the
#: other large enough for one that rounds much. The better difference may be off by a tenth; what is
#: wrong is wrong by both. In bfloat16 numbers are as far apart, and there is no difference.
_STEPS, _OFF = (1e-3, 1e-2), 0.1


def refuse_no_second_derivatives(
    model: nn.Module,
    modules: Mapping[str, nn.Module],
    shapes: Mapping[str, ModuleShape],
    ordinary: Sequence[int],
) -> None:
    """Compare influences of all tokens of a made-up sequence with its score, and a difference.

    Args:
        model: the model.
        modules: the tracked ones.
        shapes: theirs.
        ordinary: token ids without a meaning of their own to the model.

    Raises:
        ModelError: they cannot be computed, or are not what the difference says; and what to do.
    """
    device = next(model.parameters()).device
    tokens_T = made_up(ordinary, device)[0, : context_length(model)]
    batch = make_batch([tokens_T.cpu().numpy()], [0], device)
    targets = NextTokens().targets(batch)
    wide = torch.promote_types(dtype_of(model), torch.float32)
    [directions] = random_directions(model, shapes, 1)
    ones_N = torch.ones(len(targets.places_N), dtype=wide, device=device)

    def along(scale: float) -> float:
        embedded = Embedded(batch.shape, wide, device, scale)
        found: Tensor = change_along(model, modules, batch, targets, directions, ones_N, embedded)
        return float(found.detach())

    with in_words(model, "differentiate its backward pass", _ADVICE):
        found = token_influences(model, modules, batch, targets, directions)
        differences = [(along(step) - along(-step)) / (2 * step) for step in _STEPS]
        score = along(0.0)
    # All together they may be next to nothing, as where embeddings are normalised.
    least = 0.1 * (abs(score) + float(found.input_BT.abs().sum() + found.output_BT.abs().sum()))

    def distance(influences_BT: Tensor, expected: float) -> float:
        return abs(float(influences_BT.sum()) - expected) / max(abs(expected), least, 1e-30)

    off = distance(found.output_BT, score)
    if dtype_of(model) != torch.bfloat16:
        off = max(off, min(distance(found.input_BT, one) for one in differences))
    if not off <= _OFF:
        raise ModelError(
            f"scan.token_influences: of {type(model).__name__} they are {off:.0%} off what its "
            "scores say: a part of its backward pass is code of its own, which cannot be "
            f"differentiated. {_ADVICE}"
        )
