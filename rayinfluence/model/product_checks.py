"""Whether products of curvature are a model's own: before anything is read.

They differentiate its backward pass. An operation that has no second derivative says so at best;
one of somebody's own that torch cannot see into leaves something out, and nobody says so. Then the
derivative J P of the logits is not the one whose transpose the plain backward pass has, and H is
not symmetric.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from rayinfluence.errors import ModelError
from rayinfluence.model.batches import Batch, unpadded
from rayinfluence.model.curvature_products import Curvature, curvature_products, linearised
from rayinfluence.model.feeding import kind_of
from rayinfluence.model.foreign import in_words
from rayinfluence.model.load import context_length
from rayinfluence.model.modules import ModuleShape
from rayinfluence.model.objectives import whole_text
from rayinfluence.model.preflight import made_up, random_directions
from rayinfluence.model.row_task import row_task
from rayinfluence.model.targets import Targets

_ADVICE = "Leave `scan.solver` out, and the method `koh_liang`; EK-FAC needs no second derivatives."
#: What rounding may do to <w, J P> beside <J^T w, P>, where what is left out of a module is a part
#: of 1, and to <a, H b> beside <b, H a>.
_OFF, _ASYMMETRIC = 1e-2, 1e-3


def refuse_no_products(
    model: nn.Module,
    modules: Mapping[str, nn.Module],
    shapes: Mapping[str, ModuleShape],
    ordinary: Sequence[int],
    curvature: Curvature,
) -> None:
    """Compare products with what they have to be, of two made-up sequences.

    Args:
        model: the model.
        modules: the tracked ones.
        shapes: theirs.
        ordinary: token ids without a meaning of their own to the model.
        curvature: that products are wanted of.

    Raises:
        ModelError: they cannot be computed, or are others; and what to do.
    """
    device = next(model.parameters()).device
    if (task := row_task(model)) is not None:
        batch = unpadded(made_up(ordinary, device, task.n_tokens))
    else:
        batch = unpadded(made_up(ordinary, device)[:, : context_length(model)])
    targets = whole_text(kind_of(model)).targets(batch)
    a, b = random_directions(model, shapes, 2)
    with in_words(model, "differentiate its backward pass", _ADVICE):
        wrong = not _off_transpose(model, modules, batch, targets) <= _OFF
        if curvature == "hessian":
            told = model, modules, batch, targets, [a, b], curvature
            wrong = wrong or not _asymmetry(a, b, *curvature_products(*told)) <= _ASYMMETRIC
    if wrong:
        raise ModelError(
            f"products of the curvature of {type(model).__name__} are not what its "
            "gradients say: a part of its backward pass is code of its own, which cannot be "
            f"differentiated. {_ADVICE}"
        )


def _off_transpose(
    model: nn.Module, modules: Mapping[str, nn.Module], batch: Batch, targets: Targets
) -> float:
    """How far <w, J P> is from <J^T w, P>, where each module has a part of 1 in that."""
    generator = torch.Generator().manual_seed(0)
    with linearised(model, modules, batch, targets) as linear:
        if not linear.is_reached:
            return 0.0
        shape = linear.logits_NV.shape
        w_NV = torch.randn(shape, generator=generator).to(linear.logits_NV)
        back = linear.back(w_NV)
        squares = {name: float(one.double().square().sum()) for name, one in back.items()}
        direction = {name: one / (squares[name] or 1.0) for name, one in back.items()}
        found = float((w_NV.double() * linear.along(direction)).sum())
    n_reached = sum(square > 0 for square in squares.values())
    return abs(found - n_reached)


def _asymmetry(
    a: Mapping[str, Tensor],
    b: Mapping[str, Tensor],
    along_a: Mapping[str, Tensor],
    along_b: Mapping[str, Tensor],
) -> float:
    forth, back = _inner(a, along_b), _inner(b, along_a)
    sizes = _inner(a, a) ** 0.5 * _inner(along_b, along_b) ** 0.5
    sizes += _inner(b, b) ** 0.5 * _inner(along_a, along_a) ** 0.5
    return abs(forth - back) / sizes if sizes else 0.0


def _inner(left: Mapping[str, Tensor], right: Mapping[str, Tensor]) -> float:
    return float(sum(float((one.double() * right[name]).sum()) for name, one in left.items()))
