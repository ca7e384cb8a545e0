"""Which keys of a configuration a model's code reads, and whether while it runs or is made."""

from __future__ import annotations

import ast
import inspect
import re
import sys
from collections.abc import Iterator
from functools import cache
from typing import TYPE_CHECKING, Any, NamedTuple

from torch import nn

if TYPE_CHECKING:
    from transformers import PreTrainedModel

#: Methods that give weights their first values; those of files take their place.
_OF_WEIGHTS = re.compile(r"_?init_(\w+_)?weights|reset_parameters")
#: Methods that make a configuration: what they decide is in its keys.
_OF_CONFIGURATIONS = re.compile(r"__init__|__post_init__|validate_.*")
#: They compute nothing of a text.
_ELSEWHERE = (
    "builtins.",
    "torch.",
    "transformers.generation.",
    "transformers.utils.",
    "transformers.distributed.",
)
#: Kinds of rotary embeddings whose angles are in a buffer, whatever the length of a text is.
_FIXED_ANGLES = {"default", "linear"}
_LENGTH = "max_position_embeddings"
_ANGLES = "transformers.modeling_rope_utils"
#: Base classes of all models and configurations, and what is in them.
_BASES = ("transformers.modeling_utils", "transformers.configuration_utils")


class NamesRead(NamedTuple):
    """Attributes and strings in the code of a model's and its configurations' classes.

    Attributes:
        running: what may be read while a text is scored.
        making: what is read to make a configuration or first weights, and what these alone call.
    """

    running: frozenset[str]
    making: frozenset[str]


def names_read(model: PreTrainedModel) -> NamesRead | None:
    """What a model's code reads; None where some of it cannot be read."""
    kinds = {type(config) for module in model.modules() if (config := _configuration(module))}
    made = {one for kind in kinds for one in kind.__mro__}
    classes = {type(module) for module in model.modules()} | {*type(model).__mro__} | made
    modules = {kind.__module__ for kind in classes if _computes(kind.__module__)}
    # What a family's own code calls may read keys; the base classes' is generic, and is among them.
    modules |= {one for name in modules if not name.startswith(_BASES) for one in _helpers(name)}
    configurations, fixed = frozenset(kind.__name__ for kind in made), _fixed_angles(model)
    read = [_names_in(module, configurations, fixed) for module in modules]
    known = [names for names in read if names is not None]
    if known != read:
        return None
    # Where weights are loaded, which is in none of these modules, one more key is read.
    running = frozenset({"quantization_config"}).union(*(names.running for names in known))
    return NamesRead(running, frozenset().union(*(names.making for names in known)))


def _configuration(module: nn.Module) -> Any:
    config = getattr(module, "config", None)
    return config if hasattr(config, "to_diff_dict") else None


def _computes(module: str) -> bool:
    return not f"{module}.".startswith(_ELSEWHERE)


def _helpers(module: str) -> set[str]:
    """Modules of transformers from which a module has functions and classes."""
    found = {getattr(one, "__module__", None) for one in vars(sys.modules[module]).values()}
    names = {name for name in found if isinstance(name, str) and name.startswith("transformers.")}
    return {name for name in names if _computes(name) and name in sys.modules}


def _fixed_angles(model: nn.Module) -> frozenset[str]:
    """Classes of rotary embeddings, where the length that is meant decides nothing in any."""
    rotary = [module for module in model.modules() if hasattr(module, "rope_type")]
    for module in rotary:
        kinds = module.rope_type
        if not {*(kinds.values() if isinstance(kinds, dict) else [kinds])} <= _FIXED_ANGLES:
            return frozenset()
    return frozenset(type(module).__name__ for module in rotary)


@cache
def _names_in(
    module: str, configurations: frozenset[str], fixed: frozenset[str]
) -> NamesRead | None:
    try:
        tree = ast.parse(inspect.getsource(sys.modules[module]))
    except (OSError, TypeError, SyntaxError, KeyError):
        return None
    defined = {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}
    only_called: set[str] = set()
    while True:
        running, making = set[str](), set[str]()
        for name, makes in _names(tree, "", configurations, only_called):
            (making if makes else running).add(name)
        more = {name for name in (making & defined) - running if not name.startswith("__")}
        if more <= only_called:
            break
        only_called |= more
    others = [node for node in tree.body if getattr(node, "name", "") not in fixed]
    if fixed and (module == _ANGLES or not any(_LENGTH in _all_names(one) for one in others)):
        running.discard(_LENGTH)
        making.add(_LENGTH)
    return NamesRead(frozenset(running), frozenset(making))


def _names(
    node: ast.AST, within: str, configurations: frozenset[str], only_called: set[str]
) -> Iterator[tuple[str, bool]]:
    """Names below a node, and whether what reads them only makes something."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.FunctionDef) and (
            child.name in only_called
            or _OF_WEIGHTS.fullmatch(child.name)
            or (within in configurations and _OF_CONFIGURATIONS.fullmatch(child.name))
        ):
            yield from ((name, True) for name in _all_names(child))
            continue
        if name := _name(child):
            yield name, False
        inside = child.name if isinstance(child, ast.ClassDef) else within
        yield from _names(child, inside, configurations, only_called)


def _all_names(node: ast.AST) -> set[str]:
    """Names below a node, without attributes that are only kept there for whoever reads them."""
    kept = (child for child in ast.walk(node) if isinstance(getattr(child, "ctx", None), ast.Store))
    return {name for child in {*ast.walk(node)}.difference(kept) if (name := _name(child))}


def _name(node: ast.AST) -> str | None:
    """The attribute or string that a node reads, or the function that it calls."""
    if isinstance(node, ast.Attribute):
        return node.attr
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
        return node.func.id
    return node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else None
