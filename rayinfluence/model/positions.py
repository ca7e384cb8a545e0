"""Whether a model has as many positions as a run asks for, and the same ones for every sequence."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from rayinfluence.errors import ModelError
from rayinfluence.model.batches import unpadded
from rayinfluence.model.head import forward_logits
from rayinfluence.model.reach import patterns_of

#: Weights times tokens of a forward pass that takes some five seconds on one core.
_SECONDS = 10**11
#: Lengths on either side of the longest that are tried for it being that.
_BEYOND = 8


def check_positions(
    model: nn.Module,
    modules: Mapping[str, nn.Module],
    ordinary: Sequence[int],
    context: int,
    device: torch.device,
    alone: bool,
) -> None:
    """Refuse a context for which the model has no positions, or others than for shorter ones.

    Whole sequences are run through the first of the model's blocks, or up to its first tracked
    module, which is behind all positions and costs next to nothing of a model of any size.
    ``alone`` says that each sequence is a batch of its own.

    Raises:
        ModelError: with the longest context that works.
    """
    for name, module in model.named_modules():
        if not any(part.endswith("inv_freq") for part, _ in module.named_buffers(recurse=False)):
            continue
        kinds = set(getattr(getattr(module, "config", None), "layer_types", None) or [])
        more = "layer_type" in _arguments(module.forward)
        for kind in sorted(kinds) if more else [None]:
            # Of a sequence alone they may depend on its own length.
            longest = _longest(context, partial(_forgets if alone else _keeps_angles, module, kind))
            if longest == context:
                continue
            on, so, advice = (
                ("sequences that ran before", "their order", "")
                if alone
                else (
                    "the longest sequence of a batch",
                    "the batch",
                    ", or try `batch_tokens: 1`, which runs each sequence alone",
                )
            )
            raise ModelError(
                f"corpus.context: in this model the angles of {name} depend on {on} beyond "
                f"{longest:,} tokens, so that a score would depend on {so}. Set it to at most "
                f"{longest:,}{advice}."
            )
    # Padding has no position of its own in some models; nor may what else they take for it.
    padding = getattr(getattr(model, "config", None), "pad_token_id", None)
    some = [token for token in ordinary if token != padding]
    tokens = torch.from_numpy(np.resize(np.asarray(some), context)).to(device)[None]

    def works(length: int) -> bool:
        return _runs(model, modules, tokens[:, :length])

    if not works(context):
        longest = _longest(context, works)
        raise too_long(longest, context)


def _keeps_angles(module: nn.Module, kind: str | None, length: int) -> bool:
    """Whether the angles of the first positions are those of a short sequence."""
    short, long = _angles(module, kind, (min(8, length), length))
    return all(torch.equal(a, b[:, : a.shape[1]]) for a, b in zip(short, long, strict=True))


def _forgets(module: nn.Module, kind: str | None, length: int) -> bool:
    """Whether the angles of shorter sequences are the same after one of this length."""
    for shorter in {2, max(2, length // 2), max(2, length - 1)}:
        (fresh,) = _angles(module, kind, (shorter,))
        _, after = _angles(module, kind, (length, shorter))
        if not all(torch.equal(a, b) for a, b in zip(fresh, after, strict=True)):
            return False
    return True


def _angles(module: nn.Module, kind: str | None, lengths: Sequence[int]) -> list[list[Tensor]]:
    """Those of sequences that run one after the other; none of a module that is called otherwise.

    Then a longer neighbour tells.
    """
    twin: Any = copy.deepcopy(module)
    device = next(twin.buffers()).device
    like = torch.zeros(1, 1, 1, device=device)
    more = () if kind is None else (kind,)
    try:
        found = [twin(like, torch.arange(n, device=device)[None], *more) for n in lengths]
    except Exception:  # somebody else's code may say so in any way
        return [[] for _ in lengths]
    return [
        [one] if isinstance(one, Tensor) else [part for part in one if torch.is_tensor(part)]
        for one in found
    ]


def _longest(context: int, works: Callable[[int], bool]) -> int:
    """The largest length up to a context that works, where all shorter ones do; 1 at least."""
    least, most = 1, context + 1
    while most - least > 1:
        middle = (least + most) // 2
        least, most = (middle, most) if works(middle) else (least, middle)
    return least


def affordable(model: nn.Module, n_passes: int, most: int) -> int:
    """Tokens, up to ``most``, that so many forward passes over them take some seconds for."""
    n_weights = sum(weight.numel() for weight in model.parameters())
    return min(most, _SECONDS // (n_passes * max(1, n_weights)))


def longest_that_runs(model: nn.Module, tokens_BT: Tensor) -> int | None:
    """The most tokens that a model runs on, where it fails on more; None where it is not so.

    A mask or a table behind the first layers may be shorter than the positions before them.

    Args:
        model: the model.
        tokens_BT: sequences that it fails on.
    """

    def runs(length: int) -> bool:
        try:
            with torch.no_grad():
                forward_logits(model, unpadded(tokens_BT[:, :length]))
        except Exception:  # somebody else's code may say so in any way
            return False
        return True

    length = tokens_BT.shape[1]
    longest = _longest(length, runs)
    # Lengths may also have to be multiples of a number.
    beyond = range(longest + 1, min(length, longest + _BEYOND) + 1)
    below = range(max(1, longest - _BEYOND), longest + 1)
    if longest < 2 or any(map(runs, beyond)) or not all(map(runs, below)):
        return None
    return longest


def too_long(longest: int, context: int) -> ModelError:
    """What is said of a context for which there are too few positions."""
    return ModelError(
        f"corpus.context: the model fails on sequences of more than {longest:,} tokens, and this "
        f"run's may have {context:,}: it has fewer positions (or a shorter mask) than its "
        f"configuration says. Set it to at most {longest:,}."
    )


class _Reached(Exception):
    """The tracked modules of a first block have their inputs."""


def _runs(model: nn.Module, modules: Mapping[str, nn.Module], tokens_BT: Tensor) -> bool:
    """Whether a model runs as far as the second tracked module of a kind, or the last one.

    That is one block of a model of many, whose mask is used by then; but no further than the first
    where a block takes too long.
    """
    seen: set[str] = set()
    waiting = set(modules)
    most = tokens_BT.shape[1]
    n_blocks = max(1, len(modules) // max(1, len(patterns_of(modules))))
    whole_block = affordable(model, 1, most * n_blocks) // n_blocks >= most

    def stop(name: str) -> None:
        waiting.discard(name)
        (kind,) = patterns_of([name])
        if not whole_block or kind in seen or not waiting:
            raise _Reached
        seen.add(kind)

    handles = [
        module.register_forward_pre_hook(lambda *_, name=name: stop(name))
        for name, module in modules.items()
    ]
    try:
        with torch.no_grad():
            forward_logits(model, unpadded(tokens_BT))
    except _Reached:
        return True
    except Exception:  # somebody else's code may say so in any way
        return False
    finally:
        for handle in handles:
            handle.remove()
    return True


def _arguments(function: Callable[..., Any]) -> set[str]:
    return set(inspect.signature(function).parameters)
