"""Gates: what flows into a block's attention, past it, and out of its heads, in other hands.

Hooks on modules and no change of a model's code. They are gone when a context ends.

B row, T token, D width, W columns of all heads.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from rayinfluence.patterns.anatomy import Block

#: What takes a tensor's place.
Change = Callable[[Tensor], Tensor]


def as_it_is(tensor: Tensor) -> Tensor:
    """No change."""
    return tensor


@dataclass(frozen=True)
class Gates:
    """What takes the place of what flows in a block.

    Attributes:
        attention: of what attention reads, [B, T, D].
        skip: of the same where it goes past the heads, [B, T, D].
        heads: of what the heads give, side by side, [B, T, W].
        output: of what the block gives, [B, T, D].
    """

    attention: Change = as_it_is
    skip: Change = as_it_is
    heads: Change = as_it_is
    output: Change = as_it_is


@contextmanager
def gated(block: Block, gates: Gates) -> Iterator[None]:
    """A block with its gates in place.

    What attention and the skip connection are given is made of what the block is given, each by its
    own gate: where the block is its own skip connection, attention does not see that gate.
    """
    given: list[Tensor] = []

    def begin(_module: nn.Module, args: tuple[Any, ...]) -> None:
        given[:] = [args[0]]

    def replace(number: int, change: Callable[[], Tensor]) -> Callable[..., tuple[Any, ...]]:
        def hook(_module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
            return (*args[:number], change(), *args[number + 1 :])

        return hook

    def heads(_module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
        return (gates.heads(args[0]), *args[1:])

    def end(_module: nn.Module, _args: Any, output: Any) -> Any:
        if isinstance(output, tuple):
            return (gates.output(output[0]), *output[1:])
        return gates.output(output)

    skip = replace(block.skip_argument, lambda: gates.skip(given[0]))
    attention = replace(0, lambda: gates.attention(given[0]))
    with ExitStack() as hooks:
        # The order is that of registration, where the block is its own skip connection.
        for handle in (
            block.whole.register_forward_pre_hook(begin),
            block.skip.register_forward_pre_hook(skip),
            block.attention.register_forward_pre_hook(attention),
            block.heads.register_forward_pre_hook(heads),
            block.whole.register_forward_hook(end),
        ):
            hooks.callback(handle.remove)
        yield
