"""Which kind of model a config.json names, whether it can be made here, and whether it was."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rayinfluence.errors import ModelError
from rayinfluence.objective_kinds import ObjectiveKind
from rayinfluence.registered import code_elsewhere, not_fetched

if TYPE_CHECKING:
    from torch import nn


def refuse_unknown_kind(
    path: str, config: Mapping[str, Any], trust_remote_code: bool, kind: ObjectiveKind
) -> None:
    """See that transformers knows a type of model, or may run the folder's code for it.

    transformers' own words for it are paragraphs, or the list of all its classes.

    Args:
        path: the model's folder.
        config: its config.json.
        trust_remote_code: whether the folder's code may run.
        kind: of the objective, which the type has to have a model for.

    Raises:
        ModelError: it does not, or may not.
    """
    if why := _why_not(path, config, trust_remote_code, kind):
        raise ModelError(f"model: {path} cannot be loaded: {why}.")


def not_what_is_named(
    path: str,
    config: Mapping[str, Any],
    model: nn.Module,
    trust_remote_code: bool,
    kind: ObjectiveKind,
) -> list[str]:
    """Say where config.json names other code, or another class, than the model that was loaded.

    transformers takes its own class for a type that it knows, and says nothing.

    Args:
        path: the model's folder.
        config: its config.json.
        model: as it was loaded.
        trust_remote_code: whether the folder's code could run.
        kind: of the objective it was loaded for.
    """
    loaded = type(model).__name__
    code = config.get("auto_map")
    theirs = (
        [code[key] for key in _runnable(kind) if key in code] if isinstance(code, Mapping) else []
    )
    if theirs and not trust_remote_code:
        return [
            f"model: the config.json of {path} names Python code of its own under auto_map "
            f"({', '.join(map(str, theirs))}), and it was not run: {loaded} of transformers was "
            "loaded instead, and scores are of that. If the weights were trained with the "
            "folder's code, read it and set `trust_remote_code: true`."
        ]
    named = config.get("architectures")
    if not isinstance(named, list) or not named or loaded in named:
        return []
    return [
        f"model: the config.json of {path} names {', '.join(map(str, named))} under architectures, "
        f"and {loaded} is what was loaded, and what scores are of. Where the two compute the "
        "same, correct config.json; where they do not, these are scores of another model than was "
        "trained."
    ]


def _runnable(kind: ObjectiveKind) -> tuple[str, str]:
    """Entries of auto_map whose code runs when a model is loaded."""
    return "AutoConfig", kind.loader


def _why_not(
    path: str, config: Mapping[str, Any], trust_remote_code: bool, objective: ObjectiveKind
) -> str | None:
    import transformers

    known: Any = transformers.CONFIG_MAPPING
    with_model = getattr(transformers, objective.mapping)
    kind, code = config.get("model_type"), config.get("auto_map")
    code = code if isinstance(code, Mapping) else {}
    is_known = isinstance(kind, str) and kind in known
    has_model = is_known and known[kind] in with_model
    theirs = objective.loader in code
    if trust_remote_code and (elsewhere := code_elsewhere(code, _runnable(objective))):
        return not_fetched(elsewhere, "config.json")
    if has_model or (theirs and trust_remote_code):
        return None
    installed = f"the installed transformers {version('transformers')}"
    if theirs:
        return (
            f"its model, of the type {kind!r}, is Python code that the folder brings "
            f"({code[objective.loader]}); read it, and set `trust_remote_code: true` to let "
            "it run"
        )
    if is_known:
        return (
            f"{installed} has no {objective.model} of the type {kind!r}, which its config.json "
            "names"
        )
    if kind is None:
        return "its config.json names no model_type; save the whole model again"
    sources = sorted(file.name for file in Path(path).glob("*.py"))
    hint = (
        f"; or, if {sources[0]} is its code, name that under auto_map in config.json and set "
        "`trust_remote_code: true`"
        if sources
        else ""
    )
    return (
        f"{installed} knows no model of the type {kind!r}, which its config.json names; install a "
        f"newer one (`pip install -U transformers`){hint}"
    )
