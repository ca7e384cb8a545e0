"""Code of models' folders (`trust_remote_code`) in the registers of transformers.

Of two folders whose configuration is of the same code, and of one folder before and after an edit,
transformers runs the code that this process loaded first: it is registered, and what is registered
is taken before what a folder holds. Once registered, it runs without trust, too.
"""

from __future__ import annotations

import filecmp
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

#: The package that transformers imports such code as.
PACKAGE = "transformers_modules"
#: Of tokenizers, by the names of their classes.
_TOKENIZERS = ("REGISTERED_TOKENIZER_CLASSES", "REGISTERED_FAST_ALIASES")


def code_elsewhere(auto_map: Any, keys: tuple[str, ...]) -> str | None:
    """Code of another repository (``org/name--file.Class``) that some entries name, or None.

    transformers would fetch the newest of it from a hub, and run it.

    Args:
        auto_map: of a configuration, where it names code.
        keys: of the entries that are asked for.
    """
    values = auto_map if isinstance(auto_map, Mapping) else {keys[-1]: auto_map}
    for key in keys:
        named = values.get(key)
        for one in named if isinstance(named, list) else [named]:
            if isinstance(one, str) and "--" in one:
                return one
    return None


def not_fetched(code: str, config: str) -> str:
    """Why such code does not run, as a clause, and what to do.

    Args:
        code: as it is named.
        config: the file that names it.
    """
    return (
        f"its {config} names code of another repository ({code}), which is not fetched: read it, "
        f"put its files beside {config}, and name them there without what stands before --"
    )


@contextmanager
def only_code_of(folder: str | None) -> Iterator[None]:
    """Let no code of a folder be registered meanwhile but that which this folder holds now.

    What a caller has registered himself stays, and what was taken out comes back, unless the load
    put another in its place.

    Args:
        folder: that may bring code; None where none may.
    """
    hidden = [(register, _of_others(register, folder)) for register in _registers()]
    for register, others in hidden:
        for key in others:
            del register[key]
    try:
        yield
    finally:
        for register, others in hidden:
            for key, value in others.items():
                register.setdefault(key, value)


def _registers() -> list[dict[Any, Any]]:
    """What was registered beside transformers' own: configurations, models and tokenizers."""
    from transformers.models.auto import configuration_auto, modeling_auto, tokenization_auto

    mappings = {
        id(value): value
        for module in (configuration_auto, modeling_auto, tokenization_auto)
        for value in vars(module).values()
        if isinstance(getattr(value, "_extra_content", None), dict)
    }
    named = [getattr(tokenization_auto, name, {}) for name in _TOKENIZERS]
    return [*(mapping._extra_content for mapping in mappings.values()), *named]


def _of_others(register: dict[Any, Any], folder: str | None) -> dict[Any, Any]:
    """The entries of a register that are code of a folder, and not as this one has it."""
    return {
        key: value
        for key, value in register.items()
        if any(_is_of_another(kind, folder) for kind in (key, *_classes(value)))
    }


def _classes(value: Any) -> tuple[Any, ...]:
    # Of tokenizers, a slow one and a fast one.
    return value if isinstance(value, tuple) else (value,)


def _is_of_another(kind: Any, folder: str | None) -> bool:
    name = getattr(kind, "__module__", "") if isinstance(kind, type) else ""
    if name.partition(".")[0] != PACKAGE:
        return False
    file = getattr(sys.modules.get(name), "__file__", None)
    if folder is None or file is None:
        return True
    # transformers copies a file, and those that it imports, into a folder of their own.
    sources = [source for source in Path(file).parent.glob("*.py") if source.name != "__init__.py"]
    return not sources or not all(
        _is_same(source, Path(folder) / source.name) for source in sources
    )


def _is_same(one: Path, other: Path) -> bool:
    return other.is_file() and filecmp.cmp(one, other, shallow=False)
