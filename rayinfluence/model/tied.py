"""Output embeddings that share their weight with the embedding of inputs: one weight, two uses.

W [V, D] gives logits W h, and row v of it is what token v is embedded as. Its gradient is the sum
over both uses:

    sum over rows of  g h^T,  g the gradient in the logits   +   sum over tokens of  1_v e^T

with e the gradient in what the embedding gives, and a one at token v: a row as of a call of the
output embedding, whose input is e and in whose outputs the gradient is 1_v. Where an embedding
multiplies what it looks up (Gemma), that number stands in place of the one.

Where both are asked for by name, they are two modules instead: the outputs get a copy of the
weight, the model computes what it did, and each use has a gradient, a curvature and a damping of
its own. What one use does to the other is then in no score.

V vocabulary, D width.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping

from torch import nn

from rayinfluence.model.layers import is_embedding, is_linear

#: Of an output embedding; in a list, so that torch takes the other one for no part of it.
_KEY = "embeds_with_its_weight"
#: Of an output embedding whose weight is a copy of that of the embedding of inputs.
_COPIED = "has_a_copy_of_the_weight"


def tied_pair(model: nn.Module) -> tuple[nn.Module, nn.Module] | None:
    """The embeddings of outputs and of inputs of a model, where nothing else has their weight.

    None where they do not share one, where logits have a bias (which the other use has not), or
    where the model does not say which they are.
    """
    try:
        outputs = model.get_output_embeddings()  # type: ignore[operator]
        inputs = model.get_input_embeddings()  # type: ignore[operator]
    except (AttributeError, NotImplementedError):
        return None
    if not isinstance(outputs, nn.Linear) or not isinstance(inputs, nn.Embedding):
        return None
    known = is_linear(outputs) and is_embedding(inputs) and outputs.bias is None
    owners = [
        module
        for module in model.modules()
        if any(one is outputs.weight for one in module._parameters.values())
    ]
    both = len(owners) == 2 and all(any(one is own for own in owners) for one in (outputs, inputs))
    return (outputs, inputs) if known and both else None


def take_apart(model: nn.Module, named: Collection[str]) -> None:
    """Make two modules of two uses of one weight, where both are named in full.

    Args:
        model: frozen; the output embedding gets the copy.
        named: what is asked for.
    """
    pair = tied_pair(model)
    if pair is None:
        return
    names = [name for name, module in model.named_modules() if any(module is one for one in pair)]
    if all(name in named for name in names):
        outputs = pair[0]
        copied = outputs.get_parameter("weight").detach().clone()
        outputs.weight = nn.Parameter(copied, requires_grad=False)
        vars(outputs)[_COPIED] = True


def has_copy(module: nn.Module) -> bool:
    """Whether its weight is a copy that :func:`take_apart` made."""
    return _COPIED in vars(module)


def note_tied(model: nn.Module, tracked: Iterable[nn.Module]) -> None:
    """Have a tracked output embedding know what embeds with its weight; copies know their own."""
    pair = tied_pair(model)
    if pair is not None and any(module is pair[0] for module in tracked):
        vars(pair[0])[_KEY] = [pair[1]]


def lookups(modules: Mapping[str, nn.Module]) -> dict[str, nn.Module]:
    """By the name of a tracked output embedding, the embedding that has its weight."""
    return {name: vars(one)[_KEY][0] for name, one in modules.items() if _KEY in vars(one)}
