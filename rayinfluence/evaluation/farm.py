"""The farm: models that are trained again on subsets of the corpus, in a stage as all others.

An item is a subset; its outcome is one object, named by what decides it. What is there is done.
What a worker or the driver was at when it was killed is done again, with the same bytes.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rayinfluence.addresses import hub_address
from rayinfluence.config import RunConfig
from rayinfluence.config_evaluation import CAUSAL_LM, EvaluationConfig
from rayinfluence.corpus.queries import EncodedQuery
from rayinfluence.corpus.tokenizer_files import load_tokenizer
from rayinfluence.dataflow import layout, stage_names
from rayinfluence.dataflow.begin.apart import refuse_written_over
from rayinfluence.dataflow.begin.early import Inputs, refuse_no_folder
from rayinfluence.dataflow.run import Run
from rayinfluence.dataflow.stages.damaged import without_damage
from rayinfluence.dataflow.stages.ensure import Lacking, Place, Stage, ensure
from rayinfluence.dataflow.stages.progress import ProgressLog, StageProgress
from rayinfluence.errors import ConfigError
from rayinfluence.evaluation.bank import About, Bank
from rayinfluence.evaluation.full_models import is_taken, put_full_models
from rayinfluence.evaluation.new_model import new_model
from rayinfluence.evaluation.recipe import KEY, Recipe, recipe_of, sizes_of, versions
from rayinfluence.evaluation.retraining import Retraining
from rayinfluence.evaluation.sequences import CorpusSequence, ReadSequences
from rayinfluence.evaluation.subsets import Subset, drops, full, halves
from rayinfluence.evaluation.validation import validation_query
from rayinfluence.guest import own_arithmetic
from rayinfluence.methods.method import ITSELF
from rayinfluence.model.pretrained import silent
from rayinfluence.objective_kinds import CAUSAL, KINDS, MASKED, OF_ROWS
from rayinfluence.storage.digest import digest
from rayinfluence.storage.store import Store, read_json_if_whole

#: Raised whenever the same recipe would give other weights.
TRAINING_VERSION = 1
#: Tokens that are read sooner than a process that does it starts.
_FEW_TOKENS = 1 << 22
#: What takes less is told in seconds.
_HOURS = 0.1


@contextmanager
def open_farm(
    config: RunConfig, progress: ProgressLog | None = None, validation: str | None = None
) -> Iterator[Farm]:
    """The farm of a configuration; the run that it belongs to need not have begun.

    Where the run's model is not there, the recipe makes it: documents are tokenised for the model
    that training begins from, which has the same tokenizer and context.

    Args:
        config: of the run.
        progress: told of it.
        validation: a file of documents that each model is asked, besides the queries.

    Raises:
        ConfigError: the configuration does not say how models are trained.
        ModelError: there is no model to begin from.
    """
    wanted = _section(config)
    refuse_written_over(config)
    if hub_address(config.model) is not None or is_taken(Path(config.model)):
        with Run(config, progress) as run:
            yield Farm(run, validation)
        return
    log = progress or ProgressLog()
    with _beginning(config, wanted) as folder:
        inputs = Inputs.of(config.model_copy(update={"model": folder}), log.note)
        with Run(config, log, inputs=inputs) as run:
            yield Farm(run, validation)


class Farm:
    """Trains on subsets of a run's corpus, and has what models say of its queries.

    Args:
        run: an open run.
        validation: a file of documents that each model is asked, besides the queries.

    Raises:
        ConfigError: its configuration does not say how models are trained, or by a recipe that is
            not for its objective.
    """

    def __init__(self, run: Run, validation: str | None = None) -> None:
        self.run = run
        self._validation = validation
        self._wanted = _section(run.config)
        with own_arithmetic():
            run.begin(needs_queries=True)
            self._refuse_other_objectives()
            run.tokenize()
            run.check()

    @cached_property
    def recipe(self) -> Recipe:
        """How models are trained."""
        return recipe_of(self._wanted, len(self.run.tokenizer))

    @cached_property
    def parts(self) -> dict[str, Any]:
        """All that decides the weights of a model of a subset, as JSON has it."""
        return {
            "version": TRAINING_VERSION,
            "recipe": self.recipe.parts(),
            "corpus": self.run.corpus.fingerprint,
            "left_out": sorted(self.run.bad_sequences),
            "masked": self._masked,
            "versions": dict(versions()),
        }

    @property
    def _masked(self) -> bool:
        return self.run.config.objective.loss != "all"

    @cached_property
    def retraining(self) -> Retraining:
        """What is done on each subset."""
        run = self.run
        return Retraining(
            run.corpus_store,
            tuple(run.corpus.plan(run.numerics.split_tokens)),
            frozenset(run.bad_sequences),
            self._masked,
            self.recipe,
            self.queries,
            replace(run.numerics, dtype="float64", device="cpu", function=None),
            run.store / layout.EVALUATION / digest(self.parts),
        )

    @cached_property
    def queries(self) -> tuple[EncodedQuery, ...]:
        """What each model is asked."""
        asked = [query for query in self.run.queries if query is not ITSELF]
        if self._validation is not None:
            asked.append(validation_query(self.run, self._validation))
        return tuple(asked)

    @property
    def ids_N(self) -> NDArray[np.int64]:
        """The sequences that are trained on, ascending."""
        return self.retraining.ids_N

    @property
    def draw(self) -> int:
        """The seed of what is drawn."""
        return self.run.config.seed

    @property
    def seeds(self) -> tuple[int, ...]:
        """Of trainings."""
        return tuple(self._wanted.seeds)

    def planned(self) -> list[Subset]:
        """The subsets that the configuration asks for, by each of its seeds."""
        found = []
        for seed in self.seeds:
            found += halves(self.ids_N, self._wanted.half, self.draw, seed)
            for share, n in sorted(self._wanted.drop.items()):
                found += drops(self.ids_N, share, n, self.draw, seed)
        return found

    def groups(self, key: str) -> dict[str, list[int]]:
        """The ids of sequences by what their documents' metadata has at a key."""
        found: dict[str, list[int]] = {}
        for one in self.sequences(key):
            if one.group is not None:
                found.setdefault(one.group, []).append(one.sequence_id)
        return found

    @own_arithmetic()
    def asked_for(self) -> Bank:
        """The table that the configuration names, or that of the subsets that it asks for.

        Raises:
            InputError: the table that it names is none, or of other queries or sequences.
            DamagedError: that table is not what was written.
            StorageError: it is missing, or cannot be read.

        And what :meth:`bank` raises.
        """
        path = self._wanted.bank
        if path is None:
            return self.bank(self.planned())
        given = Bank.given(Store(path, self.run.config.storage.options(path)))
        sequences = self.sequences()
        return given.of_run(
            [query.digest for query in self.queries],
            [one.sequence_id for one in sequences],
            [one.content_digest for one in sequences],
        )

    @own_arithmetic()
    def bank(self, subsets: Sequence[Subset]) -> Bank:
        """Train on all sequences and on each of some subsets, as far as that is not done.

        The table has the full model of each seed first, and is written beside the outcomes.

        Raises:
            ConfigError: a function of the user's own fails.
            NumericsError: a training diverged.
            StorageError: an outcome that was made again is damaged again.
        """
        return without_damage(
            self.run.runner,
            [self.retraining.store],
            lambda: self._bank(subsets),
            self.run.progress,
        )

    @own_arithmetic()
    def values(self, subsets: Sequence[Subset]) -> NDArray[np.float64]:
        """F of each query after training on each of some subsets [S, Q], as far as it is not done.

        No table is written, and no budget told.

        Raises:
            As :meth:`bank`.
        """

        def read() -> NDArray[np.float64]:
            ensure(self._stage(subsets), self.run.progress)
            return np.stack([self.retraining.read(subset).values_Q for subset in subsets])

        store = self.retraining.store
        return without_damage(self.run.runner, [store], read, self.run.progress)

    @property
    def seconds(self) -> float | None:
        """Of a training on all sequences on one CPU; None where none was timed."""
        known = read_json_if_whole(self.retraining.store, layout.TOOK)
        return None if known is None else float(known["seconds"])

    def _bank(self, subsets: Sequence[Subset]) -> Bank:
        """The table, from whatever of it is there."""
        seeds = dict.fromkeys([*self.seeds, *(subset.seed for subset in subsets)])
        fulls = [full(seed) for seed in seeds]
        self._train_full(fulls)
        put_full_models(self.run, self.retraining, fulls[: len(self.seeds)], self.run.progress.warn)
        wanted = [*fulls, *(subset for subset in subsets if subset not in fulls)]
        stage = self._stage(wanted)
        self.run.progress.note(self._budget(len(stage.lacking()), len(stage.items)))
        ensure(stage, self.run.progress)
        found = [self.retraining.read(subset) for subset in wanted]
        bank = Bank(
            self.about,
            tuple(wanted),
            np.stack([one.values_Q for one in found]),
            np.array([np.nan if one.loss is None else one.loss for one in found]),
        )
        bank.write(self.retraining.store, layout.RETRAINED)
        return bank

    @cached_property
    def about(self) -> About:
        """What banks of this farm are made of."""
        sequences, queries = self.sequences(), self.retraining.queries
        return About(
            digest(self.parts),
            self.parts,
            tuple(query.query.query_id for query in queries),
            tuple(query.digest for query in queries),
            tuple(one.sequence_id for one in sequences),
            tuple(one.content_digest for one in sequences),
        )

    def sequences(self, group_by: str | None = None) -> list[CorpusSequence]:
        """The sequences that are trained on, by ascending ids, with their groups by a key."""
        run = self.run
        read = ReadSequences(run.corpus_store, frozenset(run.bad_sequences), group_by)
        splits = run.corpus.plan(run.numerics.split_tokens)
        found = run.runner.tasks(read, splits, small=run.corpus.n_tokens <= _FEW_TOKENS)
        return [one for of_split in found for one in of_split]

    def _train_full(self, fulls: Sequence[Subset]) -> None:
        """Train on all sequences, and note how long that takes."""
        took: list[float] = []
        ensure(self._stage(fulls, took, with_models=True), self.run.progress)
        if took:
            body = json.dumps({"seconds": sum(took) / len(took)})
            self.retraining.store.write(layout.TOOK, body.encode())

    def _stage(
        self, subsets: Sequence[Subset], took: list[float] | None = None, with_models: bool = False
    ) -> Stage[Subset]:
        """Train on each of some subsets.

        Args:
            subsets: of which two may be the same.
            took: gets the seconds of each training.
            with_models: whether the models are to be there, too.
        """
        job, runner = self.retraining, self.run.runner
        n_tokens = self.recipe.passes * self.run.corpus.n_tokens

        def places(subset: Subset) -> list[Place]:
            keys = [job.key(subset), *[job.model_key(subset)] * with_models]
            return [Place(job.store, key) for key in keys]

        def work(lacking: Sequence[Lacking[Subset]], told: StageProgress) -> Iterator[Subset]:
            items = [one.item for one in lacking]
            for subset, seconds in runner.told_tasks(stage_names.RETRAIN, job, items, told.advance):
                if took is not None:
                    took.append(seconds)
                yield subset

        distinct = {job.key(subset): subset for subset in subsets}
        return Stage(
            stage_names.RETRAIN,
            [*distinct.values()],
            places,
            work,
            n_tokens=lambda subset: n_tokens,
        )

    def _budget(self, n_lacking: int, n_all: int) -> str:
        """What is left to be trained, and what that takes, in a line."""
        n_sequences = len(self.ids_N)
        n_steps = self.recipe.n_steps(n_sequences)
        steps = "" if n_steps is None else f" of {n_steps:,} steps each"
        said = (
            f"retrain      {n_lacking:,} of {n_all:,} trainings{steps} are to be done, on parts of "
            f"{n_sequences:,} sequences"
        )
        seconds = self.seconds
        if seconds is None or not n_lacking:
            return said
        hours = n_lacking * seconds / 3600
        about = (
            f"{hours:,.2f} machine hours" if hours >= _HOURS else f"{3600 * hours:,.0f} s of one"
        )
        return (
            f"{said}; a training on all of them took {seconds:,.1f} s on one CPU, so that "
            f"these take about {about}, less where much is dropped"
        )

    def _refuse_other_objectives(self) -> None:
        """See that a recipe is for what the run's scores are of."""
        inputs, objective = self.run.inputs, self.run.config.objective
        if inputs.kind in OF_ROWS:
            raise ConfigError(
                "evaluation: models of rows of features are not trained again; leave the section "
                "out."
            )
        if self._wanted.recipe != CAUSAL_LM:
            if inputs.kind not in (CAUSAL, MASKED):
                raise ConfigError(
                    f"{KEY}: {self._wanted.recipe} would be given token ids alone, and a "
                    f"{KINDS[inputs.kind].model} is trained on more than that: such models are not "
                    "trained again. Leave the section out."
                )
            return
        why = None
        if inputs.kind != CAUSAL:
            why = f"the model is a {KINDS[inputs.kind].model}"
        elif objective.function is not None:
            why = f"training maximised {objective.function} (objective.kind)"
        elif objective.reduction == "mean":
            why = "each sequence counts alike (objective.reduction)"
        if why is not None:
            raise ConfigError(
                f"{KEY}: {CAUSAL_LM} is for sums of log-probabilities of tokens, and {why}. Name a "
                "function of your own that trains so."
            )


def _section(config: RunConfig) -> EvaluationConfig:
    if config.evaluation is None:
        raise ConfigError(
            "evaluation: the configuration does not say how models are trained: it has no such "
            "section. Give it one with a recipe."
        )
    return config.evaluation


@contextmanager
def _beginning(config: RunConfig, wanted: EvaluationConfig) -> Iterator[str]:
    """The folder of a model that training begins from, to tokenise the corpus for.

    Raises:
        ConfigError: the configuration names none, or no tokenizer for a new one.
        ModelError: there is no such folder.
    """
    start = wanted.options.start
    if start is not None:
        refuse_no_folder("evaluation.options.start", start)
        yield start
        return
    if wanted.options.sizes is None:
        new = ", or the `sizes` of a new model" if wanted.recipe == CAUSAL_LM else ""
        raise ConfigError(
            f"model: there is no model in {config.model}, and `evaluation` does not say what it "
            "is made from: name the folder that training begins from as "
            f"`evaluation.options.start`, with its tokenizer{new}."
        )
    if config.tokenizer is None:
        raise ConfigError(
            f"model: there is no model in {config.model}, and a new one is made for a tokenizer: "
            "name its folder under `tokenizer`."
        )
    refuse_no_folder("tokenizer", config.tokenizer)
    n_tokens = len(load_tokenizer(config.tokenizer, trust_remote_code=config.trust_remote_code))
    with tempfile.TemporaryDirectory(prefix="rayinfluence-") as folder:
        with silent():
            new_model(sizes_of(wanted, n_tokens), wanted.seeds[0]).save_pretrained(folder)
        yield folder
