"""A function of the user's own: what queries ask for, what training maximised, how to train.

It is named by the configuration, never by queries.jsonl: that is data, and must not name code.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from types import MappingProxyType, ModuleType
from typing import Any
from weakref import WeakKeyDictionary

from rayinfluence.errors import ConfigError, brief
from rayinfluence.storage.digest import digest_bytes
from rayinfluence.storage.store import Store

#: What a function is called with, by the key of the configuration that names it.
ARGUMENTS: Mapping[str, str] = MappingProxyType(
    {
        "query_function": "logits_TV, tokens_T, first_target",
        "objective.kind": "logits_BTV, labels_BT, tokens_BT, lengths_B",
        "model_function": "",
        "evaluation.recipe": "sequences, weights, seed",
    }
)


#: By module that this process has imported here, the digest of its source then.
_IMPORTED: WeakKeyDictionary[ModuleType, str] = WeakKeyDictionary()


@dataclass(frozen=True)
class NamedFunction:
    """A function, by its name and what it is made of.

    Attributes:
        key: of the configuration, which names it.
        name: ``module:function``.
        digest: of the source of its module.
    """

    key: str
    name: str
    digest: str

    @classmethod
    def of(cls, key: str, name: str) -> NamedFunction:
        """Find a function, without running anything of its module.

        Args:
            key: one of :data:`ARGUMENTS`.
            name: ``module:function``.

        Raises:
            ConfigError: there is no such module with a source, or no such function in it.
        """
        module, _, function = name.partition(":")
        source = _source(key, module)
        try:
            body = ast.parse(source).body
        except (SyntaxError, ValueError) as error:
            raise ConfigError(f"{key}: {module} is no Python: {brief(error)}.") from error
        if not any(isinstance(one, ast.FunctionDef) and one.name == function for one in body):
            raise ConfigError(
                f"{key}: the module {module} defines no function {function}; write `def "
                f"{function}({ARGUMENTS[key]}):` at its top level."
            )
        return cls(key, name, digest_bytes(source))

    def load(self) -> Callable[..., Any]:
        """The function, imported in this process.

        Raises:
            ConfigError: it is not there, or another one than the driver's, or than this process
                has imported.
        """
        if NamedFunction.of(self.key, self.name) != self:
            raise ConfigError(
                f"{self.key}: the module of {self.name} is another one here than where the run "
                "was started, or was changed since. Give all machines the same, and run again."
            )
        module, _, function = self.name.partition(":")
        try:
            imported = import_module(module)
            found: Callable[..., Any] = getattr(imported, function)
        except (Exception, SystemExit) as error:  # it is code, and may fail in any way
            raise ConfigError(
                f"{self.key}: {module} cannot be imported: {type(error).__name__}: {brief(error)}."
            ) from error
        if _IMPORTED.setdefault(imported, self.digest) != self.digest:
            raise ConfigError(
                f"{self.key}: the module of {self.name} was changed since this process imported "
                "it, and Python goes on with what it was. Start again in another process."
            )
        return found


def _source(key: str, module: str) -> bytes:
    try:
        spec = find_spec(module)
    except (ImportError, ValueError):  # a package before the last dot is none
        spec = None
    if spec is None:
        raise ConfigError(
            f"{key}: there is no module {module}. Put the folder that it is in on "
            "PYTHONPATH; on a cluster, on that of all nodes (an image, or `py_modules` of Ray's "
            "runtime environment)."
        )
    if not spec.origin or not spec.origin.endswith(".py"):
        raise ConfigError(
            f"{key}: the module {module} has no source file, which says whether it is "
            "still the same."
        )
    return Store(spec.origin).read("")
