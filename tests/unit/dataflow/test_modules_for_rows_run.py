"""Modules of one's own for rows that are odd: no survivors, shared weights, noise, a softmax."""

from __future__ import annotations

import io
import json
import math
import random
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from safetensors.torch import save_file, save_model
from torch import nn

import rayinfluence
from rayinfluence.cli import main
from rayinfluence.config import RunConfig
from rayinfluence.dataflow.run import Run
from rayinfluence.dataflow.stages.progress import ProgressLog
from rayinfluence.errors import ConfigError, ModelError, QueryError
from rayinfluence.report import render, render_page
from rayinfluence.report.facts import together
from rayinfluence.storage.results import Results

pytestmark = pytest.mark.runs

MODULE = """
import torch
from torch import nn


def unbiased():
    return nn.Sequential(nn.Linear(3, 2, bias=False), nn.Linear(2, 1, bias=False))


def tied():
    model = nn.Sequential(nn.Linear(3, 3), nn.Tanh(), nn.Linear(3, 3), nn.Tanh(), nn.Linear(3, 1))
    model[2].weight = model[0].weight
    return model


def noisy():
    class Noisy(nn.Sequential):
        def forward(self, features):
            given = super().forward(features)
            return given + 0.1 * torch.randn_like(given)

    return Noisy(nn.Linear(3, 1))


def casting():
    class Casting(nn.Sequential):
        def forward(self, features):
            return super().forward(features.float())

    return Casting(nn.Linear(3, 1))


def normalised():
    return nn.Sequential(nn.Linear(3, 2), nn.Softmax(dim=-1))


def logits():
    return nn.Sequential(nn.Linear(3, 2))
"""


def built(function: str) -> nn.Module:
    space: dict[str, Any] = {}
    exec(MODULE, space)
    torch.manual_seed(0)
    module: nn.Module = space[function]()
    return module


def configured(
    folder: Path, monkeypatch: pytest.MonkeyPatch, function: str, query: Any = None, **more: Any
) -> RunConfig:
    monkeypatch.chdir(folder)
    monkeypatch.syspath_prepend(str(folder))
    monkeypatch.delitem(sys.modules, "odd_modules", raising=False)
    (folder / "odd_modules.py").write_text(MODULE)
    (folder / "model").mkdir()
    save_model(built(function), str(folder / "model" / "model.safetensors"))
    draw = random.Random(0)
    lines = [{**{c: draw.gauss(0, 1) for c in "abc"}, "y": draw.randrange(2)} for _ in range(40)]
    (folder / "rows.jsonl").write_text("\n".join(map(json.dumps, lines)))
    asked = query or {"features": [1, 2, 3], "target": 1}
    (folder / "queries.jsonl").write_text(json.dumps({"query_id": "q", **asked}))
    values = {
        "run": str(folder / "run"),
        "model": str(folder / "model"),
        "model_function": f"odd_modules:{function}",
        "objective": "regression",
        "corpus": {"documents": ["rows.jsonl"], "feature_columns": [*"abc"], "label_column": "y"},
        "queries": "queries.jsonl",
        "runner": {"name": "inline"},
    }
    return RunConfig.parse(values | more)


def ran(config: RunConfig) -> tuple[dict[str, Results], str]:
    said = io.StringIO()
    with Run(config, ProgressLog(Console(file=said, width=10_000))) as run:
        return dict(run.all()), said.getvalue()


@pytest.mark.parametrize("method", ["gradient_product", "ekfac"])
def test_a_method_without_survivors_has_empty_tables(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    """A row of zeros has no gradient in a layer without a bias."""
    query = {"features": [0, 0, 0], "target": 1}
    config = configured(
        tmp_path, monkeypatch, "unbiased", query, scan={"methods": [method]}, modules=["0"]
    )
    found, _ = ran(config)
    assert len(found[method].survivors) == len(found[method].sequences) == 0
    assert found[method].proponents("q") == []
    file = io.StringIO()
    render(found[method], Console(file=file, width=100))
    assert "q" in file.getvalue()
    assert "q" in render_page(found)
    again = rayinfluence.load_results(config.run, method)
    assert len(again.table) == 0
    with pytest.raises(SystemExit) as ended:
        main(["report", config.run])
    assert ended.value.code == 0


def test_one_name_of_a_shared_weight_is_read_and_its_layers_are_left_out_by_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = configured(tmp_path, monkeypatch, "tied")
    found, said = ran(config)
    assert "not tracked are 0, 2: each shares its weight with another module" in said
    assert set(found["ekfac"].proponents("q")[0].layer_scores) == {"4"}
    with pytest.raises(ModelError, match="modules: 0 shares its weight with another module"):
        ran(config.model_copy(update={"modules": ["0"]}))
    with torch.no_grad():
        value = built("tied")(torch.tensor([[1.0, 2.0, 3.0]]))
    density = torch.distributions.Normal(value, 1.0).log_prob(torch.tensor(1.0))
    assert found["ekfac"].queries["q"]["value"] == pytest.approx(float(density), rel=1e-5)


def test_two_values_of_a_shared_weight_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = configured(tmp_path, monkeypatch, "tied")
    other = {name: value.clone() for name, value in built("tied").state_dict().items()}
    other["2.weight"] += 1
    save_file(other, tmp_path / "model" / "model.safetensors")
    with pytest.raises(ModelError, match=r"several values of 0\.weight and 2\.weight, which are"):
        ran(config)


@pytest.mark.parametrize(
    ("function", "more", "why"),
    [
        (
            "noisy",
            {},
            r"of the same rows of features each time \(what it gives differs by \d+(\.\d)?%\).*"
            r"Switch it off in what odd_modules:noisy builds\.$",
        ),
        ("casting", {"dtype": "float64"}, r"does in float32: set `dtype: float32`\.$"),
    ],
)
def test_what_is_wrong_is_said_of_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, function: str, more: Any, why: str
) -> None:
    with pytest.raises(ModelError, match=why):
        ran(configured(tmp_path, monkeypatch, function, **more))


@pytest.mark.parametrize(("function", "warned"), [("normalised", True), ("logits", False)])
def test_probabilities_in_the_place_of_logits_are_warned_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, function: str, warned: bool
) -> None:
    config = configured(tmp_path, monkeypatch, function, objective="classification")
    _, said = ran(config)
    assert ("add up to 1 in each row, as probabilities do" in said) is warned


def test_what_is_wrong_with_the_whole_is_said_once() -> None:
    with pytest.raises(ConfigError, match=r"^config: unknown key 'odd'"):
        RunConfig.parse({"run": "a", "odd": 1})


def test_predictions_of_two_rows_are_no_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = {"features": [1, 2, 3], "target": 0, "measurement": "prediction"}
    other = {**one, "features": [1, 2, 4], "weight": -1}
    config = configured(tmp_path, monkeypatch, "unbiased", {"set": [one, other]})
    found, _ = ran(config)
    assert found["ekfac"].proponents("q")
    (tmp_path / "queries.jsonl").write_text(
        json.dumps({"query_id": "q", "set": [one, {**one, "target": 5, "weight": -1}]})
    )
    with pytest.raises(QueryError, match="asks for nothing"):
        ran(config)


def test_a_density_cannot_exceed_that_at_its_mean(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a set of two rows, twice as far below 0."""
    row, ceiling = [1.0, 2.0, 3.0], -math.log(2 * math.pi) / 2
    prediction = float(built("unbiased")(torch.tensor([row])).detach())
    one = {"features": row, "target": prediction + 0.01}
    for times, asked in ((1, one), (2, {"set": [one, one]})):
        folder = tmp_path / str(times)
        folder.mkdir()
        found, _ = ran(configured(folder, monkeypatch, "unbiased", asked))
        value = found["ekfac"].queries["q"]["value"]
        assert times * ceiling - 1e-3 < value < times * ceiling
        deltas = found["ekfac"].survivors.to_pylist()
        above = [one for one in deltas if value + one["delta_nats"] > times * ceiling]
        assert above
        assert all(abs(one["delta_nats"]) < 0.5 for one in deltas)
        assert [one for one in deltas if one["beyond_linear"]] == above
        assert "beyond the linear range" in together(found["ekfac"], "q")
