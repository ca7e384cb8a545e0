"""Whole evaluations of a tiny run: the table has all columns, and what cannot be is refused."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from rayinfluence.config import RunConfig
from rayinfluence.dataflow.compute.scoring import score_split
from rayinfluence.dataflow.stages.progress import ProgressLog
from rayinfluence.display.as_json import json_text
from rayinfluence.errors import ConfigError, InputError, QueryError
from rayinfluence.evaluation.bank import Bank
from rayinfluence.evaluation.contenders import contenders
from rayinfluence.evaluation.evaluate import evaluate
from rayinfluence.evaluation.farm import open_farm
from rayinfluence.storage.results.evaluated import Evaluated
from rayinfluence.storage.store import Store
from rayinfluence.testing import tiny_run

pytestmark = pytest.mark.runs
Say = Callable[..., tuple[int, str, str]]
SOURCES = ("alpha", "beta", "gamma")
ALL = {
    "seeds": [0, 1],
    "half": 2,
    "drop": {0.1: 3},
    "removal": {"share": 0.1, "queries": 1},
    "groups": {"key": "source"},
    "add": 2,
    "known": "source",
    "tail_patch": 2,
    "unrolled": True,
    "variants": {"ekfac at 10": {"damping_scale": 10}},
}


def configured(folder: Path, **evaluation: Any) -> RunConfig:
    """A tiny run whose model the recipe makes, with queries that belong to a source."""
    folder.mkdir(parents=True, exist_ok=True)
    options = {"start": str(folder / "start"), "epochs": 1, "batch": 8}
    config = tiny_run(folder, 30, evaluation={"options": options, **evaluation})
    shutil.move(folder / "model", folder / "start")
    path = folder / "queries.jsonl"
    queries = [json.loads(line) for line in path.read_text().splitlines()]
    for query, source in zip(queries, SOURCES, strict=True):
        query["metadata"] = {"source": source}
    path.write_text("".join(json.dumps(query) + "\n" for query in queries))
    values = config.model_dump(exclude_unset=True)
    (folder / "run.yaml").write_text(yaml.safe_dump(values))
    return config


def changed(config: RunConfig, **evaluation: Any) -> RunConfig:
    """The same run with another section."""
    values = config.model_dump(exclude_unset=True)
    options = values["evaluation"]["options"]
    return RunConfig.parse({**values, "evaluation": {"options": options, **evaluation}})


def measured(config: RunConfig, quiet: ProgressLog) -> Evaluated:
    return evaluate(config, contenders(config), quiet)


def text(found: Evaluated) -> str:
    """All of it; what has no number is null."""
    return json_text(found.to_json())


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("evaluated") / "all"


@pytest.fixture(scope="module")
def found(folder: Path) -> tuple[RunConfig, Evaluated]:
    """An evaluation of everything; nobody may change its folder."""
    config = configured(folder, **ALL)
    return config, measured(config, ProgressLog(quiet=True))


def test_every_method_and_baseline_has_every_figure(found: tuple[RunConfig, Evaluated]) -> None:
    _, evaluated = found
    names = [one.name for one in evaluated.methods]
    assert names == [
        *("ekfac", "ekfac at 10", "bm25", "gradient_product", "cosine", "unrolled"),
        *("hidden_state", "random"),
    ]
    for one in evaluated.methods:
        assert set(one.lds) == set(one.lds_errors) == {"half", "drop 10%"}
        assert one.lds_errors["half"] is None  # two halves are drawn together
        assert one.lds_errors["drop 10%"] is not None
        others = {"bm25", "random"} - {one.name}
        assert set(one.removal_over) == others
        for figure in (one.removal, one.recall, one.reciprocal_rank, one.groups, one.tail_patch):
            assert figure is not None
        assert (one.calibration is not None) == (one.method in ("ekfac", "unrolled"))
        assert (one.seconds is None) == (one.name == "random")
        assert all(len(values) == 3 for values in one.by_query.values())
    assert {name: len(one.needs) for name, one in zip(names, evaluated.methods, strict=True)} == {
        **{"ekfac": 2, "ekfac at 10": 2, "random": 0},
        **dict.fromkeys(("bm25", "gradient_product", "cosine", "unrolled", "hidden_state"), 1),
    }
    assert [(one.n_subsets, one.n_seeds) for one in evaluated.protocols] == [(2, 2), (3, 2)]
    assert evaluated.groups is not None
    assert sorted(evaluated.groups.names) == list(SOURCES)
    assert np.shape(evaluated.groups.effects) == np.shape(evaluated.groups.errors) == (3, 3)
    assert evaluated.groups.resolved is not None
    assert evaluated.removed is not None
    assert evaluated.removed[1] == 1


def test_a_variant_has_its_own_settings(found: tuple[RunConfig, Evaluated]) -> None:
    ekfac, variant, *_ = found[1].methods
    assert ekfac.stability is None
    assert variant.stability is not None
    assert 0.5 < variant.stability.mean < 1 - 1e-6
    assert ekfac.calibration is not None
    assert variant.calibration is not None
    ours, theirs = (max(p for p, _ in c.pairs) for c in (ekfac.calibration, variant.calibration))
    # More damping, smaller predictions.
    assert 2 * theirs < ours


def test_figures_are_those_of_the_table_of_trainings(found: tuple[RunConfig, Evaluated]) -> None:
    """What copies did, from the committed table alone."""
    config, evaluated = found
    [path] = Path(config.run).glob("evaluation/*/bank.parquet")
    bank = Bank.read(Store(str(path)), "")
    assert evaluated.n_trainings == len({subset.digest for subset in bank.subsets})
    copies = bank.of_design("add")
    by_sequence: dict[int, list[np.ndarray]] = {}
    for subset, values in zip(copies.subsets, copies.values_SQ, strict=True):
        by_sequence.setdefault(subset.added[0], []).append(values)
    means = np.array([np.mean(one, axis=0) for one in by_sequence.values()])
    expected = (means - means.mean(axis=0)).ravel()
    told = evaluated.methods[0].calibration
    assert told is not None
    assert sorted(m for _, m in told.pairs) == pytest.approx(sorted(expected.tolist()))


def test_again_nothing_is_done_and_the_same_is_said(
    found: tuple[RunConfig, Evaluated], quiet: ProgressLog
) -> None:
    config, evaluated = found
    before = {path for path in Path(config.run).rglob("*") if path.is_file()}
    assert text(measured(config, quiet)) == text(evaluated)
    assert {path for path in Path(config.run).rglob("*") if path.is_file()} == before


def test_results_of_the_run_are_as_without(
    found: tuple[RunConfig, Evaluated], tmp_path: Path, say: Say
) -> None:
    """Passes of an evaluation have banks of their own, which no other settings are refused for."""
    shutil.copytree(Path(found[0].run).parent, tmp_path / "copy")
    path = tmp_path / "copy" / "run.yaml"
    path.write_text(
        path.read_text().replace(str(Path(found[0].run).parent), str(tmp_path / "copy"))
    )
    code, _, errors = say("run", path, "--quiet")
    assert code == 0, errors
    code, printed, _ = say("status", path)
    assert code == 0
    assert "for the evaluation" in printed


def test_the_command_prints_one_table_and_leaves_values_and_a_page(
    found: tuple[RunConfig, Evaluated], folder: Path, say: Say
) -> None:
    code, printed, errors = say("evaluate", folder / "run.yaml", "--quiet")
    assert code == 0, errors
    [head] = [line for line in printed.splitlines() if line.startswith("method ")]
    for column in (
        *("LDS half", "LDS drop 10%", "QLD without", "QLD over bm25", "recall@10", "MRR"),
        *("without a source", "tail patch", "slope of delta_nats", "seconds", "needs"),
    ):
        assert column in head
    assert "noise ceiling" in printed
    run = Path(found[0].run)
    values = json.loads((run / "evaluation.json").read_text())
    page = (run / "evaluation.html").read_text()
    assert [one["name"] for one in values["methods"]] == [one.name for one in found[1].methods]
    assert "<table" in page
    assert "<svg" in page
    code, printed, _ = say("evaluate", folder / "run.yaml", "--json", "--quiet")
    assert code == 0
    assert json.loads(printed)["methods"] == values["methods"]


def test_dampings_are_measured_beside_the_run_s(
    found: tuple[RunConfig, Evaluated], folder: Path, say: Say
) -> None:
    code, printed, errors = say(
        "evaluate", "damping", folder / "run.yaml", "--set", "evaluation.dampings=[0.1, 10]", "-q"
    )
    assert code == 0, errors
    assert "ranks as ekfac at 0.1" in printed
    values = json.loads((Path(found[0].run) / "damping.json").read_text())
    own, other = values["methods"]
    assert (own["name"], other["name"]) == ("ekfac at 0.1", "ekfac at 10")
    # The same as the variant of the same damping.
    variant = found[1].methods[1]
    assert other["by_query"]["lds half"] == list(variant.by_query["lds half"])
    assert variant.stability is not None
    assert other["stability"]["mean"] == pytest.approx(variant.stability.mean)


def test_a_table_is_used_instead_of_training(
    found: tuple[RunConfig, Evaluated], tmp_path: Path, quiet: ProgressLog
) -> None:
    config, evaluated = found
    [path] = Path(config.run).glob("evaluation/*/bank.parquet")
    shutil.copy(path, tmp_path / "bank.parquet")
    section = {**ALL, "bank": str(tmp_path / "bank.parquet"), "half": 0, "drop": {}}
    again = measured(changed(config, **section), quiet)
    assert text(again) == text(evaluated)
    other = changed(config, **section)
    assert other.evaluation is not None
    options = other.evaluation.options.model_copy(update={"epochs": 2})
    section = other.evaluation.model_copy(update={"options": options})
    with pytest.raises(InputError, match=r"trained otherwise.*epochs: 2, was 1"):
        measured(other.model_copy(update={"evaluation": section}), quiet)


def test_a_table_without_some_trainings_says_which(
    found: tuple[RunConfig, Evaluated], tmp_path: Path, quiet: ProgressLog
) -> None:
    [path] = Path(found[0].run).glob("evaluation/*/bank.parquet")
    bank = Bank.read(Store(str(path)), "")
    halves = [*bank.of_design("full").subsets, *bank.of_design("half").subsets]
    rows = [bank.subsets.index(subset) for subset in halves]
    few = Bank(bank.about, tuple(halves), bank.values_SQ[rows], bank.losses_S[rows])
    few.write(Store(str(tmp_path)), "few.parquet")
    again = measured(changed(found[0], **{**ALL, "bank": str(tmp_path / "few.parquet")}), quiet)
    assert [one.name for one in again.protocols] == ["half"]
    assert again.groups is None
    assert again.methods[0].removal is None
    assert again.n_trainings == len(halves)  # of those that were wanted the others are not there
    assert again.methods[0].calibration is None
    assert again.methods[0].lds["half"] == found[1].methods[0].lds["half"]
    assert sum("The table" in note for note in again.notes) == 3


def test_the_training_is_differentiated_whose_seed_a_given_table_has(
    found: tuple[RunConfig, Evaluated], tmp_path: Path, quiet: ProgressLog
) -> None:
    """Not the first of the configuration's, which others of the table are not beside."""
    folder = tmp_path / "all"
    shutil.copytree(Path(found[0].run).parent, folder)
    config = RunConfig.load(folder / "run.yaml")
    config = config.model_copy(update={"run": str(folder / "run")})
    [path] = folder.glob("run/evaluation/*/bank.parquet")
    bank = Bank.read(Store(str(path)), "")
    rows = [row for row, subset in enumerate(bank.subsets) if subset.seed == 1]
    kept = tuple(bank.subsets[row] for row in rows)
    Bank(bank.about, kept, bank.values_SQ[rows], bank.losses_S[rows]).write(
        Store(str(tmp_path)), "second.parquet"
    )
    of_first = set(folder.glob("run/evaluation/*/*.unrolled.*"))
    section = {**ALL, "bank": str(tmp_path / "second.parquet")}
    assert measured(changed(config, **section), quiet).methods
    assert len(set(folder.glob("run/evaluation/*/*.unrolled.*")) - of_first) == len(of_first) == 3


def test_one_seed_has_no_ceiling_and_says_so(tmp_path: Path, quiet: ProgressLog) -> None:
    evaluated = measured(configured(tmp_path / "one", half=2), quiet)
    assert [one.ceiling for one in evaluated.protocols] == [None]
    assert any("One seed of training" in note for note in evaluated.notes)
    assert any("2 subsets are few" in note for note in evaluated.notes)
    assert evaluated.groups is None
    assert evaluated.removed is None


@pytest.mark.parametrize(
    ("section", "phrase"),
    [
        ({"groups": {"key": "nothing"}}, "evaluation.groups.key"),
        ({"known": "nothing"}, "no query's metadata has 'nothing'"),
        ({"known": "source.more"}, "no query's metadata has"),
    ],
)
def test_what_documents_do_not_have_is_refused_before_scoring(
    found: tuple[RunConfig, Evaluated], section: dict[str, Any], phrase: str, quiet: ProgressLog
) -> None:
    with pytest.raises(ConfigError, match=phrase):
        measured(changed(found[0], **section), quiet)


def test_a_single_query_is_refused(tmp_path: Path, quiet: ProgressLog) -> None:
    config = configured(tmp_path / "one", half=2)
    path = tmp_path / "one" / "queries.jsonl"
    path.write_text(path.read_text().splitlines()[0] + "\n")
    with pytest.raises(QueryError, match="ask two at least"):
        measured(config, quiet)


def test_a_configuration_without_the_section_is_refused(tmp_path: Path, say: Say) -> None:
    config = tiny_run(tmp_path, 10)
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(config.model_dump(exclude_unset=True)))
    code, _, errors = say("evaluate", tmp_path / "run.yaml")
    assert code == 2
    assert "has no such section" in errors
    code, _, errors = say("evaluate", "dampings", tmp_path / "run.yaml")
    assert code == 2
    assert "with damping, pbrf or leave-one-out before it" in errors


def test_the_derivative_of_training_puts_subsets_into_their_order(
    found: tuple[RunConfig, Evaluated],
) -> None:
    lds = {one.name: one.lds["drop 10%"].mean for one in found[1].methods}
    assert lds["unrolled"] > max(0.5, lds["random"], lds["bm25"])


def test_of_a_recipe_of_the_user_s_own_there_is_none(
    tmp_path: Path, quiet: ProgressLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    values = configured(tmp_path / "own", half=2).model_dump(exclude_unset=True)
    options = {"start": values["evaluation"]["options"]["start"]}
    own = {"options": options, "half": 2, "recipe": "recipes_of_users:one_step", "unrolled": True}
    with pytest.raises(ConfigError, match="unrolled: it goes back through the steps"):
        measured(RunConfig.parse({**values, "evaluation": own}), quiet)


def test_what_could_not_be_scored_counts_as_nothing_and_is_told(
    found: tuple[RunConfig, Evaluated],
    tmp_path: Path,
    quiet: ProgressLog,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A split that is set aside, by methods whose scores are made anew."""

    def breaks(replica: Any, banks: Any, rows: Any, *told: Any) -> Any:
        if 0 in rows["sequence_id"].to_pylist():
            raise RuntimeError("as some do")
        return score_split(replica, banks, rows, *told)

    config = configured(tmp_path / "some", half=4, add=2, known="source", tail_patch=2)
    with monkeypatch.context() as broken:
        broken.setattr("rayinfluence.dataflow.jobs.scan.score_split", breaks)
        lacking = measured(config, quiet)
    ekfac = lacking.methods[0]
    for figure in (ekfac.lds["half"], ekfac.recall, ekfac.tail_patch, ekfac.calibration):
        assert figure is not None
    assert all(one.stability is not None for one in lacking.methods[1:])
    told = [note for note in lacking.notes if "sequences have no score" in note]
    assert [note.partition(":")[0] for note in told] == [
        *("ekfac", "bm25", "gradient_product", "cosine")
    ]
    healed = measured(config, quiet)
    assert not [note for note in healed.notes if "no score" in note]
    assert healed.methods[0].lds["half"] != ekfac.lds["half"]


def test_shares_of_few_sequences_and_no_referee_at_all_are_told(
    tmp_path: Path, quiet: ProgressLog
) -> None:
    config = configured(tmp_path / "few", drop={0.001: 2, 0.999: 1})
    evaluated = measured(config, quiet)
    n = evaluated.n_sequences
    for note in (f"drop 0.1%: of {n} sequences 1 is dropped", ", which is 0.0"):
        assert any(note in one for one in evaluated.notes)
    assert not any("drop 99.9%: of" in one for one in evaluated.notes)
    with open_farm(config, quiet) as farm:
        assert {len(subset.dropped) for subset in farm.planned()} == {1, n - 1}
    nothing = measured(changed(config), quiet)
    assert any("No referee was asked for" in note for note in nothing.notes)


def test_queries_that_ask_the_same_are_told(tmp_path: Path, quiet: ProgressLog) -> None:
    """Intervals are of queries drawn one by one."""
    config = configured(tmp_path / "same", half=2)
    path = tmp_path / "same" / "queries.jsonl"
    asked = [json.loads(line) for line in path.read_text().splitlines()]
    asked.append({**asked[0], "query_id": "again"})
    path.write_text("".join(json.dumps(query) + "\n" for query in asked))
    evaluated = measured(config, quiet)
    assert sum("1 of 4 queries asks what another one asks" in one for one in evaluated.notes) == 1
    for one in evaluated.methods:
        found = one.by_query["lds half"]
        assert found[0] == found[3] or one.name == "random"
