"""What a run directory holds is what the package, its docs and a run itself say."""

import ast
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import rayinfluence
from rayinfluence.dataflow import layout, stage_names
from rayinfluence.dataflow.kinds import FOLDERS, IN_CORPUS, KINDS, is_cleaned, pattern, tops
from rayinfluence.dataflow.stage_names import STAGES
from rayinfluence.methods.registry import METHODS
from rayinfluence.storage.results import MANIFEST, method_tables, scores_key, table_key
from rayinfluence.testing import tiny_run

PACKAGE = Path(rayinfluence.__file__).parent
MODULES = [
    path
    for path in sorted((PACKAGE / "dataflow").rglob("*.py"))
    if path.name not in ("layout.py", "kinds.py", "stage_names.py")
]
REFERENCE = (PACKAGE.parent / "docs" / "reference.md").read_text("utf-8")
SOME = "ab" * 16
Say = Callable[..., tuple[int, str, str]]


def kind_of(key: str) -> str | None:
    return next((one.key for one in KINDS if re.fullmatch(pattern(one.key), key)), None)


def test_the_reference_lists_what_a_run_directory_holds() -> None:
    width = max(len(one.key) for one in KINDS) + 2
    lines = [f"    {one.key:<{width}}{one.what}" for one in KINDS]
    section = REFERENCE.split("## Run directory\n\n")[1].split("\n\n")[0]
    assert section.splitlines() == lines


def test_the_reference_names_what_clean_deletes_and_the_stages() -> None:
    for part, stages in STAGES.items():
        shown = ", ".join(f"`{folder}`" for folder in tops(part))
        named = ", ".join(f"`{stage}`" for stage in stages)
        assert f"| `{part}` | {named} | {shown} |" in REFERENCE


def test_a_run_leaves_nothing_that_has_no_name(tmp_path: Path, say: Say) -> None:
    config = tiny_run(
        tmp_path,
        runner={"name": "inline"},
        fit={"lanes": 2, "error_bound": 5.0},
        corpus={"select": "year > 1990"},
        scan={
            "methods": ["ekfac", "bm25", "representer"],
            "scores": "dense",
            "split_tokens": 120,
            "solver": {"name": "pcg", "steps": 1, "sequences": 10},
        },
    )
    path = tmp_path / "run.yaml"
    path.write_text(json.dumps(config.model_dump()))
    assert say("plan", path)[0] == 0
    assert say("run", path)[0] == 0
    run = Path(config.run)
    keys = {str(file.relative_to(run)) for file in run.rglob("*") if file.is_file()}
    found = {key: kind_of(key) for key in keys}
    assert [key for key, kind in found.items() if kind is None] == []
    lane = [layout.lane_key(s, "<piece>", "<lane>") for s in ("covariance", "moments")]
    assert {one.key for one in KINDS} - set(found.values()) == {
        "corpus/rolled/<name>",  # of many files
        *(f"corpus/{folder}/<name>" for folder in ("surveys", "parts")),  # of large ones
        layout.HUB,  # of a model on a hub
        f"{layout.ASKED}/{layout.question_key('<digest>')}",  # of `ask`
        f"{layout.REPORT_PAGES}/<page>.html",  # of many queries
        *(f"{layout.VIEWS}/<digest>{end}.html" for end in ("", "/<page>")),  # of `report`
        # Of training again, and of moving the weights.
        *(one.key for one in KINDS if one.part == stage_names.EVALUATION),
        # While work is under way.
        f"{layout.SCRATCH}/{layout.scratch_key(0)}",
        *(f"factors/<fingerprint>/{layout.checkpoint_key(key)}" for key in lane),
        f"last_layer/<fingerprint>/{layout.checkpoint_key(layout.fitted_key())}",
        f"refined/<fingerprint>/{layout.prepared_key()}",  # of some solvers
        *(
            f"refined/<fingerprint>/{layout.checkpoint_key(key)}"
            for key in (layout.prepared_key(), layout.query_key("<query>"))
        ),
        f"refined/<fingerprint>/{layout.asked_key('<name>', 0)}",
        f"refined/<fingerprint>/{layout.lane_sums_key('<name>', 0, 0)}",
        # Where something is wrong.
        *(f"corpus/{folder}/<name>" for folder in ("bad-files", "quarantine")),
        f"scan/<bank>/{layout.aside_key('<split>')}",
        f"scan/<bank>/{layout.mark_key('<split>', 1)}",
    }
    timed = json.loads((run / layout.TIMINGS).read_text())
    assert timed.keys() <= {stage for stages in STAGES.values() for stage in stages} | {"plan"}


@pytest.mark.parametrize(
    ("key", "kind"),
    [
        (
            layout.lane_key("covariance", layout.piece_name(12), layout.lane_name(1234, 10)),
            "covariance/<piece>/<lane>.safetensors",
        ),
        (
            layout.lane_key("moments", layout.piece_name(1, alone=True), layout.lane_name(0)),
            "moments/<piece>/<lane>.safetensors",
        ),
        (
            layout.checkpoint_key(layout.lane_key("moments", "round-0", "lane-001")),
            "moments/<piece>/<lane>.checkpoint",
        ),
        (
            layout.basis_key("part-2", "inputs", "h.0.mlp"),
            "eigen/<piece>/<side>/<module>.safetensors",
        ),
        (layout.held_out_key(10), "rounds/0.safetensors"),
        (layout.held_out_key(10, alone=True), "rounds/1-part.safetensors"),
    ],
)
def test_keys_of_a_fit_are_found_by_their_kinds(key: str, kind: str) -> None:
    assert kind_of(f"factors/{SOME}/{key}") == f"factors/<fingerprint>/{kind}"


def test_keys_of_a_bank_are_found_by_their_kinds() -> None:
    keys = [layout.partial_key, scores_key, layout.aside_key, lambda s: layout.mark_key(s, 12)]
    found = [kind_of(f"scan/{SOME}/{key(SOME)}") for key in keys]
    assert found == [
        "scan/<bank>/partials/<split>.safetensors",
        "scan/<bank>/scores/<split>.parquet",
        "scan/<bank>/aside/<split>.json",
        "scan/<bank>/missing/<split>.1.json",
    ]
    assert layout.marked(layout.mark_key(SOME, 12)) == (SOME, 12)
    assert {layout.named(key(SOME)) for key in keys} == {SOME}


def test_keys_of_solves_in_turns_are_found_by_their_kinds_and_say_what_they_are() -> None:
    for of in (layout.query_key(SOME), layout.prepared_key()):
        asked, lane = layout.asked_key(of, 12), layout.lane_sums_key(of, 12, 3)
        begin = "refined/<fingerprint>/turns/<name>-00000"
        assert kind_of(f"refined/{SOME}/{asked}") == f"{begin}.safetensors"
        assert kind_of(f"refined/{SOME}/{lane}") == f"{begin}-lane-000.safetensors"
        assert layout.turn_of(asked) == (layout.named(of), 12, False)
        assert layout.turn_of(lane) == (layout.named(of), 12, True)


def test_what_a_run_does_not_write_has_no_kind() -> None:
    for key in ("notes.txt", "models/mine/a.json", f"scan/{SOME}/x", "factors/x/manifest.json"):
        assert kind_of(key) is None
    assert not is_cleaned(layout.CONFIG)
    assert is_cleaned(MANIFEST)
    assert is_cleaned(table_key(SOME, "anything"))


def test_lanes_are_counted_by_stage_and_round() -> None:
    def lane(stage: str, piece: str, name: str) -> str:
        return layout.lane_key(stage, piece, name)

    keys = [
        lane("covariance", "round-0", "lane-000"),
        lane("covariance", "round-0", layout.lane_name(0, 1)),
        layout.checkpoint_key(lane("covariance", "round-1", "lane-000")),
        lane("moments", "part-1", "lane-000"),
        layout.basis_key("round-0", "inputs", "h"),
    ]
    assert layout.lanes_of_rounds(keys) == {("covariance", 0): 2, ("covariance", 1): 0}


def test_a_manifest_is_of_a_fingerprint() -> None:
    mine = f"{SOME}/{layout.MANIFEST}"
    keys = [mine, "mine/manifest.json", f"{SOME}/x/manifest.json", layout.MANIFEST]
    assert layout.with_manifest(keys) == {SOME: mine}


#: How keys end, and folders that they begin with.
ENDINGS = re.compile(
    r"\.(safetensors|parquet|checkpoint|html)\b|(config|plan|stages|manifest)\.json"
)
BEGINNINGS = tuple(
    f"{folder}/"
    for folder in FOLDERS
    | {*IN_CORPUS, layout.PARTIALS, layout.ASIDE, layout.MARKS}
    | {"scores", "covariance", "moments", "eigen", "modules", "rounds"}
)
#: Methods of a store that take a key.
OF_A_STORE = {"list", "exists", "read", "write", "create", "delete", "read_all"}


def spelt(path: Path) -> Iterator[str]:
    """Keys that a module spells, in its docstrings too."""
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        operands: list[ast.expr] = []
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            text = node.value
            if ENDINGS.search(text) or text.startswith(BEGINNINGS) or "<run>" in text:
                yield text
        elif isinstance(node, ast.BinOp) and isinstance(node.op, ast.Div):
            operands = [node.right]
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            operands = node.args[:1] if node.func.attr in OF_A_STORE else []
        elif isinstance(node, ast.Tuple) and any(isinstance(e, ast.Starred) for e in node.elts):
            operands = node.elts  # an address in parts
        for one in operands:
            parts = one.values if isinstance(one, ast.JoinedStr) else [one]
            texts = [part.value for part in parts if isinstance(part, ast.Constant)]
            yield from (text for text in texts if isinstance(text, str) and text)


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_no_other_module_of_the_dataflow_spells_a_key(path: Path) -> None:
    assert list(spelt(path)) == []


def test_a_module_that_spells_keys_would_be_found(tmp_path: Path) -> None:
    path = tmp_path / "module.py"
    path.write_text(
        '''
"""Writes <run>/x."""
a = store / "factors"
store.write(f"{x}.json", b"")
b = f"partials/{split}"
c = (*parts, "scan", x)
d = "stages.json"
'''
    )
    assert len(list(spelt(path))) == 6


def test_no_module_of_the_dataflow_spells_a_stage_s_name() -> None:
    for path in MODULES:
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            named: list[ast.expr | None] = []
            if isinstance(node, ast.Call):
                called = ast.unparse(node.func).rsplit(".", 1)[-1]
                named = [*node.args[:1]] if called in ("stage", "Stage", "StageStatus") else []
            elif isinstance(node, ast.AnnAssign) and ast.unparse(node.target) == "stage":
                named = [node.value]
            assert not any(isinstance(one, ast.Constant) for one in named), path


def test_stages_have_one_name_each_and_what_they_make_is_in_the_directory() -> None:
    all_of_them = [stage for stages in STAGES.values() for stage in stages]
    assert len(set(all_of_them)) == len(all_of_them)
    known = {value for key, value in vars(stage_names).items() if key.isupper() and key != "STAGES"}
    assert known == {*all_of_them, *STAGES, stage_names.PLAN}
    assert set(STAGES) == {one.part for one in KINDS} - {None}
    assert all(part in tops(part) for part in STAGES)


def test_clean_offers_what_stages_make(say: Say) -> None:
    _, printed, _ = say("clean", "--help")
    assert "corpus, factors, scan, results or evaluation" in " ".join(printed.split())


@pytest.mark.parametrize("method", METHODS)
def test_tables_of_every_method_are_among_what_a_run_leaves(method: str) -> None:
    """So a method's name has no dash, after which the tables' own names follow."""
    kinds = [kind_of(table_key(SOME, name)) for name in method_tables(method)]
    assert None not in kinds
    assert len(set(kinds)) == len(kinds)
