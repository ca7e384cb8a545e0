"""Leave-one-out as results: the farm's differences, in tables that reports and comparisons open."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from left_out_run import configured, log

from rayinfluence.config import RunConfig
from rayinfluence.errors import ConfigError, NumericsError
from rayinfluence.evaluation.farm import open_farm
from rayinfluence.evaluation.leave_one_out import METHOD, chosen, leave_one_out
from rayinfluence.evaluation.left_out import Left, measured
from rayinfluence.evaluation.subsets import full, without
from rayinfluence.report import render_page
from rayinfluence.storage.results import Results
from rayinfluence.storage.store import Store

pytestmark = pytest.mark.runs

Say = Callable[..., tuple[int, str, str]]
SEEDS = [0, 3, 5]


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> tuple[RunConfig, Store]:
    """A run, and what leaving its first hits out came to; nobody may change it."""
    folder = tmp_path_factory.mktemp("left-out")
    config = configured(folder, SEEDS)
    store = Store(str(folder / "without"))
    leave_one_out(config, 1, store, log())
    return config, store


def test_scores_are_differences_of_trainings_with_their_errors(
    done: tuple[RunConfig, Store],
) -> None:
    config, store = done
    results, run = Results.load(store), Store(config.run)
    ids = chosen([Results.load(run, name) for name in ("ekfac", "bm25")], 1)
    assert len(ids) > 2
    with open_farm(config, log()) as farm:
        bank = farm.bank([without([i], 0, seed) for seed in SEEDS for i in ids.tolist()])
    values = {(s.seed, s.dropped): row for s, row in zip(bank.subsets, bank.values_SQ, strict=True)}
    for place, query_id in enumerate(bank.about.query_ids):
        found = [*results.proponents(query_id), *results.opponents(query_id)]
        assert {one.sequence_id for one in found} <= set(ids.tolist())
        assert len(found) >= len(ids) - 1  # of no effect at all is neither
        for one in found:
            apart = np.array(
                [values[s, ()][place] - values[s, (one.sequence_id,)][place] for s in SEEDS]
            )
            assert one.score == pytest.approx(apart.mean(), rel=1e-6)
            assert one.score_se == pytest.approx(apart.std(ddof=1) / np.sqrt(3), rel=1e-6)
            assert (one.n_seeds, one.delta_nats, one.layer_scores) == (3, None, {})
            assert (one.direction == "proponent") == (one.score > 0)
        sizes = [abs(one.score) for one in results.proponents(query_id)]
        assert sizes == sorted(sizes, reverse=True)


def test_texts_are_those_of_the_run_and_a_report_says_what_scores_are(
    done: tuple[RunConfig, Store],
) -> None:
    config, store = done
    results = Results.load(store)
    theirs = {
        one.sequence_id: one.text
        for name in ("ekfac", "bm25")
        for of in [Results.load(Store(config.run), name)]
        for query_id in of.queries
        for one in [*of.proponents(query_id), *of.opponents(query_id)]
    }
    for query_id in results.queries:
        for one in results.proponents(query_id):
            assert one.text == theirs[one.sequence_id]
    page = render_page({METHOD: results})
    assert "measured, and no estimate" in page
    assert "±" in page
    assert "retrained" not in page
    assert "is an estimate that" not in page
    left = (
        results.manifest["n_sequences"] - results.manifest["methods"][METHOD]["scanned_sequences"]
    )
    assert left > 0
    assert f"sequences that were no candidates: {left}" in page
    (said,) = results.warnings
    assert "more than two standard errors from zero" in said


def test_a_command_makes_them_and_a_comparison_opens_them_beside_ekfac(
    done: tuple[RunConfig, Store], tmp_path: Path, say: Say
) -> None:
    config, _ = done
    path = tmp_path / "run.yaml"
    path.write_text(json.dumps(config.model_dump()))
    into = tmp_path / "again"
    code, out, err = say("evaluate", "leave-one-out", path, "--into", into, "--first", 1, "--json")
    assert code == 0, err
    told = json.loads(out)
    assert told["seeds"] == 3
    assert (into / "report.html").exists()
    code, out, err = say("report", config.run, into, "--json")
    assert code == 0, err
    assert METHOD in out
    side = json.loads(out)["sides"][1]
    assert (
        f"{told['sequences']} of {side['sequences']} sequences were candidates" in side["notes"][0]
    )
    code, _, err = say("analyse", into, "--what", "tails")
    assert (code, "and nothing of all scores" in err) == (4, True)
    code, _, err = say("review", "export", into, "--out", tmp_path / "review")
    assert (code, "Take --random 0" in err) == (2, True)
    assert say("review", "export", into, "--out", tmp_path / "review", "--random", 0)[0] == 0


def test_what_cannot_be_measured_is_refused_in_words(
    done: tuple[RunConfig, Store], tmp_path: Path, say: Say
) -> None:
    config, _ = done
    one = config.model_copy(
        update={"evaluation": config.evaluation.model_copy(update={"seeds": [0]})}
    )
    with pytest.raises(ConfigError, match="Name two or more"):
        leave_one_out(one, 1, Store(str(tmp_path / "new")), log())
    with pytest.raises(ConfigError, match="is the directory of a run"):
        leave_one_out(config, 1, Store(config.run), log())
    path = tmp_path / "run.yaml"
    path.write_text(json.dumps(config.model_dump()))
    assert "--into" in say("evaluate", "leave-one-out", path)[2]
    assert "--into" in say("evaluate", path, "--into", tmp_path / "x")[2]
    assert "--first" in say("evaluate", path, "--first", 2)[2]
    code, _, err = say("evaluate", "leave-one-out", path, "--into", path)
    assert (code, "cannot write" in err, "trainings" in err) == (5, True, False)


def test_what_is_not_finite_is_refused_by_name(done: tuple[RunConfig, Store]) -> None:
    config, _ = done
    with open_farm(config, log()) as farm:
        bank = farm.bank([])
    one = bank.about.sequence_ids[0]
    subsets = (full(0), without([one], 0, 0))
    values = np.array([bank.values_SQ[0], bank.values_SQ[0]])
    values[1, 1] = -np.inf
    broken = replace(bank, subsets=subsets, values_SQ=values, losses_S=np.zeros(2))
    with pytest.raises(NumericsError, match=r"without sequence 0 with seed 0 gives -inf .*'q1'"):
        measured(broken, Left("sequence", (str(one),), ((one,),)), [0])
