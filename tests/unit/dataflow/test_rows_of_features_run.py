"""A module of one's own on rows of features, in whole runs: docs/objectives.md's, and bad input."""

from __future__ import annotations

import csv
import io
import json
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from rich.console import Console
from safetensors.torch import save_file
from torch import nn

from rayinfluence.config import RunConfig
from rayinfluence.dataflow.begin.early import Inputs
from rayinfluence.dataflow.begin.probes import Probe, Probing
from rayinfluence.dataflow.looking import looked_at
from rayinfluence.dataflow.plan.inspecting import inspect
from rayinfluence.dataflow.run import Run
from rayinfluence.dataflow.stages.progress import ProgressLog
from rayinfluence.errors import ConfigError, CorpusError, ModelError, QueryError, RayInfluenceError
from rayinfluence.report import render, render_page
from rayinfluence.storage.results import Results
from rayinfluence.testing import tiny_run

pytestmark = pytest.mark.runs

PAGE = (Path(__file__).parents[3] / "docs" / "objectives.md").read_text().split("## Rows of")[1]
COLUMNS = ["depth", "width", "age", "strength"]


def block(kind: str) -> str:
    return re.findall(rf"^```{kind}\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)[0]


MODULE = (
    block("python")
    + """

def classes():
    return nn.Sequential(nn.Linear(3, 16), nn.Tanh(), nn.Linear(16, 2))


def by_batch():
    return nn.Sequential(
        nn.Linear(3, 16), nn.BatchNorm1d(16, track_running_stats=False), nn.Tanh(), nn.Linear(16, 1)
    )


def by_others():
    class Centred(nn.Sequential):
        def forward(self, features):
            return super().forward(features - features.mean(dim=0))

    return Centred(nn.Linear(3, 16), nn.Tanh(), nn.Linear(16, 1))


def folded():
    class Folded(nn.Sequential):
        def forward(self, features):
            return super().forward(features[:, :, None]).mean(dim=1)

    return Folded(nn.Linear(1, 16), nn.Tanh(), nn.Linear(16, 1))


def convolved():
    return nn.Sequential(nn.Unflatten(1, (1, 1, 3)), nn.Conv2d(1, 1, (1, 3)), nn.Flatten())


def bare():
    return nn.Linear(3, 1)


def two():
    return nn.Sequential(nn.Linear(3, 16), nn.Tanh(), nn.Linear(16, 2))


def nothing():
    return None


def fails():
    raise KeyError("gone")
"""
)


def rows(n_rows: int = 60) -> list[list[Any]]:
    numbers = np.random.default_rng(0).normal(size=(n_rows, 3)).astype(np.float32)
    return [[*map(float, row), float(row[0] - 2 * row[1])] for row in numbers]


def built(function: str) -> nn.Module:
    space: dict[str, Any] = {}
    exec(MODULE, space)
    torch.manual_seed(0)
    return space[function]()


def configured(
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    *,
    function: str = "build",
    table: list[list[Any]] | None = None,
    columns: list[str] = COLUMNS,
    queries: str | None = None,
    **more: Any,
) -> RunConfig:
    """The page's run, in a folder."""
    monkeypatch.chdir(folder)
    monkeypatch.syspath_prepend(str(folder))
    monkeypatch.delitem(sys.modules, "network", raising=False)
    (folder / "network").mkdir()
    (folder / "network.py").write_text(MODULE)
    made = None if function in ("nothing", "fails") else built(function)
    if made is None:
        made = built("build")
    save_file(made.state_dict(), folder / "network" / "model.safetensors")
    # A folder of that name is no package: the module is found before it.
    with (folder / "rows.csv").open("w", newline="") as file:
        csv.writer(file).writerows([columns, *(rows() if table is None else table)])
    (folder / "queries.jsonl").write_text(block("jsonl") if queries is None else queries)
    values = yaml.safe_load(block("yaml"))
    values |= {"model_function": f"network:{function}", "runner": {"name": "inline"}}
    for key, value in more.items():
        values[key] = {**values.get(key, {}), **value} if isinstance(value, dict) else value
    return RunConfig.parse(values)


def ran(config: RunConfig) -> Mapping[str, Results]:
    with Run(config, ProgressLog(Console(file=io.StringIO()))) as run:
        return run.all()


def test_the_page_s_example_is_run_and_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = configured(tmp_path, monkeypatch)
    found = ran(config)["ekfac"]
    strong, said = found.queries["strong"], found.queries["said"]
    features = torch.tensor([[0.5, -1.2, 0.3]])
    prediction = float(built("build")(features).detach())
    density = torch.distributions.Normal(prediction, 1.0).log_prob(torch.tensor(1.5))
    assert strong["value"] == pytest.approx(float(density), rel=1e-5)
    assert said["value"] == pytest.approx(prediction, rel=1e-5)
    assert (strong["unit"], said["unit"]) == ("nats", "units of the target")
    assert found.manifest["numerics"]["objective"] == "regression"
    first = found.proponents("strong")[0]
    assert re.fullmatch(r"depth=\S+ width=\S+ age=\S+ -> strength=\S+", first.text)
    assert first.score > 0
    survivors = found.survivors.to_pylist()
    assert {row["delta_nats"] is None for row in survivors if row["query_id"] == "said"} == {True}
    assert {row["delta_nats"] is None for row in survivors if row["query_id"] == "strong"} == {
        False
    }
    file = io.StringIO()
    render(found, Console(file=file, width=200))
    assert "strength=" in file.getvalue()
    assert "per token" not in file.getvalue()
    assert "strength=" in render_page({"ekfac": found})
    for command, refused in (
        ("corpus show", lambda: looked_at(config.run, None, {}, str)),
        ("probe", lambda: Probing.of(config, [Probe("a", "a text")])),
        ("inspect", lambda: inspect(config)),
    ):
        with pytest.raises(ConfigError, match=f"{command} is of texts"):
            refused()
    # The corpus alone tells what its rows are; and another module is another model.
    alone = config.model_copy(update={"corpus": config.corpus.model_copy(update={"documents": []})})
    assert ran(alone)["ekfac"].proponents("strong") == found.proponents("strong")
    (tmp_path / "network.py").write_text(MODULE + "\n")
    monkeypatch.delitem(sys.modules, "network")
    with pytest.raises(RayInfluenceError, match="network:build"):
        ran(config)


def test_classes_are_told_and_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With features in a list, beside others, in lines of JSON."""
    lines = [
        {"query_id": "one", "features": [0.5, -1.2, 0.3], "target": 1},
        {"query_id": "than", "features": [0.5, -1.2, 0.3], "target": 1, "rather_than": 0},
        {"query_id": "odds", "features": [0.5, -1.2, 0.3], "target": 1, "measurement": "margin"},
    ]
    config = configured(
        tmp_path,
        monkeypatch,
        function="classes",
        objective="classification",
        queries="\n".join(map(json.dumps, lines)),
        corpus={
            "documents": ["rows.jsonl"],
            "feature_columns": ["pair", "age"],
            "label_column": "label",
        },
        scan={"group_by": ["label"], "methods": ["ekfac", "self_influence"]},
    )
    table = [{"pair": row[:2], "age": row[2], "label": int(row[3] > 0)} for row in rows()]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, table)))
    found = ran(config)["ekfac"]
    logits = built("classes")(torch.tensor([[0.5, -1.2, 0.3]])).detach()[0]
    queries = found.queries
    assert queries["one"]["value"] == pytest.approx(float(logits.log_softmax(0)[1]), rel=1e-5)
    margin = pytest.approx(float(logits[1] - logits[0]), rel=1e-4)
    assert queries["than"]["value"] == margin
    assert queries["odds"]["value"] == margin
    assert "feature 0=" in found.proponents("one")[0].text


def spoilt(column: int, value: Any) -> list[list[Any]]:
    return [[*row[:column], value, *row[column + 1 :]] for row in rows()]


@pytest.mark.parametrize(
    ("how", "error", "why"),
    [
        ({"table": spoilt(0, "nan")}, CorpusError, "none of its first rows has a finite number"),
        ({"table": spoilt(3, "strong")}, CorpusError, "none of its first rows has a finite number"),
        (
            {"table": [*rows(), ["1e300", 0, 0, 0]]},
            CorpusError,
            "'depth' is '1e300', and no finite number that float32 holds. Mend the file, or name "
            "another column under corpus.feature_columns",
        ),
        ({"table": [*rows(), [0, 0, 0, ""]]}, CorpusError, "'strength' is missing"),
        (
            {"columns": ["depth", "width", "years", "strength"]},
            CorpusError,
            "has no 'age' in any row; there are depth, .*corpus.feature_columns",
        ),
        (
            {"corpus": {"feature_columns": ["depth", "width"]}, "queries": "{}"},
            QueryError,
            "a query needs the keys",
        ),
        (
            {
                "corpus": {"feature_columns": ["depth", "width"]},
                "queries": '{"query_id": "q", "features": [1, 2], "target": 0}',
            },
            ModelError,
            "network:build builds does not take rows of 2 features",
        ),
        ({"function": "nothing"}, ConfigError, "network:nothing gives a NoneType"),
        ({"function": "fails"}, ConfigError, "network:fails fails: KeyError"),
        ({"function": "absent_one"}, ConfigError, "defines no function absent_one"),
        ({"function": "by_batch"}, ModelError, "cannot run on one row alone in float32"),
        (
            {"function": "by_others"},
            ModelError,
            "something else of a row when others are beside it",
        ),
        ({"function": "folded"}, ModelError, "cannot be attributed to sequences"),
        ({"function": "convolved"}, ModelError, "no layer of a kind that is known"),
        ({"function": "bare"}, ConfigError, "gives a Linear that is in no module"),
        ({"function": "two"}, ModelError, r"\[2, 2\].*a regression of rows gives a tensor"),
        (
            {
                "function": "classes",
                "objective": "classification",
                "queries": '{"query_id": "q", "features": [1, 2, 3], "target": 0}',
            },
            CorpusError,
            "'strength' is .*, and the model's classes are 0 to 1",
        ),
        ({"objective": "causal"}, ConfigError, "does a regression or a classification: say which"),
        ({"model_function": None}, ConfigError, "is of rows of features, which a module"),
        ({"corpus": {"label_column": "age"}}, ConfigError, "'age' is already|among corpus.feature"),
        ({"corpus": {"label_column": None}}, ConfigError, "name both"),
        ({"corpus": {"context": 9}}, ConfigError, "corpus.context: it is of texts"),
        ({"scan": {"methods": ["bm25"]}}, ConfigError, "bm25 compares words"),
        ({"modules": "attention"}, ConfigError, "has no blocks with such parts"),
        ({"modules": ["7"]}, ModelError, "7"),
    ],
)
def test_what_is_wrong_is_said(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    how: dict[str, Any],
    error: type[RayInfluenceError],
    why: str,
) -> None:
    if how.get("function") == "absent_one":
        monkeypatch.setitem(globals(), "built", lambda _: built_before("build"))
    with pytest.raises(error, match=why):
        ran(configured(tmp_path, monkeypatch, **how))


built_before = built


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ({"features": [1, 2], "target": 0}, "it has 2 features, and the model takes 3"),
        ({"features": {"depth": 1, "width": 2, "year": 3}, "target": 0}, "its features lack 'age'"),
        ({"features": [1, 2, "nan"], "target": 0}, r"features\[2\] is 'nan'"),
        ({"features": [1, 2, "x"], "target": 0}, r"features\[2\] is 'x'"),
        ({"features": [1, 2, 3]}, "target is missing beside features"),
        ({"features": [1, 2, 3], "target": None}, "target is missing"),
        ({"features": [1, 2, 3], "target": 0, "prompt": "a"}, "prompt stands beside features"),
        (
            {"features": [1, 2, 3], "target": 0, "measurement": "margin"},
            "the measurement margin, .*: it gives log_probability and prediction",
        ),
        (
            {
                "set": [
                    {"features": [1, 2, 3], "target": 1, "measurement": "prediction"},
                    {
                        "features": [1, 2, 3],
                        "target": 2,
                        "measurement": "prediction",
                        "weight": -1,
                    },
                ]
            },
            "asks for nothing: its answers are the same prediction .the target does not decide",
        ),
        (
            {"features": [1, 2, 3], "target": 1, "rather_than": 2, "measurement": "prediction"},
            "asks for nothing: .* same prediction",
        ),
        ({"features": 3, "target": 0}, "features must be a list of numbers"),
        ({"prompt": "a", "completion": "b"}, "has a text, and the model is a regression of rows"),
    ],
)
def test_what_is_wrong_with_a_query_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, line: dict[str, Any], why: str
) -> None:
    config = configured(tmp_path, monkeypatch, queries=json.dumps({"query_id": "q", **line}))
    with pytest.raises(QueryError, match=why):
        ran(config)


def test_a_model_of_texts_takes_no_rows(tmp_path: Path) -> None:
    for line, why in (
        ({"features": [1, 2], "target": 0}, "has features, and the model is a causal language"),
        (
            {"prompt": "w1", "completion": " w2", "measurement": "prediction"},
            "the measurement prediction, which a causal language model does not give",
        ),
    ):
        config = tiny_run(tmp_path)
        (tmp_path / "queries.jsonl").write_text(json.dumps({"query_id": "q", **line}))
        with pytest.raises(QueryError, match=why):
            Inputs.of(config)


def test_weights_that_are_not_the_module_s_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = configured(tmp_path, monkeypatch)
    file = tmp_path / "network" / "model.safetensors"
    tensors = dict(built("build").state_dict())
    save_file({**tensors, "more": torch.zeros(1)}, file)
    with pytest.raises(ModelError, match="1 weights have no place in the module, such as more"):
        ran(config)
    tensors["0.weight"] = tensors["0.weight"] * float("nan")
    save_file(tensors, file)
    with pytest.raises(RayInfluenceError, match=r"0.weight holds NaN"):
        ran(config)
    file.unlink()
    with pytest.raises(ModelError, match=r"has no model.safetensors"):
        ran(config)
