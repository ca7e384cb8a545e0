"""A function of the user's own that queries ask for, in the place of a log-probability.

It is named by the configuration, never by queries.jsonl: that is data, and must not name code.
"""

from __future__ import annotations

import ast
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from typing import Any

from rayinfluence.errors import ConfigError, brief
from rayinfluence.storage.digest import digest_bytes
from rayinfluence.storage.store import Store


@dataclass(frozen=True)
class QueryFunction:
    """A function, by its name and what it is made of.

    Attributes:
        name: ``module:function``.
        digest: of the source of its module.
    """

    name: str
    digest: str

    @classmethod
    def of(cls, name: str) -> QueryFunction:
        """Find a function, without running anything of its module.

        Args:
            name: ``module:function``.

        Raises:
            ConfigError: there is no such module with a source, or no such function in it.
        """
        module, _, function = name.partition(":")
        source = _source(module)
        try:
            body = ast.parse(source).body
        except (SyntaxError, ValueError) as error:
            raise ConfigError(f"query_function: {module} is no Python: {brief(error)}.") from error
        if not any(isinstance(one, ast.FunctionDef) and one.name == function for one in body):
            raise ConfigError(
                f"query_function: the module {module} defines no function {function}; write `def "
                f"{function}(logits_TV, tokens_T, first_target):` at its top level."
            )
        return cls(name, digest_bytes(source))

    def load(self) -> Callable[..., Any]:
        """The function, imported in this process.

        Raises:
            ConfigError: it is not there, or another one than the driver's.
        """
        if QueryFunction.of(self.name) != self:
            raise ConfigError(
                f"query_function: the module of {self.name} is another one here than where the run "
                "was started, or was changed since. Give all machines the same, and run again."
            )
        module, _, function = self.name.partition(":")
        try:
            found: Callable[..., Any] = getattr(import_module(module), function)
        except Exception as error:  # it is code, and may fail in any way
            raise ConfigError(
                f"query_function: {module} cannot be imported: {type(error).__name__}: "
                f"{brief(error)}."
            ) from error
        return found


def _source(module: str) -> bytes:
    try:
        spec = find_spec(module)
    except (ImportError, ValueError):  # a package before the last dot is none
        spec = None
    if spec is None:
        raise ConfigError(
            f"query_function: there is no module {module}. Put the folder that it is in on "
            "PYTHONPATH; on a cluster, on that of all nodes (an image, or `py_modules` of Ray's "
            "runtime environment)."
        )
    if not spec.origin or not spec.origin.endswith(".py"):
        raise ConfigError(
            f"query_function: the module {module} has no source file, which says whether it is "
            "still the same."
        )
    return Store(spec.origin).read("")
