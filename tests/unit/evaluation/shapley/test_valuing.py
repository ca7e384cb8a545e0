"""Whole runs: values of the sources of a tiny corpus, resumed, refused, and beside scores."""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from counted_trainings import count
from rich.console import Console

from rayinfluence.config import RunConfig
from rayinfluence.dataflow.run import Run
from rayinfluence.dataflow.stages.progress import ProgressLog
from rayinfluence.errors import ConfigError, InputError
from rayinfluence.evaluation import retraining as module
from rayinfluence.evaluation.farm import open_farm
from rayinfluence.evaluation.shapley import valuing
from rayinfluence.evaluation.shapley.valuing import value_groups
from rayinfluence.evaluation.subsets import full, without
from rayinfluence.storage.results.evaluated import Interval
from rayinfluence.storage.results.valued import Valued, read_valued
from rayinfluence.storage.store import Store
from rayinfluence.testing import tiny_run

pytestmark = pytest.mark.runs
Say = Callable[..., tuple[int, str, str]]
ALL = {"key": "source", "values": ["shapley", "banzhaf", "beta"]}


def configured(folder: Path, n: int = 30, **shapley: Any) -> RunConfig:
    """A tiny run whose model the recipe makes."""
    folder.mkdir(parents=True, exist_ok=True)
    evaluation = {
        "options": {"start": str(folder / "start"), "epochs": 1, "batch": 8},
        "seeds": [0, 1],
        "shapley": {**ALL, **shapley},
    }
    config = tiny_run(folder, n, evaluation=evaluation)
    shutil.move(folder / "model", folder / "start")
    return config


def changed(config: RunConfig, **shapley: Any) -> RunConfig:
    values = config.model_dump()
    values["evaluation"]["shapley"].update(shapley)
    return RunConfig.parse(values)


def found_by(config: RunConfig, said: io.StringIO | None = None) -> Valued:
    return value_groups(config, ProgressLog(Console(file=said or io.StringIO(), width=1000)))


def means(found: Valued, method: int = 0) -> np.ndarray:
    return np.array([[cell.mean for cell in row if cell] for row in found.methods[method].values])


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> tuple[RunConfig, Valued, str]:
    """Values that are found; nobody may change their run."""
    said = io.StringIO()
    config = configured(tmp_path_factory.mktemp("valued"), utilities=["queries", "mean"])
    return config, found_by(config, said), said.getvalue()


@pytest.fixture
def copy(done: tuple[RunConfig, Valued, str], tmp_path: Path) -> RunConfig:
    folder = Path(done[0].run).parent
    shutil.copytree(folder, tmp_path / "copy")
    text = done[0].model_dump_json().replace(str(folder), str(tmp_path / "copy"))
    return RunConfig.model_validate_json(text)


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Digests of the subsets that are trained on from now on."""
    return count(monkeypatch)


def test_values_are_of_what_models_say_that_were_trained_on_parts(
    done: tuple[RunConfig, Valued, str], copy: RunConfig
) -> None:
    """Shapley's formula, written out with trainings of the farm."""
    found = done[1]
    names = [one.name for one in found.groups]
    assert sorted(names) == ["alpha", "beta", "gamma"]
    with open_farm(copy, ProgressLog(quiet=True)) as farm:
        ids = farm.groups("source")

        def v(*some: str) -> np.ndarray:
            out = [one for name in names if name not in some for one in ids[name]]
            return farm.values([without(out, 0, seed) for seed in (0, 1)]).mean(axis=0)

        a, b, c = names
        by_hand = (
            (v(a) - v()) / 3
            + (v(a, b) - v(b)) / 6
            + (v(a, c) - v(c)) / 6
            + (v(a, b, c) - v(b, c)) / 3
        )
        everything, nothing = v(a, b, c), v()
    assert means(found)[0, :3] == pytest.approx(by_hand)
    assert [one.everything for one in found.utilities[:3]] == pytest.approx(everything)
    assert means(found)[:, :3].sum(axis=0) == pytest.approx(everything - nothing)
    assert means(found)[:, 3] == pytest.approx(means(found)[:, :3].mean(axis=1))
    assert np.abs(found.methods[0].gap or [1]).max() < 1e-9
    assert [one.name for one in found.methods] == ["shapley", "banzhaf", "beta(4, 1)"]
    assert found.methods[1].gap is None
    assert (found.n_coalitions, found.n_trainings) == (8, 16)
    cells = [cell for row in found.methods[0].values for cell in row]
    assert all(cell is not None and cell.low is not None and cell.of_seeds for cell in cells)


def test_the_budget_is_told_before_it_is_spent(done: tuple[RunConfig, Valued, str]) -> None:
    lines = done[2].splitlines()
    [budget] = [line for line in lines if line.startswith("shapley")]
    assert "3 groups: up to 8 coalitions, 16 trainings, about 0.0" in budget
    assert "machine hours" in budget
    done_lines = [place for place, line in enumerate(lines) if line.startswith("retrain      done")]
    assert done_lines[0] < lines.index(budget) < done_lines[-1]


def test_nothing_is_trained_twice_whatever_is_asked(
    done: tuple[RunConfig, Valued, str], copy: RunConfig, trained: list[str]
) -> None:
    again = found_by(copy)
    assert again == done[1]
    more = found_by(changed(copy, values=["shapley"], by="sampling", permutations=20))
    assert trained == []
    assert more.methods[0].how == "orders"
    assert more.n_coalitions <= 8
    span = np.array([one.everything - one.nothing for one in more.utilities])
    errors = means(more).sum(axis=0) - span
    assert np.abs(errors).max() <= 0.01 * np.abs(span).max() + 1e-12


def test_trainings_without_each_group_are_those_of_leaving_one_out(
    copy: RunConfig, trained: list[str]
) -> None:
    """Whoever evaluates sums over groups has trained on some of the coalitions before."""
    shutil.rmtree(Path(copy.run) / "evaluation")
    with open_farm(copy, ProgressLog(quiet=True)) as farm:
        left = [without(ids, 0, seed) for ids in farm.groups("source").values() for seed in (0, 1)]
        farm.bank(left)
    assert len(trained) == 8
    found_by(copy)
    assert len(trained) == len(set(trained)) == 16
    with open_farm(copy, ProgressLog(quiet=True)) as farm:
        assert set(farm.bank([]).subsets) == {full(0), full(1)}


def test_who_was_interrupted_goes_on_to_the_same_values(
    done: tuple[RunConfig, Valued, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = configured(tmp_path, utilities=["queries", "mean"])
    original, n_left = module.write_tensors, 9

    def killed(*arguments: Any) -> None:
        nonlocal n_left
        n_left -= 1
        if not n_left:
            raise KeyboardInterrupt
        original(*arguments)

    with monkeypatch.context() as patched:
        patched.setattr(module, "write_tensors", killed)
        with pytest.raises(KeyboardInterrupt):
            found_by(config)
    again = found_by(config)
    assert again.methods == done[1].methods
    assert again.utilities == done[1].utilities


@pytest.mark.parametrize(
    ("shapley", "said"),
    [
        (
            {"most": 15},
            "takes up to 8 coalitions with 2 seeds, 16 trainings, about .* and `most` allows 15",
        ),
        ({"most": 30, "by": "sampling", "values": ["shapley"], "key": "year"}, "banzhaf"),
        ({"key": "sauce"}, "evaluation.shapley.key: .* 'sauce'; did you mean 'source'"),
        ({"key": None, "by": "enumeration"}, "up to 10 groups, and there are 42"),
        ({"key": None, "most": 400}, "of 42 groups, takes up to .*fewer `groups`"),
        (
            {"utilities": ["validation"], "validation": "/no/such.jsonl"},
            "there is no file /no/such",
        ),
    ],
)
def test_what_cannot_be_is_refused_before_it_is_trained(
    copy: RunConfig, trained: list[str], shapley: dict[str, Any], said: str
) -> None:
    with pytest.raises(ConfigError, match=said):
        found_by(changed(copy, **shapley))
    assert trained == []


def test_more_values_than_are_kept_are_refused(
    copy: RunConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(valuing, "_MOST_VALUES", 11)
    with pytest.raises(ConfigError, match="3 groups have 12 values for 4 utilities"):
        found_by(copy)


def test_sequences_of_no_chosen_group_are_in_every_coalition(copy: RunConfig) -> None:
    found = found_by(changed(copy, groups=2, values=["banzhaf"]))
    assert len(found.groups) == 2
    assert found.n_coalitions == 4
    others = found.n_sequences - sum(one.n_sequences for one in found.groups)
    assert f"{others} sequences are of no group, and in every coalition" in " ".join(found.notes)


def test_sequences_may_be_players(copy: RunConfig) -> None:
    found = found_by(changed(copy, key=None, values=["banzhaf"], by="sampling", draws=16))
    assert len(found.groups) == found.n_sequences == 42
    assert found.methods[0].n_draws == 16
    assert found.n_coalitions == 18


def test_documents_of_a_file_are_a_utility(copy: RunConfig, tmp_path: Path) -> None:
    path = tmp_path / "held.jsonl"
    texts = [" ".join(f"w{(7 * i + j) % 30}" for j in range(20)) for i in range(4)]
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    config = changed(copy, utilities=["validation"], validation=str(path), values=["shapley"])
    found = found_by(config)
    [utility] = found.utilities
    assert (utility.name, utility.unit) == ("validation", "nats per token")
    # Cut where the context of 16 ends, and the first of each part predicted from nothing.
    with Run(config, ProgressLog(quiet=True)) as run:
        losses, n_tokens = 0.0, 0
        for text in texts:
            tokens = run.tokenizer(text)["input_ids"]
            for part in (tokens[:16], tokens[16:]):
                ids = torch.tensor([part])
                out = run.replica.model(input_ids=ids).logits[0, :-1].log_softmax(-1)
                losses += float(out.gather(1, ids[0, 1:, None]).sum())
                n_tokens += len(part) - 1
    with open_farm(config, ProgressLog(quiet=True), str(path)) as farm:
        value = farm.values([full(0)])[0, -1]
    assert value == pytest.approx(losses / n_tokens, rel=1e-4)
    path.write_text('{"text": ""}\n')
    with pytest.raises(InputError, match=r"validation: document 1 of .*has no text"):
        found_by(config)


def test_a_table_is_used_in_the_place_of_training(
    done: tuple[RunConfig, Valued, str], copy: RunConfig, trained: list[str]
) -> None:
    [path] = (Path(copy.run) / "evaluation").rglob("bank.parquet")
    kept = path.rename(Path(copy.run).parent / "kept.parquet")
    shutil.rmtree(Path(copy.run) / "evaluation")
    values = copy.model_dump()
    values["evaluation"]["bank"] = str(kept)
    given = RunConfig.parse(values)
    assert found_by(given).methods == done[1].methods
    with pytest.raises(InputError, match=r"the table lacks .* trainings on coalitions"):
        found_by(changed(given, key="year", values=["banzhaf"], by="sampling", draws=8))
    assert trained == []


def test_sums_of_the_run_s_scores_stand_beside(
    done: tuple[RunConfig, Valued, str], copy: RunConfig
) -> None:
    assert done[1].beside == ()
    assert "No sums of scores" in " ".join(done[1].notes)
    with Run(copy, ProgressLog(quiet=True)) as run:
        results = run.all()["ekfac"]
    found = found_by(copy)
    [sums] = found.beside
    rows = {
        (row["query_id"], row["value"]): row["positive_sum"] + row["negative_sum"]
        for row in results.groups.to_pylist()
        if row["column"] == "source"
    }
    n = results.manifest["n_training_sequences"]
    for g, group in enumerate(found.groups):
        wanted = [rows[one.name, group.name] / n for one in found.utilities[:3]]
        assert sums.sums[g][:3] == pytest.approx(wanted)
        assert sums.sums[g][3] is None
    assert isinstance(sums.agreement["shapley"], Interval)
    assert sums.agreement["shapley"].n == 3


def test_the_command_leaves_values_a_page_and_a_part_of_the_report(
    copy: RunConfig, say: Say, tmp_path: Path
) -> None:
    with Run(copy, ProgressLog(quiet=True)) as run:
        run.all()
    config = changed(copy, neighbours=3)
    path = tmp_path / "run.yaml"
    path.write_text(yaml.safe_dump(config.model_dump()))
    code, printed, errors = say("shapley", path, "--json")
    assert code == 0, errors
    told = json.loads(printed)
    assert [one["name"] for one in told["methods"]][-1] == "knn(3)"
    found = read_valued(Store(copy.run))
    assert found is not None
    page = told.pop("page")
    assert json.loads(json.dumps(found.to_json())) == told
    assert page.endswith("shapley.html")
    page = (Path(copy.run) / "shapley.html").read_text()
    assert "What 3 groups are worth, by source" in page
    assert "knn(3)" in page
    code, printed, _ = say("report", copy.run)
    assert code == 0
    report = (Path(copy.run) / "report.html").read_text()
    assert report.count("What groups are worth, by training again") == 3
    code, printed, errors = say("shapley", path)
    assert "sum of ekfac, nats" in printed
    code, _, errors = say("shapley", path, "--set", "evaluation.shapley=null")
    assert (code, "has no such section" in errors) == (2, True)
