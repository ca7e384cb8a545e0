"""Loading a causal LM, and taking it apart so that replicas share one copy of its weights."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeGuard

import torch
from torch import Tensor, nn

from rayinfluence.errors import ModelError, NumericsError
from rayinfluence.storage.digest import digest, digest_bytes
from rayinfluence.storage.shared import ALIGNMENT, SharedTensors
from rayinfluence.storage.tensors import tensor_bytes

if TYPE_CHECKING:
    from transformers import PreTrainedModel

#: Keys of a transformers config that say where and by what a model was saved, not what it computes.
_IRRELEVANT = {"_name_or_path", "transformers_version", "dtype", "torch_dtype"}


def load_model(
    path: str, dtype: torch.dtype, *, attention: str = "sdpa", trust_remote_code: bool = False
) -> nn.Module:
    """Load a causal LM from safetensors, frozen and in eval mode, on the CPU.

    Args:
        path: a folder as ``save_pretrained`` writes it.
        dtype: of weights and activations.
        attention: transformers' ``attn_implementation``.
        trust_remote_code: let the folder's own Python code run.

    Raises:
        ModelError: there is no model, it has no safetensors, or weights are missing from them.
        NumericsError: a weight is NaN or infinite.
    """
    if not (Path(path) / "config.json").is_file():
        raise ModelError(
            f"model: {path} is not a folder with a config.json; name a folder that "
            "`save_pretrained` wrote, with its weights as safetensors."
        )
    from transformers import AutoModelForCausalLM
    from transformers.utils import logging

    shows_bars = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        model, info = AutoModelForCausalLM.from_pretrained(
            path,
            dtype=dtype,
            attn_implementation=attention,
            use_safetensors=True,
            trust_remote_code=trust_remote_code,
            output_loading_info=True,
        )
    except Exception as error:  # transformers raises a dozen kinds, all of them about this folder
        raise ModelError(f"model: {path} cannot be loaded: {error}") from error
    finally:
        if shows_bars:  # the process may be a caller's
            logging.enable_progress_bar()
    problems = {
        "are missing": sorted(info["missing_keys"]),
        "have another shape": sorted(str(key) for key in info["mismatched_keys"]),
    }
    for problem, names in problems.items():
        if names:
            raise ModelError(
                f"model: {path} is incomplete: {len(names)} weights {problem}, such as {names[0]}. "
                "Influence on randomly filled weights means nothing; save the whole model again."
            )
    freeze(model)
    for weight in model.parameters():
        # safetensors maps weights from the file, where they lie anywhere.
        if weight.data_ptr() % ALIGNMENT:
            weight.data = weight.data.clone()
    check_finite(model)
    return model  # type: ignore[no-any-return]


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
        if not bool(torch.isfinite(weight).all()):
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


def model_digest(model: nn.Module) -> str:
    """The digest of what a model computes.

    Architecture and weights, whatever folder they came from.
    """
    config: dict[str, Any] = {"class": type(model).__name__}
    if is_pretrained(model):
        whole = model.config.to_dict()
        config |= {key: str(whole[key]) for key in sorted(whole.keys() - _IRRELEVANT)}
    weights = {
        name: [str(tensor.dtype), list(tensor.shape), digest_bytes(tensor_bytes(tensor))]
        for name, tensor in [*model.named_parameters(), *model.named_buffers()]
    }
    return digest({"config": config, "weights": weights})


def vocabulary_size(model: nn.Module) -> int | None:
    """Rows of the input embedding, or None for a module that is not a transformers model."""
    if is_pretrained(model):
        return int(model.get_input_embeddings().weight.shape[0])
    return None


def context_length(model: nn.Module) -> int | None:
    """The most tokens that the model takes, where its config says so."""
    if is_pretrained(model):
        length = getattr(model.config, "max_position_embeddings", None)
        return int(length) if length is not None else None
    return None


def disassemble(model: nn.Module) -> tuple[nn.Module, SharedTensors]:
    """Split a model into a light skeleton (on the meta device) and its weights by name."""
    memo: dict[int, Any] = {
        id(weight): nn.Parameter(weight.to("meta"), requires_grad=False)
        for weight in model.parameters()
    }
    return copy.deepcopy(model, memo), SharedTensors(
        {name: weight.detach() for name, weight in model.named_parameters()}
    )


def assemble(skeleton: nn.Module, weights: SharedTensors, device: torch.device) -> nn.Module:
    """Put weights back into a skeleton; tied weights stay tied, and on a CPU nothing is copied."""
    placed: dict[int, Tensor] = {
        id(meta): nn.Parameter(weights[name].to(device), requires_grad=False)
        for name, meta in skeleton.named_parameters()
    }
    for module in skeleton.modules():
        for name, meta in module._parameters.items():
            if meta is not None:
                module._parameters[name] = placed[id(meta)]  # type: ignore[assignment]
    return freeze(skeleton.to(device))
