"""`rayinfluence inspect`: load a model, find what is tracked, count bytes and make the checks."""

from __future__ import annotations

import os
from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import nn

from rayinfluence.addresses import hub_address
from rayinfluence.config import RunConfig
from rayinfluence.corpus.tokenizer_files import load_tokenizer
from rayinfluence.curvature.products import operand_dtype
from rayinfluence.dataflow.begin.early import silent
from rayinfluence.dataflow.begin.features import refuse_rows
from rayinfluence.dataflow.begin.fetched import fetched, tokenizer_folder
from rayinfluence.dataflow.begin.objective import kind_of_run
from rayinfluence.dataflow.begin.tracked import MOST_CONTEXT, TrackedModel, loaded, ordinary_tokens
from rayinfluence.dataflow.compute.activations import activation_bytes, routed_numbers
from rayinfluence.dataflow.compute.devices import devices_here
from rayinfluence.dataflow.compute.replica import Numerics, Replica
from rayinfluence.dataflow.compute.scoring import WINDOW_BYTES, WINDOW_SEQUENCES, seen_widths
from rayinfluence.dataflow.plan.forecast import Share, bank_bytes, factor_bytes, fitting_bytes
from rayinfluence.dataflow.plan.fullest import shares_of, told
from rayinfluence.dataflow.plan.inspection import Alike, Bytes, Inspection
from rayinfluence.errors import ModelError, RayInfluenceError
from rayinfluence.guest import own_arithmetic
from rayinfluence.influence.contraction import Work
from rayinfluence.model.adapters import source_of
from rayinfluence.model.batches import make_batch
from rayinfluence.model.layers import is_layer
from rayinfluence.model.load import vocabulary_size
from rayinfluence.model.modules import ModuleShape, apart, name_for_both, shape_of
from rayinfluence.model.positions import affordable
from rayinfluence.model.preflight import Passed, preflight
from rayinfluence.model.reach import patterns_of
from rayinfluence.model.weightless import has_config_alone, weightless_model
from rayinfluence.storage.hub import Say
from rayinfluence.storage.store import Store

#: More queries than that are not asked about.
_MOST_QUERIES = 1 << 20
#: Tokens of a sequence that activations are measured on.
_MEASURED = 128
#: A query's gradients are kept in float32.
_FLOAT = 4
#: Where containers say how much memory they may have (cgroup v2).
_LIMITS, _LIMIT = "/sys/fs/cgroup", "memory.max"


@own_arithmetic()
def inspect(config: RunConfig, say: Say = silent) -> Inspection:
    """What a configuration's model is to a run; nothing is written.

    Without weights there are sizes by its configuration and no checks, and of what a run would be
    refused with only that ``modules`` does not fit. Then nothing is tracked, with or without.

    Of the configuration only what is about the model is read. ``say`` prints a line about what is
    fetched from a hub.

    Raises:
        ModelError: there is no such model, or it cannot be run.
        ConfigError: a CUDA device is asked for and there is none.
    """
    refuse_rows(config, "inspect")
    refused: list[RayInfluenceError] = []
    config = _on_this_machine(config, say)

    def ordinary(model: nn.Module) -> Sequence[int]:
        try:
            trusted = config.trust_remote_code
            path = config.tokenizer or tokenizer_folder(source)
            return ordinary_tokens(load_tokenizer(path, trust_remote_code=trusted), model)
        except RayInfluenceError as error:
            refused.append(error)
            return range(vocabulary_size(model) or 2)

    # Nothing is masked: that decides no size.
    source = source_of(config.model, config.base_model)
    kind = kind_of_run(config, source.weights)
    numerics = Numerics.of(config, kind=kind)
    has_weights = not has_config_alone(config.model)
    if has_weights:
        model = loaded(config, numerics)
    else:
        model = weightless_model(
            config.model,
            numerics.torch_dtype,
            attention=config.attention,
            trust_remote_code=config.trust_remote_code,
            kind=kind,
        )
    tracked, choice = _tracked(model, config, numerics, ordinary)
    replica = tracked.replica
    try:
        context = tracked.context(config.corpus.context)
    except RayInfluenceError as error:
        refused.append(error)
        context = min(replica.context or MOST_CONTEXT, MOST_CONTEXT)
    batch_tokens = replica.numerics.batch_tokens
    rank = None if config.scan.rank == "dense" else config.scan.rank
    passed: Passed | None = None
    if has_weights and not refused and choice is None:
        try:
            passed = preflight(
                replica.language_model,
                replica.modules,
                tracked.ordinary,
                context,
                batch_tokens == 1,
                batch_tokens,
            )
        except RayInfluenceError as error:
            refused.append(error)
    devices = devices_here(numerics.device, config.runner.gpus_per_actor, model)
    gpus, memory = len(devices) if numerics.device == "cuda" else 0, memory_here(devices)
    size: Bytes | None = None
    fullest: Bytes | None = None
    on_gpus, window = "", (1, context)
    if choice is None:
        seen = _seen(tracked, context)
        window = _window(replica, context, seen)
        size = _bytes(tracked, context, config.fit.blocks, rank, seen * window[1])

        def on_fullest(shares: Sequence[Share]) -> Bytes:
            parts = (_part(size, replica, share, config.fit.blocks, rank) for share in shares)
            return max(parts, key=lambda one: max(one.fit, one.scan))

        fullest = on_fullest(shares_of(replica, gpus))
        if gpus:
            most = lambda shares: max((one := on_fullest(shares)).fit, one.scan)  # noqa: E731
            on_gpus = told(replica, gpus, memory, most)
    return Inspection(
        tracked,
        context,
        batch_tokens,
        rank,
        _layers(tracked, rank, window),
        size,
        fullest,
        memory,
        gpus,
        on_gpus,
        has_weights,
        passed,
        # Without weights nothing but a choice is refused: a tokenizer may come with them.
        choice or (refused[0] if refused and has_weights else None),
    )


def _tracked(
    model: nn.Module,
    config: RunConfig,
    numerics: Numerics,
    ordinary: Callable[[nn.Module], Sequence[int]],
) -> tuple[TrackedModel, ModelError | None]:
    """What of a model is tracked; where that is refused nothing is, and the refusal is beside it.

    Raises:
        ModelError: it cannot be run at all.
    """
    try:
        return TrackedModel.of(model, config, numerics, ordinary), None
    except ModelError as error:
        try:
            return TrackedModel.of_none(model, numerics, ordinary), error
        except ModelError:
            raise error from None


def _on_this_machine(config: RunConfig, say: Say) -> RunConfig:
    """The configuration with folders for what it names on a hub, which is fetched."""
    named = {
        "model": config.model,
        "base_model": config.base_model,
        "tokenizer": config.tokenizer,
    }
    if not any(path and hub_address(path) for path in named.values()):
        return config
    folders = fetched(config, say)
    base = None if folders.base is None else folders.base.path
    paths = {
        "model": folders.model.path,
        "base_model": base,
        "tokenizer": folders.tokenizer.path,
    }
    return config.model_copy(update=paths)


def _seen(tracked: TrackedModel, context: int) -> int:
    """Bytes of what modules see of a token; of experts on the average of a few made-up tokens."""
    replica = tracked.replica
    length = max(2, min(context, affordable(replica.model, 2, _MEASURED)))
    some = np.resize(np.asarray(tracked.ordinary), length)
    routed = routed_numbers(replica, make_batch([some], [0], torch.device("cpu")))
    return (seen_widths(replica) + -(-routed // length)) * _operand(replica)


def _window(replica: Replica, context: int, seen: int) -> tuple[int, int]:
    """Sequences and tokens of a full window of whole contexts; ``seen`` are bytes of a token."""
    device = replica.numerics.device
    most = WINDOW_BYTES[device] // max(1, seen) // context
    n_sequences = max(1, min(most, WINDOW_SEQUENCES[device]))
    return n_sequences, n_sequences * context


def _operand(replica: Replica) -> int:
    """Bytes of a number that is multiplied on the device of the run."""
    device = torch.device(replica.numerics.device)
    return operand_dtype(replica.numerics.torch_dtype, device).itemsize


def _bytes(
    tracked: TrackedModel, context: int, n_blocks: int, rank: int | None, window: int
) -> Bytes:
    replica = tracked.replica
    model, shapes, batch_tokens = replica.model, replica.shapes, replica.numerics.batch_tokens
    length = max(2, min(context, _MEASURED, affordable(model, 2, _MEASURED)))
    half, whole = (_activations(tracked, n_tokens) for n_tokens in (length // 2, length))
    of_one = grown(half, whole, length, context)
    return Bytes(
        weights=sum(weight.numel() * weight.element_size() for weight in model.parameters()),
        activations=max(1, batch_tokens // context) * of_one,
        measured_on=length,
        fitting=fitting_bytes(shapes, n_blocks, _operand(replica), replica.numerics.device, shapes),
        factors=factor_bytes(shapes, n_blocks),
        bank=bank_bytes(shapes, 1, rank, _operand(replica)),
        gradient=_FLOAT * sum(shape.n_parameters for shape in shapes.values()),
        window=window,
    )


def _part(size: Bytes, replica: Replica, share: Share, n_blocks: int, rank: int | None) -> Bytes:
    """What of a replica one of its devices has; activations and window are counted whole."""
    shapes, operand = replica.shapes, _operand(replica)
    here = {name: shapes[name] for name in share.modules}
    return replace(
        size,
        weights=share.weights,
        fitting=fitting_bytes(shapes, n_blocks, operand, replica.numerics.device, here),
        factors=factor_bytes(here, n_blocks),
        bank=bank_bytes(here, 1, rank, operand),
        gradient=_FLOAT * sum(shape.n_parameters for shape in here.values()),
    )


def _activations(tracked: TrackedModel, n_tokens: int) -> int:
    """Bytes that one sequence keeps for its backward pass."""
    some = np.resize(np.asarray(tracked.ordinary), n_tokens)
    return activation_bytes(tracked.replica, make_batch([some], [0], torch.device("cpu")))


def grown(half: int, whole: int, length: int, context: int) -> int:
    """What a whole context keeps, by what a sequence of some length and one of half as many do.

    Attention that is computed as a matrix keeps the square of the tokens, all else so much for
    each.
    """
    by_square = max(
        0.0, (whole - half * length / (length // 2)) / (length * (length - length // 2))
    )
    by_token = whole / length - by_square * length
    return int(context * (by_token + by_square * context))


def _layers(tracked: TrackedModel, rank: int | None, window: tuple[int, int]) -> list[Alike]:
    """All linear layers of a model, those that are alike in one, in the model's order."""
    replica, alike = tracked.replica, dict[Alike, int]()
    left_out = apart(replica.model)
    for name, module in replica.model.named_modules():
        if not is_layer(module):
            continue
        shape, is_tracked = shape_of(name, module, replica.model), name in replica.modules
        layer = Alike(
            patterns_of([name])[0],
            tracked.parts.get(name),
            0,
            shape.d_in,
            shape.d_out,
            shape.bias,
            is_tracked,
            None if is_tracked else _why(tracked, name, left_out),
            factored_up_to(shape, rank, window, replica) if is_tracked else None,
        )
        alike[layer] = alike.get(layer, 0) + 1
    return [replace(layer, number=number) for layer, number in alike.items()]


def _why(tracked: TrackedModel, name: str, left_out: Mapping[str, str]) -> str:
    """Why a layer is not tracked, in words."""
    if tracked.reach.is_outside(name):
        return "text does not reach it"
    if name in tracked.reach.unfit:
        return tracked.reach.unfit[name]
    output = name_for_both(tracked.replica.model, name)
    reasons = {
        "tied": f"its weight is {output}'s" if output else "its weight is tied",
        "embedding": "an embedding: where it is named in full",
    }
    return reasons.get(left_out.get(name, ""), "not asked for")


def factored_up_to(
    shape: ModuleShape, rank: int | None, window: tuple[int, int], replica: Replica
) -> int | None:
    """The most queries for which a module's window is contracted through their rank.

    None where more than a million are.

    Args:
        shape: of the module.
        rank: of the queries; None where they are dense.
        window: its sequences and tokens.
        replica: says in what is multiplied, and where.
    """
    least = None if rank is None else min(rank, shape.d_out, shape.columns)

    def is_materialised(n_queries: int) -> bool:
        sizes = *window, shape.d_in, shape.d_out, n_queries, least
        return not Work(*sizes, _operand(replica), replica.numerics.device).is_factored

    found = bisect_left(range(1, _MOST_QUERIES + 1), True, key=is_materialised)
    return None if found == _MOST_QUERIES else found


def memory_here(devices: Sequence[torch.device]) -> int:
    """Bytes that each CUDA device of a replica has, or this machine, or its container."""
    if devices[0].type == "cuda":
        return min(int(torch.cuda.mem_get_info(device)[1]) for device in devices)
    there = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    limits = Store(_LIMITS)
    said = limits.read(_LIMIT).decode().strip() if limits.exists(_LIMIT) else ""
    return min(there, int(said)) if said.isdigit() else there
