"""Which modules are tracked: linear layers by their part in a block, or by glob patterns."""

from __future__ import annotations

import fnmatch
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from rayinfluence.errors import ModelError
from rayinfluence.model.batches import unpadded
from rayinfluence.model.capture import input_of
from rayinfluence.model.feeding import kind_of
from rayinfluence.model.head import forward_logits
from rayinfluence.model.layers import LAYERS, is_embedding, is_layer, is_linear, layer_of
from rayinfluence.model.parts import Part
from rayinfluence.model.reach import Reach, patterns_of
from rayinfluence.model.row_task import row_task
from rayinfluence.model.tied import lookups, tied_pair
from rayinfluence.objective_kinds import OF_ROWS, SEQ2SEQ

#: Names of weights in a message.
_NAMED = 4


@dataclass(frozen=True)
class ModuleShape:
    """A tracked module as the algebra sees it.

    Weight [d_out, d_in], and a bias column LAST if it has one.

    Attributes:
        source: the first module that receives the same inputs (its own name, mostly): they share
            one A. So do queries, keys and values; gate and up.
        diagonal: the side whose factor is taken for diagonal, as it is as wide as the vocabulary:
            ``inputs`` of an embedding, of which A is diagonal, or ``outputs`` of the output
            embedding and of its adapter's B, of which S is not; else nothing.
        routed: whether it gets some tokens of a sequence: those that a router has chosen for it
            alone, one side of a source and its target, or the one row of a row of features.
    """

    name: str
    d_in: int
    d_out: int
    bias: bool
    source: str
    routed: bool = False
    diagonal: str = ""

    @property
    def columns(self) -> int:
        """Width of the homogeneous input: d_in, and one more for the bias."""
        return self.d_in + int(self.bias)

    @property
    def widths(self) -> dict[str, int]:
        """Of the sides whose factors are whole, ``inputs`` and ``outputs``."""
        sides = {"inputs": self.columns, "outputs": self.d_out}
        return {side: width for side, width in sides.items() if side != self.diagonal}

    @property
    def n_parameters(self) -> int:
        """Entries of the weight and the bias."""
        return self.d_out * self.columns


def shape_of(name: str, module: nn.Module, model: nn.Module) -> ModuleShape:
    """The shape of a module that can be tracked, of a model."""
    layer = layer_of(module)
    d_in, d_out = layer.widths(module)
    diagonal = "inputs" if is_embedding(module) else ""
    if module is output_embedding(model) or any(module is one for one in _of_head(model)):
        diagonal = "outputs"
    bias = getattr(module, "bias", None) is not None
    some = layer.routed or kind_of(model) in (SEQ2SEQ, *OF_ROWS)
    return ModuleShape(name, d_in, d_out, bias, name, some, diagonal)


def output_embedding(model: nn.Module) -> nn.Module | None:
    """What gives the logits, if a model of transformers says so; the base of an adapted one."""
    get_output = getattr(model, "get_output_embeddings", lambda: None)
    found: nn.Module | None = get_output()
    return getattr(found, "base_layer", found)


def _of_head(model: nn.Module) -> list[nn.Module]:
    """What an adapter of the output embedding gives the logits with: its B."""
    head = getattr(model, "get_output_embeddings", lambda: None)()
    return list(getattr(head, "lora_B", nn.ModuleDict()).values())


def shapes_of(model: nn.Module, modules: Mapping[str, nn.Module]) -> dict[str, ModuleShape]:
    """The shapes of tracked modules, with those that share their inputs found by a forward pass.

    Inputs are the same when the rows of every call of both modules are the very same tensor.
    """
    task = row_task(model)
    n_sequences, n_tokens = 1, 2 if task is None else task.n_tokens
    received: dict[str, list[Tensor]] = {name: [] for name in modules}

    def note(name: str, given: Tensor | None) -> None:
        if given is not None:
            module = modules[name]
            received[name].append(layer_of(module).inputs(module, given, n_tokens))

    handles = [
        module.register_forward_pre_hook(
            lambda _module, args, kwargs, name=name: note(name, input_of(args, kwargs)),
            with_kwargs=True,
        )
        for name, module in modules.items()
    ]
    try:
        with torch.no_grad():
            device = next(model.parameters()).device
            tokens = torch.zeros(n_sequences, n_tokens, dtype=torch.int64, device=device)
            forward_logits(model, unpadded(tokens))
    finally:
        for handle in handles:
            handle.remove()
    shapes: dict[str, ModuleShape] = {}
    tied = lookups(modules)
    first: dict[tuple[bool, tuple[int, ...]], str] = {}
    for name, module in modules.items():
        shape = shape_of(name, module, model)
        # All of them are still there, so that no two have one id.
        # What a tied one sees beside its inputs, others do not.
        if (calls := tuple(map(id, received[name]))) and name not in tied:
            shape = replace(shape, source=first.setdefault((shape.bias, calls), name))
        shapes[name] = shape
    return shapes


def chosen(
    model: nn.Module, wanted: str | Sequence[str], parts: Mapping[str, Part]
) -> dict[str, nn.Module]:
    """The modules that a configuration asks for, by name, in the model's own order.

    Embeddings, that of outputs among them, are left out unless a pattern names them in full: one
    of their sides is as wide as the vocabulary. So is any module whose weight is another's too,
    but for the output embedding where that is the input embedding.

    Args:
        model: any module; its layers of the kinds in :data:`LAYERS` can be tracked.
        wanted: ``mlp``, ``attention`` or ``all`` of the blocks' layers, or glob patterns of names.
            Where there is no MLP, ``mlp`` is all of them.
        parts: of the blocks' layers.

    Raises:
        ModelError: there are no such layers, a pattern matches none, or a named one is tied.
    """
    if not isinstance(wanted, str):
        return track(model, wanted)
    can_be = trackable(model)
    there = {name: part for name, part in parts.items() if name in can_be}
    names = {name for name, part in there.items() if wanted in (part, "all")}
    if not names and wanted == "mlp":
        if fused := _fused_experts(model):
            raise ModelError(f"modules: {fused} Give patterns of other layers under `modules`.")
        names = set(there)
    if not names:
        what = "no layer of its blocks mixes tokens" if there else "none is in a block and called"
        raise ModelError(
            f"modules: by {wanted} nothing would be tracked: {what}. Give patterns of other layers "
            f"under `modules`. The model's linear layers are {_examples(can_be)}."
        )
    return {name: module for name, module in can_be.items() if name in names}


def track(model: nn.Module, patterns: Sequence[str]) -> dict[str, nn.Module]:
    """The modules whose names match glob patterns (``*.mlp.*``), as :func:`chosen` gives them.

    Raises:
        ModelError: a pattern matches no linear layer, or a named module is tied.
    """
    linear = _linear(model)
    layers = {name: m for name, m in model.named_modules() if is_layer(m)}
    excluded = apart(model)
    there_is = f"The model's linear layers are {_examples(linear)}."
    chosen: set[str] = set()
    for pattern in patterns:
        matched = {name for name in layers if fnmatch.fnmatchcase(name, pattern)}
        if pattern in layers and excluded.get(pattern) == "tied":
            raise ModelError(f"modules: {_tied(model, pattern)}")
        allowed = {n for n in matched if n not in excluded or n == pattern}
        if not allowed:
            why = _why_left_out(model, matched, excluded) or _fused_experts(model, pattern)
            raise ModelError(
                f"modules: the pattern {_shown(pattern)} matches no linear layer that can be "
                f"tracked. {why or there_is}"
            )
        chosen |= allowed
    if not chosen:
        raise ModelError(
            "modules: The list is empty, so that nothing would be tracked. Give patterns of "
            f"layers under `modules`. {there_is}"
        )
    return {name: module for name, module in layers.items() if name in chosen}


def trackable(model: nn.Module) -> dict[str, nn.Module]:
    """The linear layers that patterns may match, by name.

    Raises:
        ModelError: the model has no linear layer.
    """
    linear, excluded = _linear(model), apart(model)
    return {name: module for name, module in linear.items() if name not in excluded}


def _linear(model: nn.Module) -> dict[str, nn.Module]:
    linear = {name: m for name, m in model.named_modules() if is_linear(m)}
    if not linear:
        kinds = ", ".join(type(kind).__name__ for kind in LAYERS)
        raise ModelError(
            f"the model has no layer of a kind that is known ({kinds}), so there is "
            "nothing to track."
        )
    return linear


@dataclass(frozen=True)
class Coverage:
    """How many of a model's parameters are tracked (tied weights count once).

    Attributes:
        tracked: entries of tracked weights and biases.
        reached: parameters that text reaches.
        rest: of those that are not tracked, by name with stars for numbers; the most first.
    """

    tracked: int
    reached: int
    rest: dict[str, int]

    @classmethod
    def of(
        cls,
        model: nn.Module,
        modules: Mapping[str, nn.Module],
        found: Reach,
        trained: Sequence[str] = ("*",),
    ) -> Coverage:
        """Of a model whose tracked modules are given.

        Args:
            model: the model.
            modules: its tracked ones.
            found: what text reaches.
            trained: patterns of the parameters that count, which are an adapter's where the rest
                was frozen.
        """
        tracked = sum(
            shape_of(name, module, model).n_parameters for name, module in modules.items()
        )
        counted = {id(w) for m in modules.values() for w in m.parameters(recurse=False)}
        reached, rest = 0, dict[str, int]()
        for name, weight in model.named_parameters():
            counts = any(fnmatch.fnmatchcase(name, pattern) for pattern in trained)
            if counts and not found.is_outside(name):
                reached += weight.numel()
                if id(weight) not in counted:
                    (pattern,) = patterns_of([name])
                    rest[pattern] = rest.get(pattern, 0) + weight.numel()
        by_size = sorted(rest.items(), key=lambda pair: -pair[1])
        return cls(tracked, reached, dict(by_size))

    @property
    def share(self) -> float:
        """Of what text reaches, 0 to 1."""
        return self.tracked / self.reached

    @property
    def most(self) -> str:
        """Where most of what is not tracked is, with shares of what text reaches."""
        largest = list(self.rest.items())[:_NAMED]
        return ", ".join(f"{pattern} ({size / self.reached:.1%})" for pattern, size in largest)


def apart(model: nn.Module) -> dict[str, str]:
    """Layers that are left out, as ``tied``, or unless they are named in full, as ``embedding``.

    An output embedding that has the weight of the input embedding is of the latter: under its name
    both uses are tracked.
    """
    owners: dict[int, int] = {}
    for module in model.modules():
        for weight in module._parameters.values():
            if weight is not None:
                owners[id(weight)] = owners.get(id(weight), 0) + 1
    output, pair = output_embedding(model), tied_pair(model)
    reasons: dict[str, str] = {}
    for name, module in model.named_modules():
        if not is_layer(module):
            continue
        if owners.get(id(module.weight), 1) > 1 and (pair is None or module is not pair[0]):
            reasons[name] = "tied"
        elif module is output or is_embedding(module):
            reasons[name] = "embedding"
    return reasons


def name_for_both(model: nn.Module, name: str) -> str | None:
    """Under which both uses of an input embedding's weight are tracked; None of other layers."""
    pair = tied_pair(model)
    if pair is None or model.get_submodule(name) is not pair[1]:
        return None
    found: str = next(one for one, module in model.named_modules() if module is pair[0])
    return found


def _tied(model: nn.Module, name: str) -> str:
    """That a layer's weight is another's, too, and what to write."""
    output, shares = name_for_both(model, name), f"{name} shares its weight with another module"
    if output is None:
        return f"{shares}; its gradient would be counted in part. Leave it out."
    return (
        f"{shares}: write {output}, under which both of its uses are counted; or both names in "
        "full, and each use is a module by itself."
    )


def _why_left_out(
    model: nn.Module, matched: Collection[str], excluded: Mapping[str, str]
) -> str | None:
    """Why layers that a pattern matches are left out all the same."""
    if not matched:
        return None
    name = min(matched)
    if excluded[name] == "tied":
        return _tied(model, name)
    return (
        f"{name} is an embedding, which is tracked only where it is named in full, as one of its "
        f"sides is as wide as the vocabulary: write {name}."
    )


def _fused_experts(model: nn.Module, pattern: str = "*") -> str | None:
    """That the experts which a pattern means are not layers of their own, and where."""
    fused = {
        name: type(module).__name__
        for name, module in model.named_modules()
        if not type(module).__module__.startswith("torch.nn")
        and any(
            # Stacked by expert: some call them so, others lie in what routes to them.
            (weight.ndim > 2 and _is_of_experts(name, module))
            or (weight.ndim == 2 and "expert" in type(module).__name__.lower())
            for weight in module.parameters(recurse=False)
        )
    }
    met = {name: kind for name, kind in fused.items() if _may_lie_in(pattern, name)}
    if not met:
        return None
    name, kind = next(iter(met.items()))
    more = f" and {len(met) - 1} more" if len(met) > 1 else ""
    layer = next(name for name, module in model.named_modules() if is_linear(module))
    return (
        f"The experts of {name}{more} are fused into single parameters ({kind}), which is not "
        "supported yet; what can be tracked instead are linear layers, such as "
        f"'*.{'.'.join(layer.split('.')[-2:-1])}.*'."
    )


def _is_of_experts(name: str, module: nn.Module) -> bool:
    words = f"{name} {type(module).__name__}".lower()
    return any(word in words for word in ("expert", "moe", "mixture", "mlp", "feed_forward", "ffn"))


def _may_lie_in(pattern: str, name: str) -> bool:
    """Whether a pattern means a module, or what would lie in it: `*.experts.3.w1` does."""
    parts = pattern.split(".")
    heads = [".".join(parts[:end]) for end in range(1, len(parts)) if parts[end - 1].strip("*?")]
    return any(fnmatch.fnmatchcase(name, head) for head in [pattern, *heads])


def _shown(text: str) -> str:
    return repr(text if len(text) <= 80 else f"{text[:80]}...")


def _examples(linear: Mapping[str, nn.Module]) -> str:
    names = list(linear)
    return ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")
