"""A model's own code, run for the checks: its exceptions become sentences."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn

from rayinfluence.errors import ModelError, RayInfluenceError, brief
from rayinfluence.model.dtype import dtype_of, named

#: What to do about a forward pass.
FORWARD = "Try another `dtype` or `attention: eager`, or name another model under `model`."
#: What to do about a backward pass.
BACKWARD = (
    "Influence needs gradients of the model in evaluation mode; try `attention: eager`, or name "
    "another model under `model`."
)


@contextmanager
def in_words(model: nn.Module, doing: str, advice: str) -> Iterator[None]:
    """Say in words what a model's own code raises; what we raise ourselves is said already.

    Args:
        model: the model that is run.
        doing: what it is asked to do, after "cannot".
        advice: what to do about it.

    Raises:
        ModelError: with the model's class and what it raised.
    """
    try:
        yield
    except RayInfluenceError:
        raise
    except Exception as error:  # it is somebody else's code, and may raise anything
        dtype, device = named(dtype_of(model)), next(model.parameters()).device
        said = type(error).__name__ + (f": {brief(error).rstrip('.')}" if str(error) else "")
        raise ModelError(
            f"{type(model).__name__} cannot {doing} in {dtype} on {device}: {said}. {advice}"
        ) from error
