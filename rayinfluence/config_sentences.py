"""What is wrong with the values of a configuration, in sentences."""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence
from typing import Any, get_args, get_origin

from pydantic import BaseModel, ValidationError

#: What a value must be, by the beginning of pydantic's name for what is wrong with it.
_MUST = {
    "string_type": "must be text",
    "string_too_short": "must not be empty",
    "bool": "must be true or false",
    "int": "must be a whole number",
    "float": "must be a number",
    "finite_number": "must be a finite number",
    "list_type": "must be a list",
    "too_short": "must hold at least {min_length}",
    "literal_error": "must be {expected}",
    "greater_than_equal": "must be at least {ge:g}",
    "greater_than": "must be more than {gt:g}",
    "less_than_equal": "must be at most {le:g}",
    "less_than": "must be less than {lt}",
    "model_type": "must hold keys of its own",
}

#: Characters of names in a sentence, and values that may be set of which each is quoted.
_LONGEST, _QUOTED = 160, 6
_KEY = re.compile(r"([a-z_0-9]+): ")


def sentences(error: ValidationError) -> list[str]:
    """What is wrong at each place, in words."""
    found: dict[str, list[str]] = {}
    values: dict[str, Any] = {}
    for problem in error.errors():
        # Of a union of types the last part names the type that was tried.
        place = [str(p)[:60] for p in problem["loc"] if isinstance(p, int) or str(p).isidentifier()]
        path = ".".join(place)
        kind = problem["type"]
        if kind == "missing":
            said = "is missing; set it"
        elif kind == "value_error":
            said = str(problem["ctx"]["error"])
            # Of a section that says which of its keys is meant, that is the place.
            if path and (key := _KEY.match(said)):
                path, said = f"{path}.{key[1]}", said[key.end() :]
        else:
            must = next((text for name, text in _MUST.items() if kind.startswith(name)), "is wrong")
            bounds = problem.get("ctx", {})
            if isinstance(bounds.get("lt"), float):  # of a whole number, all digits count
                bounds = {**bounds, "lt": f"{bounds['lt']:g}"}
            if len(options := str(bounds.get("expected", "")).split(",")) > _QUOTED:
                bounds = {**bounds, "expected": ",".join(options).replace("'", "")}
            said = must.format(**bounds)
            values[path] = problem["input"]
        found.setdefault(path, []).append(said)
    return [
        (f"{path}: " if path else "")
        + " or ".join(said)
        + (f", not {shown(values[path])}" if path in values else "")
        for path, said in found.items()
    ]


def shown(value: Any) -> str:
    """A value as YAML has it, cut short; of what YAML has not, the type."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if not isinstance(value, str | int | float | list | dict):
        return f"a value of type {type(value).__name__}"
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:60]}..."


def refuse_unknown(section: type[BaseModel], values: dict[str, Any], path: str) -> None:
    """Refuse keys that a section of a configuration does not have, wherever in it.

    Args:
        section: with the keys that there are.
        values: as they were read.
        path: of the section, as keys with a dot after each.

    Raises:
        ValueError: names the key, and those that it is like.
    """
    known = section.model_fields
    for key, value in values.items():
        if key not in known:
            raise ValueError(
                f"unknown key {shown(path + str(key))}; {_suggestion(str(key), list(known))}"
            )
        annotation, place = known[key].annotation, f"{path}{key}."
        if not isinstance(value, dict):
            continue
        if get_origin(annotation) is dict:  # of sections, each under a name of its own
            some, inners = value, get_args(annotation)[1:]
        else:  # it may be one of several, or none
            some, inners = {"": value}, (annotation, *get_args(annotation))
        for inner in inners:
            if isinstance(inner, type) and issubclass(inner, BaseModel):
                for name, one in some.items():
                    if isinstance(one, dict):
                        refuse_unknown(inner, one, f"{place}{name}." if name else place)


def _some(names: Sequence[str]) -> str:
    """Names, as many as a sentence takes."""
    text = ", ".join(names)
    return text if len(text) <= _LONGEST else f"{text[: text.rindex(',', 0, _LONGEST)]}, ..."


def _suggestion(key: str, known: Sequence[str]) -> str:
    close = difflib.get_close_matches(key, known, n=2)
    return (
        f"did you mean {' or '.join(map(repr, close))}?"
        if close
        else f"the keys here are {_some(known)}."
    )
