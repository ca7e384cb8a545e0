"""Modules that are fitted together: as many as have their sums and bases in a bounded memory."""

from __future__ import annotations

from collections.abc import Mapping

from rayinfluence.model.modules import ModuleShape

#: Bytes of the sums and bases of modules that are fitted together.
_GROUP_BYTES = {"cpu": 1 << 32, "cuda": 1 << 35}
_NUMBER = 4


def module_groups(shapes: Mapping[str, ModuleShape], device: str) -> tuple[tuple[str, ...], ...]:
    """Names of modules by group, in their order; modules that share their inputs are together.

    What a module's sums are does not depend on the others of its group, but for sequences that
    another of them has no finite gradient for.
    """
    sharing: dict[str, list[str]] = {}
    for name, shape in shapes.items():
        sharing.setdefault(shape.source, []).append(name)
    groups: list[list[str]] = []
    held = 0
    for members in sharing.values():
        numbers = shapes[members[0]].widths.get("inputs", 0) ** 2 + sum(
            shapes[name].widths.get("outputs", 0) ** 2 + shapes[name].n_parameters
            for name in members
        )
        if not groups or held + numbers * _NUMBER > _GROUP_BYTES[device]:
            groups.append([])
            held = 0
        groups[-1] += members
        held += numbers * _NUMBER
    return tuple(map(tuple, groups))
