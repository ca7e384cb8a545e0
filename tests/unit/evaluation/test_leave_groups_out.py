"""Leave-one-out of groups as results: effects, sums of scores beside them, and who opens them."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from counted_trainings import count
from left_out_run import configured, log

from rayinfluence.config import RunConfig
from rayinfluence.config_evaluation import GroupsConfig
from rayinfluence.dataflow.run import Run
from rayinfluence.errors import ConfigError, InputError, StorageError
from rayinfluence.evaluation.contenders import contenders
from rayinfluence.evaluation.evaluate import evaluate
from rayinfluence.evaluation.farm import open_farm
from rayinfluence.evaluation.given import asked_before
from rayinfluence.evaluation.leave_groups_out import METHOD, leave_groups_out
from rayinfluence.influence.correlations import spearman
from rayinfluence.report import render_page
from rayinfluence.storage.results import Results, group_scores
from rayinfluence.storage.store import Store
from rayinfluence.testing import tiny_run

pytestmark = pytest.mark.runs

Say = Callable[..., tuple[int, str, str]]
SEEDS = [0, 3, 5]


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> tuple[RunConfig, Store]:
    """A run, and what leaving its sources out came to; nobody may change it."""
    folder = tmp_path_factory.mktemp("groups-left-out")
    config = configured(folder, SEEDS)
    store = Store(str(folder / "without"))
    leave_groups_out(config, GroupsConfig(key="source"), store, log())
    return config, store


def _members(path: str) -> dict[str, list[str]]:
    """Ids of documents by source, from the file that they are in."""
    found: dict[str, list[str]] = {}
    for line in Path(path).read_text().splitlines():
        row = json.loads(line)
        found.setdefault(row["source"], []).append(row["id"])
    return found


def _rows(results: Results, query_id: str) -> dict[str, dict[str, Any]]:
    rows = [row for row in results.groups.to_pylist() if row["query_id"] == query_id]
    sizes = [row["effect"] for row in rows]
    assert sizes == sorted(sizes, reverse=True)
    return {row["value"]: row for row in rows}


def test_effects_are_those_of_evaluate_which_finds_the_trainings_again(
    done: tuple[RunConfig, Store], monkeypatch: pytest.MonkeyPatch
) -> None:
    config, store = done
    results = Results.load(store)
    groups = {"key": "source", "most": 20}
    section = config.evaluation.model_copy(update={"groups": GroupsConfig(**groups)})
    same = config.model_copy(update={"evaluation": section})
    trained = count(monkeypatch)
    found = evaluate(same, contenders(same), log())
    assert trained == []
    assert found.groups is not None
    assert set(found.groups.names) == set(_members(config.corpus.documents[0]))
    for q, query_id in enumerate(found.queries):
        rows = _rows(results, query_id)
        for g, name in enumerate(found.groups.names):
            row = rows[name]
            assert row["effect"] == pytest.approx(found.groups.effects[g][q], rel=1e-12)
            assert row["effect_se"] == pytest.approx(found.groups.errors[g][q], rel=1e-12)
            assert (row["n_seeds"], row["column"], row["value_type"]) == (3, "source", "string")
    # And how sums agree with effects is what evaluate says, whose scores are those of the run.
    agreement = {one["method"]: one["agreement"] for one in _told(results)["beside"]}
    for one in found.methods:
        if one.name == "bm25":
            assert one.groups is not None
            assert agreement["bm25"]["mean"] == pytest.approx(one.groups.mean)


def _told(results: Results) -> dict[str, Any]:
    told: dict[str, Any] = results.manifest["methods"][METHOD]
    return told


def test_a_group_is_left_out_with_all_of_its_sequences(done: tuple[RunConfig, Store]) -> None:
    config, store = done
    results = Results.load(store)
    with open_farm(config, log()) as farm:
        sequences = farm.sequences("source")
        bank = farm.bank([])
    for name, documents in _members(config.corpus.documents[0]).items():
        ours = [one for one in sequences if one.document_id in documents]
        assert {one.group for one in ours} == {name}
        row = _rows(results, bank.about.query_ids[0])[name]
        assert row["n_sequences"] == len(ours)
        assert row["share_of_corpus"] == pytest.approx(len(ours) / len(sequences))


def test_sums_of_the_run_stand_beside_over_n_where_they_predict(
    done: tuple[RunConfig, Store],
) -> None:
    config, store = done
    results, run = Results.load(store), Store(config.run)
    for method in ("ekfac", "bm25"):
        theirs = Results.load(run, method)
        n = theirs.manifest["n_training_sequences"] if method == "ekfac" else 1
        for query_id in results.queries:
            rows = _rows(results, query_id)
            for row in theirs.groups.to_pylist():
                if row["query_id"] == query_id:
                    total = (row["positive_sum"] + row["negative_sum"]) / n
                    beside = group_scores(rows[row["value"]])
                    assert beside[method] == pytest.approx(total, rel=1e-12)


def test_a_number_is_no_text_and_is_found_by_it(done: tuple[RunConfig, Store]) -> None:
    config, store = done
    into = Store(f"{store.url}-years")
    leave_groups_out(config, GroupsConfig(key="year", most=3), into, log())
    results = Results.load(into)
    assert {row["value_type"] for row in results.groups.to_pylist()} == {"number"}
    assert len(_rows(results, "q0")) == 3
    assert all(group_scores(row) == {} for row in results.groups.to_pylist())
    said = " ".join(results.warnings)
    assert "Put it into scan.group_by, run, and do this again" in said
    with Run(
        config.model_copy(update={"scan": _by(config, ["source", "year"])}), log(), new_run=True
    ) as run:
        run.all()
    leave_groups_out(config, GroupsConfig(key="year", most=3), into, log())
    assert all(
        set(group_scores(row)) == {"ekfac", "bm25"} for row in Results.load(into).groups.to_pylist()
    )


def _by(config: RunConfig, keys: list[str]) -> Any:
    return config.scan.model_copy(update={"group_by": keys})


def test_a_report_shows_effects_and_sums_and_no_hits(done: tuple[RunConfig, Store]) -> None:
    _, store = done
    results = Results.load(store)
    page = render_page({METHOD: results})
    assert "sum of ekfac, nats" in page
    assert "sum of bm25<" in page
    assert "Rank correlation over groups" in page
    assert "±" in page
    assert "<h3>Proponents" not in page
    assert "Where the influence comes from" not in page
    assert "3 groups of sequences, each left out of training" in page
    (said,) = results.warnings
    assert "more than two standard errors from zero" in said


def test_a_command_makes_them_and_others_open_them(
    done: tuple[RunConfig, Store], tmp_path: Path, say: Say, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, _ = done
    path, into = tmp_path / "run.yaml", tmp_path / "again"
    path.write_text(json.dumps(config.model_dump()))
    trained = count(monkeypatch)
    left = ("evaluate", "leave-one-out", path, "--groups", "source", "--into", into)
    code, out, err = say(*left, "--json")
    assert (code, trained) == (0, []), err
    told = json.loads(out)
    assert (told["group_by"], told["n_groups"], told["seeds"]) == ("source", 3, 3)
    assert {one["method"] for one in told["beside"]} == {"ekfac", "bm25"}
    assert (into / "report.html").exists()
    assert "Groups over all 3 queries" in say(*left)[1]
    code, out, err = say("report", into, "--query", "q1")
    assert (code, "What the groups did" in out, "Proponents" in out) == (0, True, False), err
    code, out, err = say("report", into, "--csv", "-")
    rows = list(csv.DictReader(io.StringIO(out.lstrip("\ufeff"))))
    assert len(rows) == 9
    found = Results.load(Store(str(into)))
    for row in rows:
        here = _rows(found, row["query_id"])[row["value"]]
        assert float(row["effect"]) == pytest.approx(here["effect"])
        assert float(row["sum.ekfac"]) == pytest.approx(group_scores(here)["ekfac"])


def test_a_comparison_sets_effects_beside_sums(done: tuple[RunConfig, Store], say: Say) -> None:
    config, store = done
    code, out, err = say("report", config.run, store.url, "--json")
    assert code == 0, err
    (pair,) = json.loads(out)["pairs"]
    results, run = Results.load(store), Results.load(Store(config.run))
    for one in pair["queries"]:
        rows = _rows(results, one["ours"])
        assert [group["name"] for group in one["groups"]] == list(rows)
        for group in one["groups"]:
            row = rows[group["name"]]
            assert group["theirs"]["effect"] == row["effect"]
            assert group["ours"]["total"] == pytest.approx(group_scores(row)[run.method])
    code, out, err = say("report", config.run, store.url)
    expected = np.mean(list(_correlations(results, run.method)))
    assert f"Mean rank correlation over groups: by source {expected:.2f} over 3 queries" in out
    assert "groups are compared, and no hits" in out
    assert "First proponents side by side" not in out
    page = Path(out.split("comparison: ")[1].split("\n")[0].strip().removeprefix("file://"))
    assert "effect B" in page.read_text()


def _correlations(results: Results, method: str) -> Iterator[float]:
    for query_id in results.queries:
        rows = _rows(results, query_id).values()
        sums = np.array([[group_scores(row)[method]] for row in rows])
        effects = np.array([[row["effect"]] for row in rows])
        yield float(spearman(sums, effects)[0])


def test_what_needs_hits_says_so_and_does_not_fail(
    done: tuple[RunConfig, Store], tmp_path: Path, say: Say
) -> None:
    _, store = done
    for command in (
        ("analyse", store.url, "--what", "tails"),
        ("review", "export", store.url, "--out", tmp_path / "review", "--random", 0),
        ("plot", store.url, "--out", tmp_path / "pictures"),
        ("report", store.url, "--layers", "upper"),
        ("report", store.url, "--exclude", "source = 'alpha'"),
    ):
        code, _, err = say(*command)
        assert code in (2, 3, 4), (command, code, err)
        assert "Traceback" not in err
        assert err.strip()


def test_what_cannot_be_measured_is_refused_in_words(
    done: tuple[RunConfig, Store], tmp_path: Path, say: Say
) -> None:
    config, _ = done
    path = tmp_path / "run.yaml"
    path.write_text(json.dumps(config.model_dump()))
    left = ("evaluate", "leave-one-out", path, "--into", tmp_path / "x", "--groups")
    code, _, err = say(*left, "sourc")
    assert (code, "did you mean 'source'" in err, "leave-one-out --groups" in err) == (
        2,
        True,
        True,
    )
    code, _, err = say(*left, "source", "--first", 2)
    assert (code, "leave one away" in err) == (2, True)
    code, _, err = say(*left, "source", "--set", "evaluation.seeds=[0]")
    assert (code, "Name two or more" in err) == (2, True)
    code, _, err = say("evaluate", path, "--groups", "source")
    assert (code, "--groups" in err) == (2, True)
    code, _, err = say(*left, "id")
    assert code == 2, err
    assert not (tmp_path / "x").exists() or not list((tmp_path / "x").iterdir())
    other = tmp_path / "queries.jsonl"
    other.write_text('{"query_id": "q0", "prompt": "w1 w2", "completion": " w3"}\n')
    code, _, err = say(*left, "source", "--set", f"queries={other}")
    assert (code, "not of query 'q0' as it is asked now" in err) == (2, True), err
    fewer = tmp_path / "documents.jsonl"
    lines = Path(config.corpus.documents[0]).read_text().splitlines()
    fewer.write_text("\n".join(lines[:12]) + "\n")
    places = ("--set", f"corpus.documents=['{fewer}']", "--set", f"corpus.path={tmp_path / 'c'}")
    code, _, err = say(*left, "source", *places)
    assert (code, "are of another corpus" in err) == (2, True), err


def test_a_table_that_is_given_is_asked_and_nothing_trained(
    done: tuple[RunConfig, Store], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, store = done
    with open_farm(config, log()) as farm:
        whole = farm.bank(asked_before(farm))
    n = len(SEEDS)  # first come those on all sequences
    fulls = replace(
        whole,
        subsets=whole.subsets[:n],
        values_SQ=whole.values_SQ[:n],
        losses_S=whole.losses_S[:n],
    )
    tables = Store(str(tmp_path))
    fulls.write(tables, "fulls.parquet")
    whole.write(tables, "whole.parquet")

    def given(name: str) -> RunConfig:
        section = config.evaluation.model_copy(update={"bank": str(tmp_path / name)})
        return config.model_copy(update={"evaluation": section})

    trained, wanted = count(monkeypatch), GroupsConfig(key="source")
    with pytest.raises(InputError, match=r"lacks 9 of 9 trainings without a group"):
        leave_groups_out(given("fulls.parquet"), wanted, Store(str(tmp_path / "no")), log())
    leave_groups_out(given("whole.parquet"), wanted, Store(str(tmp_path / "yes")), log())
    assert trained == []
    ours, theirs = (Results.load(one).groups for one in (Store(str(tmp_path / "yes")), store))
    assert ours["effect"].to_pylist() == theirs["effect"].to_pylist()


def test_a_run_without_results_is_refused(tmp_path: Path) -> None:
    config = tiny_run(
        tmp_path, 6, evaluation={"options": {"start": str(tmp_path)}, "seeds": [0, 1]}
    )
    with pytest.raises(StorageError, match="has no results yet"):
        leave_groups_out(config, GroupsConfig(key="source"), Store(str(tmp_path / "x")), log())


def test_a_runs_directory_is_no_place_for_them(done: tuple[RunConfig, Store]) -> None:
    config, _ = done
    with pytest.raises(ConfigError, match="is the directory of a run"):
        leave_groups_out(config, GroupsConfig(key="source"), Store(config.run), log())
