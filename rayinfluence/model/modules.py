"""Which modules are tracked: linear layers found by glob patterns, MLPs by default."""

from __future__ import annotations

import fnmatch
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from rayinfluence.errors import ModelError
from rayinfluence.model.capture import input_of
from rayinfluence.model.head import forward_logits
from rayinfluence.model.layers import LAYERS, is_layer, layer_of
from rayinfluence.model.reach import Reach, patterns_of

#: How transformers names the linear layers of MLP blocks.
MLP_PATTERNS = (
    "*.mlp.*",
    "*.mlps.*",
    "*.mlp_block.*",
    "*.shared_mlp.*",
    "*.shared_expert.*",
    "*.shared_experts.*",
    "*.experts.*",
    "*.feed_forward.*",
    "*.ffn.*",
    "*.ffns.*",
    "*.ff.*",
    "*.fc1",
    "*.fc2",
    "*.intermediate.dense",
    "*.output.dense",
    # Nemotron-H calls attention and Mamba a mixer too, which have layers of other names.
    "*.mixer.up_proj",
    "*.mixer.down_proj",
)
#: What kinds of BERT call the output of attention, as they do that of an MLP.
_OF_ATTENTION = ("*attention.output.dense", "*attn.output.dense")

#: Names of weights in a message.
_NAMED = 4


@dataclass(frozen=True)
class ModuleShape:
    """A tracked module as the algebra sees it.

    Weight [d_out, d_in], and a bias column LAST if it has one.

    Attributes:
        source: the first module that receives the same inputs (its own name, mostly): they share
            one A. So do queries, keys and values; gate and up.
        routed: whether it gets the tokens that a router has chosen for it alone.
    """

    name: str
    d_in: int
    d_out: int
    bias: bool
    source: str
    routed: bool = False

    @property
    def columns(self) -> int:
        """Width of the homogeneous input: d_in, and one more for the bias."""
        return self.d_in + int(self.bias)

    @property
    def n_parameters(self) -> int:
        """Entries of the weight and the bias."""
        return self.d_out * self.columns


def shape_of(name: str, module: nn.Module) -> ModuleShape:
    """The shape of a module that can be tracked."""
    layer = layer_of(module)
    d_in, d_out = layer.widths(module)
    bias = getattr(module, "bias", None) is not None
    return ModuleShape(name, d_in, d_out, bias, name, layer.routed)


def shapes_of(model: nn.Module, modules: Mapping[str, nn.Module]) -> dict[str, ModuleShape]:
    """The shapes of tracked modules, with those that share their inputs found by a forward pass.

    Inputs are the same when the rows of every call of both modules are the very same tensor.
    """
    n_sequences, n_tokens = 1, 2
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
            forward_logits(model, tokens)
    finally:
        for handle in handles:
            handle.remove()
    shapes: dict[str, ModuleShape] = {}
    first: dict[tuple[bool, tuple[int, ...]], str] = {}
    for name, module in modules.items():
        shape = shape_of(name, module)
        # All of them are still there, so that no two have one id.
        if calls := tuple(map(id, received[name])):
            shape = replace(shape, source=first.setdefault((shape.bias, calls), name))
        shapes[name] = shape
    return shapes


def _is_by_default(name: str, pattern: str) -> bool:
    """Whether a default pattern means a layer, also at the root of a model: `mlp.up`, `mlp`."""
    if any(fnmatch.fnmatchcase(name, other) for other in _OF_ATTENTION):
        return False
    places = [f".{name}"] if "." in name else [f".{name}", f".{name}."]
    return any(fnmatch.fnmatchcase(place, pattern) for place in places)


def track(model: nn.Module, patterns: Sequence[str] | None = None) -> dict[str, nn.Module]:
    """The modules to track, by name, in the model's own order.

    The output embedding and any module whose weight is tied to another are left out unless a
    pattern names them in full: their S is vocabulary x vocabulary.

    Args:
        model: any module; its layers of the kinds in :data:`LAYERS` can be tracked.
        patterns: glob patterns of module names (``*.mlp.*``); None takes the MLPs of every block.

    Raises:
        ModelError: a pattern matches no linear layer, or a named module is tied.
    """
    linear = {name: m for name, m in model.named_modules() if is_layer(m)}
    if not linear:
        kinds = ", ".join(type(kind).__name__ for kind in LAYERS)
        raise ModelError(
            f"the model has no layer of a kind that is known ({kinds}), so there is "
            "nothing to track."
        )
    excluded = _excluded(model, linear)
    there_is = f"The model's linear layers are {_examples(linear)}."
    chosen: set[str] = set()
    for pattern in MLP_PATTERNS if patterns is None else patterns:
        if patterns is None:
            matched = {name for name in linear if _is_by_default(name, pattern)}
            matched = {name for name in matched if not layer_of(linear[name]).shares}
        else:
            matched = {name for name in linear if fnmatch.fnmatchcase(name, pattern)}
        if pattern in linear and excluded.get(pattern) == "tied":
            raise ModelError(
                f"modules: {pattern} shares its weight with another module; its gradient would be "
                "counted in part. Leave it out."
            )
        allowed = {n for n in matched if n not in excluded or n == pattern}
        if patterns is not None and not allowed:
            why = _why_left_out(matched, excluded) or _fused_experts(model, pattern)
            raise ModelError(
                f"modules: the pattern {_shown(pattern)} matches no linear layer that can be "
                f"tracked. {why or there_is}"
            )
        chosen |= allowed
    if not chosen:
        why = "The list is empty, so that nothing would be tracked."
        if patterns is None:
            no_mlp = "No MLP layer was recognised by its name in this model."
            why = _fused_experts(model) or no_mlp
        raise ModelError(
            f"modules: {why} Give patterns of other layers under `modules`. {there_is}"
        )
    return {name: module for name, module in linear.items() if name in chosen}


def trackable(model: nn.Module) -> dict[str, nn.Module]:
    """The linear layers that patterns may match, by name."""
    linear = {name: m for name, m in model.named_modules() if is_layer(m)}
    excluded = _excluded(model, linear)
    return {name: module for name, module in linear.items() if name not in excluded}


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
    def of(cls, model: nn.Module, modules: Mapping[str, nn.Module], found: Reach) -> Coverage:
        """Of a model whose tracked modules are given."""
        tracked = sum(shape_of(name, module).n_parameters for name, module in modules.items())
        counted = {id(w) for m in modules.values() for w in m.parameters(recurse=False)}
        reached, rest = 0, dict[str, int]()
        for name, weight in model.named_parameters():
            if not found.is_outside(name):
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


def _excluded(model: nn.Module, linear: Mapping[str, nn.Module]) -> dict[str, str]:
    owners: dict[int, int] = {}
    for module in model.modules():
        for weight in module._parameters.values():
            if weight is not None:
                owners[id(weight)] = owners.get(id(weight), 0) + 1
    get_output = getattr(model, "get_output_embeddings", lambda: None)
    output = get_output()
    reasons: dict[str, str] = {}
    for name, module in linear.items():
        if owners.get(id(module.weight), 1) > 1:
            reasons[name] = "tied"
        elif module is output:
            reasons[name] = "output"
    return reasons


def _why_left_out(matched: Collection[str], excluded: Mapping[str, str]) -> str | None:
    """Why layers that a pattern matches are left out all the same."""
    if not matched:
        return None
    name = min(matched)
    if excluded[name] == "tied":
        return f"{name} shares its weight with another module, so its gradient would be in part."
    return (
        f"{name} is the output embedding, which is tracked only where it is named in full, as its "
        f"S is vocabulary x vocabulary: write {name}."
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
    layer = next(name for name, module in model.named_modules() if is_layer(module))
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
