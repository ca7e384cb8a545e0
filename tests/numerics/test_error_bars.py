"""The estimated sampling error of factors: right on samples whose true error is known."""

from __future__ import annotations

import math
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from cases import CASES
from compare import assert_same
from harness import fit_factors, make_replica, table, write_corpus
from torch import Tensor

from rayinfluence.config import FitConfig
from rayinfluence.corpus.shards import sequences_of
from rayinfluence.corpus.splits import read_split
from rayinfluence.curvature.jackknife import jackknife_error, leave_one_out
from rayinfluence.dataflow.compute.replica import Replica
from rayinfluence.dataflow.jobs.probe import probe_rows, read_probe
from rayinfluence.dataflow.stages import fit as fit_module
from rayinfluence.dataflow.stages.factors import Factors
from rayinfluence.dataflow.stages.sample import plan_fit
from rayinfluence.testing.models import VOCABULARY

GPT2 = CASES[0]


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


def probe_scores(factors: Factors, key: str) -> Tensor:
    probed = read_probe(factors.store, key, factors.fingerprint)
    assert probed is not None
    return probed.scores


def test_the_estimates_are_as_large_as_the_error(tmp_path: Path) -> None:
    """Over repeated samples: the spread of probe scores around those of a sample 10 times larger.

    All samples have one probe set.
    """
    replica = make_replica(GPT2, batch_tokens=400)
    probe, n = sequences(99, 40), 64
    deviations, estimates = [], []
    truth: Tensor | None = None
    for repeat in range(6):
        # What is compared with has no need of estimates, and is fitted at once.
        size, bound = (n, 1e-9) if repeat else (10 * n, None)
        folder = tmp_path / str(repeat)
        factors = fit_with_probe(replica, sequences(repeat, size), probe, folder, bound)
        report = factors.manifest["rounds"][-1]
        scores = probe_scores(factors, f"rounds/{len(factors.manifest['rounds']) - 1}.safetensors")
        if truth is None:
            truth = scores
            continue
        deviations.append(float((scores - truth).norm() / truth.norm()))
        estimates.append((report["jackknife"], report["doubling"]))
    actual = math.sqrt(np.mean(np.square(deviations)))
    jackknife, doubling = np.sqrt(np.mean(np.square(estimates), axis=0))
    # The jackknife holds the eigenbases fixed and so sees a part of the error; doubling sees all.
    assert 0.2 * actual < jackknife < 2 * actual, (actual, jackknife, doubling)
    assert 0.5 * actual < doubling < 2 * actual, (actual, jackknife, doubling)


def fit_with_probe(
    replica: Replica, rows: list, probe: list, folder: Path, error_bound: float | None
) -> Factors:
    """A fit that is tested on a given probe set: at doubling sizes, where there is a bound."""
    fixed = probe_rows([table(probe)])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fit_module, "probe_rows", lambda tables: fixed)
        # Two sequences in a split: reading is most of what such a fit does.
        more = {"lanes": 8, "error_bound": error_bound, "row_group_tokens": 16}
        return fit_factors(replica, rows, folder, **more)


def test_the_fit_stops_when_it_is_sure_enough(tmp_path: Path) -> None:
    replica = make_replica(GPT2, batch_tokens=400)
    rows = sequences(3, 256)
    more = {"lanes": 4, "row_group_tokens": 16}
    full = fit_factors(replica, rows, tmp_path / "full", error_bound=1e-9, **more)
    rounds = full.manifest["rounds"]
    assert full.n_sequences == 256
    sizes = [one["n_sequences"] for one in rounds]
    assert [later / earlier for earlier, later in pairwise(sizes)] == [2.0] * (len(sizes) - 1)
    errors = [one["error"] for one in rounds]
    assert errors[0] is None, "nothing to compare the first sample with"
    assert errors[-1] < errors[1] / 2, errors
    assert rounds[-1]["jackknife"] < rounds[0]["jackknife"] / 2
    for one in rounds[1:]:
        assert one["error"] == max(one["jackknife"], one["doubling"])
    assert full.error == errors[-1]

    # A bound that is met half way.
    bound = errors[-2] * 1.01
    stopped = fit_factors(replica, rows, tmp_path / "stopped", error_bound=bound, **more)
    first = next(i for i, error in enumerate(errors) if error is not None and error <= bound)
    assert stopped.n_sequences == rounds[first]["n_sequences"] < 256
    assert stopped.error is not None
    assert stopped.error <= bound
    # What was computed on the way to the same size is the same.
    assert stopped.manifest["rounds"] == rounds[: first + 1]


def test_a_round_has_the_factors_of_its_sample_alone(tmp_path: Path) -> None:
    """Covariances added up over rounds, moments in the bases of the last: as if fitted at once."""
    replica, rows = make_replica(GPT2, batch_tokens=400), sequences(4, 64)
    doubling = fit_factors(replica, rows, tmp_path / "rounds", lanes=4, error_bound=1e-9)
    assert len(doubling.manifest["rounds"]) > 2
    at_once = fit_factors(replica, rows, tmp_path / "once", lanes=4)
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


def test_the_probe_is_of_the_first_splits_and_cut_short(tmp_path: Path) -> None:
    rows = [np.arange(100) % VOCABULARY, *sequences(6, 60)]
    corpus = write_corpus(tmp_path, rows)
    replica = make_replica(GPT2)
    config = FitConfig(lanes=2)
    plan = plan_fit(config, corpus, 1, replica.numerics, "model", replica.shapes)
    found = probe_rows(read_split(corpus.store, split) for split in plan.sample)
    lengths = [len(tokens) for tokens in sequences_of(found)]
    assert len(lengths) == 40
    assert max(lengths) <= 64


@pytest.mark.parametrize("n", [2, 3, 5])
def test_a_sample_too_small_for_a_probe_is_fitted_all_the_same(tmp_path: Path, n: int) -> None:
    rows = sequences(7, n)
    factors = fit_factors(make_replica(GPT2, 400), rows, tmp_path, lanes=2, error_bound=0.5)
    assert factors.n_sequences == n
    assert factors.error is None or factors.error > 0.5


def test_a_sequence_that_is_not_finite_is_not_in_the_probe(tmp_path: Path) -> None:
    """Its log-probability is finite and what its modules see is not."""
    replica = make_replica(CASES[-1], 400)
    rows = [row % (VOCABULARY - 1) for row in sequences(8, 200)]
    rows[3] = np.array([VOCABULARY - 1, 3])
    embedding = replica.model.embed.weight.data[VOCABULARY - 1].zero_()
    embedding[0] = torch.inf
    factors = fit_factors(replica, rows, tmp_path, lanes=2, error_bound=1e-9)
    assert [reason for _, reason in factors.manifest["quarantine"]] == [
        "its gradient is not finite"
    ]
    assert factors.n_sequences == 199
    assert all(one["jackknife"] > 0 for one in factors.manifest["rounds"])
    assert factors.error is not None


def test_singular_covariances_are_counted(tmp_path: Path) -> None:
    """Three sequences of two tokens cannot reach all directions of 12 inputs and 48 outputs."""
    rows = sequences(9, 3)
    few = fit_factors(make_replica(GPT2, 400), [row[:2] for row in rows], tmp_path / "few", lanes=1)
    name = "outputs of transformer.h.0.mlp.c_fc"
    # One token of each sequence predicts, so S has rank 3.
    assert few.manifest["singular"][name] == 48 - 3
    many = fit_factors(make_replica(GPT2, 400), sequences(9, 60), tmp_path / "many", lanes=1)
    assert name not in many.manifest["singular"]
