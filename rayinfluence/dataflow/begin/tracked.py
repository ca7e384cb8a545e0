"""The model of a run with what is tracked of it, and how long its sequences may be."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import nullcontext, suppress
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from functools import cached_property
from typing import TYPE_CHECKING

import torch
from torch import nn

from rayinfluence.config import Kind, RunConfig
from rayinfluence.corpus.features import bits
from rayinfluence.dataflow.compute.replica import Numerics, Replica
from rayinfluence.errors import ConfigError, ModelError
from rayinfluence.guest import as_found, own_arithmetic
from rayinfluence.model.adapters import adapters_below, source_of
from rayinfluence.model.advice import more_layers, refuse_little, refuse_other_shapes
from rayinfluence.model.answers import of_probabilities, refuse_what_does_not_run
from rayinfluence.model.built import load_built
from rayinfluence.model.causality import refuse_plain_look_ahead
from rayinfluence.model.feeding import kind_of
from rayinfluence.model.foreign import FORWARD, in_words
from rayinfluence.model.kinds import not_what_is_named
from rayinfluence.model.load import attention_of, context_length, load_model, vocabulary_size
from rayinfluence.model.lora import adapted
from rayinfluence.model.modules import Coverage, apart, chosen, trackable
from rayinfluence.model.parts import Part, blocks_of, parts_of
from rayinfluence.model.preflight import made_up, of_other_lengths
from rayinfluence.model.reach import (
    Reach,
    listed,
    patterns_within,
    reach,
    refuse_other_weights,
    tracked_and_reached,
    without_unfit,
)
from rayinfluence.model.row_task import RowTask, row_task
from rayinfluence.model.tied import take_apart
from rayinfluence.model.weight_files import CONFIG, read_config
from rayinfluence.objective_kinds import CAUSAL, KINDS

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

#: The longest sequence that documents are cut into unless the configuration says otherwise.
MOST_CONTEXT = 2048
#: A smaller batch is meant to hold one sequence, and not to cut it to pieces.
_LEAST_BATCH = 64
#: Below this share of the parameters a warning says what is not tracked.
_LITTLE = 0.1
#: Made-up sequences are drawn from so many ids.
_ORDINARY = 512


@dataclass(frozen=True)
class TrackedModel:
    """A model whose tracked modules are known, on the CPU of this process.

    Attributes:
        replica: the model with the tracked modules that text reaches.
        reach: what a forward pass on made-up tokens reached.
        parts: of the layers of its blocks, as :func:`parts_of` finds them.
        kind: what modules were chosen by; None where that was their names.
        left_out: modules that the patterns match and text does not reach.
        unfit: modules that were chosen by their parts and cannot be tracked.
        ordinary: ids that made-up sequences are drawn from.
        beside: what the model's folder holds or names and was not loaded, or what is odd of a
            module for rows, in sentences.
        trained: patterns of what was trained of it, where that is an adapter and nothing else.
    """

    replica: Replica
    reach: Reach
    parts: Mapping[str, Part]
    kind: Kind | None
    left_out: Sequence[str]
    unfit: Sequence[str]
    ordinary: Sequence[int]
    beside: Sequence[str] = ()
    trained: tuple[str, ...] | None = None

    @classmethod
    @as_found()
    @own_arithmetic()
    def load(
        cls,
        config: RunConfig,
        numerics: Numerics,
        ordinary: Callable[[nn.Module], Sequence[int]],
        task: RowTask | None = None,
    ) -> TrackedModel:
        """Load a configuration's model and find what of it can be tracked.

        ``numerics`` of its replica say what attention it really has.

        Args:
            config: names the model, and what is tracked.
            numerics: of its replica.
            ordinary: gives the ids that made-up sequences of the model are drawn from.
            task: what the model is built for, where it takes rows of features.

        Raises:
            ModelError: there is no such model, or the module patterns do not fit it.
        """
        return cls.of(loaded(config, numerics, task), config, numerics, ordinary)

    @classmethod
    @as_found()
    @own_arithmetic()
    def of(
        cls,
        model: nn.Module,
        config: RunConfig,
        numerics: Numerics,
        ordinary: Callable[[nn.Module], Sequence[int]],
    ) -> TrackedModel:
        """Find what of a model can be tracked, as :meth:`load` does.

        Raises:
            ModelError: the module patterns do not fit it.
        """
        numerics = replace(numerics, attention=attention_of(model) or numerics.attention)
        ids = ordinary(model)
        if (task := row_task(model)) is not None:
            return cls._of_rows(model, config, numerics, ids, task)
        probe = made_up(ids, torch.device("cpu"))
        refuse_what_does_not_run(model, probe)
        if kind_of(model) == CAUSAL:
            refuse_plain_look_ahead(model, probe[0].numpy(), ids)
        wanted = "mlp" if config.modules is None else config.modules
        kind = wanted if isinstance(wanted, str) else None
        take_apart(model, () if kind else wanted)
        # Whoever names layers asks about those, as if they had been trained.
        trained = adapted(model) if kind else None
        named = chosen(model, trained or wanted, {}) if trained or not kind else {}
        further = _further(model, ids, config.corpus.context)
        found = reach(model, trackable(model) | named, probe, further)
        # Layers that are named need no part, and may be all through which a derivative leads.
        parts: dict[str, Part] = {}
        with nullcontext() if kind else suppress(ModelError):
            parts = _parts(model, probe, found, ids)
        tracked = chosen(model, trained or wanted, parts)
        if trained and config.modules is not None:
            of_kind = chosen(model, wanted, parts)
            tracked = {name: module for name, module in tracked.items() if name in of_kind}
        refuse_other_weights(tracked)
        kept, left_out = tracked_and_reached(tracked, found)
        unfit: list[str] = []
        if kind is not None and trained is None:
            kept, unfit = without_unfit(kept, found)
            # What is never called has no part, and would have been chosen for all that is known.
            unfit += [n for n in blocks_of(model) if n in found.unfit and n not in parts]
        if kind == "mlp" and trained is None:
            refuse_little(model, kept, found, parts)
        refuse_other_shapes(model, kept, found, parts)
        with in_words(model, "run on a few tokens", FORWARD):
            replica = Replica(model, kept, numerics)
        source = source_of(config.model, config.base_model)
        beside = adapters_below(source) + not_what_is_named(
            source.weights,
            read_config(source.weights),
            model,
            config.trust_remote_code,
            KINDS[numerics.objective],
        )
        return cls(replica, found, parts, kind, left_out, unfit, ids, beside, trained)

    @classmethod
    def _of_rows(
        cls,
        model: nn.Module,
        config: RunConfig,
        numerics: Numerics,
        ids: Sequence[int],
        task: RowTask,
    ) -> TrackedModel:
        """The same of a module for rows: it has no blocks, and all its layers are tracked."""
        probe = made_up(ids, torch.device("cpu"), task.n_tokens)
        refuse_what_does_not_run(model, probe)
        wanted = config.modules
        if isinstance(wanted, str) and wanted != "all":
            raise ConfigError(
                f"modules: {wanted}, and {type(model).__name__} has no blocks with such parts. "
                "Leave it out for all of its layers, or give patterns of their names."
            )
        patterns = wanted if isinstance(wanted, list) else ["*"]
        tracked = chosen(model, patterns, {})
        found = reach(model, trackable(model) | tracked, probe)
        kept, left_out = tracked_and_reached(tracked, found)
        refuse_other_shapes(model, kept, found, {})
        advice = "Build it so that each row is one by itself, as in evaluation mode."
        with in_words(model, "run on one row alone", advice):
            replica = Replica(model, kept, numerics)
        beside = of_probabilities(model, probe)
        if tied := [name for name, why in apart(model).items() if why == "tied"]:
            beside.append(
                f"not tracked are {listed(tied)}: each shares its weight with another module, and "
                "its gradient would be in part. Scores say nothing of what is learnt there."
            )
        return cls(replica, found, {}, None, left_out, [], ids, beside)

    @classmethod
    @as_found()
    @own_arithmetic()
    def of_none(
        cls,
        model: nn.Module,
        numerics: Numerics,
        ordinary: Callable[[nn.Module], Sequence[int]],
    ) -> TrackedModel:
        """The same of which nothing is tracked, to be shown where a choice is refused.

        Raises:
            ModelError: the model has no linear layer, or cannot be run.
        """
        numerics = replace(numerics, attention=attention_of(model) or numerics.attention)
        ids = ordinary(model)
        probe = made_up(ids, torch.device("cpu"))
        found = reach(model, trackable(model), probe, _further(model, ids, None))
        parts: dict[str, Part] = {}
        with suppress(ModelError):
            parts = _parts(model, probe, found, ids)
        return cls(Replica(model, {}, numerics), found, parts, None, [], [], ids)

    @cached_property
    def coverage(self) -> Coverage:
        """How much of the model is tracked."""
        replica = self.replica
        return Coverage.of(replica.model, replica.modules, self.reach, self.trained or ("*",))

    @property
    def frozen(self) -> int:
        """Parameters that were frozen while the adapter was trained; 0 where there is none."""
        if not self.trained:
            return 0
        weights = self.replica.model.named_parameters()
        trained = self.trained
        return sum(w.numel() for n, w in weights if not any(fnmatchcase(n, one) for one in trained))

    @property
    def line(self) -> str:
        """The model in one line: how much of it is tracked, and what text does not reach."""
        line = (
            f"model        {type(self.replica.model).__name__}: {self.coverage.share:.1%} of "
            f"{self.coverage.reached:,} parameters{' of its adapter' if self.trained else ''} are "
            f"tracked, in {len(self.replica.modules)} layers"
        )
        if self.kind == "mlp" and "mlp" not in self.parts.values():
            line += ", all of its blocks, as no MLP is among them"
        if self.reach.outside:
            what = "text does" if row_task(self.replica.model) is None else "rows of features do"
            line += f"; {what} not reach {listed(self.reach.outside)}"
            if self.left_out:
                line += f", with {len(self.left_out)} layers that would be tracked"
        if self.unfit:
            line += (
                f"; left out are {listed(self._called(self.unfit))} (the first "
                f"{self.reach.unfit[self.unfit[0]]})"
            )
        return line

    @property
    def warnings(self) -> list[str]:
        """What is not tracked, where that is nearly all, and what is not read."""
        return [*self.beside, *([text] if (text := self._little) else [])]

    @property
    def _little(self) -> str | None:
        coverage = self.coverage
        if coverage.share >= _LITTLE or not self.replica.modules:
            return None
        names = listed(self._called(self.replica.modules))
        more = more_layers(self.replica.model, self.replica.modules, self.reach, self.parts)
        return (
            f"only {coverage.share:.2%} of the model's parameters are tracked, in {names}; scores "
            f"say nothing of the rest, most of which is in {coverage.most}. {more}"
        )

    def _called(self, names: Iterable[str]) -> list[str]:
        """Some modules by patterns that no other module has."""
        return patterns_within(names, dict(self.replica.model.named_modules()))

    def context(self, wanted: int | None) -> int:
        """Most tokens of a sequence that documents are cut into.

        By default the model's, but no more than is sane for one sequence and for one batch.

        Raises:
            ConfigError: it is more than the model takes, or neither says it.
        """
        if (task := row_task(self.replica.model)) is not None:
            return task.n_tokens
        most, batch = self.replica.context, self.replica.numerics.batch_tokens
        if wanted is not None:
            if most is not None and wanted > most:
                modules = self.replica.model.modules()
                grows = any(getattr(module, "rope_type", "") == "dynamic" for module in modules)
                raise ConfigError(
                    f"corpus.context: {wanted:,} tokens, and the model's context is {most:,}; set "
                    f"it to at most {most:,}."
                    + " Beyond that its angles depend on the longest sequence so far (dynamic "
                    "RoPE), and a score on its neighbours." * grows
                )
            return wanted
        if most is None:
            raise ConfigError(
                f"corpus.context: the model's {CONFIG} does not say how many tokens it takes; "
                "set how many a sequence may have."
            )
        return min(most, MOST_CONTEXT, batch if batch >= _LEAST_BATCH else most)


def _parts(
    model: nn.Module, probe: torch.Tensor, found: Reach, ids: Sequence[int]
) -> dict[str, Part]:
    """Parts as :func:`parts_of` finds them, of layers too that sequences of another length reach.

    Raises:
        ModelError: the model cannot be run, forward or backward.
    """
    parts = parts_of(model, probe)
    without = [name for name in blocks_of(model) if name in found.shapes and name not in parts]
    for n_tokens in sorted({found.shapes[name][1] for name in without} - {probe.shape[1]}):
        parts = parts_of(model, made_up(ids, probe.device, n_tokens)) | parts
    return parts


def _further(model: nn.Module, ids: Sequence[int], wanted: int | None) -> Iterator[torch.Tensor]:
    """Made-up sequences up to the longest of a run, as far as that and the model are known."""
    most = context_length(model) or MOST_CONTEXT
    return of_other_lengths(model, ids, min(wanted or MOST_CONTEXT, most))


@as_found()
@own_arithmetic()
def loaded(config: RunConfig, numerics: Numerics, task: RowTask | None = None) -> nn.Module:
    """A configuration's model, frozen, on the CPU of this process.

    Raises:
        ModelError: there is no such model.
    """
    if task is not None:
        return load_built(config.model, numerics.torch_dtype, task)
    return load_model(
        config.model,
        numerics.torch_dtype,
        base_model=config.base_model,
        attention=config.attention,
        trust_remote_code=config.trust_remote_code,
        kind=numerics.objective,
    )


def ordinary_numbers() -> list[int]:
    """Numbers as those of a normal distribution lie, as bits of float32."""
    quantiles = torch.special.ndtri(torch.arange(1, _ORDINARY, dtype=torch.float64) / _ORDINARY)
    return [bits(number) for number in quantiles.tolist()]


def ordinary_tokens(tokenizer: PreTrainedTokenizerFast, model: nn.Module) -> list[int]:
    """Ids that are text and nothing else: none that was added, or is special to either."""
    n_tokens = min(len(tokenizer), vocabulary_size(model) or len(tokenizer))
    special = {*tokenizer.all_special_ids, *tokenizer.added_tokens_decoder}
    for name in ("pad", "bos", "eos", "sep", "cls", "mask"):
        # A model may end with any of several.
        of_model = getattr(getattr(model, "config", None), f"{name}_token_id", None)
        special |= set(of_model if isinstance(of_model, list | tuple) else [of_model])
    ids = [token for token in range(n_tokens) if token not in special] or list(range(n_tokens))
    return ids[:: max(1, len(ids) // _ORDINARY)]
