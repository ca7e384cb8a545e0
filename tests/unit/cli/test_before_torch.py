"""Mistakes that need no model are told before torch is imported, which takes seconds."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from rayinfluence.config import RunConfig

#: A process each.
pytestmark = pytest.mark.runs
SEES = """
import sys
from rayinfluence.cli import main
try:
    main(sys.argv[1:])
finally:
    print({"torch", "transformers", "ray"} & set(sys.modules) or "light", file=sys.stderr)
"""


@pytest.fixture(scope="module")
def folder(finished: tuple[Path, RunConfig], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Configurations, each with a mistake of its own, on a run that is done."""
    folder = tmp_path_factory.mktemp("mistakes")
    good = finished[1].model_dump()
    for name, change in {
        "good": {},
        "key": {"scann": {}},
        "value": {"fit": {"lanes": 0}},
        "unnamed": {"queries": None},
        "missing": {"queries": "/no/queries.jsonl"},
        "spoilt": {"queries": str(folder / "spoilt.jsonl")},
        "documents": {"corpus": {"documents": ["/no/documents.jsonl"]}},
        "model": {"model": "/no/model"},
    }.items():
        (folder / f"{name}.yaml").write_text(yaml.safe_dump({**good, **change}))
    (folder / "spoilt.jsonl").write_text('{"promt": "a", "completion": " b"}\n')
    (folder / "good.jsonl").write_text('{"prompt": "w1", "right": " w2", "wrong": " w3"}\n')
    shutil.copytree(finished[0] / "run", folder / "run")
    return folder


@pytest.mark.parametrize(
    ("line", "code", "phrase"),
    [
        ("run key.yaml", 2, "did you mean 'scan'"),
        ("run value.yaml", 2, "fit.lanes: must be at least 1"),
        ("run good.yaml --set scan.tpo=5", 2, "unknown key 'scan.tpo'; did you mean 'top'"),
        ("run unnamed.yaml", 2, "queries: name a queries.jsonl"),
        ("run missing.yaml", 2, "queries: there is no file"),
        ("scan missing.yaml", 2, "queries: there is no file"),
        ("plan missing.yaml", 2, "queries: there is no file"),
        ("run spoilt.yaml", 4, "spoilt.jsonl:1"),
        ("scan spoilt.yaml", 4, "spoilt.jsonl:1"),
        ("tokenize documents.yaml", 4, "names no file"),
        ("fit model.yaml", 4, "there is no folder /no/model"),
        ("submit value.yaml", 2, "fit.lanes"),
        ("shapley good.yaml", 2, "evaluation.shapley: good.yaml has no such section"),
        ("inspect nothing", 4, "there is no folder nothing"),
        ("status typo", 2, "typo does not exist"),
        ("report typo", 2, "typo does not exist"),
        ("clean typo --stage scan --yes", 2, "typo does not exist"),
        ("probe typo --text a", 2, "typo does not exist"),
        ("ask typo a b", 2, "typo does not exist"),
        ("patterns typo --query no.jsonl", 2, "--query no.jsonl: it is no file"),
        ("patterns typo --query {}", 4, "--query:1 has the keys none"),
        ("patterns nothing --query good.jsonl", 4, "there is no folder nothing"),
        ("corpus stats typo", 2, "typo does not exist"),
        ("report run --query nobody", 2, "--query nobody: the results by ekfac have 3 queries"),
        ("report run --method bm25", 2, "--method bm25: the results are by ekfac"),
        ("status run", 0, ""),
        ("report run", 0, ""),
        ("report run --json", 0, ""),
        ("--help", 0, ""),
    ],
)
def test_it_is_told_before_torch_is_imported(
    folder: Path, line: str, code: int, phrase: str
) -> None:
    command = [sys.executable, "-c", SEES, *line.split()]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    assert done.returncode == code, done.stderr
    assert phrase in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stderr.splitlines()[-1] == "light"
