"""One word for each stage: in commands, progress, status, `clean`, metrics and documentation."""

import ast
import re
from pathlib import Path

import typer

import rayinfluence
from rayinfluence.cli import app
from rayinfluence.dataflow import stage_names
from rayinfluence.dataflow.kinds import KINDS
from rayinfluence.dataflow.stage_names import PLAN, STAGES

ROOT = Path(rayinfluence.__file__).parent
DOCS = ROOT.parent / "docs"
ALL = {name for stages in STAGES.values() for name in stages} | {PLAN}


def test_every_stage_that_is_shown_is_one_of_the_names() -> None:
    shown = set()
    for path in (ROOT / "dataflow").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            called = ast.unparse(node.func) if isinstance(node, ast.Call) else ""
            if isinstance(node, ast.Call) and re.search(r"(^|\.)(Stage|progress\.stage)$", called):
                named = ast.unparse(node.args[0])
                if named not in ("name", "stage.name"):  # handed on: one of the others
                    shown.add(getattr(stage_names, named.rpartition(".")[2], named))
    assert len(shown) > 8
    assert shown <= ALL


def test_help_of_clean_and_the_layout_have_the_same_words() -> None:
    command = typer.main.get_command(app).commands["clean"]  # type: ignore[attr-defined]
    [stage] = [one for one in command.params if one.name == "stage"]
    assert re.findall(r"\w+", stage.help)[: len(STAGES) + 1] == [
        *[*STAGES][:-1], "or", [*STAGES][-1]
    ]  # fmt: skip
    assert {kind.part for kind in KINDS} - {None} == set(STAGES)


def test_the_reference_has_a_row_for_each_with_its_stages() -> None:
    text = (DOCS / "reference.md").read_text("utf-8")
    rows = re.findall(r"^\| `(\w+)` \| (`.*?`) \|", text.partition("| `--stage` |")[2], re.M)
    found = {part: re.findall(r"`([\w-]+)`", stages) for part, stages in rows[: len(STAGES)]}
    assert found == {part: list(stages) for part, stages in STAGES.items()}
