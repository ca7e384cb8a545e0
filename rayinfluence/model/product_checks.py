"""Whether products of curvature are a model's own: before anything is read.

They differentiate its backward pass. An operation that has no second derivative says so; one of
somebody's own that torch cannot see into leaves something out, and nobody says so. What is left is
then not symmetric, as G and H are.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from rayinfluence.errors import ModelError
from rayinfluence.model.batches import unpadded
from rayinfluence.model.curvature_products import Curvature, curvature_products
from rayinfluence.model.dtype import dtype_of
from rayinfluence.model.feeding import kind_of
from rayinfluence.model.foreign import in_words
from rayinfluence.model.load import context_length
from rayinfluence.model.modules import ModuleShape
from rayinfluence.model.objectives import whole_text
from rayinfluence.model.preflight import made_up
from rayinfluence.model.row_task import row_task

_ADVICE = "Leave `scan.solver` out; EK-FAC needs no second derivatives."
#: What rounding may do to <a, G b> - <b, G a>, beside |a| |G b|.
_OFF = 1e-3


def refuse_no_products(
    model: nn.Module,
    modules: Mapping[str, nn.Module],
    shapes: Mapping[str, ModuleShape],
    ordinary: Sequence[int],
    curvature: Curvature,
) -> None:
    """Compare <a, G b> with <b, G a>, of two made-up sequences and directions.

    Args:
        model: the model.
        modules: the tracked ones.
        shapes: theirs.
        ordinary: token ids without a meaning of their own to the model.
        curvature: that products are wanted of.

    Raises:
        ModelError: they cannot be computed, or differ; and what to do.
    """
    device = next(model.parameters()).device
    if (task := row_task(model)) is not None:
        batch = unpadded(made_up(ordinary, device, task.n_tokens))
    else:
        batch = unpadded(made_up(ordinary, device)[:, : context_length(model)])
    targets = whole_text(kind_of(model)).targets(batch)
    generator = torch.Generator().manual_seed(0)
    wide = torch.promote_types(dtype_of(model), torch.float32)
    a, b = (
        {
            name: torch.randn(shape.d_out, shape.columns, generator=generator, dtype=wide).to(
                device
            )
            for name, shape in shapes.items()
        }
        for _ in range(2)
    )
    with in_words(model, "differentiate its backward pass", _ADVICE):
        along_a, along_b = curvature_products(model, modules, batch, targets, [a, b], curvature)
    forth, back = _inner(a, along_b), _inner(b, along_a)
    sizes = _inner(a, a) ** 0.5 * _inner(along_b, along_b) ** 0.5
    sizes += _inner(b, b) ** 0.5 * _inner(along_a, along_a) ** 0.5
    if not abs(forth - back) <= _OFF * sizes:
        raise ModelError(
            f"scan.solver: products of the curvature of {type(model).__name__} are not symmetric "
            f"(by {abs(forth - back) / sizes:.1%}): a part of its backward pass is code of its "
            f"own, which cannot be differentiated. {_ADVICE}"
        )


def _inner(left: Mapping[str, Tensor], right: Mapping[str, Tensor]) -> float:
    return float(sum(float((one.double() * right[name]).sum()) for name, one in left.items()))
