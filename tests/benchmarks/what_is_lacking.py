"""What an influence function takes for the training, piece by piece, beside the training itself.

    python tests/benchmarks/what_is_lacking.py runs/quality/tuned/config.yaml [--queries 12]

The derivative of the training (``evaluation.unrolled``) is nearly what retraining says. Here it is
made rougher, one thing after another, and the linear datamodeling score of each is printed: the
Gauss-Newton matrix in the place of the Hessian, with AdamW's sizes of gradients as they are; all
gradients and curvature at the trained weights; one size for each tensor; no curvature. Nothing is
trained that the bank has; queries are some of its, evenly spaced, and the seed is the first.

B sequence of a batch, T token, V vocabulary, W weight, Q query.
"""

from __future__ import annotations

import argparse
import time
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.func import functional_call, jvp
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import one_hot

from rayinfluence.config import RunConfig
from rayinfluence.dataflow.run import Run
from rayinfluence.evaluation.asked import Answers, protocols, weights
from rayinfluence.evaluation.farm import Farm
from rayinfluence.evaluation.lds import linear_scores, predicted
from rayinfluence.evaluation.recipe import CausalLM
from rayinfluence.evaluation.training import (
    BETAS,
    CLIP,
    EPSILON,
    IGNORED,
    learning_rate_share,
    losses_of,
    pad,
)
from rayinfluence.evaluation.unrolled import _State, _there_and_back, _Training
from rayinfluence.evaluation.unrolling import Unrolling


class Rougher(_Training):
    """A training whose way back is not quite its own: sizes of gradients do not change with it.

    Attributes:
        end_W: the trained weights, where all gradients and curvature are taken to be at; None is
            where they were.
        by_tensor: whether AdamW divides by the root mean square of each tensor.
        curved: whether there is curvature.
    """

    end_W: Tensor | None = None
    by_tensor = False
    curved = True

    def back(self, number: int, state: _State, adjoint: _State) -> Tensor:
        """As of the training."""
        inputs_BT, labels_BT = self._padded(number)
        counted_BT1 = (labels_BT[:, 1:] != IGNORED)[..., None]
        n_counted = counted_BT1.sum().clamp_min(1)
        at_W = state.weights if self.end_W is None else self.end_W
        settings, (one, two) = self._settings, BETAS
        rate = settings.learning_rate * learning_rate_share(number, len(self.plan), settings.warmup)

        def logits(weights_W: Tensor) -> Tensor:
            told = {"input_ids": inputs_BT, "use_cache": False}
            named = self._by_name(weights_W)
            found: Tensor = functional_call(self.model, named, kwargs=told).logits[:, :-1]
            return found

        with sdpa_kernel(SDPBackend.MATH):
            there_W = state.weights.detach().requires_grad_()
            loss = losses_of(logits(there_W), labels_BT).sum() / n_counted
            (gradient_W,) = torch.autograd.grad(loss, there_W)
            clip = (CLIP / (gradient_W.norm() + 1e-6)).clamp_max(1.0)
            size_W = self._sizes(two * state.second + (1 - two) * (clip * gradient_W).square())
            size_W = (size_W / (1 - two ** (number + 1))).sqrt() + EPSILON
            here_W = at_W.detach().requires_grad_()
            logits_BTV = logits(here_W)
            p_BTV = logits_BTV.detach().softmax(-1)
            label_BTV = one_hot(labels_BT[:, 1:].clamp_min(0), p_BTV.shape[-1])
            by_sequence = []
            for of_weights_W, of_first_W in zip(adjoint.weights, adjoint.first, strict=True):
                moved_W = of_first_W - rate * of_weights_W / (1 - one ** (number + 1)) / size_W
                along_W = (1 - one) * clip * moved_W
                change_BTV = jvp(logits, (at_W.detach(),), (along_W,))[1]
                misfit_BTV = (p_BTV - label_BTV) * change_BTV * counted_BT1 / n_counted
                by_sequence.append(misfit_BTV.sum((1, 2)).detach())
                of_weights_W.mul_(1 - rate * self._decay_W)
                if self.curved:
                    mean_BT1 = (p_BTV * change_BTV).sum(-1, keepdim=True)
                    bent_BTV = p_BTV * (change_BTV - mean_BT1) * counted_BT1 / n_counted
                    (product_W,) = torch.autograd.grad(
                        logits_BTV, here_W, bent_BTV.detach(), retain_graph=True
                    )
                    of_weights_W.add_(product_W)
                of_first_W.copy_(one * moved_W)
        return torch.stack(by_sequence)

    def _padded(self, number: int) -> tuple[Tensor, Tensor]:
        batch = self.plan[number]
        masks = None if self._masks is None else [self._masks[row] for row in batch]
        return pad([self._rows[row] for row in batch], masks)

    def _sizes(self, second_W: Tensor) -> Tensor:
        if not self.by_tensor:
            return second_W
        parts = second_W.split([shape.numel() for shape in self._shapes.values()])
        return torch.cat([torch.full_like(part, float(part.mean())) for part in parts])


def main() -> None:
    """Print the table as Markdown."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("config")
    parser.add_argument("--queries", type=int, default=12)
    options = parser.parse_args()
    torch.set_num_threads(1)
    with Run(RunConfig.load(options.config)) as run:
        farm = Farm(run)
        job = Unrolling(farm.retraining, farm.seeds[0], run.n_training_sequences)
        recipe, examples = job.retraining.recipe, job.retraining.examples()
        assert isinstance(recipe, CausalLM)
        places = np.linspace(0, len(farm.queries) - 1, options.queries).round().astype(int)
        queries = [farm.queries[place] for place in places]
        answers = Answers(farm.asked_for())
        asked = [
            (name, weights(rows[0], farm.ids_N), answers.by_seed(rows)[:, :, places])
            for name, rows in protocols(farm.planned()).items()
        ]

        def training(kind: type[_Training]) -> _Training:
            told = examples.sequences, job.seed, recipe.settings, examples.masks_N
            return kind(recipe.beginning(job.seed), *told)

        plain = training(_Training)
        state = plain.beginning()
        for number in range(len(plain.plan)):
            state = plain.after(number, state)
        frozen = {"end_W": state.weights}
        roughened: dict[str, dict[str, Any] | None] = {
            "the training's own derivative": None,
            "Gauss-Newton, sizes of gradients as they are": {},
            "and all at the trained weights": frozen,
            "and one size for each tensor": {**frozen, "by_tensor": True},
            "and no curvature": {**frozen, "by_tensor": True, "curved": False},
        }
        print(f"| | {' | '.join(name for name, *_ in asked)} | seconds |")
        print(f"| --- |{' --- |' * (len(asked) + 1)}")
        for said, changes in roughened.items():
            started = time.monotonic()
            ours = training(_Training if changes is None else Rougher)
            for key, value in (changes or {}).items():
                setattr(ours, key, value)
            found_NQ = _there_and_back(
                ours, lambda model: [job._gradient(model, one) for one in queries], lambda n: None
            ).numpy()
            cells = [
                f"{np.nanmean(linear_scores(predicted(weights_SN, found_NQ), values_RSQ)):.3f}"
                for _, weights_SN, values_RSQ in asked
            ]
            took = time.monotonic() - started
            print(f"| {said} | {' | '.join(cells)} | {took:.0f} |", flush=True)


if __name__ == "__main__":
    main()
