import ast
import importlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import rayinfluence

ROOT = Path(rayinfluence.__file__).parent
MODULES = sorted(ROOT.rglob("*.py"))
DATA = {
    "storage",
    "errors",
    "config",
    "config_file",
    "config_places",
    "config_corpus",
    "config_rows",
    "config_scored",
    "config_methods",
    "config_representer",
    "config_solver",
    "text",
    "guest",
    "addresses",
    "registered",
    "objective_kinds",
    "named_function",
}
ALGEBRA = {"influence", "curvature"}
BELOW_DATAFLOW = ALGEBRA | DATA | {"methods", "model", "corpus"}

#: Which parts of the package each part may import, besides itself.
ARROWS: dict[str, set[str]] = {
    "errors": {"text"},
    "text": set(),
    "guest": set(),
    "registered": set(),
    "objective_kinds": {"errors"},
    "named_function": {"errors", "storage"},
    "addresses": {"text"},
    "yamls": set(),
    "config_sentences": set(),
    "config_set": {"errors", "yamls"},
    "config_file": {"addresses", "errors", "yamls"},
    "display": {"text"},
    "config_places": {"text", "addresses"},
    "config_corpus": {"config_places", "config_rows", "config_sentences"},
    "config_rows": {"config_places"},
    "config_solver": {"config_places", "config_sentences"},
    "config_methods": set(),
    "config_representer": {"config_places"},
    "config_objective": {"config_places", "config_sentences"},
    "config_features": {"addresses"},
    "config_scored": set(),
    "config_evaluation": {"config_places", "config_objective", "config_scored"},
    "config": {
        "errors",
        "text",
        "config_file",
        "config_sentences",
        "config_set",
        "config_solver",
        "config_methods",
        "config_representer",
        "config_places",
        "config_corpus",
        "config_objective",
        "config_features",
        "config_scored",
        "config_evaluation",
    },
    "storage": {"errors", "text", "addresses", "objective_kinds"},
    "curvature": {"errors", "text"},
    "influence": {"curvature", "errors", "text"},
    "model": DATA,
    "corpus": DATA | {"yamls"},
    "methods": ALGEBRA | DATA | {"model", "corpus"},
    "dataflow": BELOW_DATAFLOW | {"yamls"},
    "evaluation": BELOW_DATAFLOW | {"dataflow", "config_evaluation"},
    # Of results alone: never of models, nor of the corpus.
    "analysis": {"storage", "influence", "errors", "text"},
    "report": {"analysis", "storage", "influence", "errors", "text", "guest", "display"},
    # A page of its own, in the report's frame; the report itself reads no models.
    "patterns": {
        "model",
        "corpus",
        "storage",
        "report",
        "display",
        "errors",
        "guest",
        "objective_kinds",
    },
    "demo": BELOW_DATAFLOW | {"dataflow", "evaluation"},
    "testing": BELOW_DATAFLOW | {"dataflow"},
    "submit": DATA | {"corpus", "dataflow"},
    "cli": BELOW_DATAFLOW
    | {"dataflow", "submit", "config_evaluation", "evaluation", "report", "analysis", "demo"}
    | {"display", "patterns", ""},
    "__main__": {"cli"},
}


def part_of(path: Path) -> str:
    return path.relative_to(ROOT).parts[0].removesuffix(".py")


def imports(path: Path, *, only_top: bool = False) -> Iterator[str]:
    """The dotted names that a module imports, wherever in it; ``from a import b`` gives a.b."""
    tree = ast.parse(path.read_text("utf-8"))
    nodes = _when_imported(tree) if only_top else ast.walk(tree)
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} has a relative import"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def _when_imported(node: ast.AST) -> Iterator[ast.AST]:
    """What runs when a module is imported: nothing in functions or for type checkers alone."""
    for child in ast.iter_child_nodes(node):
        for_types = isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test)
        if not for_types and not isinstance(child, ast.FunctionDef):
            yield child
            yield from _when_imported(child)


def parts_imported(path: Path, *, only_top: bool = False) -> set[str]:
    ours = [name for name in imports(path, only_top=only_top) if name.split(".")[0] == ROOT.name]
    known = set(ARROWS)
    return {part if (part := name.split(".")[1]) in known else "" for name in ours}


def test_every_part_has_its_arrows() -> None:
    assert {part_of(path) for path in MODULES} - {"__init__"} <= set(ARROWS)


@pytest.mark.parametrize(
    "path", [p for p in MODULES if part_of(p) != "__init__"], ids=lambda p: str(p.relative_to(ROOT))
)
def test_a_module_imports_only_what_is_below_it(path: Path) -> None:
    part = part_of(path)
    assert parts_imported(path) - {part} <= ARROWS[part]


def test_the_arrows_have_no_circle() -> None:
    below: dict[str, set[str]] = {}

    def visit(part: str, path: tuple[str, ...]) -> set[str]:
        assert part not in path, f"{' -> '.join((*path, part))} is a circle"
        if part not in below:
            inner = [visit(other, (*path, part)) for other in ARROWS.get(part, set())]
            below[part] = ARROWS.get(part, set()).union(*inner)
        return below[part]

    for part in ARROWS:
        visit(part, ())
    assert all("cli" not in parts for part, parts in below.items() if part != "__main__")


@pytest.mark.parametrize(
    "path",
    [path for path in MODULES if path.is_relative_to(ROOT / "dataflow" / "compute")],
    ids=lambda path: path.name,
)
def test_what_computes_opens_nothing_and_looks_at_no_clock(path: Path) -> None:
    opened = ("rayinfluence.storage.store", "rayinfluence.storage.tensors", "time.", "ray.")
    assert [name for name in imports(path) if f"{name}.".startswith(opened)] == []


#: What says how things are called.
NAMES = {"stage_names", "layout", "kinds"}
#: Which rooms of the dataflow, and modules beside them, each of them may import, besides itself.
ROOMS: dict[str, set[str]] = {
    "stage_names": set(),
    "layout": {"stage_names"},
    "kinds": NAMES - {"kinds"},
    "compute": set(),
    "jobs": NAMES | {"compute"},
    "runners": {"compute", "jobs"},
    "stages": NAMES | {"compute", "jobs", "runners"},
    "status": NAMES,
    "places": NAMES | {"status"},
    "begin": NAMES | {"compute", "runners", "stages", "status", "places"},
    "plan": NAMES | {"compute", "jobs", "stages", "begin"},
    "manifest": NAMES | {"compute", "jobs", "stages", "begin"},
    "probing": NAMES | {"compute", "jobs", "stages", "begin"},
    "seeds": NAMES | {"compute", "stages", "manifest"},
    "looking": {"begin", "places"},
    "tokenised": {"begin", "places"},
    "querying": {"compute", "jobs", "stages", "begin"},
    "run": NAMES
    | {"compute", "jobs", "runners", "stages", "begin", "plan", "manifest", "querying"},
    "asking": {"begin", "run"},
}


def room_of(path: Path) -> str:
    return path.relative_to(ROOT / "dataflow").parts[0].removesuffix(".py")


@pytest.mark.parametrize(
    "path",
    [p for p in MODULES if part_of(p) == "dataflow" and room_of(p) != "__init__"],
    ids=lambda p: str(p.relative_to(ROOT)),
)
def test_a_room_of_the_dataflow_imports_only_what_is_below_it(path: Path) -> None:
    inside = "rayinfluence.dataflow."
    found = {n.removeprefix(inside).split(".")[0] for n in imports(path) if n.startswith(inside)}
    assert found - {room_of(path)} <= ROOMS[room_of(path)]


def test_no_two_modules_of_the_dataflow_import_each_other() -> None:
    ours = [p for p in MODULES if part_of(p) == "dataflow"]
    names = {".".join(p.relative_to(ROOT.parent).with_suffix("").parts): p for p in ours}
    below: dict[str, set[str]] = {}
    for name, path in names.items():
        found = [f"{n}." for n in imports(path)]
        below[name] = {other for other in names if any(n.startswith(f"{other}.") for n in found)}
    while leaves := {name for name, others in below.items() if not others}:
        below = {name: others - leaves for name, others in below.items() if name not in leaves}
    assert not below


def test_ray_is_imported_where_the_cluster_is_and_nowhere_else() -> None:
    users = {
        str(path.relative_to(ROOT))
        for path in MODULES
        if any(name.split(".")[0] == "ray" for name in imports(path))
    }
    inside = "dataflow/runners/ray/"
    others = {user for user in users if not user.startswith(inside)}
    assert others == {"submit.py", "testing/cluster.py"}


def test_the_module_of_the_cluster_is_imported_only_when_it_is_needed() -> None:
    for path in MODULES:
        if path.name != "cluster.py":
            assert "rayinfluence.dataflow.runners.ray.runner" not in {
                name.rsplit(".", 1)[0] for name in imports(path, only_top=True)
            }


def test_nothing_reads_pickles() -> None:
    unsafe = {"pickle", "cloudpickle", "dill", "marshal", "shelve", "joblib"}
    for path in MODULES:
        assert not unsafe & {name.split(".")[0] for name in imports(path)}, path
        calls = {ast.unparse(n.func) for n in ast.walk(_tree(path)) if isinstance(n, ast.Call)}
        assert not {"torch.load", "yaml.load", "eval", "exec"} & calls, path
        numpy_loads = [
            node
            for node in ast.walk(_tree(path))
            if isinstance(node, ast.keyword) and node.arg == "allow_pickle"
        ]
        assert not numpy_loads, path


def _tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text("utf-8"))


def test_only_storage_opens_files() -> None:
    # config_file reads YAML, report its style sheet, demo and testing write inputs for runs.
    elsewhere = {"storage", "config_file", "report", "demo", "testing"}
    for path in MODULES:
        if part_of(path) in elsewhere:
            continue
        calls = [n for n in ast.walk(_tree(path)) if isinstance(n, ast.Call)]
        named = {ast.unparse(call.func).rsplit(".", 1)[-1] for call in calls}
        assert not {"write_text", "write_bytes", "read_text", "read_bytes"} & named, path
        assert "open" not in {c.func.id for c in calls if isinstance(c.func, ast.Name)}, path


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_modules_are_short(path: Path) -> None:
    assert len(path.read_text("utf-8").splitlines()) <= 500


def test_tests_are_short_and_in_the_rooms_of_what_they_test() -> None:
    tests = Path(__file__).parents[1]
    long = [p for p in tests.rglob("*.py") if len(p.read_text("utf-8").splitlines()) > 500]
    assert long == []
    rooms = {path.parent.relative_to(tests / "unit") for path in tests.glob("unit/*/**/*.py")}
    assert {Path("storage"), Path("dataflow/stages")} <= rooms
    there = {path.relative_to(ROOT).with_suffix("") for path in MODULES}
    there |= {path.parent for path in there}
    assert rooms <= there


def test_the_package_s_own_imports_are_light() -> None:
    assert parts_imported(ROOT / "__init__.py", only_top=True) == {"config", "errors", "guest"}
    program = (
        "import sys, rayinfluence, rayinfluence.cli; "
        "print(sorted({'torch', 'ray', 'transformers', 'pyarrow', 'numpy'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done.stderr


def test_what_starts_before_everything_else_does_without_torch() -> None:
    """The tally is a process of its own, and others wait for it."""
    program = "import sys, rayinfluence.dataflow.runners.ray.tally; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout.strip() == "False", done.stderr


def test_every_public_name_exists_and_is_documented() -> None:
    for name in rayinfluence.__all__:
        assert getattr(rayinfluence, name).__doc__, name
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = rayinfluence.nothing
    testing = importlib.import_module("rayinfluence.testing")
    assert all(hasattr(testing, name) for name in testing.__all__)


def test_a_run_inline_works_where_ray_is_blocked(tmp_path: Path) -> None:
    program = f"""
import sys
sys.modules["ray"] = None
from pathlib import Path
from rayinfluence.dataflow.run import Run
from rayinfluence.testing import tiny_run
with Run(tiny_run(Path({str(tmp_path)!r}), 12)) as run:
    print(len(run.all()["ekfac"].proponents("q0")))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout.strip() == "5", done.stderr


def test_every_error_has_its_own_exit_code_and_survives_a_process_border() -> None:
    import pickle

    from rayinfluence import errors

    kinds = [
        kind
        for kind in vars(errors).values()
        if isinstance(kind, type) and issubclass(kind, errors.RayInfluenceError)
    ]
    codes = {kind.__name__: kind.exit_code for kind in kinds}
    assert codes == {
        "RayInfluenceError": 1,
        "ConfigError": 2,
        "InputError": 4,
        "CorpusError": 4,
        "BadFileError": 4,
        "QueryError": 4,
        "ChatError": 4,
        "ModelError": 4,
        "StorageError": 5,
        "DamagedError": 5,
        "NumericsError": 6,
        "StageError": 7,
    }
    for kind in kinds:
        again = pickle.loads(pickle.dumps(kind("a message")))
        assert (type(again), str(again)) == (kind, "a message")
