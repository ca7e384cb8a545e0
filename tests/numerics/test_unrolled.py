"""The derivative of training, against training again."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from cases import llama
from torch import Tensor, nn

from rayinfluence.evaluation.training import TrainingSettings, train
from rayinfluence.evaluation.unrolled import unrolled
from rayinfluence.testing import tiny_gpt2

pytestmark = pytest.mark.runs
SETTINGS = TrainingSettings(epochs=2, batch=3, learning_rate=3e-3, warmup=0.2, threads=1)
ROWS = [
    np.random.default_rng([3, n]).integers(0, 13, length).tolist()
    for n, length in enumerate((6, 4, 7, 5, 3, 6, 5))
]
ASKED = [[1, 5, 2, 8], [4, 4, 9]]


def model_of(make) -> nn.Module:
    model: nn.Module = make().double()
    return model.requires_grad_(True)


def log_p(model: nn.Module, tokens: list[int]) -> Tensor:
    ids = torch.tensor([tokens])
    log_ps = model(input_ids=ids).logits[0, :-1].log_softmax(dim=-1)
    return log_ps.gather(1, ids[0, 1:, None]).sum()


def gradients(model: nn.Module) -> list[Tensor]:
    model.requires_grad_(True)
    found = []
    for tokens in ASKED:
        parts = torch.autograd.grad(log_p(model, tokens), list(model.parameters()))
        found.append(torch.cat([part.reshape(-1) for part in parts]))
    return found


@pytest.mark.parametrize("make", [tiny_gpt2, llama], ids=["tied", "untied"])
@pytest.mark.parametrize("masked", [False, True])
def test_it_is_what_differences_of_trainings_come_to(make, masked: bool) -> None:
    masks = [[n % 3 != 0 for n in range(len(row))] for row in ROWS] if masked else None
    begin = model_of(make)
    model = copy.deepcopy(begin)
    found_NQ = unrolled(model, ROWS, 5, SETTINGS, gradients, masks)
    trained = copy.deepcopy(begin)
    train(trained, ROWS, 5, SETTINGS, masks=masks)
    for ours, theirs in zip(model.parameters(), trained.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-11)
    step = 2.0**-19  # in float32, too
    for row in (0, 3, 6):
        values = []
        for sign in (1, -1):
            weights = np.ones(len(ROWS), dtype=np.float64)
            weights[row] += sign * step
            other = copy.deepcopy(begin)
            train(other, ROWS, 5, SETTINGS, masks=masks, weights_N=weights)
            with torch.no_grad():
                values.append([float(log_p(other, tokens)) for tokens in ASKED])
        expected_Q = (np.array(values[0]) - np.array(values[1])) / (2 * step)
        np.testing.assert_allclose(found_NQ[row].detach(), expected_Q, rtol=1e-5, atol=1e-8)


def test_it_has_the_threads_of_the_recipe_whatever_its_process_has() -> None:
    """Bits depend on them, and a worker has others than a process that computes inline."""
    seen, model = set(), model_of(tiny_gpt2)
    model.register_forward_hook(lambda *_: seen.add(torch.get_num_threads()))
    before = torch.get_num_threads()
    torch.set_num_threads(before + 1)
    try:
        unrolled(model, ROWS, 5, SETTINGS, gradients)
        assert torch.get_num_threads() == before + 1
    finally:
        torch.set_num_threads(before)
    assert seen == {SETTINGS.threads}
