"""A replica: the model on a device with its tracked modules, and what decides its numbers."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import cached_property, partial

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from rayinfluence.config import RunConfig
from rayinfluence.corpus.shards import bad_rows, labels_of, masks_of, sequences_of
from rayinfluence.dataflow.compute.devices import refuse_fewer_gpus, refuse_too_small
from rayinfluence.errors import ConfigError, ModelError, brief
from rayinfluence.model.answers import objective
from rayinfluence.model.batches import Batch, make_batch, plan_batches
from rayinfluence.model.capture import backward
from rayinfluence.model.curvature_products import CURVATURES, Curvature, curvature_products
from rayinfluence.model.feeding import sides_of
from rayinfluence.model.head import LanguageModel, forward_logits, vocabulary_of
from rayinfluence.model.last_layer import LastLayer
from rayinfluence.model.load import assemble, context_length
from rayinfluence.model.losses import Choose, sample_labels, sample_numbers, uniforms
from rayinfluence.model.masking import Masking
from rayinfluence.model.modules import ModuleShape, shapes_of
from rayinfluence.model.objectives import asked, objective_of
from rayinfluence.model.own_objective import OwnObjective
from rayinfluence.model.placement import device_of_tokens, place
from rayinfluence.model.repeatable import in_any_order, missing_order, repeatable
from rayinfluence.model.row_task import row_task
from rayinfluence.model.rows import Rows
from rayinfluence.model.targets import Objective, RootWeights, Targets
from rayinfluence.model.tied import note_tied
from rayinfluence.model.token_influences import TokenInfluences, token_influences
from rayinfluence.named_function import NamedFunction
from rayinfluence.objective_kinds import CAUSAL, CLASSIFICATION
from rayinfluence.storage.shared import SharedTensors

#: Raised whenever the same inputs would give other bits; part of every fingerprint.
NUMERICS_VERSION = 7

#: Given a batch and its targets, the labels whose log-probability is the objective.
Labels = Callable[[Batch, Targets], Choose]
#: Receives (batch, module name, what the module saw of the batch), module by module.
Step = Callable[[Batch, str, Rows], None]
#: Bad sequences by id, with the reason.
Quarantine = dict[int, str]

_DEFAULT_BATCH_TOKENS = {"cpu": 2048, "cuda": 16384}
_DEFAULT_SPLIT_TOKENS = {"cpu": 2**17, "cuda": 2**21}
_DTYPES = {"float32": torch.float32, "float64": torch.float64, "bfloat16": torch.bfloat16}


@dataclass(frozen=True)
class Numerics:
    """What decides bits besides model, corpus and queries; fixed when the run is planned."""

    dtype: str
    device: str
    batch_tokens: int
    split_tokens: int
    attention: str
    seed: int
    objective: str = CAUSAL
    loss: str = "all"
    reduction: str = "sum"
    masking: Masking | None = None
    function: NamedFunction | None = None
    version: int = NUMERICS_VERSION

    @classmethod
    def of(
        cls,
        config: RunConfig,
        workers: str | None = None,
        kind: str = CAUSAL,
        masking: Masking | None = None,
        function: NamedFunction | None = None,
    ) -> Numerics:
        """Resolve what the configuration leaves to the program.

        Args:
            config: of the run.
            workers: the device that a cluster's workers have; None where the work is done here.
            kind: of the model's objective.
            masking: of a masked language model.
            function: that training maximised, where it is the user's own.

        Raises:
            ConfigError: a CUDA device is asked for and there is none.
        """
        here = "cuda" if torch.cuda.is_available() else "cpu"
        device = (workers or here) if config.device == "auto" else config.device
        # A cluster may get its GPUs later.
        if device == "cuda" and here != "cuda" and workers is None:
            raise ConfigError("device: cuda is not available here; set `device: cpu` or `auto`.")
        if device == "cuda" and workers is None:
            refuse_fewer_gpus(config.runner.gpus_per_actor, "this machine")
        automatic = "bfloat16" if device == "cuda" else "float32"
        return cls(
            dtype=automatic if config.dtype == "auto" else config.dtype,
            device=device,
            batch_tokens=config.batch_tokens or _DEFAULT_BATCH_TOKENS[device],
            split_tokens=config.scan.split_tokens or _DEFAULT_SPLIT_TOKENS[device],
            attention=config.attention,
            seed=config.seed,
            objective=kind,
            loss=config.objective.loss,
            reduction=config.objective.reduction,
            masking=masking,
            function=function,
        )

    def place(self, workers: str | None) -> str:
        """What is computed where, in a line; ``workers`` as in :meth:`of`."""
        told = f"device {self.device}, {self.dtype}"
        if workers is None:
            return told
        if workers == "cuda":
            here = "" if torch.cuda.is_available() else "; this process has none"
            return f"{told} (workers have GPUs{here})"
        waits = ": workers wait for one" if self.device == "cuda" else ""
        return f"{told} (no node of the cluster has a GPU now{waits})"

    @property
    def is_per_token(self) -> bool:
        """Whether what training maximised of a sequence is a mean over tokens."""
        return self.reduction == "mean" and self.objective != CLASSIFICATION

    @property
    def torch_dtype(self) -> torch.dtype:
        """Of weights and activations."""
        return _DTYPES[self.dtype]


class Replica:
    """A model with tracked modules; runs batches and hands captured tensors to a step."""

    def __init__(
        self,
        model: nn.Module,
        modules: Mapping[str, nn.Module],
        numerics: Numerics,
        shapes: Mapping[str, ModuleShape] | None = None,
    ) -> None:
        self.model = model
        self.modules = dict(modules)
        note_tied(model, modules.values())
        # Given for a model over several devices, where one input is several tensors.
        self.shapes = dict(shapes) if shapes is not None else shapes_of(model, modules)
        #: Of the weights of each tracked module, where all that is made of its rows is, too.
        self.devices = {name: next(m.parameters()).device for name, m in modules.items()}
        self.language_model = LanguageModel.of(model, modules.values())
        self.numerics = numerics
        #: Of tokens, targets and logits.
        self.device = device_of_tokens(model)
        self.vocabulary = vocabulary_of(model)
        self.context = context_length(model)

    @cached_property
    def trained_on(self) -> Objective:
        """What training predicts of a sequence, and where."""
        told = self.numerics
        return objective_of(told.objective, told.loss, told.reduction, told.masking, told.seed)

    def asked(self, first: int, end: int, label: int | None = None) -> Objective:
        """Log p of tokens of a query, from ``first`` to before ``end``, or of a class."""
        return asked(self.numerics.objective, first, end, self.numerics.masking, label)

    @cached_property
    def own_objective(self) -> OwnObjective | None:
        """The user's own function of that, where training maximised one.

        Raises:
            ConfigError: it is not there, or another one than where the run was started.
        """
        told = self.numerics
        if told.function is None:
            return None
        return OwnObjective.load(told.function, told.objective)

    @cached_property
    def last_layer(self) -> LastLayer:
        """What makes the logits.

        Raises:
            ModelError: no linear layer does.
        """
        return LastLayer.of(self.model)

    @property
    def of_curvature(self) -> Replica:
        """The same model with the objective that factors are fitted on."""
        other = copy.copy(self)
        other.trained_on = RootWeights(self.trained_on)
        return other

    def only(self, names: Collection[str]) -> Replica:
        """The same model with some of its tracked modules, and those their inputs are named by."""
        other, wanted = copy.copy(self), frozenset(names)
        other.modules = {name: module for name, module in self.modules.items() if name in wanted}
        other.shapes = {name: shape for name, shape in self.shapes.items() if name in wanted}
        return other

    @cached_property
    def _is_repeatable(self) -> bool:
        """Whether every operation of a pass can add in one order."""
        return self._adds_in_order(
            lambda little: backward(
                self.modules,
                little.shape,
                lambda: objective(self.language_model, little),
                lambda *_: None,
                sides_of(self.model, little),
            )
        )

    @cached_property
    def _repeats_token_influences(self) -> bool:
        """The same of a pass for token influences, which has operations of its own."""
        return self._adds_in_order(lambda little: self._token_influences(little, self._nowhere))

    @cached_property
    def _repeats_products(self) -> bool:
        """The same of products of curvature."""
        return self._adds_in_order(
            lambda little: [
                self._curvature_products(little, [self._nowhere], curvature)
                for curvature in CURVATURES
            ]
        )

    @property
    def _nowhere(self) -> dict[str, Tensor]:
        """A direction of no length."""
        return {
            name: torch.zeros(shape.d_out, shape.columns, device=self.devices[name])
            for name, shape in self.shapes.items()
        }

    def _adds_in_order(self, run: Callable[[Batch], object]) -> bool:
        """Whether every operation of a pass can; tried on two tokens."""
        if not in_any_order(self.device):
            return True
        little = make_batch([np.array([0, 1])], [0], self.device)
        reason = missing_order(lambda: run(little), self.device)
        if reason is not None:
            told = f"scores may differ in their last bits from run to run: {reason}"
            warnings.warn(told, stacklevel=2)
        return reason is None

    @classmethod
    def build(
        cls,
        skeleton: nn.Module,
        weights: SharedTensors,
        shapes: Mapping[str, ModuleShape],
        numerics: Numerics,
        devices: Sequence[torch.device],
    ) -> Replica:
        """Put a replica together, over some devices, from what :func:`disassemble` made.

        Raises:
            ModelError: the model cannot be dealt over them.
        """
        model = assemble(skeleton, weights)
        if (task := row_task(model)) is not None:
            task.builder.load()  # that its code is here what it is where the run was started
        modules = {name: model.get_submodule(name) for name in shapes}
        return cls.over(devices, model, modules, numerics, shapes)

    @classmethod
    def over(
        cls,
        devices: Sequence[torch.device],
        model: nn.Module,
        modules: Mapping[str, nn.Module],
        numerics: Numerics,
        shapes: Mapping[str, ModuleShape],
    ) -> Replica:
        """A replica over some devices; the model is moved there, and not copied.

        Raises:
            ConfigError: its weights do not fit them.
            ModelError: it cannot be dealt over them.
        """
        refuse_too_small(model, devices)
        placed = place(model, devices)
        try:
            return cls(placed, modules, numerics, shapes)
        except RuntimeError as error:
            if len(devices) == 1:
                raise
            raise ModelError(
                f"model: {type(model).__name__} cannot be run with its blocks on {len(devices)} "
                f"GPUs: {brief(error).rstrip('.')}. Mostly its own code takes a part of a block "
                "without calling the block. Leave `runner.gpus_per_actor` out."
            ) from error

    def batches(self, table: pa.Table, quarantine: Quarantine) -> Iterator[Batch]:
        """The batches of a split, formed from its good rows alone and in a fixed order.

        Args:
            table: the split's rows.
            quarantine: sequences to leave out; rows that cannot be scored are added, with the
                reason.
        """
        ids = table["sequence_id"].to_pylist()
        for row, reason in bad_rows(table, self.vocabulary, self.context).items():
            quarantine[ids[row]] = reason
        sequences, masks, labels = sequences_of(table), masks_of(table), labels_of(table)
        rows = [row for row, sequence_id in enumerate(ids) if sequence_id not in quarantine]
        lengths = [len(sequences[row]) for row in rows]
        for members in plan_batches(lengths, self.numerics.batch_tokens):
            chosen = [rows[member] for member in members]
            yield make_batch(
                [sequences[row] for row in chosen],
                [ids[row] for row in chosen],
                self.device,
                masks and [masks[row] for row in chosen],
                None if labels is None else labels[chosen],
            )

    def run(self, batch: Batch, labels: Labels, step: Step, quarantine: Quarantine) -> Batch | None:
        """Run a batch forward and backward on the objective of training, at some labels.

        Sequences whose log-probability is not finite are quarantined and the rest is run without
        them.

        Returns:
            The batch that ``step`` saw, or None when nothing was left of it.
        """
        try:
            with repeatable(self.device) if self._is_repeatable else nullcontext():
                objective = partial(self._objective, batch, labels)
                backward(
                    self.modules,
                    batch.shape,
                    objective,
                    partial(step, batch),
                    sides_of(self.model, batch),
                )
        except _NotFinite as error:
            for sequence_id in batch.sequence_ids[error.rows_B]:
                quarantine[int(sequence_id)] = f"its {self._maximised} is not finite"
            rest = batch.without(error.rows_B)
            return None if rest is None else self.run(rest, labels, step, quarantine)
        return batch

    def token_influences(self, batch: Batch, directions: Mapping[str, Tensor]) -> TokenInfluences:
        """What a query does for each token of a batch.

        Args:
            batch: sequences.
            directions: the query's preconditioned gradient [O, J] by module, at full rank.
        """
        with repeatable(self.device) if self._repeats_token_influences else nullcontext():
            return self._token_influences(batch, directions)

    def _token_influences(self, batch: Batch, directions: Mapping[str, Tensor]) -> TokenInfluences:
        targets = self.trained_on.targets(batch)
        return token_influences(self.model, self.modules, batch, targets, directions)

    def curvature_products(
        self, batch: Batch, directions: Sequence[Mapping[str, Tensor]], curvature: Curvature
    ) -> list[dict[str, Tensor]]:
        """Products of a batch's curvature with directions [O, J] of the same modules, summed."""
        with repeatable(self.device) if self._repeats_products else nullcontext():
            return self._curvature_products(batch, directions, curvature)

    def _curvature_products(
        self, batch: Batch, directions: Sequence[Mapping[str, Tensor]], curvature: Curvature
    ) -> list[dict[str, Tensor]]:
        modules = {name: self.modules[name] for name in directions[0]}
        targets = self.trained_on.targets(batch)
        told = self.model, modules, batch, targets, directions, curvature
        return curvature_products(*told)

    @property
    def _maximised(self) -> str:
        function = self.numerics.function
        return "log-probability" if function is None else f"{function.name} (objective.kind)"

    def _objective(self, batch: Batch, labels: Labels) -> Tensor:
        values_B = self._values(batch, labels)
        bad_B = ~torch.isfinite(values_B.detach()).cpu().numpy()
        if bad_B.any():
            raise _NotFinite(bad_B)
        return values_B.sum()

    def _values(self, batch: Batch, labels: Labels) -> Tensor:
        targets = self.trained_on.targets(batch)
        if self.own_objective is not None:  # of which no labels are drawn
            logits_BTV = forward_logits(self.model, targets.given(batch))
            return self.own_objective.values(logits_BTV, batch, targets)
        choose = labels(batch, targets)
        return targets.by_sequence(self.language_model.log_probabilities(batch, targets, choose))


def own_labels(_batch: Batch, targets: Targets) -> Choose:
    """The sequences' own tokens."""
    return lambda _logits, part: targets.labels_N[part]


def sampled_labels(seed: int, batch: Batch, targets: Targets) -> Choose:
    """Labels from the model's own distribution, the same wherever and beside whatever they are."""
    draws_N = uniforms(seed, batch.sequence_ids.tolist(), targets.counts_B.tolist())
    draws_N = draws_N.to(batch.tokens_BT.device)
    sample = sample_numbers if targets.labels_N.is_floating_point() else sample_labels
    return lambda logits, part: sample(logits, draws_N[part])


class _NotFinite(Exception):
    def __init__(self, rows_B: NDArray[np.bool_]) -> None:
        super().__init__("log-probabilities are not finite")
        self.rows_B = rows_B
