"""YAML that a person wrote: a key that stands twice is a mistake, and not the last one's value."""

from __future__ import annotations

from typing import Any

import yaml

_MERGE = "tag:yaml.org,2002:merge"


class RepeatedKey(yaml.YAMLError):
    """A key stands twice in one mapping; the message says where."""


class _Loader(yaml.SafeLoader):
    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        """Look while keys are as they were written: what ``<<`` brings may be overridden."""
        node = super().compose_mapping_node(anchor)
        lines: dict[tuple[str, str], int] = {}
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode) or key.tag == _MERGE:
                continue
            name, line = (key.tag, key.value), key.start_mark.line + 1
            if (first := lines.get(name)) is not None:
                raise RepeatedKey(
                    f"the key {key.value!r} stands in line {first} and again in line {line}, and "
                    "the first would be ignored. Put what is under both into one, or take one out."
                )
            lines[name] = line
        return node


def read_yaml_lines(text: str, key: str) -> tuple[Any, list[int]]:
    """The plain values of a YAML document, and the lines of its list's elements, from 1.

    Args:
        text: the document.
        key: that its list may stand under, where it is not a list itself.

    Raises:
        RepeatedKey: a key stands twice in one mapping.
        yaml.YAMLError: it is no YAML.
    """
    loader = _Loader(text)
    try:
        root = loader.get_single_node()
        listed = root
        if isinstance(root, yaml.MappingNode):
            under = (value for name, value in root.value if name.value == key)
            listed = next(under, root)
        elements = listed.value if isinstance(listed, yaml.SequenceNode) else []
        lines = [node.start_mark.line + 1 for node in elements]
        return (None if root is None else loader.construct_document(root)), lines
    finally:
        loader.dispose()


def read_yaml(text: str) -> Any:
    """The plain values of a YAML document.

    Raises:
        RepeatedKey: a key stands twice in one mapping.
        yaml.YAMLError: it is no YAML.
    """
    loader = _Loader(text)
    try:
        return loader.get_single_data()
    finally:
        loader.dispose()
