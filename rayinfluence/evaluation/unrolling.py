"""Scores by the derivative of training, for evaluations: what its rows of the table are made of.

Picklable; no Ray.

N sequence of the corpus, Q query.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from rayinfluence.corpus.queries import EncodedQuery
from rayinfluence.dataflow import layout, stage_names
from rayinfluence.dataflow.compute.replica import Replica
from rayinfluence.dataflow.compute.scoring import Advance, query_tensor
from rayinfluence.dataflow.jobs.watch import enter_phase
from rayinfluence.dataflow.runners.memory import peak_bytes, reset_peak
from rayinfluence.dataflow.stages.ensure import Lacking, Place, Stage, ensure
from rayinfluence.dataflow.stages.progress import StageProgress
from rayinfluence.errors import ConfigError, NumericsError
from rayinfluence.evaluation.contenders import Cost, cost_known
from rayinfluence.evaluation.farm import Farm
from rayinfluence.evaluation.recipe import KEY, CausalLM
from rayinfluence.evaluation.retraining import Retraining
from rayinfluence.evaluation.unrolled import unrolled
from rayinfluence.guest import own_arithmetic
from rayinfluence.storage.digest import digest
from rayinfluence.storage.tensors import read_tensors, write_tensors

#: Raised whenever the same training and query would have other scores.
UNROLLED_VERSION = 1
#: Queries that go through a training together: more share its way forward, and fewer its workers.
_TOGETHER = 8
_SCORES = "scores"


@dataclass(frozen=True)
class Unrolling:
    """Goes through the training on all sequences and back, for some queries.

    Attributes:
        retraining: recipe, corpus and queries.
        seed: of the training.
        scale: what derivatives are multiplied with to be scores: the run's N, as a report divides
            by that to predict changes.
    """

    retraining: Retraining
    seed: int
    scale: int

    def key(self, query: EncodedQuery) -> str:
        """Where the scores of a query are."""
        of = [UNROLLED_VERSION, self.retraining.measured_by, query.digest, self.seed, self.scale]
        return layout.unrolled_key(digest(of))

    def __call__(
        self, queries: tuple[EncodedQuery, ...], advance: Advance
    ) -> tuple[EncodedQuery, ...]:
        """Make the scores of some queries, and commit them.

        Raises:
            NumericsError: they are not finite.
        """
        enter_phase(stage_names.UNROLL, ", ".join(one.query.query_id for one in queries))
        recipe, examples = self.retraining.recipe, self.retraining.examples()
        assert isinstance(recipe, CausalLM)
        with own_arithmetic():
            found_NQ = unrolled(
                recipe.beginning(self.seed),
                examples.sequences,
                self.seed,
                recipe.settings,
                lambda model: [self._gradient(model, query) for query in queries],
                examples.masks_N,
                advance,
            )
        if not bool(torch.isfinite(found_NQ).all()):
            raise NumericsError(
                "evaluation.unrolled: the derivative of the training is not finite: it is too "
                "unstable to be predicted by one. Lower the learning rate, or leave the key out."
            )
        for place, query in enumerate(queries):
            scores_N = (found_NQ[:, place] * self.scale).contiguous()
            write_tensors(self.retraining.store, self.key(query), {_SCORES: scores_N}, {})
        return queries

    def _gradient(self, model: nn.Module, query: EncodedQuery) -> Tensor:
        """Grad f_q of all weights of a model [W]."""
        model.requires_grad_(True)
        numerics = replace(self.retraining.numerics, dtype="float32")
        value = query_tensor(Replica(model, {}, numerics), query)
        found = torch.autograd.grad(value, list(model.parameters()), materialize_grads=True)
        return torch.cat([one.reshape(-1) for one in found])

    @cached_property
    def n_tokens(self) -> int:
        """That are gone through for a block of queries, there and back."""
        splits = self.retraining.splits
        return 2 * self.retraining.recipe.passes * sum(split.n_tokens for split in splits)


def refuse_other_recipes(farm: Farm) -> None:
    """Refuse recipes of which only what they return is known.

    Raises:
        ConfigError: the run's is one.
    """
    if not isinstance(farm.recipe, CausalLM):
        raise ConfigError(
            f"evaluation.unrolled: it goes back through the steps of a training, and {KEY} is a "
            "function of your own, whose steps are not known. Leave the key out."
        )


def unrolled_scores(
    farm: Farm, queries: Sequence[EncodedQuery], seed: int
) -> tuple[NDArray[np.float32], Cost | None]:
    """Scores [N, Q] of the training with a seed, after those that are lacking were made.

    And what they took, where that is known.
    """
    run = farm.run
    job = Unrolling(farm.retraining, seed, run.n_training_sequences)
    blocks = [tuple(queries[at : at + _TOGETHER]) for at in range(0, len(queries), _TOGETHER)]

    def work(
        lacking: Sequence[Lacking[tuple[EncodedQuery, ...]]], told: StageProgress
    ) -> Iterator[tuple[EncodedQuery, ...]]:
        items = [one.item for one in lacking]
        yield from run.runner.told_tasks(stage_names.UNROLL, job, items, told.advance)

    store = farm.retraining.store
    stage = Stage(
        stage_names.UNROLL,
        blocks,
        lambda block: [Place(store, job.key(query)) for query in block],
        work,
        n_tokens=lambda block: job.n_tokens,
    )
    whole, started = len(stage.lacking()) == len(blocks), time.monotonic()
    reset_peak()
    ensure(stage, run.progress)
    inline = run.config.runner.name == "inline"
    took = Cost(time.monotonic() - started, peak_bytes() if inline else None)
    cost = cost_known(run.store, [job.key(query) for query in queries], took, whole)
    columns = [read_tensors(store, job.key(query))[0][_SCORES].numpy() for query in queries]
    return np.stack(columns, axis=1).astype(np.float32), cost
