"""The stated sampling error of factors: never less than the true one, where that is known."""

from __future__ import annotations

import io
import math
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from cases import GPT2, MLP
from clustered import KINDS, Kind, fitted, large_sample, loud_replica, rows
from compare import assert_same
from harness import fit_factors, make_replica, plan_factors, write_corpus
from torch import Tensor

from rayinfluence.corpus.shards import sequences_of
from rayinfluence.corpus.splits import read_rows
from rayinfluence.curvature.jackknife import jackknife_error, leave_one_out
from rayinfluence.dataflow.compute.stopping import _T, HeldOutScores, figures, is_sure
from rayinfluence.dataflow.jobs.held_out import held_out_rows
from rayinfluence.dataflow.stages.progress import ProgressLog
from rayinfluence.testing.models import VOCABULARY

pytestmark = pytest.mark.runs


@pytest.fixture(autouse=True)
def every_size_is_tested(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rayinfluence.dataflow.stages.sample._LOWEST_LIMIT", 0.0)


def test_the_jackknife_of_a_mean_is_its_standard_error() -> None:
    """Exact for means: s / sqrt(L) over the lanes' own means."""
    generator = torch.Generator().manual_seed(0)
    lanes = torch.randn(8, 40, 3, generator=generator, dtype=torch.float64)
    without = leave_one_out(list(lanes.sum(dim=1)), [40] * 8)
    whole = lanes.mean(dim=(0, 1))
    expected = lanes.mean(dim=1).std(dim=0) / math.sqrt(8)
    found = jackknife_error(whole, without)
    assert found == pytest.approx(float(expected.norm() / whole.norm()), rel=1e-12)


def test_lanes_of_unequal_size_are_weighted() -> None:
    sums, counts = [torch.tensor([2.0]), torch.tensor([9.0]), torch.tensor([4.0])], [1, 3, 2]
    without = leave_one_out(sums, counts)
    assert_same(torch.stack(without), torch.tensor([[2.6], [2.0], [2.75]], dtype=torch.float64))


def test_an_estimate_of_zero_has_an_endless_relative_error() -> None:
    parts = [torch.tensor([1.0]), torch.tensor([-1.0])]
    assert jackknife_error(torch.zeros(1), parts) == math.inf


def sequences(seed: int, n: int) -> list[np.ndarray]:
    return list(np.random.default_rng(seed).integers(0, VOCABULARY, (n, 8)))


def held_out(scores: Tensor, n: int, parts: float | None = None) -> HeldOutScores:
    return HeldOutScores(scores, {"n_sequences": n, "parts": parts, "error": None})


def test_of_scores_without_noise_the_bias_is_found() -> None:
    """s(n) = s + B/n, of samples of unequal sizes."""
    truth, bias = torch.randn(2, 3, 4, dtype=torch.float64)
    before, new, whole = (truth + bias / n for n in (30, 50, 80))
    found = figures(whole, held_out(before, 30), held_out(new, 50), jackknife=0.0)
    assert found["bias"] == pytest.approx(float((bias / 80).norm() / whole.norm()), rel=1e-9)


def test_of_scores_without_bias_the_noise_is_found() -> None:
    """Means of n numbers, over many repeats; whole is the mean of both parts."""
    generator = torch.Generator().manual_seed(0)
    errors, stated = [], []
    for _ in range(500):
        rows = torch.randn(80, 6, generator=generator, dtype=torch.float64) + 3
        whole = rows.mean(0)
        before, new = held_out(rows[:30].mean(0), 30), held_out(rows[30:].mean(0), 50)
        found = figures(whole, before, new, jackknife=0.0)
        assert found["bias"] < 1e-12
        errors.append(float((whole - 3).norm() / whole.norm()))
        stated.append(found["parts"])
    ratio = np.square(stated).mean() / np.square(errors).mean()
    assert ratio == pytest.approx(1, abs=0.1)


def test_two_rounds_say_what_the_noise_is_and_lanes_what_it_is_at_least() -> None:
    before, new = held_out(torch.tensor([1.0]), 40, 0.2), held_out(torch.tensor([3.0]), 40)
    whole = torch.tensor([2.0])
    # |1 - 3| sqrt(40 40) / 80 of 2, and .2 of half the sequences.
    one, other = 0.5**2, 0.2**2 / 2
    found = figures(whole, before, new, jackknife=0.1)
    assert found["error"] == pytest.approx(4.303 * math.sqrt((one + other) / 2))
    found = figures(whole, before, new, jackknife=0.9)
    assert found["error"] == pytest.approx(4.303 * 0.9)
    first = held_out(before.scores, 40)
    assert figures(whole, first, new, jackknife=0.1)["error"] == pytest.approx(12.706 * 0.5)


def test_student_s_t_is_exceeded_once_in_twenty_times() -> None:
    assert 2 / math.pi * math.atan(_T[0]) == pytest.approx(0.95, abs=1e-5)
    assert _T[1] / math.sqrt(2 + _T[1] ** 2) == pytest.approx(0.95, abs=1e-5)


@pytest.mark.parametrize(
    ("errors", "sure"),
    [
        ([None], False),
        ([None, 0.01], False),
        ([None, 0.03, 0.01], False),
        ([None, 0.01, 0.03], False),
        ([None, 0.02, 0.01], True),
        ([None, 0.01, None], False),
    ],
)
def test_one_round_below_the_bound_may_be_luck(errors: list[float | None], sure: bool) -> None:
    assert is_sure(errors, 0.02) is sure
    assert not is_sure(errors, None)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_the_error_is_within_what_is_stated(tmp_path: Path, kind: Kind) -> None:
    """The short form of ``tests/benchmarks/error_bars.py``, whose figures are in the docs."""
    replica = loud_replica(MLP)
    truth = large_sample(replica, kind, tmp_path / "truth", 4000)
    ratios = []
    for seed in range(4):
        sample = rows(kind, 100 + seed, 320)
        more = {"lanes": 2, "row_group_tokens": 80, "error_bound": 1.0}
        found = fitted(replica, sample, tmp_path / str(seed), **more)
        ratios.append(found.stated / found.true_error(replica, truth))
    assert min(ratios) > 1, ratios
    assert min(ratios) < 40, "so wide a limit says nothing"


def test_the_fit_stops_when_it_is_sure_enough(tmp_path: Path) -> None:
    replica = make_replica(GPT2, batch_tokens=400)
    sample = sequences(3, 256)
    more = {"lanes": 4, "row_group_tokens": 32}
    full = fit_factors(replica, sample, tmp_path / "full", error_bound=1e-9, **more)
    rounds = full.manifest["rounds"]
    # A tenth of the sample is the held-out set.
    assert full.n_sequences == 256 - 25
    sizes = [one["n_sequences"] for one in rounds]
    assert len(sizes) >= 4
    assert all(1.5 < later / earlier < 2.6 for earlier, later in pairwise(sizes))
    errors = [one["error"] for one in rounds]
    assert errors[0] is None, "nothing to compare the first sample with"
    assert errors[-1] < errors[1] / 2, errors
    assert rounds[-1]["jackknife"] < rounds[0]["jackknife"]
    assert full.error == errors[-1]

    # A bound that is met half way.
    bound = max(errors[1:3]) * 1.01
    stopped = fit_factors(replica, sample, tmp_path / "stopped", error_bound=bound, **more)
    assert stopped.n_sequences == sizes[2] < sizes[-1]
    assert stopped.error is not None
    assert stopped.error <= bound
    # What was computed on the way to the same size is the same.
    assert stopped.manifest["rounds"] == rounds[:3]
    # What was new in a round, alone, made way.
    left = {key.split("/")[1] for key in stopped.store.list() if key.startswith("eigen/")}
    assert left == {"round-2"}


def test_a_round_has_the_factors_of_its_sample_without_the_probe_set(tmp_path: Path) -> None:
    """Covariances added up over rounds, moments in the bases of the last: as if fitted at once."""
    replica, sample = make_replica(GPT2, batch_tokens=400), sequences(4, 64)
    more = {"lanes": 4, "labels": "data"}  # whose draws do not depend on a sequence's number
    _, plan = plan_factors(replica, sample, tmp_path / "plan", error_bound=1e-9, **more)
    doubling = fit_factors(replica, sample, tmp_path / "rounds", error_bound=1e-9, **more)
    assert len(doubling.manifest["rounds"]) > 2
    kept = [row for i, row in enumerate(sample) if i not in plan.held_out]
    assert len(kept) == 64 - 6 == doubling.n_sequences
    at_once = fit_factors(replica, kept, tmp_path / "once", **more)
    assert len(at_once.manifest["rounds"]) == 1
    for name, module in at_once.by_module().items():
        other = doubling.by_module()[name]
        assert_same(other.inputs_eigenvalues, module.inputs_eigenvalues, f"A of {name}")
        assert_same(other.outputs_eigenvalues, module.outputs_eigenvalues, f"S of {name}")
        assert_same(other.moments.sum(), module.moments.sum(), f"trace of Lambda, {name}")


def test_one_lane_has_no_spread_and_never_stops(tmp_path: Path) -> None:
    factors = fit_factors(
        make_replica(GPT2, 400), sequences(5, 32), tmp_path, lanes=1, error_bound=10.0
    )
    assert factors.error is None
    assert factors.n_sequences == 32


def test_the_probe_is_cut_short(tmp_path: Path) -> None:
    corpus = write_corpus(tmp_path, [np.arange(100) % VOCABULARY, *sequences(6, 3)])
    (split,) = corpus.plan(10**6)
    found = held_out_rows([read_rows(corpus.store, split, [0, 2])])
    assert [len(tokens) for tokens in sequences_of(found)] == [64, 8]
    assert found["sequence_id"].to_pylist() == [0, 2]


def test_the_probe_keeps_what_counts(tmp_path: Path) -> None:
    """A class, and which tokens; some of these are in what is left."""
    some = [np.arange(200) % VOCABULARY, *sequences(6, 2)]
    masks = [[place >= 150 for place in range(200)], [True] * 8, [False] * 8]
    corpus = write_corpus(tmp_path, some, masks=masks, classes=[2, 0, 1])
    (split,) = corpus.plan(10**6)
    found = held_out_rows([read_rows(corpus.store, split, [0, 1, 2])])
    assert [len(tokens) for tokens in sequences_of(found)] == [182, 8, 8]
    assert [sum(mask) for mask in found["loss_mask"].to_pylist()] == [32, 8, 0]
    assert found["label"].to_pylist() == [2, 0, 1]


@pytest.mark.parametrize("n", [2, 5, 19])
def test_a_sample_too_small_for_a_probe_is_fitted_all_the_same(tmp_path: Path, n: int) -> None:
    sample = sequences(7, n)
    factors = fit_factors(make_replica(GPT2, 400), sample, tmp_path, lanes=2, error_bound=0.5)
    assert factors.n_sequences == n
    assert factors.error is None


@pytest.mark.parametrize("is_held_out", [False, True])
def test_a_sequence_that_is_not_finite_is_not_in_the_held_out_set(
    tmp_path: Path, is_held_out: bool
) -> None:
    """Its log-probability is finite and what its modules see is not."""
    replica = make_replica(MLP, 400)
    sample = [row % (VOCABULARY - 1) for row in sequences(8, 200)]
    more = {"lanes": 2, "row_group_tokens": 64, "error_bound": 1e-9}
    _, plan = plan_factors(replica, sample, tmp_path / "plan", **more)
    bad = next(i for i in range(200) if (i in plan.held_out) == is_held_out)
    sample[bad] = np.array([VOCABULARY - 1, 3])
    embedding = replica.model.embed.weight.data[VOCABULARY - 1].zero_()
    embedding[0] = torch.inf
    factors = fit_factors(replica, sample, tmp_path / "fit", **more)
    reasons = [reason for _, reason in factors.manifest["quarantine"]]
    assert reasons == ["its gradient is not finite"] * (not is_held_out)
    assert factors.n_sequences == 200 - 20 - (not is_held_out)
    assert all(one["jackknife"] > 0 for one in factors.manifest["rounds"])
    assert factors.error is not None


def test_singular_covariances_are_counted(tmp_path: Path) -> None:
    """Three sequences of two tokens cannot reach all directions of 12 inputs and 48 outputs."""
    short = [row[:2] for row in sequences(9, 3)]
    few = fit_factors(make_replica(GPT2, 400), short, tmp_path / "few", lanes=1)
    name = "outputs of transformer.h.0.mlp.c_fc"
    # One token of each sequence predicts, so S has rank 3.
    assert few.manifest["singular"][name] == 48 - 3
    many = fit_factors(make_replica(GPT2, 400), sequences(9, 60), tmp_path / "many", lanes=1)
    assert name not in many.manifest["singular"]


@pytest.mark.parametrize(
    ("n", "more", "advice"),
    [
        (3, {}, "The whole corpus was fitted: only one with more sequences may help."),
        (30, {"sequences": 3}, "More sequences may help."),
        # A fit that stops early has the whole corpus for its sample, and does not use it.
        (160, {"error_bound": 50.0, "lanes": 2}, "More sequences may help."),
    ],
)
def test_more_sequences_are_advised_where_there_are_more(
    tmp_path: Path,
    quiet: ProgressLog,
    said: io.StringIO,
    n: int,
    more: dict[str, object],
    advice: str,
) -> None:
    short = [row[:2] for row in sequences(9, n)]
    settings = {"lanes": 1, **more}
    factors = fit_factors(make_replica(GPT2, 400), short, tmp_path, quiet, **settings)
    assert (factors.n_sequences > n / 2) == advice.startswith("The whole")
    assert f"mostly damping decides there. {advice}" in said.getvalue()
