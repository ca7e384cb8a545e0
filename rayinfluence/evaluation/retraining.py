"""One training of the farm: picklable, with names in it and no tensors; no Ray.

What it commits is a function of recipe, corpus, subset and queries alone. No clock is in it: how
long a training took is told, and not written.

N sequence of the corpus, Q query.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from rayinfluence.corpus.queries import EncodedQuery
from rayinfluence.corpus.shards import masks_of, sequences_of
from rayinfluence.corpus.splits import Split, read_split
from rayinfluence.dataflow import layout, stage_names
from rayinfluence.dataflow.compute.replica import Numerics, Replica
from rayinfluence.dataflow.compute.scoring import Advance, query_value
from rayinfluence.dataflow.jobs.watch import enter_phase
from rayinfluence.errors import ConfigError, ModelError, NumericsError, RayInfluenceError, brief
from rayinfluence.evaluation.recipe import KEY, Examples, OwnRecipe, Recipe
from rayinfluence.evaluation.subsets import Subset
from rayinfluence.guest import own_arithmetic
from rayinfluence.model.load import freeze, is_pretrained
from rayinfluence.model.pretrained import silent
from rayinfluence.storage.digest import digest
from rayinfluence.storage.store import Store
from rayinfluence.storage.tensors import read_tensors, write_tensors

#: Raised whenever the same model would be measured otherwise.
MEASURING_VERSION = 1
_VALUES = "values"


class Measured(NamedTuple):
    """What is kept of a training: f of each query [Q], and the mean loss that its recipe tells."""

    values_Q: NDArray[np.float64]
    loss: float | None


@dataclass(frozen=True)
class Retraining:
    """Trains on subsets and measures queries.

    Attributes:
        corpus: where the splits are.
        splits: of all sequences.
        left_out: sequences that no model is trained on, as the run's cannot be scored on them.
        masked: whether the corpus says which tokens the loss counts.
        recipe: how.
        queries: what is measured.
        numerics: by which; in float64, on a CPU.
        store: of this recipe.
    """

    corpus: Store
    splits: tuple[Split, ...]
    left_out: frozenset[int]
    masked: bool
    recipe: Recipe
    queries: tuple[EncodedQuery, ...]
    numerics: Numerics
    store: Store

    @property
    def ids_N(self) -> NDArray[np.int64]:
        """The sequences that are trained on, ascending."""
        ids = np.concatenate([split.sequence_ids for split in self.splits])
        return ids[[one not in self.left_out for one in ids.tolist()]]

    @property
    def measured_by(self) -> list[object]:
        """What decides f of a query and a model, beside these."""
        told = self.numerics
        return [MEASURING_VERSION, told.objective, told.masking and told.masking.token]

    @property
    def measured(self) -> str:
        """The digest of what is asked of each model."""
        return digest([self.measured_by, [query.digest for query in self.queries]])

    def key(self, subset: Subset) -> str:
        """Where the outcome of a subset is."""
        return layout.retrained_key(digest([subset.digest, self.measured]))

    def model_key(self, subset: Subset) -> str:
        """Where the model itself is, of all sequences."""
        return layout.full_model_key(subset.digest)

    def __call__(self, subset: Subset, advance: Advance) -> tuple[Subset, float]:
        """Train on one subset, measure, and commit; returns it and the seconds of the training."""
        enter_phase(stage_names.RETRAIN, subset.digest)
        with own_arithmetic():
            return subset, self._retrain(subset, advance)

    def _retrain(self, subset: Subset, advance: Advance) -> float:
        examples, started = self.examples(), time.monotonic()
        weights_N = subset.weights(self.ids_N)
        model, loss = self.recipe.train(examples, weights_N, subset.seed, advance)
        seconds = time.monotonic() - started
        if subset.is_full:
            self._keep(model, subset)
        values_Q = self._measured(model)
        if not np.isfinite(values_Q).all():
            raise NumericsError(
                f"a model that was trained on a subset ({subset.design} {subset.index}, seed "
                f"{subset.seed}) gives queries no finite value: its training has diverged, or "
                "left it nothing to learn from. Lower the learning rate of the recipe."
            )
        tensors = {_VALUES: torch.from_numpy(values_Q)}
        header = {"loss": loss if loss is not None and np.isfinite(loss) else None}
        if subset.is_full and isinstance(self.recipe, OwnRecipe):
            self._refuse_other_weights(self.recipe, subset, values_Q)
        write_tensors(self.store, self.key(subset), tensors, header)
        return seconds

    def _refuse_other_weights(
        self, recipe: OwnRecipe, subset: Subset, values_Q: NDArray[np.float64]
    ) -> None:
        """See that a function of the user's own gives the same model when it is called again.

        What is compared afterwards would else be chance, and what is done again another result.
        """
        weights_N = subset.weights(self.ids_N)
        model, _ = recipe.train(self.examples(), weights_N, subset.seed, lambda _: None)
        apart_Q = np.abs(self._measured(model) - values_Q)
        if not (apart_Q == 0).all():
            raise ConfigError(
                f"{KEY}: {recipe.function.name} gives another model when it is called again with "
                f"the same arguments: what it says of a query differs by up to {apart_Q.max():.2g}."
                " Seed all that it draws with the seed that it is given, begin with a new model "
                "at each call, and compute on one thread."
            )

    def _measured(self, model: nn.Module) -> NDArray[np.float64]:
        """The values of :func:`measure`; where a model of the user's own fails, in a sentence."""
        try:
            return measure(model, self.queries, self.numerics)
        except (Exception, SystemExit) as error:  # the model is the user's, and may fail in any way
            others = isinstance(error, RayInfluenceError) and not isinstance(error, ModelError)
            if others or not isinstance(self.recipe, OwnRecipe):
                raise
            raise ConfigError(
                f"{KEY}: the model that {self.recipe.function.name} returns cannot be asked the "
                f"queries: {type(error).__name__}: {brief(error)}. It has to give logits of the "
                "run's tokens, for as many of them as the run's model takes."
            ) from error

    def read(self, subset: Subset) -> Measured:
        """What was committed of a subset.

        Raises:
            DamagedError: it is not what was written.
        """
        tensors, header = read_tensors(self.store, self.key(subset))
        return Measured(tensors[_VALUES].numpy(), header["loss"])

    def examples(self) -> Examples:
        """All sequences that are trained on, in the order of their ids."""
        sequences: list[list[int]] = []
        masks: list[NDArray[np.bool_] | None] = []
        for split in self.splits:
            table = read_split(self.corpus, split)
            ids, masks_of_table = table["sequence_id"].to_pylist(), masks_of(table)
            for row, tokens in enumerate(sequences_of(table)):
                if ids[row] not in self.left_out:
                    sequences.append(tokens.tolist())
                    masks.append(masks_of_table[row] if masks_of_table else None)
        return Examples(sequences, masks if self.masked else None)

    def _keep(self, model: nn.Module, subset: Subset) -> None:
        """Commit a model as the files that `save_pretrained` writes."""
        if not is_pretrained(model):
            raise ModelError(
                f"evaluation.recipe: it returns a {type(model).__name__}, which is no model of "
                "transformers, and cannot be saved as a folder that a run reads. Return one."
            )
        with tempfile.TemporaryDirectory(prefix="rayinfluence-") as folder:
            with silent():
                model.save_pretrained(folder)
            files = Store(folder)
            bodies = {name: files.read(name) for name in files.list()}
        tensors: dict[str, Tensor] = {
            name: torch.frombuffer(bytearray(body), dtype=torch.uint8)
            for name, body in bodies.items()
        }
        write_tensors(self.store, self.model_key(subset), tensors, {})


def measure(
    model: nn.Module, queries: Sequence[EncodedQuery], numerics: Numerics
) -> NDArray[np.float64]:
    """The value f of each query [Q], in float64: of log-probabilities, in nats.

    Args:
        model: is moved to float64, and frozen.
        queries: of any form.
        numerics: with the objective of the run.
    """
    replica = Replica(freeze(model.to(numerics.torch_dtype)), {}, numerics)
    return np.array([query_value(replica, query) for query in queries], dtype=np.float64)
