"""Choices of modules that lead nowhere are refused, with patterns that work in their place."""

from __future__ import annotations

import fnmatch
from collections.abc import Collection, Iterable, Mapping

from torch import nn

from rayinfluence.errors import ModelError
from rayinfluence.model.modules import Coverage, trackable
from rayinfluence.model.parts import Part
from rayinfluence.model.reach import Reach, listed, patterns_of, patterns_within

#: Below this share of the parameters of a model's layers, defaults have missed the model.
_LEAST = 0.01


def refuse_other_shapes(
    model: nn.Module,
    modules: Mapping[str, nn.Module],
    found: Reach,
    parts: Mapping[str, Part],
) -> None:
    """Refuse layers that are unfit, or whose inputs cannot be told apart by sequence and token.

    Args:
        model: the model.
        modules: its tracked modules.
        found: what a pass reached, with what all layers that can be tracked get and give.
        parts: of the layers of its blocks.

    Raises:
        ModelError: with all such layers and patterns for others.
    """
    wrong = [name for name in modules if name in found.inputs and not found.is_told_apart(name)]
    unfit = [name for name in modules if name in found.unfit]
    if not wrong and not unfit:
        return
    names = {*trackable(model), *modules}
    if rest := _working(modules, names, found, parts, exactly=True):
        advice = f"Leave them out with `modules: [{', '.join(rest)}]`."
    else:
        advice = _others(model, found, parts)
    if not wrong:
        raise ModelError(
            f"modules: {len(unfit)} layers cannot be tracked, as only layers that are called and "
            f"give one tensor can: {listed(_called(model, unfit))} (the first "
            f"{found.unfit[unfit[0]]}). {advice}"
        )
    axes, (n_sequences, n_tokens) = found.inputs[wrong[0]], found.shapes[wrong[0]]
    got = (
        "no tensor as its first or only argument"
        if axes is None
        else f"[{', '.join(map(str, axes))}, width]"
    )
    raise ModelError(
        f"modules: {len(wrong)} layers do not get inputs of shape [sequence, token, width], and "
        f"cannot be attributed to sequences: {listed(_called(model, wrong))} (the first gets {got} "
        f"for {n_sequences} sequences of {n_tokens} tokens). {advice}"
    )


def refuse_little(
    model: nn.Module,
    modules: Mapping[str, nn.Module],
    found: Reach,
    parts: Mapping[str, Part],
) -> None:
    """Refuse MLPs that are next to nothing of a model.

    Whoever names layers means them, and is only warned.

    Raises:
        ModelError: with what they are, and patterns that find more.
    """
    coverage = Coverage.of(model, modules, found)
    share = coverage.tracked / _in_layers(model, coverage)
    if share < _LEAST:
        raise ModelError(
            f"modules: of MLPs only {listed(_called(model, modules))} would be tracked in "
            f"{type(model).__name__}, {share:.2%} of the parameters of its layers; scores would "
            f"say nothing of the others, most of which are in {coverage.most}. "
            f"{_others(model, found, parts)}"
        )


def more_layers(
    model: nn.Module,
    modules: Mapping[str, nn.Module],
    found: Reach,
    parts: Mapping[str, Part],
) -> str:
    """What to set to track more than some modules; where nothing would, that this is all."""
    if all(name in modules for name in _good(trackable(model), found)):
        return "No other linear layer can be tracked."
    return _others(model, found, parts)


def _others(model: nn.Module, found: Reach, parts: Mapping[str, Part]) -> str:
    """Which layers of a model can be tracked, and how much of it they are."""
    names = trackable(model)
    patterns = _working(names, names, found, parts, exactly=False)
    if not patterns:
        return (
            "No linear layer of this model gets such inputs, so that no pattern works: name "
            "another model under `model`."
        )
    chosen = {
        name: module
        for name, module in names.items()
        if any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)
    }
    coverage = Coverage.of(model, chosen, found)
    share = coverage.tracked / _in_layers(model, coverage)
    return (
        f"What can be tracked is `modules: [{', '.join(patterns)}]`, with {share:.1%} of the "
        "parameters of its layers."
    )


def _working(
    wanted: Iterable[str],
    names: Collection[str],
    found: Reach,
    parts: Mapping[str, Part],
    *,
    exactly: bool,
) -> list[str]:
    """Patterns of all wanted layers that can be tracked, and of none that cannot.

    Args:
        wanted: names of layers.
        names: all that a pattern could match.
        found: the inputs of all of them.
        parts: of the layers of blocks.
        exactly: whether patterns name layers, rather than all that is beside them as well.
    """
    # Who wants routers names them: some give more than one tensor, and all are small.
    routers = set() if exactly else {name for name, part in parts.items() if part == "router"}
    good = [name for name in _good(wanted, found) if name not in routers]
    kinds = set(patterns_of(good))
    fine = [name for name in _good(names, found) if name not in routers]
    # An expert that was not chosen is like the others; what is never called is like nothing.
    bad = {
        name
        for name in set(names) - set(fine)
        if not found.is_outside(name)
        and (name in found.inputs or not kinds.intersection(patterns_of([name])))
    }
    patterns: dict[str, None] = {}
    for pattern in patterns_of(good):
        beside = f"{pattern.rpartition('.')[0]}.*"
        for candidate in [pattern] if exactly or "." not in pattern else [beside, pattern]:
            if not any(fnmatch.fnmatchcase(name, candidate) for name in bad):
                patterns[candidate] = None
                break
    return list(patterns)


def _good(names: Iterable[str], found: Reach) -> list[str]:
    return [name for name in names if found.is_told_apart(name) and name not in found.unfit]


def _in_layers(model: nn.Module, coverage: Coverage) -> int:
    """Parameters that text reaches, less those of embeddings; one at least."""
    output = getattr(model, "get_output_embeddings", lambda: None)()
    weights = {
        id(weight): weight.numel()
        for module in model.modules()
        if isinstance(module, nn.Embedding) or module is output
        for weight in module.parameters(recurse=False)
    }
    return max(coverage.reached - sum(weights.values()), coverage.tracked, 1)


def _called(model: nn.Module, names: Iterable[str]) -> list[str]:
    """Some layers by patterns that no other has."""
    return patterns_within(names, dict(model.named_modules()))
