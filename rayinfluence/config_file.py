"""A configuration's file. Its relative paths are relative to the folder that it lies in.

So the same file means the same from wherever it is named.
"""

from __future__ import annotations

import glob
import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml

from rayinfluence.addresses import expanded, is_relative, may_be_on_a_hub
from rayinfluence.errors import ConfigError, brief
from rayinfluence.yamls import RepeatedKey, read_yaml

#: What to name instead of a file that is something else.
_WANTED = (
    "Name the YAML file of a run, with keys such as run and model; on the command line the run "
    "directory will do too."
)

#: Keys of paths, with dots between sections; of lists each element is one.
_PLACES = (
    *("run", "queries", "corpus.path", "corpus.select.ids", "corpus.exclude.ids"),
    *("scan.candidates.run", "evaluation.bank", "evaluation.options.start"),
    "evaluation.shapley.validation",
)
#: Of folders that a name may stand for which is a hub's.
_MODELS = ("model", "base_model", "tokenizer")
#: Of what may be patterns.
_PATTERNS = ("corpus.documents",)
#: Keys whose values are paths or addresses.
PATHS = (*_PLACES, *_MODELS, *_PATTERNS)


def values_of(place: str | Path) -> dict[str, Any]:
    """The plain values of a run's YAML file, as they stand there.

    Raises:
        ConfigError: it is missing, or no run's configuration.
    """
    try:
        values = read_yaml(Path(expanded(str(place))).read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ConfigError(f"{place}: there is no such config file.") from error
    except OSError as error:
        raise ConfigError(f"{place} cannot be read: {brief(error)}. {_WANTED}") from error
    except RepeatedKey as error:
        raise ConfigError(f"{place}: {error}") from error
    except (ValueError, yaml.YAMLError) as error:
        raise ConfigError(f"{place} cannot be read as YAML: {brief(error)}. {_WANTED}") from error
    if not isinstance(values, dict) or not {"run", "model"} & values.keys():
        raise ConfigError(
            f"{place} is not the configuration of a run: neither run nor model is among its "
            f"keys. {_WANTED}"
        )
    return values


def beside(values: Mapping[str, Any], place: str | Path) -> dict[str, Any]:
    """Plain values of a configuration with paths from here, for ones from its file's folder.

    Args:
        values: as YAML has them; whatever is no path is left to who looks at all of them.
        place: of the file; nothing changes where it lies in the working directory.
    """
    folder = Path(expanded(str(place))).parent
    if _is_here(folder):
        return dict(values)
    escaped = Path(glob.escape(str(folder)))
    # Not by Path alone: patterns mean folders by their last slash.
    moved = _moved(values, _PLACES, lambda path: f"{folder}/{path}")
    moved = _moved(moved, _PATTERNS, lambda path: f"{escaped}/{path}")
    return _moved(moved, _MODELS, lambda path: _model(folder, path))


def from_beside(values: Mapping[str, Any], place: str | Path) -> dict[str, Any]:
    """The other way round: paths from the folder of a file that is to be, for ones from here."""
    folder = Path(place).parent
    if _is_here(folder):
        return dict(values)
    return _moved(
        values,
        PATHS,
        lambda path: os.path.relpath(path, folder) + "/" * path.endswith("/"),
    )


def is_same_place(one: str, other: str) -> bool:
    """Whether two paths may be of the same, named from different folders: by their tails."""
    short, long = sorted((_tail(one), _tail(other)), key=len)
    return long == short or long.endswith(f"/{short}")


def _tail(path: str) -> str:
    """What a path names, without the way up to where it begins."""
    while path.startswith(("./", "../")):
        path = path.partition("/")[2]
    return path


def _is_here(folder: Path) -> bool:
    return folder.resolve() == Path.cwd().resolve()


def _model(folder: Path, path: str) -> str:
    """A model's folder; what may be a hub's name stays where there is none."""
    moved = f"{folder}/{path}"
    return path if may_be_on_a_hub(path) and not Path(moved).exists() else moved


def _moved(
    values: Mapping[str, Any], keys: Iterable[str], move: Callable[[str], str]
) -> dict[str, Any]:
    """Values with the relative paths under some keys moved."""
    changed = dict(values)
    for key in keys:
        first, dot, rest = key.partition(".")
        value = changed.get(first)
        if dot and isinstance(value, Mapping):
            changed[first] = _moved(value, (rest,), move)
        elif not dot and isinstance(value, list):
            changed[first] = [_move(one, move) for one in value]
        elif not dot and value is not None:
            changed[first] = _move(value, move)
    return changed


def _move(value: Any, move: Callable[[str], str]) -> Any:
    return move(value) if isinstance(value, str) and is_relative(value) else value
