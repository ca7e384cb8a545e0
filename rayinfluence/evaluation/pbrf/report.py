"""A run's own influences beside proximal Bregman responses: does the arithmetic solve its question?

Z sequence, Q query.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rayinfluence.dataflow import stage_names
from rayinfluence.dataflow.layout import EVALUATION
from rayinfluence.dataflow.run import Run
from rayinfluence.dataflow.stages.damaged import without_damage
from rayinfluence.dataflow.stages.ensure import Lacking, Place, Stage, ensure
from rayinfluence.dataflow.stages.factors import Factors
from rayinfluence.dataflow.stages.progress import StageProgress
from rayinfluence.dataflow.stages.queries import method_operands, plan_methods
from rayinfluence.dataflow.stages.select import narrowed, sampled
from rayinfluence.errors import ConfigError, NumericsError
from rayinfluence.evaluation.pbrf.job import Answered, ResponseAsked, ResponseJob, read_answer
from rayinfluence.evaluation.pbrf.response import Search
from rayinfluence.guest import own_arithmetic
from rayinfluence.influence.correlations import pearson, spearman
from rayinfluence.methods.method import ITSELF, FactorKind
from rayinfluence.storage.digest import digest

#: That predict; the first one's lambda holds the weights.
METHODS = ("ekfac", "kfac", "gradient_product")
#: Sequences that hold predictions where they start, at most.
MOST_BASIS = 1000
#: Raised whenever the same sequences would get other responses.
_VERSION = 1
#: Fewer sequences have no correlation worth its name.
_FEWEST = 3
#: The share of minima that may be unfinished: a table of hundreds is not lost for one of them.
_MOST_UNFINISHED = 0.1


@dataclass(frozen=True)
class Pbrf:
    """Predicted and found changes of queries, as sequences are taken out.

    Attributes:
        sequence_ids: those taken out, one at a time.
        query_ids: of the queries.
        epsilon: -1/N.
        n_basis: sequences that hold predictions where they start.
        responses_ZQ: found: of f, in its unit (nats, of a log-probability).
        predicted_ZQ: by method: epsilon times the score. In the unit of a response, but for
            methods whose scores predict no change.
        gradients_Z: of each minimum, relative to where it starts.
        evaluations_Z: of the objective that each took.
        unfinished_Z: whose gradient did not become as small as was wanted: their responses are as
            far as they came, and correlations have them, as they are mostly the largest.
    """

    sequence_ids: tuple[int, ...]
    query_ids: tuple[str, ...]
    epsilon: float
    n_basis: int
    responses_ZQ: NDArray[np.float64]
    predicted_ZQ: Mapping[str, NDArray[np.float64]]
    gradients_Z: NDArray[np.float64]
    evaluations_Z: NDArray[np.int64]
    unfinished_Z: NDArray[np.bool_]

    def pearson(self, method: str) -> NDArray[np.float64]:
        """The correlation of predicted and found over sequences [Q]; NaN where there is none."""
        return pearson(self.predicted_ZQ[method], self.responses_ZQ)

    def spearman(self, method: str) -> NDArray[np.float64]:
        """The same of ranks [Q]."""
        return spearman(self.predicted_ZQ[method], self.responses_ZQ)


@own_arithmetic()
def pbrf_report(
    run: Run,
    n_sequences: int,
    n_queries: int,
    *,
    most_basis: int = MOST_BASIS,
    search: Search | None = None,
) -> Pbrf:
    """Take sequences out by moving the tracked weights, and compare with what methods predict.

    It is the run's own question: lambda of each module is that of its damping, and predictions are
    its scores at full rank. Sequences are drawn from the basis by Philox, by the run's seed, and so
    is the basis, of larger corpora. Of the queries it is the first ones. What is found is kept in
    the run directory, and not looked for again.

    Args:
        run: with a model, a corpus and queries.
        n_sequences: to take out.
        n_queries: to ask; all, where there are fewer.
        most_basis: as above.
        search: how long a minimum is looked for.

    Raises:
        ConfigError: there are too few sequences, or no query; or training maximised a function of
            the user's own.
        NumericsError: more than a tenth of the minima were not found.
    """
    search = search or Search()
    run.begin(needs_queries=True)
    run.tokenize()
    run.check()
    job, items, n_basis = _planned(run, n_sequences, n_queries, most_basis, search)
    found = without_damage(run.runner, [job.store], lambda: _answers(run, job, items), run.progress)
    gradients_Z = np.array([one.gradient for one in found])
    unfinished_Z = ~(gradients_Z <= search.tolerance)
    _refuse_unfinished(items, gradients_Z, unfinished_Z, search)
    return Pbrf(
        tuple(item.sequence_id for item in items),
        tuple(query.query.query_id for query in job.queries),
        job.epsilon,
        n_basis,
        np.stack([one.changes_Q for one in found]),
        {
            name: job.epsilon * np.stack([one.scores_Q[name] for one in found])
            for name in found[0].scores_Q
        },
        gradients_Z,
        np.array([one.evaluations for one in found]),
        unfinished_Z,
    )


def _planned(
    run: Run, n_sequences: int, n_queries: int, most_basis: int, search: Search
) -> tuple[ResponseJob, list[ResponseAsked], int]:
    """The job, its items, and how many sequences the basis has."""
    if run.numerics.function is not None:
        raise ConfigError(
            f"objective.kind: {run.numerics.function.name} is a function of your own, and a "
            "proximal Bregman response needs to know what distribution the model predicts. Leave "
            "the validator out."
        )
    queries = [one for one in run.queries if one.digest != ITSELF.digest][:n_queries]
    if not queries:
        raise ConfigError(
            "queries: a proximal Bregman response is of queries, and the run asks none."
        )
    splits = run.corpus.plan(run.numerics.split_tokens)
    good = np.setdiff1d(
        np.concatenate([split.sequence_ids for split in splits]), sorted(run.bad_sequences)
    )
    basis = narrowed(splits, good)
    basis = narrowed(basis, sampled(basis, most_basis, run.config.seed))
    asked = sampled(basis, n_sequences, run.config.seed + 1)
    if len(asked) < _FEWEST:
        raise ConfigError(
            f"{len(asked)} sequences are too few to correlate anything over: take {_FEWEST} or "
            "more, of a corpus that has as many."
        )
    factors: dict[FactorKind, Factors] = {"ekfac": run.fit("ekfac")}
    scales = run.config.scan.damping_scale
    # The objective has one lambda: of a list of dampings the first.
    scale = scales[0] if isinstance(scales, list) else scales
    scan = run.config.scan.model_copy(update={"methods": [*METHODS], "damping_scale": scale})
    prepared = plan_methods(
        run.store,
        run.model_digest,
        list(run.replica.modules),
        factors,
        scan,
        run.numerics,
        run.corpus.fingerprint,
    )
    epsilon = -1 / run.n_training_sequences
    common = digest(
        {
            "version": _VERSION,
            "methods": [one.fingerprint for one in prepared],
            "basis": [split.digest for split in basis],
            "queries": [query.digest for query in queries],
            "epsilon": epsilon,
            "search": asdict(search),
        }
    )
    job = ResponseJob(
        run.corpus_store,
        run.store / EVALUATION / common,
        tuple(basis),
        queries,
        method_operands(run.runner, prepared, factors),
        epsilon,
        search,
    )
    n_tokens = sum(split.n_tokens for split in basis)
    items = [
        ResponseAsked(digest([common, split.digest, int(one)]), alone, n_tokens)
        for split in narrowed(basis, asked)
        for one in split.sequence_ids
        for alone in narrowed([split], np.array([one]))
    ]
    return job, items, sum(split.n_rows for split in basis)


def _answers(run: Run, job: ResponseJob, items: Sequence[ResponseAsked]) -> list[Answered]:
    """What was found of each, as far as it was not found before."""

    def work(lacking: Sequence[Lacking[ResponseAsked]], told: StageProgress) -> Iterator[Any]:
        return run.runner.replicas(job, [one.item for one in lacking], told.advance)

    stage = Stage(
        stage_names.RESPOND,
        items,
        lambda item: [Place(job.store, item.key)],
        work,
        n_tokens=lambda item: item.n_tokens,
    )
    ensure(stage, run.progress)
    return [read_answer(job.store, item.key) for item in items]


def _refuse_unfinished(
    items: Sequence[ResponseAsked],
    gradients_Z: NDArray[np.float64],
    unfinished_Z: NDArray[np.bool_],
    search: Search,
) -> None:
    """See that nearly all minima were found.

    Raises:
        NumericsError: how many were not, and what to do.
    """
    n_unfinished = int(unfinished_Z.sum())
    if n_unfinished > _MOST_UNFINISHED * len(items):
        worst = int(gradients_Z.argmax())
        raise NumericsError(
            f"{n_unfinished} of {len(items)} proximal Bregman responses did not converge: of "
            f"sequence {items[worst].sequence_id} the gradient is {gradients_Z[worst]:.2g} of what "
            f"it was at the start, and {search.tolerance:.2g} was wanted. Allow more than "
            f"{search.most_evaluations:,} evaluations, or damp more (`scan.damping_scale`)."
        )
