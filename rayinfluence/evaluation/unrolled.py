"""The derivative of training: what each sequence's weight does to a query, along all steps.

A training is a function from the weights w of its sequences to what the trained model says, and a
subset of the corpus is another w. Its derivative at w = 1,

    d f_q / d w_n   =   sum over the steps s that see n of   <a_s, d state_(s+1) / d w_n>,
    a_s = (d state_(s+1) / d state_s)^T a_(s+1),   a_S = d f_q / d state_S

is found by going through the steps of the training backwards (Maclaurin, Duvenaud & Adams 2015,
Gradient-based hyperparameter optimization through reversible learning; Hara, Nitanda & Maehara
2019, Data cleansing for models trained with SGD; for AdamW and language models Ilyas & Engstrom
2025, MAGIC). The state is what AdamW keeps: weights and both moments. Nothing of it is an
approximation but that it is linear: no inverse of a curvature, no minimum that training would have
to have reached, all weights. It takes the recipe, the order of the batches and a second backward
pass of each step for each query, so that it is of one training and no scan: what predictions by
gradients of the trained model alone could be, at best.

N sequence, B sequence of a batch, Q query, W weight of the model.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.attention import SDPBackend, sdpa_kernel

from rayinfluence.evaluation.training import (
    BETAS,
    CLIP,
    EPSILON,
    IGNORED,
    TrainingSettings,
    learning_rate_share,
    losses_of,
    pad,
    plan_of,
    threads_of,
)

#: Below the square of any gradient that moves a weight; where none did, a root has no derivative.
_TINY = 1e-30


class _State(NamedTuple):
    """What a step makes another one of: the weights, and AdamW's moments [..., W] each."""

    weights: Tensor
    first: Tensor
    second: Tensor


def unrolled(
    model: nn.Module,
    rows: Sequence[Sequence[int]],
    seed: int,
    settings: TrainingSettings,
    gradients: Callable[[nn.Module], Sequence[Tensor]],
    masks: Sequence[Sequence[bool] | NDArray[np.bool_] | None] | None = None,
    advance: Callable[[int], None] = lambda tokens: None,
) -> Tensor:
    """Train in place as :func:`~rayinfluence.evaluation.training.train` does, and go back.

    Of the states of S steps about 2 sqrt(S) are held at a time, 3 W numbers each, and 3 W for each
    query; the others are made again.

    Args:
        model: to begin from; gives logits [B, T, V] for ``input_ids`` [B, T].
        rows: sequences of token ids, all of weight 1.
        seed: of their order.
        settings: how.
        gradients: of the trained model; gives grad f_q of all its parameters, one vector [W] a
            query, in the order of ``parameters()``.
        masks: say which tokens of each row the loss counts; all where there are none.
        advance: told of tokens as they are gone through, both ways.

    Returns:
        d f_q / d w_n [N, Q], w_n as often as sequence n is seen in each epoch.
    """
    with threads_of(settings.threads):
        return _there_and_back(_Training(model, rows, seed, settings, masks), gradients, advance)


def _there_and_back(
    training: _Training,
    gradients: Callable[[nn.Module], Sequence[Tensor]],
    advance: Callable[[int], None],
) -> Tensor:
    kept = [training.beginning()]
    stride = max(1, math.isqrt(len(training.plan)))
    state = kept[0]
    for number in range(len(training.plan)):
        if number and number % stride == 0:
            kept.append(state)
        state = training.after(number, state)
        advance(training.n_tokens(number))
    training.put(state)
    adjoint_QW = torch.stack(list(gradients(training.model))).to(state.weights)
    adjoint = _State(adjoint_QW, torch.zeros_like(adjoint_QW), torch.zeros_like(adjoint_QW))
    found_NQ = adjoint_QW.new_zeros(training.n_rows, len(adjoint_QW))
    for segment in reversed(range(len(kept))):
        numbers = range(segment * stride, min((segment + 1) * stride, len(training.plan)))
        states = [kept.pop()]
        for number in numbers[:-1]:
            states.append(training.after(number, states[-1]))
        for number in reversed(numbers):
            found_NQ[training.plan[number]] += training.back(number, states.pop(), adjoint).T
            advance(training.n_tokens(number))
    return found_NQ


class _Training:
    """A training as a function from state to state."""

    def __init__(
        self,
        model: nn.Module,
        rows: Sequence[Sequence[int]],
        seed: int,
        settings: TrainingSettings,
        masks: Sequence[Sequence[bool] | NDArray[np.bool_] | None] | None,
    ) -> None:
        model.train(False)
        self.model, self.n_rows = model, len(rows)
        self._rows, self._masks, self._settings = rows, masks, settings
        self.plan = plan_of(rows, seed, settings)
        named = dict(model.named_parameters())
        self._shapes = {name: parameter.shape for name, parameter in named.items()}
        # Matrices decay; biases and norms do not.
        self._decay_W = _flat(
            torch.full_like(one, settings.weight_decay if one.dim() > 1 else 0.0)
            for one in named.values()
        )

    def beginning(self) -> _State:
        """Of the model as it is."""
        weights_W = _flat(one.detach() for one in self.model.parameters())
        return _State(weights_W, torch.zeros_like(weights_W), torch.zeros_like(weights_W))

    def put(self, state: _State) -> None:
        """Give the model the weights of a state."""
        parameters = dict(self.model.named_parameters())
        with torch.no_grad():
            for name, weight in self._by_name(state.weights).items():
                parameters[name].copy_(weight)

    def n_tokens(self, number: int) -> int:
        """That a step goes through."""
        return sum(len(self._rows[row]) for row in self.plan[number])

    def after(self, number: int, state: _State) -> _State:
        """The state after a step."""
        ones_B = torch.ones(len(self.plan[number]))
        weights_W = state.weights.detach().requires_grad_()
        found = self._step(number, state._replace(weights=weights_W), ones_B, twice=False)
        return _State(*(one.detach() for one in found))

    def back(self, number: int, state: _State, adjoint: _State) -> Tensor:
        """What a change before a step does to the queries, and what one of each sequence does.

        Args:
            number: of the step.
            state: before it.
            adjoint: of the state after it, [Q, W] each; in place, that of the state before it.

        Returns:
            d f_q / d w by this step [Q, B].
        """
        before = _State(*(one.detach().requires_grad_() for one in state))
        weights_B = torch.ones(len(self.plan[number])).requires_grad_()
        # Fused attention has no second derivative.
        with sdpa_kernel(SDPBackend.MATH):
            found = self._step(number, before, weights_B, twice=True)
            by_sequence: list[Tensor] = []
            # One query after another: batched, it is slower on CPUs and takes more memory.
            for of_query in zip(*adjoint, strict=True):
                *earlier, by_sequence_B = torch.autograd.grad(
                    found, (*before, weights_B), of_query, retain_graph=True, materialize_grads=True
                )
                for later_W, earlier_W in zip(of_query, earlier, strict=True):
                    later_W.copy_(earlier_W)
                by_sequence.append(by_sequence_B)
        return torch.stack(by_sequence)

    def _step(self, number: int, state: _State, weights_B: Tensor, twice: bool) -> _State:
        """A step of AdamW after the norm was clipped, as torch has them; differentiable.

        Args:
            number: of the step.
            state: before it, whose weights require a gradient.
            weights_B: of the sequences of its batch.
            twice: whether the gradient is to be differentiated, too.
        """
        settings = self._settings
        batch = self.plan[number]
        masks = None if self._masks is None else [self._masks[row] for row in batch]
        inputs_BT, labels_BT = pad([self._rows[row] for row in batch], masks)
        logits_BTV = functional_call(
            self.model,
            self._by_name(state.weights),
            kwargs={"input_ids": inputs_BT, "use_cache": False},
        ).logits[:, :-1]
        losses_B = losses_of(logits_BTV, labels_BT)
        n_counted = (labels_BT[:, 1:] != IGNORED).sum().clamp_min(1)
        loss = (losses_B * weights_B).sum() / n_counted
        (gradient_W,) = torch.autograd.grad(loss, state.weights, create_graph=twice)
        gradient_W = gradient_W * (CLIP / (gradient_W.norm() + 1e-6)).clamp_max(1.0)
        share = learning_rate_share(number, len(self.plan), settings.warmup)
        rate = settings.learning_rate * share
        one, two = BETAS
        first_W = one * state.first + (1 - one) * gradient_W
        second_W = two * state.second + (1 - two) * gradient_W.square()
        size_W = (second_W / (1 - two ** (number + 1)) + _TINY).sqrt() + EPSILON
        moved_W = rate * first_W / (1 - one ** (number + 1)) / size_W
        return _State(state.weights * (1 - rate * self._decay_W) - moved_W, first_W, second_W)

    def _by_name(self, weights_W: Tensor) -> dict[str, Tensor]:
        sizes = [shape.numel() for shape in self._shapes.values()]
        parts = weights_W.split(sizes)
        return {
            name: part.view(shape)
            for (name, shape), part in zip(self._shapes.items(), parts, strict=True)
        }


def _flat(tensors: Iterator[Tensor]) -> Tensor:
    return torch.cat([one.reshape(-1) for one in tensors])
