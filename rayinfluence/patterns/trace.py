"""A model run once along a line: what each block is called with, and derivatives at both ends.

R point of the line, T token, D width, B row.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad

from rayinfluence.patterns.anatomy import Block
from rayinfluence.patterns.question import Question


@dataclass(frozen=True)
class Trace:
    """What was seen of a model.

    Attributes:
        hidden: what each block is given, [R, T, D].
        calls: what each is called with besides, for a single row: further arguments, and those with
            names.
        tangent_RTD: of what the first block is given, to the step along the line.
        gradient_RTD: of Q, in what the last block gives.
    """

    hidden: Sequence[Tensor]
    calls: Sequence[tuple[tuple[Any, ...], dict[str, Any]]]
    tangent_RTD: Tensor
    gradient_RTD: Tensor


def trace(
    model: nn.Module,
    blocks: Sequence[Block],
    question: Question,
    along_RTD: Tensor,
    step_TD: Tensor,
) -> Trace:
    """Run a model over points of a line.

    Derivatives go forward from the embedding to the first block, and back from Q to the last; no
    graph of the blocks is kept.

    Args:
        model: that takes ``inputs_embeds``; frozen, in evaluation mode.
        blocks: of it, in the order of their calls.
        question: what is asked.
        along_RTD: what tokens are embedded as.
        step_TD: the direction of the line.
    """
    hidden: list[Tensor] = []
    calls: list[tuple[tuple[Any, ...], dict[str, Any]]] = []
    tangents: list[Tensor] = []
    last: list[Tensor] = []

    def begin(_module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        tangents.append(tangent_of(args[0]))
        hidden.append(forward_ad.unpack_dual(args[0]).primal)
        return (hidden[-1], *args[1:]), kwargs

    def call(_module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        calls.append((args[1:], kwargs))

    def end(_module: nn.Module, _args: Any, output: Any) -> Any:
        given = output[0] if isinstance(output, tuple) else output
        last.append(given.detach().clone().requires_grad_(True))
        return (last[0], *output[1:]) if isinstance(output, tuple) else last[0]

    # Masks and angles of a single row go with any number of rows.
    with _hooked(blocks, call), torch.no_grad():
        value_of(model, question, along_RTD[:1])
    with _hooked(blocks, begin, end), torch.enable_grad(), forward_ad.dual_level():
        step_RTD = step_TD.expand_as(along_RTD).contiguous()
        asked_R = value_of(model, question, forward_ad.make_dual(along_RTD, step_RTD))
        (gradient,) = torch.autograd.grad(asked_R.sum(), last)
    return Trace(hidden, calls, tangents[0], gradient)


@contextmanager
def _hooked(blocks: Sequence[Block], begin: Any, end: Any = None) -> Iterator[None]:
    with ExitStack() as hooks:
        for block in blocks:
            handle = block.whole.register_forward_pre_hook(begin, with_kwargs=True)
            hooks.callback(handle.remove)
        if end is not None:
            hooks.callback(blocks[-1].whole.register_forward_hook(end).remove)
        yield


def ends(model: nn.Module, question: Question, baseline_D: Tensor) -> tuple[Tensor, Tensor]:
    """Where the line of a question begins, and the step from there to its input, [T, D] each."""
    embedding = model.get_input_embeddings().weight.detach()  # type: ignore[operator]
    input_TD = embedding[torch.tensor(question.tokens, device=embedding.device)]
    kept_T = torch.tensor(question.kept, device=embedding.device)
    start_TD = torch.where(kept_T[:, None], input_TD, baseline_D.to(input_TD))
    return start_TD, input_TD - start_TD


def value_of(model: nn.Module, question: Question, embedded_BTD: Tensor) -> Tensor:
    """Q of some embedded inputs [B]: the logit of what is right minus that of what is wrong."""
    logits = model(inputs_embeds=embedded_BTD, use_cache=False).logits[:, question.position]
    difference: Tensor = logits[:, question.right] - logits[:, question.wrong]
    return difference


def tangent_of(value: Tensor) -> Tensor:
    """A copy that outlives the level; zeros where no derivative leads here."""
    tangent = forward_ad.unpack_dual(value).tangent
    return torch.zeros_like(value) if tangent is None else tangent.detach().clone()
