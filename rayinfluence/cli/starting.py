"""``rayinfluence init``: a first configuration, of what is there."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
import yaml

from rayinfluence.cli.saying import say
from rayinfluence.config_file import from_beside
from rayinfluence.errors import ConfigError
from rayinfluence.text import visible_line

if TYPE_CHECKING:
    from rayinfluence.dataflow.begin.proposed import Proposed

#: Folders and files of documents that are looked for where none are named.
_DOCUMENTS = ("documents", "corpus", "data", "train")
_QUERIES = "queries.jsonl"
#: What may stand beside what is written, by section; "" is the top.
_MORE = {
    "": (
        "dtype: float32            # or bfloat16, the default on GPUs",
        "modules: mlp              # which layers are tracked; or attention, all, patterns",
    ),
    "scan": (
        "methods: [ekfac, bm25]      # the first is what a report begins with",
        "top: 100                  # proponents, and opponents, kept per query",
    ),
    "runner": ("actors: 1               # model replicas; name: ray runs them on a cluster",),
}


def init(
    model: Annotated[
        str | None, typer.Option(help="A model's folder, or its hf:// address.")
    ] = None,
    documents: Annotated[
        str | None, typer.Option(help="A file, folder or glob of training documents.")
    ] = None,
    queries: Annotated[
        str | None, typer.Option(help="A file of queries; without it one is made as an example.")
    ] = None,
    output: Annotated[Path, typer.Option(help="The file to write.")] = Path("run.yaml"),
) -> None:
    """Write a commented configuration for a model and documents that are looked at."""
    _refuse_there("--output", output)
    model = model or _only("model", [str(path) for path in _models()])
    documents = documents or _only("documents", [str(path) for path in _documents()])
    from rayinfluence.dataflow.begin.proposed import proposed
    from rayinfluence.storage.store import Store

    found = proposed(model, documents, queries)
    values, example = dict(found.values), output.parent / _QUERIES
    if found.example is not None:
        _refuse_there("queries", example)
        values["queries"] = str(example)
        line = json.dumps(found.example, ensure_ascii=False) + "\n"
        Store(str(output.parent)).write(_QUERIES, line.encode())
        say(f"{example}: one query of the first document's words, to be replaced by yours")
    # The run is to be beside the file, and all else is where it is.
    values = {**from_beside(values, output), "run": values["run"]}
    text = "\n".join(_lines(values, found)) + "\n"
    Store(str(output.parent)).write(output.name, text.encode())
    say(f"{output}: read it, then `rayinfluence run {output}`")


def _refuse_there(key: str, path: Path) -> None:
    if path.exists():
        raise ConfigError(f"{key}: {path} is there, and is not written over; name another file.")


def _models() -> list[Path]:
    """Folders of models in the working directory, and two levels below."""
    from rayinfluence.model.weight_files import holds_weights

    found = (
        path.parent for depth in ("", "*/", "*/*/") for path in Path().glob(f"{depth}config.json")
    )
    return [path for path in found if holds_weights(path)]


def _documents() -> list[Path]:
    """Files and folders in the working directory that are called as documents are."""
    from rayinfluence.corpus.sources import find_source

    def is_read(path: Path) -> bool:
        inside = path.iterdir() if path.is_dir() else iter((path,))
        return any(find_source(file.name) is not None for file in inside)

    there = sorted(path for path in Path().iterdir() if path.name.split(".")[0] in _DOCUMENTS)
    return [path for path in there if is_read(path)]


def _only(key: str, found: list[str]) -> str:
    if len(found) == 1:
        return found[0]
    seen = f"there are {', '.join(found[:5])}" if found else "none is in the working directory"
    raise ConfigError(f"init: name the {key} by --{key}; {seen}.")


def _lines(values: Mapping[str, Any], found: Proposed) -> Iterator[str]:
    """The configuration with what was seen beside each key, and what else may be set."""
    order = ("run", "model", "queries", "objective", "batch_tokens", "corpus", "scan", "runner")
    yield "# A run of rayinfluence; docs/reference.md has all keys."
    yield "# Paths are relative to the folder of this file."
    for key in order:
        value = values.get(key)
        if not isinstance(value, Mapping):
            if value is not None:
                yield from _remark(found, key, "")
                yield f"{key}: {_yaml(value)}"
            elif key in found.remarks:
                yield from _remark(found, key, "")
            continue
        yield f"{key}:"
        for name, inner in value.items():
            yield from _remark(found, f"{key}.{name}", "  ")
            yield f"  {name}: {_yaml(inner)}"
        yield from (f"  # {line}" for line in _MORE.get(key, ()) if line.split(":")[0] not in value)
    yield from (f"# {line}" for line in _MORE[""])


def _remark(found: Proposed, key: str, indent: str) -> Iterator[str]:
    if key in found.remarks:
        # Names of columns are others': none of them ends the comment.
        yield f"{indent}# {visible_line(f'{key}: {found.remarks[key]}')}"


def _yaml(value: Any) -> str:
    """A value on one line."""
    text = yaml.safe_dump(value, default_flow_style=True, width=10**6, allow_unicode=False)
    return text.removesuffix("...\n").strip()
