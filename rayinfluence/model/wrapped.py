"""Weights that were saved with what was around a model in training: told by their names."""

from __future__ import annotations

import re
from collections.abc import Collection
from typing import NamedTuple


class Wrapper(NamedTuple):
    """What puts a part of its own into the names of weights.

    Attributes:
        part: of a name, with the dot behind it, as a pattern.
        who: what does so.
        inside: how to save what is in it.
    """

    part: re.Pattern[str]
    who: str
    inside: str


#: Of `model`, what is saved.
_SAVE = "`{}.save_pretrained(...)`"
_WRAPPERS = (
    Wrapper(re.compile(r"(?<![^.])_orig_mod\."), "torch.compile", _SAVE.format("model._orig_mod")),
    Wrapper(
        re.compile(r"(?<![^.])_fsdp_wrapped_module\."),
        "FSDP",
        "`Accelerator.get_state_dict(model)` gives its weights",
    ),
    Wrapper(
        re.compile(r"(?<![^.])_checkpoint_wrapped_module\."),
        "activation checkpointing",
        "take the wrapper off before it is saved",
    ),
    Wrapper(
        re.compile(r"^module\."), "DDP, DataParallel or DeepSpeed", _SAVE.format("model.module")
    ),
    Wrapper(re.compile(r"^base_model\.model\."), "PEFT", "`model.merge_and_unload()` gives it"),
    Wrapper(
        re.compile(r"^pretrained_model\."),
        "TRL's model with a head of values",
        _SAVE.format("model.pretrained_model"),
    ),
)
#: Heads that say how good a text is, or of which class.
_HEAD = re.compile(
    r"(v_head|value_head|reward_head|reward_model|rm_head|score|classifier|critic)([._].*)?"
)


def why_other_names(missing: Collection[str], left: Collection[str]) -> str | None:
    """What the names of weights were saved with, and what to do, as sentences; None where unknown.

    Args:
        missing: names that the model has and the files do not.
        left: names in the files that the model has no place for.
    """
    names = sorted(left)
    plain = {name: _unwrapped(name) for name in names}
    wrapped = [name for name in names if plain[name][0] in missing]
    if wrapped:
        called, _ = plain[wrapped[0]]
        found = [one for one in _WRAPPERS if any(one in plain[name][1] for name in wrapped)]
        who = " and ".join(wrapper.who for wrapper in found)
        inside = "; ".join(wrapper.inside for wrapper in found)
        return (
            f"were saved within {who}: {len(wrapped):,} names are as {wrapped[0]}, which the "
            f"model calls {called}. Save the model that is inside ({inside}), or give "
            "the weights those names."
        )
    if prefix := _prefix(names, missing):
        return (
            f"have names that begin with {prefix!r}, such as {names[0]}, which the model calls "
            f"{names[0].removeprefix(prefix)}. Save the model alone, or take that beginning away."
        )
    if names and not missing and all(map(_HEAD.fullmatch, names)):
        return (
            f"have a head beside the language model, such as {names[0]}, as models of values, of "
            "rewards and of classes do; influence is on what a language model says. Save the "
            "language model without it (`model.pretrained_model.save_pretrained(...)` in TRL), or "
            "take that head out of the files if the rest is what you ask about."
        )
    return None


def _unwrapped(name: str) -> tuple[str, list[Wrapper]]:
    """A name without what wrappers put into it, and which: they lie in each other in any order."""
    found: list[Wrapper] = []
    while within := next((one for one in _WRAPPERS if one.part.search(name)), None):
        name = within.part.sub("", name)
        found.append(within)
    return name, found


def _prefix(names: list[str], missing: Collection[str]) -> str | None:
    """What all names begin with, where the model has all that are left without it."""
    first = names[0].partition(".")[0] + "." if names else ""
    if names and all(n.startswith(first) and n.removeprefix(first) in missing for n in names):
        return first
    return None
