"""Python's own documentation as plain prose: the language reference and the library's docstrings.

Every installation has about two megabytes of it, so the demo needs no download. Files are parsed
with ``ast``, never imported. The order depends on the names in the library alone.
"""

from __future__ import annotations

import ast
import inspect
import re
import sysconfig
import warnings
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

TOPICS = "pydoc_data.topics"
PROSE_CHARACTERS = 900_000
#: Folders of the library that hold other people's packages, tests or tables.
SKIPPED_FOLDERS = frozenset(
    {"site-packages", "dist-packages", "test", "tests", "idlelib", "lib2to3", "turtledemo"}
    | {"ensurepip", "encodings", "pydoc_data"}
)
SHORTEST_PARAGRAPH = 40
SHARE_OF_LETTERS = 0.88

_Documented = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef
#: Doctests, grammar, directives, tables, fields, rules and underlines, columns.
_NOT_PROSE = re.compile(
    r">>>|::=|^\.\. |^[|+]|^\s*:\w[^:\n]*:|[=\-~^*]{4,}|  +\S.*  +\S", re.MULTILINE
)
_BULLET = re.compile(r"^(?:[*\-•]|\d+[.)])\s+")


@dataclass(frozen=True)
class Passage:
    """The prose of one topic or docstring; ``source`` reads ``json.decoder:JSONDecoder``."""

    source: str
    text: str


def standard_library() -> Path:
    """The folder of the running Python's standard library."""
    return Path(sysconfig.get_path("stdlib"))


def read_prose(library: Path | None = None, characters: int = PROSE_CHARACTERS) -> list[Passage]:
    """About ``characters`` of prose: up to half from the language reference, the rest docstrings.

    What is missing (some systems package ``pydoc_data`` apart) is made up for by the docstrings.
    """
    library = library or standard_library()
    topics = list(_up_to(characters // 2, read_topics(library)))
    used = sum(len(passage.text) for passage in topics)
    return topics + list(_up_to(characters - used, read_docstrings(library)))


def read_topics(library: Path) -> Iterator[Passage]:
    """The topics of Python's ``help()``; nothing where they are not installed."""
    tree = _parse(library / "pydoc_data" / "topics.py")
    tables = (node for node in ast.walk(tree) if isinstance(node, ast.Dict)) if tree else iter(())
    texts = {
        key.value: value.value
        for table in tables
        for key, value in zip(table.keys, table.values, strict=True)
        if isinstance(key, ast.Constant) and isinstance(value, ast.Constant)
    }
    names = sorted(name for name in texts if isinstance(name, str))
    yield from _passages((f"{TOPICS}:{name}", str(texts[name])) for name in names)


def read_docstrings(library: Path) -> Iterator[Passage]:
    """The docstrings of every module, class and function; modules come in one fixed shuffled order.

    Shuffled, so that a size limit takes a fair sample instead of the letters a to c.
    """
    files = sorted(
        path
        for path in library.rglob("*.py")
        if SKIPPED_FOLDERS.isdisjoint(path.relative_to(library).parts)
    )
    for index in np.random.default_rng(0).permutation(len(files)):
        path = files[index]
        tree = _parse(path)
        if tree:
            parts = path.relative_to(library).with_suffix("").parts
            module = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
            yield from _passages(_docstrings(tree, module))


def clean(text: str) -> str:
    """Only the paragraphs that read as prose, each on one line, joined by spaces."""
    blocks = re.split(r"\n\s*\n", inspect.cleandoc(text))
    return " ".join(filter(None, map(_paragraph, blocks)))


def _paragraph(block: str) -> str:
    block = block.strip()
    if _NOT_PROSE.search(block):
        return ""
    line = _BULLET.sub("", " ".join(block.split())).replace("::", ":").replace("``", '"')
    letters = sum(character.isalpha() or character == " " for character in line)
    reads = line.endswith((".", "!", "?", ":", ")")) and letters >= SHARE_OF_LETTERS * len(line)
    return line if reads and len(line) >= SHORTEST_PARAGRAPH else ""


def _passages(texts: Iterable[tuple[str, str]]) -> Iterator[Passage]:
    for source, text in texts:
        prose = clean(text)
        if prose:
            yield Passage(source, prose)


def _docstrings(tree: ast.Module, module: str) -> Iterator[tuple[str, str]]:
    def visit(node: _Documented, path: tuple[str, ...]) -> Iterator[tuple[str, str]]:
        text = ast.get_docstring(node, clean=False)
        if text:
            yield f"{module}:{'.'.join(path)}".removesuffix(":"), text
        for child in node.body:
            if isinstance(child, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
                yield from visit(child, (*path, child.name))

    return visit(tree, ())


def _parse(path: Path) -> ast.Module | None:
    """The syntax tree, or None where the file is missing or not Python this version can read."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return ast.parse(path.read_bytes())
    except (OSError, SyntaxError, ValueError, RecursionError):
        return None


def _up_to(characters: int, passages: Iterable[Passage]) -> Iterator[Passage]:
    """Passages until their texts hold ``characters``; the last one may go beyond."""
    used = 0
    for passage in passages:
        if used >= characters:
            return
        used += len(passage.text)
        yield passage
