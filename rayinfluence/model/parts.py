"""The part that each linear layer has in its block, by what flows to it and from it; not by names.

* Where a token reaches another between a layer and those that take from it, both are attention, or
  what stands in its place (a state space, a convolution). So is all whose outputs they take, as low
  ranks and gates are, and one layer that takes theirs and gives to none.
* Of the others, those that give less than the stream is wide, and than any that take it do, give no
  features: they choose among others or weigh them, as routers and gates of shared experts do. So
  does what leads to these alone, however wide it is: the inner layers of a router.
* What is left are MLPs, experts among them.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Literal

from torch import Tensor, nn

from rayinfluence.model.flow import Flow, flow_of
from rayinfluence.model.layers import is_linear, layer_of
from rayinfluence.model.reach import patterns_of

#: What a linear layer is to its block; attention is all that mixes tokens.
Part = Literal["attention", "mlp", "router"]

#: Lists whose members are blocks.
_LISTS = (nn.ModuleList, nn.Sequential)


def parts_of(model: nn.Module, tokens_BT: Tensor) -> dict[str, Part]:
    """The part of each linear layer of a model's blocks, in the model's own order.

    Layers outside of blocks have none (heads, what leads into the stream and out of it), nor has
    one that is not called; an expert that no token has chosen has that of those beside it.

    Args:
        model: a causal language model, frozen.
        tokens_BT: made up; the first sequence is run, twice.

    Raises:
        ModelError: the model cannot be run, forward or backward.
    """
    blocks = blocks_of(model)
    layers = {name: model.get_submodule(name) for name in blocks}
    widths = {name: layer_of(module).widths(module) for name, module in layers.items()}
    flow = flow_of(model, layers, tokens_BT[:1])
    found = parts_in(flow, blocks, widths)
    alike = {patterns_of([name])[0]: part for name, part in reversed(found.items())}
    for name in layers:
        (pattern,) = patterns_of([name])
        if name not in found and pattern in alike:
            found[name] = alike[pattern]
    found.pop(_head(flow, widths), None)
    return {name: found[name] for name in layers if name in found}


def blocks_of(model: nn.Module) -> dict[str, str]:
    """The block of each linear layer: the member of a list that holds it.

    Of a model in which no list holds layers, all are of one block, without a name.
    """
    named = dict(model.named_modules())

    def block(name: str) -> str:
        # A layer that is the member of a list itself has none: an MLP may be a list of layers.
        parts = name.split(".")
        for end in range(len(parts) - 1):
            if isinstance(named[".".join(parts[:end])], _LISTS):
                return ".".join(parts[: end + 1])
        return ""

    found = {name: block(name) for name, module in named.items() if is_linear(module)}
    return {name: one for name, one in found.items() if one} or found


def parts_in(
    flow: Flow, blocks: Mapping[str, str], widths: Mapping[str, tuple[int, int]]
) -> dict[str, Part]:
    """The parts of layers that were called.

    Args:
        flow: from layer to layer.
        blocks: of each layer.
        widths: of what each gets, and of what it gives.
    """
    givers = {
        name: {other for other in others if blocks[other] == blocks[name]}
        for name, others in flow.givers.items()
    }
    takers, everywhere = _takers(givers), _takers(flow.givers)
    attention = _attention(flow.mixing, givers, takers)
    # Some read more than the stream: as it is now beside how it began.
    stream = min((widths[name][0] for name in flow.readers), default=0)
    router = {_head(flow, widths): False}

    def is_router(name: str) -> bool:
        if name not in router:
            router[name] = False  # of one that takes from itself
            given = widths[name][1]
            router[name] = leads_to_routers(name) or (
                given < stream
                and all(given < widths[one][0] or is_router(one) for one in takers.get(name, ()))
            )
        return router[name]

    def leads_to_routers(name: str) -> bool:
        # Also in other blocks: a router may take the one before it.
        taking = everywhere.get(name, ())
        return bool(taking) and name not in flow.ends and all(map(is_router, taking))

    return {
        name: "attention" if name in attention else "router" if is_router(name) else "mlp"
        for name in flow.called
    }


def _takers(givers: Mapping[str, Collection[str]]) -> dict[str, list[str]]:
    """By layer that gives, those that take from it."""
    takers: dict[str, list[str]] = {}
    for name, others in givers.items():
        for other in others:
            takers.setdefault(other, []).append(name)
    return takers


def _head(flow: Flow, widths: Mapping[str, tuple[int, int]]) -> str:
    """The head of a model that has it where others have blocks; empty where none is there."""
    return flow.last if flow.last and widths[flow.last][1] == flow.n_logits else ""


def _attention(
    mixing: Collection[str],
    givers: Mapping[str, Collection[str]],
    takers: Mapping[str, Collection[str]],
) -> set[str]:
    """What mixes tokens, what gives to that, and one layer that follows it."""
    found, pending = set[str](), list(mixing)
    while pending:
        name = pending.pop()
        if name not in found:
            found.add(name)
            pending += givers.get(name, ())
    return found | {
        name
        for name, others in givers.items()
        if others and name not in takers and found.issuperset(others)
    }
