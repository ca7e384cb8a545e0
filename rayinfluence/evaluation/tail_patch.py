"""Tail patch: what does one more step on a method's first sequences do to the query?

    patch_q = f_q(theta') - f_q(theta),    theta' = theta + lr g / (|g| + 1e-8), weight by weight

where g is the gradient, in all weights of the trained model, of the mean log-probability per
counted token of the first k sequences by the method: Adam's first step (Kingma & Ba 2015) on them
as one batch. After the tail-patch score of Chang et al. 2024 (arXiv 2410.17413), by which they
compare methods where nothing can be trained again: a step on what is called influential, and
whether the query gains more by it than by one on random sequences. It asks about training further,
and not about what the model was trained on; and about a step, which has no curvature in it.

Picklable; no Ray.

B sequence in batch, Q query.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from rayinfluence.corpus.queries import EncodedQuery
from rayinfluence.dataflow import stage_names
from rayinfluence.dataflow.compute.replica import Replica
from rayinfluence.dataflow.compute.scoring import query_value
from rayinfluence.dataflow.jobs.watch import Watch
from rayinfluence.model.batches import Batch, make_batch
from rayinfluence.model.head import forward_logits, target_logits
from rayinfluence.model.load import freeze
from rayinfluence.model.losses import log_probabilities

#: What each weight changes by; small beside weights, and large beside rounding in float32.
LEARNING_RATE = 1e-4
_EPSILON = 1e-8


@dataclass(frozen=True)
class Patch:
    """A step on some sequences, for a query.

    Attributes:
        number: among all that are asked.
        query: its place.
        sequences: token ids of each.
        masks: which tokens of each the loss counts; None where all do of all.
    """

    number: int
    query: int
    sequences: tuple[tuple[int, ...], ...]
    masks: tuple[NDArray[np.bool_] | None, ...] | None = None


@dataclass
class PatchJob:
    """Makes steps, and tells what became of f; nothing is committed.

    Attributes:
        queries: that are asked.
    """

    queries: Sequence[EncodedQuery]
    stage: ClassVar[str] = stage_names.PATCH
    _exact: Replica | None = None
    _before: dict[int, float] = field(default_factory=dict)

    def prepare(self, replica: Replica) -> None:
        """Have the model in at least float32: of so small a step bfloat16 sees nothing."""
        numerics = replica.numerics
        if numerics.dtype == "bfloat16":
            numerics = replace(numerics, dtype="float32")
        model = copy.deepcopy(replica.model).to(numerics.torch_dtype)
        self._exact = Replica(model, {}, numerics)

    def run(self, replica: Replica, item: Patch, watch: Watch) -> tuple[int, float]:
        """The number of a step, and the change of f in nats."""
        exact, query = self._exact, self.queries[item.query]
        assert exact is not None
        if item.query not in self._before:
            self._before[item.query] = query_value(exact, query)
        sequences = [np.array(tokens, dtype=np.int32) for tokens in item.sequences]
        batch = make_batch(sequences, range(len(sequences)), exact.device, item.masks)
        patched = stepped(exact, batch)
        watch.advance(batch.n_tokens)
        return item.number, query_value(patched, query) - self._before[item.query]


def stepped(replica: Replica, batch: Batch, learning_rate: float = LEARNING_RATE) -> Replica:
    """A replica whose model has made one step on a batch; the other is left as it is."""
    model: nn.Module = copy.deepcopy(replica.model)
    model.requires_grad_(True)
    targets = replica.trained_on.targets(batch)
    # By plain logits: what makes log-probabilities without them has no gradient of the head.
    logits_NV = target_logits(forward_logits(model, targets.given(batch)), targets)
    log_probabilities(logits_NV, targets.labels_N).mean().backward()
    with torch.no_grad():
        for parameter in model.parameters():
            if (g := parameter.grad) is not None:
                parameter.add_(g / (g.abs() + _EPSILON), alpha=learning_rate)
                parameter.grad = None
    return Replica(freeze(model), {}, replica.numerics)
