"""A model's own code, run for the checks: its exceptions become sentences."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from rayinfluence.errors import ModelError, RayInfluenceError, brief
from rayinfluence.model.dtype import dtype_of, named
from rayinfluence.model.row_task import row_task

#: What to do about a forward pass, with the dtype to try.
FORWARD = "Try {dtype} or `attention: eager`, or name another model under `model`."
#: What to do about a backward pass.
BACKWARD = (
    "Influence needs gradients of the model in evaluation mode; try `attention: eager`, or name "
    "another model under `model`."
)


def running_on(model: nn.Module, n_tokens: int) -> str:
    """What a model is asked to do that is run on made-up sequences, in words."""
    return f"run on {n_tokens} tokens" if row_task(model) is None else "run on rows of features"


@contextmanager
def in_words(model: nn.Module, doing: str, advice: str) -> Iterator[None]:
    """Say in words what a model's own code raises; what we raise ourselves is said already.

    Args:
        model: the model that is run.
        doing: what it is asked to do, after "cannot".
        advice: what to do about it; ``{dtype}`` stands for the one to try.

    Raises:
        ModelError: with the model's class and what it raised.
    """
    try:
        yield
    except RayInfluenceError:
        raise
    except Exception as error:  # it is somebody else's code, and may raise anything
        dtype, device = dtype_of(model), next(model.parameters()).device
        others = sorted({named(weight.dtype) for weight in model.parameters()} - {named(dtype)})
        numbers = named(dtype) + (f" (some weights in {', '.join(others)})" if others else "")
        # What the code makes itself is mostly float32, which then is not what its weights are.
        plain = "another `dtype`" if dtype == torch.float32 else "`dtype: float32`"
        said = type(error).__name__ + (f": {brief(error).rstrip('.')}" if str(error) else "")
        if isinstance(error, IndexError):  # of a table that is too short, whatever the numbers
            advice = "Its config.json may not fit its code; name another model under `model`."
        if (task := row_task(model)) is not None and advice in (FORWARD, BACKWARD):
            advice = f"Try {{dtype}}, or mend what {task.builder.name} builds."
        raise ModelError(
            f"{type(model).__name__} cannot {doing} in {numbers} on {device}: {said}. "
            + advice.format(dtype=plain)
        ) from error
