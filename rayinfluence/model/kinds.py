"""Which kind of model a config.json names, and whether it can be made here."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

from rayinfluence.errors import ModelError


def refuse_unknown_kind(path: str, config: Mapping[str, Any], trust_remote_code: bool) -> None:
    """See that transformers knows a kind of model, or may run the folder's code for it.

    transformers' own words for it are paragraphs, or the list of all its classes.

    Raises:
        ModelError: it does not, or may not.
    """
    if why := _why_not(path, config, trust_remote_code):
        raise ModelError(f"model: {path} cannot be loaded: {why}.")


def _why_not(path: str, config: Mapping[str, Any], trust_remote_code: bool) -> str | None:
    from transformers import CONFIG_MAPPING, MODEL_FOR_CAUSAL_LM_MAPPING

    kind, code = config.get("model_type"), config.get("auto_map") or {}
    is_known = isinstance(kind, str) and kind in CONFIG_MAPPING
    generates = is_known and CONFIG_MAPPING[kind] in MODEL_FOR_CAUSAL_LM_MAPPING
    theirs = isinstance(code, Mapping) and "AutoModelForCausalLM" in code
    if generates or (theirs and trust_remote_code):
        return None
    installed = f"the installed transformers {version('transformers')}"
    if theirs:
        return (
            f"its model, of the type {kind!r}, is Python code that the folder brings "
            f"({code['AutoModelForCausalLM']}); read it, and set `trust_remote_code: true` to let "
            "it run"
        )
    if is_known:
        return (
            f"{installed} has no causal language model of the type {kind!r}, which its config.json "
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
