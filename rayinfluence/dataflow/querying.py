"""Queries of a pass by all of its methods, with what they are made of: counts, a last layer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

from rayinfluence.config import ScanConfig
from rayinfluence.corpus.splits import Split
from rayinfluence.dataflow.begin.parts import Parts
from rayinfluence.dataflow.compute.texts import TermCounts
from rayinfluence.dataflow.jobs.query import MethodOperands
from rayinfluence.dataflow.stages.counts import count_terms
from rayinfluence.dataflow.stages.queries import MethodQueries, precondition
from rayinfluence.dataflow.stages.refine import Refine, residual_warning, solver_report
from rayinfluence.dataflow.stages.refit import refit
from rayinfluence.methods.registry import TEXT_METHODS

#: What some methods need, given the counts of terms.
Operands = Callable[[Sequence[MethodQueries], TermCounts | None], list[MethodOperands]]


def make_queries(
    run: Parts,
    config: ScanConfig,
    prepared: Sequence[MethodQueries],
    operands: Operands,
    splits: Sequence[Split],
) -> list[str]:
    """Make the queries of a pass that are not there.

    Args:
        run: configuration, model, corpus and queries.
        config: of the pass.
        prepared: where the queries of its methods are.
        operands: reads what methods need.
        splits: all of the corpus: terms count, and a last layer is fitted, over all of it, whatever
            is scanned.

    Returns:
        What to warn of.
    """
    for plan in {one.refit.store.url: one.refit for one in prepared if one.refit}.values():
        seconds = run.config.runner.checkpoint_seconds
        told = run.corpus_store, splits, plan, run.replica, seconds, run.progress
        refit(run.runner, *told)
    with_counts = partial(_with_counts, operands, _counts(run, prepared, splits))
    precondition(run.runner, prepared, with_counts, run.queries, config, run.progress)
    rank, said = None if config.rank == "dense" else config.rank, []
    for one in prepared:
        if one.refinement is not None:
            (of_method,) = operands([one], None)
            _refine(run).run(one, of_method, run.queries, rank)
            said.append(residual_warning(solver_report(one, run.queries), one.refinement.key))
    return [text for text in said if text]


def _with_counts(
    operands: Operands, counts: TermCounts | None, some: Sequence[MethodQueries]
) -> list[MethodOperands]:
    return operands(some, counts)


def _counts(
    run: Parts, methods: Sequence[MethodQueries], splits: Sequence[Split]
) -> TermCounts | None:
    """Of the terms of all queries, where a method of texts has queries to make."""
    if not any(one.method in TEXT_METHODS and one.lacks(run.queries) for one in methods):
        return None
    return count_terms(run.runner, run.corpus_store, run.store, splits, run.queries, run.progress)


def _refine(run: Parts) -> Refine:
    runner = run.config.runner
    return Refine(
        run.runner,
        run.corpus_store,
        run.replica.shapes,
        run.numerics.device,
        runner.most_actors,
        runner.checkpoint_seconds,
        run.progress,
    )
