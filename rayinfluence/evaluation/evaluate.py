"""``rayinfluence evaluate``: score by every contender, train what is lacking, and compare.

Scores come first, as some trainings are of what they put first; then the farm trains whatever is
not there, and the referees look at what became of the models.

N sequence, Q query.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from rayinfluence.addresses import hub_address
from rayinfluence.config import RunConfig
from rayinfluence.config_evaluation import EvaluationConfig
from rayinfluence.corpus.queries import EncodedQuery
from rayinfluence.dataflow.run import Run
from rayinfluence.dataflow.stages.progress import ProgressLog
from rayinfluence.errors import ConfigError, QueryError
from rayinfluence.evaluation.asked import Answers, distinct, protocols, refuse_not_finite, weights
from rayinfluence.evaluation.baselines import HIDDEN_STATE
from rayinfluence.evaluation.claims import RECALL_AT, Claims, Questions, claims
from rayinfluence.evaluation.contenders import KNN, UNROLLED, Contender, Cost, scored
from rayinfluence.evaluation.farm import Farm, open_farm
from rayinfluence.evaluation.given import asked_before, given_bank, seeds_of
from rayinfluence.evaluation.known import known_documents
from rayinfluence.evaluation.lds import ceiling
from rayinfluence.evaluation.patches import patched
from rayinfluence.evaluation.referees import Outcomes, figures
from rayinfluence.evaluation.removal import n_removed
from rayinfluence.evaluation.shapley.contending import NOTE, valued_rows
from rayinfluence.evaluation.subsets import full
from rayinfluence.evaluation.table import Row, methods_of
from rayinfluence.evaluation.unrolling import refuse_other_recipes, unrolled_scores
from rayinfluence.evaluation.wanted import Trainings, added_wanted, groups_wanted
from rayinfluence.guest import own_arithmetic
from rayinfluence.influence.correlations import spearman
from rayinfluence.model.weight_files import holds_weights
from rayinfluence.storage.results.evaluated import Evaluated, Groups, Protocol
from rayinfluence.storage.results.valued import read_valued

#: Of fewer, intervals say little and nearly any order comes by chance.
_FEW_SUBSETS = 20
#: Of its size, a share that is dropped may be off without a word.
_OFF_SHARE = 0.2
#: Of fewer copies, a slope is mostly chance.
_FEW_COPIES = 20


@dataclass(frozen=True)
class _Scored:
    """What a contender's scores say and took, and how they agree with the first one's."""

    contender: Contender
    claims: Claims
    cost: Cost | None
    stability_Q: NDArray[np.float64]


def evaluate(
    config: RunConfig, rivals: Sequence[Contender], progress: ProgressLog | None = None
) -> Evaluated:
    """Measure contenders as the section ``evaluation`` of the configuration asks for.

    Args:
        config: of the run.
        rivals: who is measured; the scores of others are compared with those of the first.
        progress: told of it.

    Raises:
        ConfigError: there is no such section, or it asks for what the run does not have.
        QueryError: there are fewer than two queries.
        InputError: a table of trainings is of another recipe, other queries or sequences.
        NumericsError: a model says nothing finite of a query.
    """
    wanted = config.evaluation
    if wanted is None:
        raise ConfigError(
            "evaluation: the configuration has no such section, which says how models are trained "
            "and what is measured. docs/quality.md has one to begin with."
        )
    log = progress or ProgressLog()
    if hub_address(config.model) is None and not holds_weights(Path(config.model)):
        with open_farm(config, log) as farm:
            _refuse_few(farm.queries)
            farm.bank([])
    with Run(config, log) as run, own_arithmetic():
        farm = Farm(run)
        _refuse_few(farm.queries)
        return _Evaluation(run, farm, wanted).of(rivals)


def _refuse_few(queries: Sequence[EncodedQuery]) -> None:
    if len(queries) < 2:
        raise QueryError(
            f"queries: an evaluation is of means over queries, and of {len(queries)} there is no "
            "interval; ask two at least, better 20 or more."
        )


class _Evaluation:
    """One evaluation under way; what is wrong with its inputs is refused when it is made.

    Args:
        run: with its model.
        farm: of its corpus.
        wanted: what is measured.
    """

    def __init__(self, run: Run, farm: Farm, wanted: EvaluationConfig) -> None:
        self._run, self._farm, self._wanted = run, farm, wanted
        self._queries = farm.queries
        if wanted.unrolled:
            refuse_other_recipes(farm)
        self._given, self._notes = given_bank(farm, wanted)
        planned = farm.planned() if self._given is None else self._given.subsets
        found = protocols(planned)
        seeds = farm.seeds if self._given is None else seeds_of(self._given)
        groups = groups_wanted(farm, wanted.groups, seeds)
        self._trainings = Trainings(seeds, found, groups, added=None)
        self._asked = self._questions()
        if self._own is not None and wanted.tail_patch:
            self._asked = replace(self._asked, n_patched=0)
            self._notes.append(
                "No tail patch: training maximised a function of the user's own, and a step is on "
                "log-probabilities."
            )

    @property
    def _own(self) -> str | None:
        """The function that training maximised, where it is the user's own."""
        return self._run.config.objective.function

    def _questions(self) -> Questions:
        """What is asked of all contenders; sequences that are added are not chosen yet."""
        wanted, trainings, ids_N = self._wanted, self._trainings, self._farm.ids_N
        groups = trainings.groups.subsets[0] if trainings.groups else ()
        removal, known = wanted.removal, wanted.known
        n_queries = min(removal.queries, len(self._queries)) if removal else 0
        documents = None
        if known is not None:
            documents = known_documents(known, self._queries, self._farm.sequences(known))
        return Questions(
            ids_N,
            {name: weights(rows[0], ids_N) for name, rows in trainings.protocols.items()},
            n_removed(removal.share, len(ids_N)) if removal else 0,
            tuple(range(n_queries)),
            weights(groups, ids_N),
            (),
            documents,
            min(wanted.tail_patch, len(ids_N)),
        )

    def of(self, rivals: Sequence[Contender]) -> Evaluated:
        """Score, train, and compare."""
        found = self._scored(rivals)
        said = [one.claims for one in found]
        answers = self._answers(said)
        self._refuse_not_finite(answers, said)
        became = self._trainings.outcomes(answers)
        patches = (
            patched(self._run, self._queries, said)
            if self._asked.n_patched
            else [np.full(len(self._queries), np.nan)] * len(said)
        )
        n_trainings = self._trainings.n_there(answers, said)
        rows = [
            Row(
                one.contender,
                one.cost,
                one.stability_Q,
                figures(
                    one.claims,
                    became,
                    self._trainings.losses(answers, one.claims),
                    patch_Q,
                    self._copy(one.contender),
                ),
            )
            for one, patch_Q in zip(found, patches, strict=True)
        ]
        return self._evaluated([*rows, *self._valued(became)], n_trainings, became)

    def _valued(self, became: Outcomes) -> list[Row]:
        """Values of the same groups, where they were found before."""
        groups, effects = self._trainings.groups, became.groups
        if groups is None or effects is None:
            return []
        rows = valued_rows(
            read_valued(self._run.store),
            self._farm.about.recipe,
            groups.names,
            self._queries,
            effects.mean_GQ,
        )
        if rows:
            names = ", ".join(row.contender.name for row in rows)
            self._notes.append(NOTE.format(names=names))
        return rows

    def _scored(self, rivals: Sequence[Contender]) -> list[_Scored]:
        """What every contender's scores say; a matrix at a time, and the first one's."""
        first_NQ: NDArray[np.float32] | None = None
        found = []
        for rival in rivals:
            try:
                scores_NQ, cost = self._scores(rival)
            except ConfigError as error:
                if rival.method not in (HIDDEN_STATE, KNN):
                    raise
                self._notes.append(f"Without {rival.name}: {error}")
                continue
            if first_NQ is None:
                first_NQ = scores_NQ
            if self._wanted.add and self._trainings.added is None and rival.predicts(self._own):
                seeds = self._trainings.seeds
                added = added_wanted(self._farm, self._wanted.add, scores_NQ, seeds)
                self._trainings = replace(self._trainings, added=added)
                ids = tuple(subset.added[0] for subset in added[0])
                self._asked = replace(self._asked, added_K=ids)
            if n_lacking := int(np.isnan(scores_NQ).any(axis=1).sum()):
                self._notes.append(
                    f"{rival.name}: {n_lacking:,} of {len(scores_NQ):,} sequences have no score, "
                    "as they could not be scored. Sums of its scores count them as nothing, and "
                    "they come last in its ranks."
                )
            both_N = np.isfinite(first_NQ).all(axis=1) & np.isfinite(scores_NQ).all(axis=1)
            ours_NQ, theirs_NQ = (one[both_N].astype(np.float64) for one in (first_NQ, scores_NQ))
            stability_Q = spearman(ours_NQ, theirs_NQ)
            found.append(_Scored(rival, claims(self._asked, scores_NQ), cost, stability_Q))
        return found

    def _scores(self, rival: Contender) -> tuple[NDArray[np.float32], Cost | None]:
        if rival.method == UNROLLED:
            return unrolled_scores(self._farm, self._queries, self._trainings.seeds[0])
        return scored(self._run, rival, self._queries, self._farm.ids_N)

    def _answers(self, said: Sequence[Claims]) -> Answers:
        """What became of models: those of a given table, or of the farm's."""
        subsets = self._trainings.subsets(said)
        if self._given is None:
            # What was asked for before stays in the table that is written.
            return Answers(self._farm.bank(distinct([*subsets, *asked_before(self._farm)])))
        answers = Answers(self._given)
        self._trainings, notes = self._trainings.told_by(answers, said)
        self._notes += notes
        return answers

    def _refuse_not_finite(self, answers: Answers, said: Sequence[Claims]) -> None:
        """See that figures are not of models that say nothing of a query."""
        wanted = [*map(full, self._trainings.seeds), *self._trainings.subsets(said)]
        asked = [subset for subset in distinct(wanted) if answers.has([subset])]
        models = [
            f"of {'all sequences' if one.is_full else f'{one.design} {one.index}'} with seed "
            f"{one.seed}"
            for one in asked
        ]
        refuse_not_finite(answers.of(asked), models, answers.bank.about.query_ids, "evaluation")

    def _copy(self, contender: Contender) -> NDArray[np.float64] | None:
        """What a contender's scores are multiplied with to predict changes by a copy more [Q]."""
        if not contender.predicts(self._own):
            return None
        predicted_Q = np.array([query.predicts for query in self._queries])
        return np.where(predicted_Q, 1 / self._run.n_training_sequences, np.nan)

    def _evaluated(self, rows: Sequence[Row], n_trainings: int, became: Outcomes) -> Evaluated:
        trainings, asked = self._trainings, self._asked
        groups, effects = None, became.groups
        if trainings.groups is not None and effects is not None:
            groups = Groups(
                trainings.groups.key,
                trainings.groups.names,
                len(trainings.seeds),
                None if np.isnan(effects.resolved) else effects.resolved,
                effects.mean_GQ.tolist(),
                effects.error_GQ.tolist(),
            )
        shown = tuple(
            Protocol(name, values_RSQ.shape[1], len(values_RSQ), ceiling(values_RSQ))
            for name, values_RSQ in became.protocols.items()
        )
        n_added = len(trainings.added[0]) if trainings.added else None
        remarks = _remarks(shown, trainings.seeds, n_added, self._queries)
        remarks += _rounded_shares(trainings, len(asked.ids_N))
        if not (shown or groups or n_added or asked.removed_for or asked.known or asked.n_patched):
            remarks.append(
                "No referee was asked for: methods are compared with the first one, and nothing "
                "says which is right. Set evaluation.half, or others of docs/quality.md."
            )
        return Evaluated(
            self._farm.about.recipe,
            self._run.corpus.fingerprint,
            len(asked.ids_N),
            tuple(query.query.query_id for query in self._queries),
            trainings.seeds,
            n_trainings,
            (*self._notes, *remarks),
            shown,
            groups,
            (asked.n_removed, len(asked.removed_for)) if asked.removed_for else None,
            RECALL_AT,
            tuple(methods_of(rows)),
        )


def _rounded_shares(trainings: Trainings, n_sequences: int) -> list[str]:
    """Of shares that so few sequences do not have, what was dropped in their place."""
    found = []
    for name, rows in trainings.protocols.items():
        subset = rows[0][0]
        n, share = len(subset.dropped), subset.share or 0.0
        if abs(n / n_sequences - share) > _OFF_SHARE * share:
            found.append(
                f"{name}: of {n_sequences:,} sequences {n:,} {'is' if n == 1 else 'are'} dropped, "
                f"which is {n / n_sequences:.2g} of them and not {share:.2g}."
            )
    return found


def _remarks(
    shown: Sequence[Protocol],
    seeds: Sequence[int],
    n_added: int | None,
    queries: Sequence[EncodedQuery],
) -> list[str]:
    """What to beware of."""
    found = [
        f"{one.name}: {one.n_subsets} subsets are few: another {one.n_subsets} may give another "
        f"order of methods; {_FEW_SUBSETS} at least, better 100."
        for one in shown
        if one.n_subsets < _FEW_SUBSETS
    ]
    if n_added is not None and n_added < _FEW_COPIES:
        found.append(
            f"{n_added} copies are few: slopes are mostly chance; {_FEW_COPIES} at least, better "
            "40 with several seeds."
        )
    if len(seeds) == 1:
        found.append(
            "One seed of training: there is no noise ceiling and no standard error. List two or "
            "more under evaluation.seeds."
        )
    if again := len(queries) - len({query.digest for query in queries}):
        found.append(
            f"{again} of {len(queries)} queries {'asks' if again == 1 else 'ask'} what another one "
            "asks: intervals take them for different ones, and are too short."
        )
    if others := sum(query.unit != "nats" for query in queries):
        found.append(
            f"{others} of {len(queries)} queries ask for something that is not in nats: means of "
            "QLD and of tail patches are over different units."
        )
    return found
