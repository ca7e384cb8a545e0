"""Scripts of benchmarks, which no other test runs, name what the package has."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SCRIPTS = sorted((ROOT / "tests/benchmarks").glob("*.py"))


def _parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def _defined(body: list[ast.stmt]) -> Iterator[str]:
    """Names that a module has when it was imported; of both ways of a condition."""
    for node in body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield node.name
        elif isinstance(node, ast.Import | ast.ImportFrom):
            yield from ((one.asname or one.name).partition(".")[0] for one in node.names)
        elif isinstance(node, ast.If | ast.Try | ast.With):
            yield from _defined([*node.body, *getattr(node, "orelse", [])])
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            for target in targets:
                yield from (one.id for one in ast.walk(target) if isinstance(one, ast.Name))


def _lacking(path: Path) -> Iterator[str]:
    """What a script imports of the package that is not there."""
    for node in ast.walk(_parsed(path)):
        if not isinstance(node, ast.ImportFrom) or not (node.module or "").startswith(
            "rayinfluence"
        ):
            continue
        module = ROOT / (node.module or "").replace(".", "/")
        file = module / "__init__.py" if module.is_dir() else module.with_suffix(".py")
        if not file.is_file():
            yield f"{node.module}"
            continue
        names = set(_defined(_parsed(file).body))
        # Public names of the package are looked up when they are asked for.
        lazy = "__getattr__" in names
        for one in node.names:
            is_module = (module / f"{one.name}.py").is_file() or (module / one.name).is_dir()
            if one.name not in names and not is_module and not lazy:
                yield f"{node.module}.{one.name}"


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_what_a_benchmark_imports_is_there(script: Path) -> None:
    assert list(_lacking(script)) == []


def test_what_is_not_there_is_found(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        "from rayinfluence.demo.training import train\n"
        "from rayinfluence.evaluation.training import train, trained\n"
    )
    found = list(_lacking(script))
    assert found == ["rayinfluence.demo.training", "rayinfluence.evaluation.training.trained"]
