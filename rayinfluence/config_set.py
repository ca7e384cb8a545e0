"""Keys of a configuration that a command line sets over its file: ``scan.top=50``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import yaml

from rayinfluence.errors import ConfigError, brief
from rayinfluence.yamls import RepeatedKey, read_yaml

#: The section for which a name alone may stand, and what that name is of it.
_SHORT = {"objective": "kind"}


def with_set(values: Mapping[str, Any], settings: Sequence[str]) -> dict[str, Any]:
    """Plain values of a configuration with some of them set; the others stay as they are.

    Args:
        values: as they were read; they are not changed.
        settings: each a dotted key, ``=``, and a value as YAML has it.

    Raises:
        ConfigError: one of them is no such thing, stands twice, or is below what has no keys.
    """
    changed = dict(values)
    seen: dict[str, str] = {}
    for setting in settings:
        key, equals, text = setting.partition("=")
        key = key.strip()
        names = key.split(".")
        if not equals or not all(names):
            raise ConfigError(
                f"--set {setting}: write a key, = and its value, such as --set scan.top=50."
            )
        if key in seen:
            raise ConfigError(f"--set {setting}: {key} is set already, by {seen[key]}; leave one.")
        seen[key] = setting
        try:
            value = read_yaml(text)
        except (ValueError, RepeatedKey, yaml.YAMLError) as error:
            raise ConfigError(
                f"--set {setting}: the value cannot be read as YAML: {brief(error)}"
            ) from error
        _put(changed, names, value, setting)
    return changed


def _put(values: dict[str, Any], names: Sequence[str], value: Any, setting: str) -> None:
    """Set a value below some names; sections on the way are copied."""
    *sections, last = names
    inside = values
    for number, name in enumerate(sections):
        below = inside.get(name)
        if number == 0 and name in _SHORT and isinstance(below, str):
            below = {_SHORT[name]: below}
        if below is not None and not isinstance(below, Mapping):
            raise ConfigError(
                f"--set {setting}: {'.'.join(sections[: number + 1])} has a value and no keys."
            )
        inside[name] = dict(below or {})
        inside = inside[name]
    inside[last] = value
