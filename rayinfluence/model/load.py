"""Loading a causal LM, and taking it apart so that replicas share one copy of its weights."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeGuard

import torch
from torch import Tensor, nn

from rayinfluence.errors import ModelError, NumericsError, brief
from rayinfluence.model.adapters import adapter_tensors, source_of
from rayinfluence.model.as_stored import as_stored
from rayinfluence.model.experts import take_apart
from rayinfluence.model.kinds import refuse_unknown_kind
from rayinfluence.model.leftovers import computed, other_angles
from rayinfluence.model.lora import attach, base_alone
from rayinfluence.model.pretrained import from_pretrained, said_of_attention
from rayinfluence.model.quantised import dequantising, few_bits, quantised, said
from rayinfluence.model.row_task import row_task
from rayinfluence.model.weight_files import read_config, stored_tensors, unlisted
from rayinfluence.model.wrapped import why_other_names
from rayinfluence.objective_kinds import CAUSAL, KINDS, ObjectiveKind
from rayinfluence.registered import only_code_of
from rayinfluence.storage.downloads import StoredTensor
from rayinfluence.storage.shared import ALIGNMENT, SharedTensors

if TYPE_CHECKING:
    from transformers import PreTrainedModel

#: Where configurations say how many tokens the model takes; the first that is there decides.
_CONTEXT_KEYS = (
    "max_position_embeddings",
    "n_positions",
    "max_seq_len",
    "seq_length",
    "max_sequence_length",
    "max_seq_length",
    "n_ctx",
    "max_target_positions",
)
#: Errors of transformers about how attention is computed.
_OF_ATTENTION = re.compile("att(entio)?n", re.IGNORECASE)


def load_model(
    path: str,
    dtype: torch.dtype,
    *,
    base_model: str | None = None,
    attention: str = "sdpa",
    trust_remote_code: bool = False,
    kind: str = CAUSAL,
) -> nn.Module:
    """Load a model from safetensors, frozen and in eval mode, on the CPU.

    Stacked experts are taken apart, so that each of their layers has a name.

    Args:
        path: a folder as ``save_pretrained`` writes it, or with a LoRA adapter of PEFT.
        dtype: of weights and activations.
        base_model: the folder of the adapter's base, where its own configuration names none that
            is here.
        attention: transformers' ``attn_implementation``; a model that has no ``sdpa`` is loaded
            with ``eager``, and one whose config.json says how with that, as :func:`attention_of`
            tells.
        trust_remote_code: let the folder's own Python code run.
        kind: of its objective.

    Raises:
        ModelError: there is no model, it has no safetensors, they are not whole, hold quantised
            weights, lack some or have some that it has no place for; or an adapter in the folder
            is none that is read.
        NumericsError: a weight is NaN or infinite.
    """
    source = source_of(path, base_model)
    if source.adapter is None:
        model = _load_whole(path, dtype, attention, trust_remote_code, KINDS[kind])
    else:
        with base_alone(source) as base:
            model = _load_whole(base, dtype, attention, trust_remote_code, KINDS[kind])
        attach(model, source, dtype)
    check_finite(model)
    return model


def _load_whole(
    path: str, dtype: torch.dtype, attention: str, trust_remote_code: bool, kind: ObjectiveKind
) -> nn.Module:
    if not (Path(path) / "config.json").is_file():
        raise ModelError(
            f"model: {path} is not a folder with a config.json; name a folder that "
            "`save_pretrained` wrote, with its weights as safetensors."
        )
    config = read_config(path)
    with only_code_of(path if trust_remote_code else None):
        refuse_unknown_kind(path, config, trust_remote_code, kind)
        tensors = stored_tensors(path)
        load = partial(from_pretrained, path, dtype, attention, trust_remote_code, kind.loader)
        model, info = as_stored(path, lambda: _loaded(path, load, config, tensors))
    if left_out := unlisted(path):
        raise ModelError(
            f"model: {path} holds weights that its index does not name, such as {left_out[0]}. "
            "Save the whole model again, or remove what is not part of it."
        )
    left = set(info["unexpected_keys"])
    computed_today = computed(path, tensors)
    stored = {name: tensors[name] for name in tensors if name not in computed_today}
    if names := quantised(stored, left, config, model):
        raise ModelError(f"model: {path} {said(names)}.")
    _refuse_other_weights(path, info, left - computed_today, model)
    freeze(model)
    take_apart(model)
    for module in model.modules():
        # Asked for tuples, some models cannot read what their own parts return.
        if getattr(getattr(module, "config", None), "return_dict", True) is False:
            module.config.return_dict = True  # type: ignore[union-attr]
    for weight in model.parameters():
        # safetensors maps weights from the file, where they lie anywhere.
        if weight.data_ptr() % ALIGNMENT:
            weight.data = weight.data.clone()
    return model


def _loaded(
    path: str,
    load: Callable[[], tuple[nn.Module, dict[str, Any]]],
    config: Mapping[str, Any],
    tensors: Mapping[str, StoredTensor],
) -> tuple[nn.Module, dict[str, Any]]:
    try:
        return load()
    except Exception as error:  # transformers raises a dozen kinds, all of them about this folder
        if "quantization_config" in config:
            raise ModelError(
                f"model: {path} is quantised, as its config.json says, and cannot be dequantised "
                f"here ({brief(error).rstrip('.')}). Influence needs gradients of weights that are "
                "floating-point numbers: name the model that was quantised, or one that was "
                f"dequantised and saved{dequantising(path, config)}."
            ) from error
        if names := few_bits(tensors):
            raise ModelError(f"model: {path} {said(names)}.") from error
        why = brief(error)
        if (attentions := said_of_attention(config)) and _OF_ATTENTION.search(why):
            why = f"{why.rstrip('.')}. Its config.json has {attentions}."
        raise ModelError(f"model: {path} cannot be loaded: {why}") from error


def _refuse_other_weights(
    path: str, info: dict[str, Any], unexpected: set[str], model: nn.Module
) -> None:
    """Refuse a checkpoint whose tensors are not one for one the model's.

    Args:
        path: its folder.
        info: what transformers says of the loading.
        unexpected: names of tensors that the model has no place for and does not compute.
        model: as it was loaded.

    Raises:
        ModelError: names the first tensors that are missing, of another shape, or left over, and
            what their names were saved with, where they tell.
    """
    if theirs := adapter_tensors(unexpected):
        raise ModelError(
            f"model: the weights of {path} hold an adapter that is not merged, such as "
            f"{theirs[0]}: merge it into the model (`merge_and_unload()` of peft) and save that."
        )
    if why := why_other_names(info["missing_keys"], unexpected):
        raise ModelError(f"model: the weights of {path} {why}")
    problems = {
        "are missing": info["missing_keys"],
        "have another shape": {key[0] for key in info["mismatched_keys"]},
        "are in the files and have no place in the model of config.json": unexpected,
        "are rotary angles that config.json does not give (rope_theta?)": other_angles(path, model),
    }
    found = [
        f"{len(names)} weights {problem}, such as {' and '.join(sorted(names)[:2])}"
        for problem, names in problems.items()
        if names
    ]
    if found:
        raise ModelError(
            f"model: config.json and the weights of {path} do not belong together: "
            f"{'; '.join(found)}. Influence on another model than was trained means nothing: save "
            "the whole model again, with the config.json of these weights."
        )


def freeze(model: nn.Module) -> nn.Module:
    """Put a model in eval mode and stop all weight gradients: none is ever needed."""
    model.eval()
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    return model


def check_finite(model: nn.Module) -> None:
    """Refuse NaN and infinity in the weights.

    Raises:
        NumericsError: names the first weight that is not finite.
    """
    for name, weight in model.named_parameters():
        # torch has no isfinite for numbers of eight bits, which parts of a model may keep.
        known = weight.float() if weight.element_size() < 2 else weight
        if not bool(torch.isfinite(known).all()):
            raise NumericsError(
                f"the model's weight {name} holds NaN or infinity; load another checkpoint, "
                "or another dtype if it overflowed in the conversion."
            )


def is_pretrained(model: nn.Module) -> TypeGuard[PreTrainedModel]:
    """Whether it is a model of transformers.

    Which is imported when it is needed: that takes seconds, and workers that decompose, merge or
    gather see no model.
    """
    from transformers import PreTrainedModel

    return isinstance(model, PreTrainedModel)


def vocabulary_size(model: nn.Module) -> int | None:
    """Rows of the input embedding, or None for a module that is not a transformers model."""
    if not is_pretrained(model):
        return None
    try:
        return int(model.get_input_embeddings().weight.shape[0])
    except (NotImplementedError, AttributeError):
        # Code that comes with a model may call its embedding what it likes.
        return getattr(getattr(model, "config", None), "vocab_size", None)


def context_length(model: nn.Module) -> int | None:
    """The most tokens that the model takes, where its config says so.

    Of a model of several parts the one that reads text is asked first.
    """
    if (task := row_task(model)) is not None:
        return task.n_tokens
    if not is_pretrained(model):
        return None
    try:
        text = model.config.get_text_config(decoder=True)
    except ValueError:  # it has several
        text = model.config
    for config in (text, model.config):
        for key in _CONTEXT_KEYS:
            length = getattr(config, key, None)
            if isinstance(length, int) and length > 0:
                return length - _positions_of_padding(model, length)
    return None


def _positions_of_padding(model: nn.Module, length: int) -> int:
    """Positions that no token has, where those of tokens begin after that of padding (RoBERTa)."""
    for name, module in model.named_modules():
        of_positions = isinstance(module, nn.Embedding) and "position" in name
        if of_positions and module.num_embeddings == length and module.padding_idx is not None:
            return int(module.padding_idx) + 1
    return 0


def attention_of(model: nn.Module) -> str | None:
    """How a model of transformers computes attention: ``sdpa`` or ``eager``."""
    return model.config._attn_implementation if is_pretrained(model) else None


def disassemble(model: nn.Module) -> tuple[nn.Module, SharedTensors]:
    """Split a model into a light skeleton (on the meta device) and its weights by name."""
    memo: dict[int, Any] = {
        id(weight): nn.Parameter(weight.to("meta"), requires_grad=False)
        for weight in model.parameters()
    }
    for module in model.modules():
        # What was left there of a pass, as RecurrentGemma's states are, cannot be copied with it.
        memo |= {
            id(value): value.detach()
            for value in (*vars(module).values(), *module.buffers(recurse=False))
            if isinstance(value, Tensor) and not value.is_leaf
        }
    return copy.deepcopy(model, memo), SharedTensors(
        {name: weight.detach() for name, weight in model.named_parameters()}
    )


def assemble(skeleton: nn.Module, weights: SharedTensors) -> nn.Module:
    """Put weights back into a skeleton, on the CPU; tied ones stay tied, and nothing is copied."""
    placed: dict[int, Tensor] = {
        id(meta): nn.Parameter(weights[name], requires_grad=False)
        for name, meta in skeleton.named_parameters()
    }
    for module in skeleton.modules():
        for name, meta in module._parameters.items():
            if meta is not None:
                module._parameters[name] = placed[id(meta)]  # type: ignore[assignment]
    return freeze(skeleton)
