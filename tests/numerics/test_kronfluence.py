"""The outside check: kronfluence 1.0.1 (Grosse's group) computes the same scores.

Its conventions, where they are a choice, are ours in these tests: nn.Linear alone, no padding, the
empirical Fisher, eager attention, summed loss, damping 0.1 * mean(Lambda) of each module.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import own_objectives
import pytest
import torch
from harness import all_scores, encoded, fit_factors, make_bank
from torch import Tensor, nn

from rayinfluence.dataflow.compute.replica import Numerics, Replica
from rayinfluence.model.load import freeze
from rayinfluence.model.modules import chosen
from rayinfluence.model.parts import parts_of
from rayinfluence.model.preflight import made_up
from rayinfluence.named_function import NamedFunction
from rayinfluence.testing import tiny_gpt2, tiny_llama
from rayinfluence.testing.models import VOCABULARY, linear_for_conv1d

pytest.importorskip("kronfluence", reason="`make test` installs kronfluence==1.0.1 for this")
pytestmark = [
    pytest.mark.runs,
    pytest.mark.filterwarnings("ignore:.*GradScaler.*:FutureWarning"),
]

LENGTH, N_SEQUENCES, N_QUERIES = 9, 24, 5


MODELS = {
    # kronfluence tracks nn.Linear alone.
    "gpt2": lambda dtype: freeze(linear_for_conv1d(tiny_gpt2(dtype=dtype))),
    "llama": lambda dtype: tiny_llama(dtype=dtype),
}


def all_linear(model: nn.Module) -> dict[str, nn.Module]:
    """What `modules: all` tracks."""
    return chosen(model, "all", parts_of(model, made_up(range(VOCABULARY), torch.device("cpu"))))


def tokens(seed: int, n: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, VOCABULARY, (n, LENGTH))


class Sequences(torch.utils.data.Dataset):
    """Rows of tokens, as kronfluence reads them, with what of each counts."""

    def __init__(self, rows: np.ndarray, counted: np.ndarray) -> None:
        self.rows, self.counted = torch.as_tensor(rows), torch.as_tensor(counted)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return {"input_ids": self.rows[index], "counted": self.counted[index]}


def theirs(
    model: nn.Module,
    names: list[str],
    dtype: torch.dtype,
    folder: Path,
    counted: np.ndarray,
    own: str | None = None,
) -> Tensor:
    """Scores [N, Q] by kronfluence, everything in one dtype."""
    from kronfluence.analyzer import Analyzer, prepare_model
    from kronfluence.arguments import FactorArguments, ScoreArguments
    from kronfluence.task import Task

    class LanguageModeling(Task):
        def compute_train_loss(self, batch: Any, model: nn.Module, sample: bool = False) -> Tensor:
            assert not sample
            ids = batch["input_ids"]
            logits = model(input_ids=ids, use_cache=False).logits[:, :-1]
            labels = ids.masked_fill(~batch["counted"], -100)[:, 1:]
            if own is not None:  # which maximises
                return -getattr(own_objectives, own)(logits, labels, ids, ids.sum(1)).sum()
            logits = logits.flatten(0, 1)
            return nn.functional.cross_entropy(logits, labels.flatten(), reduction="sum")

        def compute_measurement(self, batch: Any, model: nn.Module) -> Tensor:
            ids = batch["input_ids"]
            logits = model(input_ids=ids, use_cache=False).logits[:, :-1].flatten(0, 1)
            return nn.functional.cross_entropy(logits, ids[:, 1:].flatten(), reduction="sum")

        def get_influence_tracked_modules(self) -> list[str]:
            return names

        def get_attention_mask(self, batch: Any) -> Tensor:
            return torch.ones_like(batch["input_ids"])

    for weight in model.parameters():
        weight.requires_grad_(True)
    task = LanguageModeling()
    analyzer = Analyzer(
        "parity",
        prepare_model(model, task),
        task,
        cpu=True,
        disable_tqdm=True,
        output_dir=str(folder),
    )
    train = Sequences(tokens(0, N_SEQUENCES), counted)
    queries = tokens(1, N_QUERIES)
    factor_args = FactorArguments(
        strategy="ekfac",
        use_empirical_fisher=True,
        amp_dtype=None,
        activation_covariance_dtype=dtype,
        gradient_covariance_dtype=dtype,
        per_sample_gradient_dtype=dtype,
        lambda_dtype=dtype,
        eigendecomposition_dtype=torch.float64,
    )
    analyzer.fit_all_factors(
        "ekfac", train, per_device_batch_size=6, factor_args=factor_args, overwrite_output_dir=True
    )
    score_args = ScoreArguments(
        damping_factor=None,
        amp_dtype=None,
        per_sample_gradient_dtype=dtype,
        precondition_dtype=dtype,
        score_dtype=dtype,
    )
    analyzer.compute_pairwise_scores(
        "scores",
        "ekfac",
        query_dataset=Sequences(queries, np.ones_like(queries, dtype=bool)),
        train_dataset=train,
        per_device_query_batch_size=N_QUERIES,
        per_device_train_batch_size=6,
        score_args=score_args,
        overwrite_output_dir=True,
    )
    return analyzer.load_pairwise_scores("scores")["all_modules"].T.double()


def ours(
    model: nn.Module,
    dtype: torch.dtype,
    folder: Path,
    masks: list[list[bool]] | None,
    own: str | None = None,
) -> Tensor:
    """Scores [N, Q], dense queries."""
    loss = "all" if masks is None else "completion"
    name = str(dtype).removeprefix("torch.")
    function = own and NamedFunction.of("objective.kind", f"own_objectives:{own}")
    numerics = Numerics(
        name, "cpu", 6 * LENGTH, 2**17, "eager", 0, loss=loss, function=function or None
    )
    replica = Replica(model, all_linear(model), numerics)
    sequences = list(tokens(0, N_SEQUENCES))
    factors = fit_factors(replica, sequences, folder, labels="data", masks=masks)
    queries = [encoded(row) for row in tokens(1, N_QUERIES)]
    bank = make_bank(replica, factors, queries, folder)
    return all_scores(replica, bank, sequences, masks=masks)


@pytest.mark.parametrize(
    ("dtype", "tolerance", "name", "loss"),
    [
        *((torch.float64, 1e-6, name, loss) for name in MODELS for loss in ("all", "completion")),
        (torch.float32, 1e-4, "llama", "completion"),
    ],
    ids=str,
)
def test_scores_are_those_of_kronfluence(
    dtype: torch.dtype, tolerance: float, name: str, loss: str, tmp_path: Path
) -> None:
    """Also where the loss of training counted some tokens alone, of each sequence others."""
    counted = np.ones((N_SEQUENCES, LENGTH), dtype=bool)
    if loss == "completion":
        counted = np.arange(LENGTH) >= np.random.default_rng(2).integers(2, 8, (N_SEQUENCES, 1))
    make = MODELS[name]
    names = list(all_linear(make(dtype)))
    assert len(names) == {"gpt2": 2 * 4, "llama": 2 * 7}[name]
    expected = theirs(make(dtype), names, dtype, tmp_path / "theirs", counted)
    masks = None if loss == "all" else counted.tolist()
    found = ours(make(dtype), dtype, tmp_path / "ours", masks)
    assert found.shape == expected.shape == (N_SEQUENCES, N_QUERIES)
    distance = ((found - expected).norm(dim=0) / expected.norm(dim=0)).max()
    assert float(distance) < tolerance, f"relative distance {float(distance):.3g}"


@pytest.mark.parametrize("name", MODELS)
def test_scores_of_a_function_are_those_of_kronfluence_with_that_loss(
    name: str, tmp_path: Path
) -> None:
    """In float64, of completions: a loss that is no log-likelihood."""
    counted = np.arange(LENGTH) >= np.random.default_rng(2).integers(2, 8, (N_SEQUENCES, 1))
    make, dtype = MODELS[name], torch.float64
    names = list(all_linear(make(dtype)))
    expected = theirs(make(dtype), names, dtype, tmp_path / "theirs", counted, "focal")
    plain = theirs(make(dtype), names, dtype, tmp_path / "plain", counted)
    found = ours(make(dtype), dtype, tmp_path / "ours", counted.tolist(), "focal")
    assert float((plain - expected).norm() / expected.norm()) > 0.01
    distance = ((found - expected).norm(dim=0) / expected.norm(dim=0)).max()
    assert float(distance) < 1e-6, f"relative distance {float(distance):.3g}"
