"""Recipes: how a model comes of sequences, of how often each of them is seen, and of a seed.

A recipe is a value, which goes to workers as it is: it holds names, and no tensors.

N sequence.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from rayinfluence.config_evaluation import CAUSAL_LM, EvaluationConfig
from rayinfluence.errors import ConfigError, ModelError, brief
from rayinfluence.evaluation.new_model import ModelSettings, new_model
from rayinfluence.evaluation.training import TrainingSettings, train
from rayinfluence.guest import as_found, same_draws, same_place
from rayinfluence.model.adapters import source_of
from rayinfluence.model.load import load_model
from rayinfluence.model.pretrained import from_pretrained
from rayinfluence.model.weight_files import CONFIG, weight_files
from rayinfluence.named_function import NamedFunction
from rayinfluence.objective_kinds import CAUSAL, KINDS
from rayinfluence.registered import only_code_of
from rayinfluence.storage.digest import digest_bytes
from rayinfluence.storage.store import Store

if TYPE_CHECKING:
    from rayinfluence.dataflow.compute.scoring import Advance

#: The configuration's key, which messages name.
KEY = "evaluation.recipe"


class Examples(NamedTuple):
    """What there is to be trained on.

    Attributes:
        sequences: of token ids.
        masks_N: which tokens of each the loss counts, None where all do; None where all do of all.
    """

    sequences: list[list[int]]
    masks_N: list[NDArray[np.bool_] | None] | None = None

    @property
    def n_tokens(self) -> int:
        """Of all sequences."""
        return sum(map(len, self.sequences))


class Trained(NamedTuple):
    """A model, and its mean loss per token as its recipe has it; None where it says nothing."""

    model: nn.Module
    loss: float | None


class Recipe(Protocol):
    """How a model is trained."""

    def parts(self) -> dict[str, Any]:
        """What of it decides the weights, as JSON has it; of code and of files digests."""

    @property
    def passes(self) -> int:
        """How often it goes through the corpus, as far as that is known: progress is told by it."""

    def n_steps(self, n_sequences: int) -> int | None:
        """Steps of a training; None where that is not known."""

    def train(
        self, examples: Examples, weights_N: NDArray[np.float32], seed: int, advance: Advance
    ) -> Trained:
        """Train a model.

        Order and batches follow from the seed and the sequences, whatever the weights: the
        difference between two models is then that of the sequences, and not of chance.

        Args:
            examples: all of them, whatever their weights.
            weights_N: how often each is seen: 0, 1 or more.
            seed: of the training.
            advance: told of tokens as they are gone through.
        """


@dataclass(frozen=True)
class Start:
    """The folder of a model that is tuned, and what is in it."""

    path: str
    digest: str

    @classmethod
    def checked(cls, path: str) -> Start:
        """The same as :meth:`of`, of a model that is seen to be whole and to be one to be trained.

        Raises:
            ModelError: there is no model, it lacks weights, or it is an adapter's.
        """
        found = cls.of(path)
        if source_of(path).adapter is not None:
            raise ModelError(
                f"evaluation.options.start: {path} holds an adapter, and {CAUSAL_LM} trains all "
                "weights. Merge it into its model (`merge_and_unload()` of peft), or name a "
                "function of your own as the recipe."
            )
        load_model(path, torch.float32)
        return found

    @classmethod
    def of(cls, path: str) -> Start:
        """Read what decides the model in a folder.

        Raises:
            ModelError: there is no model, or no weights that are read.
        """
        if not (Path(path) / CONFIG).is_file():
            raise ModelError(
                f"evaluation.options.start: {path} is no folder with a {CONFIG} here. Name one "
                "that `save_pretrained` wrote; where nodes have disks of their own, at the same "
                "place on each."
            )
        store = Store(path)
        bodies = [store.read(name) for name in (CONFIG, *sorted(weight_files(path)))]
        return cls(path, digest_bytes(*bodies))

    def load(self) -> nn.Module:
        """The model, in float32, to be trained.

        Raises:
            ModelError: it is not there, or another one than where the work was started.
        """
        if Start.of(self.path) != self:
            raise ModelError(
                f"evaluation.options.start: what is in {self.path} is another model here than "
                "where the work was started, or was changed since. Give all nodes the same, and "
                "run again."
            )
        with as_found(), only_code_of(None):
            model, _ = from_pretrained(
                self.path, torch.float32, "sdpa", False, KINDS[CAUSAL].loader
            )
        return model


@dataclass(frozen=True)
class CausalLM:
    """The recipe that comes with rayinfluence; see :func:`train`.

    Attributes:
        settings: of the training.
        begin: what it begins from: a model to be tuned, or the sizes of a new one.
    """

    settings: TrainingSettings
    begin: Start | ModelSettings

    def parts(self) -> dict[str, Any]:
        """Settings, and sizes or the digest of the weights that are tuned."""
        begin = self.begin
        begins = {"start": begin.digest} if isinstance(begin, Start) else {"sizes": asdict(begin)}
        return {"name": CAUSAL_LM, "settings": asdict(self.settings), **begins}

    @property
    def passes(self) -> int:
        """Epochs."""
        return self.settings.epochs

    def n_steps(self, n_sequences: int) -> int | None:
        """Of all epochs."""
        return self.settings.n_steps(n_sequences)

    def beginning(self, seed: int) -> nn.Module:
        """The model that a training begins from, in float32."""
        begin = self.begin
        return begin.load() if isinstance(begin, Start) else new_model(begin, seed)

    def train(
        self, examples: Examples, weights_N: NDArray[np.float32], seed: int, advance: Advance
    ) -> Trained:
        """Train from the beginning."""
        model = self.beginning(seed)

        def tell(_loss: float, tokens: int) -> None:
            advance(tokens)

        loss = train(
            model, examples.sequences, seed, self.settings, tell, examples.masks_N, weights_N
        )
        return Trained(model, loss)


@dataclass(frozen=True)
class OwnRecipe:
    """A function of the user's own.

    It is called with the sequences (a list of lists of token ids), how often each is seen [N]
    (float32: 0, 1 or more), and a seed; it returns a ``torch.nn.Module`` that gives logits as the
    run's model does, or that and its mean loss per token. The same arguments have to give the same
    weights, bit for bit, or a subset that is trained again would be another: torch's shared
    generator is seeded with the seed before each call, and others are the function's to seed.
    Order and batches may depend on sequences and seed alone, and not on weights.
    """

    function: NamedFunction
    passes: int = 1

    def parts(self) -> dict[str, Any]:
        """Its name and its source."""
        return {"name": self.function.name, "source": self.function.digest}

    def n_steps(self, n_sequences: int) -> int | None:
        """The function alone knows."""
        return None

    def train(
        self, examples: Examples, weights_N: NDArray[np.float32], seed: int, advance: Advance
    ) -> Trained:
        """Call it.

        Raises:
            ConfigError: it fails, or returns something else.
        """
        function, name = self.function.load(), self.function.name
        with same_draws(), same_place():
            torch.manual_seed(seed)
            try:
                found = function(examples.sequences, weights_N.copy(), seed)
            except (Exception, SystemExit) as error:  # it is the user's, and may fail in any way
                raise ConfigError(
                    f"{KEY}: {name} fails: {type(error).__name__}: {brief(error)}."
                ) from error
        advance(examples.n_tokens)
        model, loss = found if isinstance(found, tuple) and len(found) == 2 else (found, None)
        if not isinstance(model, nn.Module) or not isinstance(loss, int | float | None):
            raise ConfigError(
                f"{KEY}: {name} returns a {type(found).__name__}, and the trained model is needed, "
                "a torch.nn.Module, or a pair of that and its mean loss."
            )
        return Trained(model, None if loss is None else float(loss))


def recipe_of(config: EvaluationConfig, vocabulary: int) -> Recipe:
    """The recipe that a configuration names.

    Args:
        config: the section.
        vocabulary: how many tokens the tokenizer has.

    Raises:
        ConfigError: it does not say what training begins from, or names a function that is not
            there.
        ModelError: there is no model to begin from.
    """
    if config.recipe != CAUSAL_LM:
        return OwnRecipe(NamedFunction.of(KEY, config.recipe))
    options = config.options
    settings = TrainingSettings(
        options.epochs,
        options.batch,
        options.learning_rate,
        options.weight_decay,
        options.warmup,
        options.threads,
    )
    if options.start is not None:
        return CausalLM(settings, Start.checked(options.start))
    if options.sizes is None:
        raise ConfigError(
            f"{KEY}: {CAUSAL_LM} has to know what training begins from. Name the folder of the "
            "model that is tuned as `evaluation.options.start`, or the `sizes` of a new one."
        )
    return CausalLM(settings, sizes_of(config, vocabulary))


def sizes_of(config: EvaluationConfig, vocabulary: int) -> ModelSettings:
    """Of the new model that a configuration names the sizes of."""
    sizes = config.options.sizes
    assert sizes is not None
    return ModelSettings(
        sizes.vocabulary or vocabulary, sizes.context, sizes.width, sizes.layers, sizes.heads
    )


def versions() -> Mapping[str, str]:
    """Of what is trained with: others may give other bits."""
    import transformers

    return {"torch": torch.__version__, "transformers": transformers.__version__}
