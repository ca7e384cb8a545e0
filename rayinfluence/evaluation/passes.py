"""Passes of a run's model over its corpus that are no scan: an object for each split."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from rayinfluence.dataflow.jobs.job import Job
from rayinfluence.dataflow.run import Run
from rayinfluence.dataflow.stages.ensure import Place, Stage, ensure
from rayinfluence.storage.store import Store


def pass_over(run: Run, job: Job[Any, Any], store: Store, key: Callable[[str], str]) -> None:
    """Do a job on each split of the corpus, as far as that is not done.

    Args:
        run: with its model.
        job: what is done; it commits an object for each split.
        store: where to.
        key: of a split's object, by the digest of the split.
    """
    ensure(
        Stage(
            job.stage,
            run.corpus.plan(run.numerics.split_tokens),
            lambda split: [Place(store, key(split.digest))],
            lambda lacking, told: run.runner.replicas(
                job, [one.item for one in lacking], told.advance
            ),
            n_tokens=lambda split: split.n_tokens,
        ),
        run.progress,
    )
