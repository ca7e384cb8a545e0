"""What a model is: everything that decides what it computes in eval mode, and nothing else.

A digest names it. Where two digests differ, what they are made of says in what.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from typing import Any

from torch import nn

from rayinfluence.model.folder_code import FolderCode
from rayinfluence.model.load import is_pretrained
from rayinfluence.model.names_read import names_read
from rayinfluence.model.row_task import row_task
from rayinfluence.model.tied import has_copy
from rayinfluence.storage.digest import changed, digest, digest_bytes
from rayinfluence.storage.tensors import tensor_bytes

#: Keys of configurations that compute nothing when a text is scored: where a model comes from,
#: what it is trained, generated or classified with, and what it returns besides logits.
_COMPUTES_NOTHING = re.compile(
    r"_name_or_path|transformers_version|transformers_weights|init_device|architectures|auto_map|(torch_)?dtype|tokenizer_class|"
    r"vocab_file|(id2label|label2id|num_labels|problem_type|finetuning_task)|"
    r".*dropout.*|.*pdrop|.*layer_?drop|.*drop_path.*|"
    r"initializer_.*|(.*_)?init(ializer)?_(std|range|factor)|"
    r"router_(aux_loss|z_loss)_.*|.*aux_loss.*|z_loss_.*|router_jitter_noise|output_router_logits|"
    r"use_cache|cache_implementation|return_dict|torchscript|gradient_checkpointing|"
    r"output_(attentions|hidden_states)|summary_.*|task_specific_params|"
    # The same sums in pieces: they round otherwise, as batches of another shape do.
    r"chunk_size_feed_forward|pretraining_tp|slow_but_exact|"
    r"(bos|eos|pad|sep|cls|mask|unk|eod|decoder_start|forced_[be]os)_token_id"
)

Leaves = dict[str, Any]


def model_identity(model: nn.Module) -> dict[str, Any]:
    """What :func:`model_digest` is the digest of, as JSON.

    Returns:
        ``class``; ``config``: by dotted key what differs from the configuration class's own
        defaults, so that a default spelled out, or one that another release of transformers adds,
        makes no other model; ``weights``: by name dtype, shape and digest, of buffers too;
        ``code``: by module the digest of the Python code that the model's folder brought;
        ``defaults``, which is not digested: the values that ``config`` leaves out, to be named
        beside those of a model that has others.
    """
    own, defaults = _configuration(model)
    copies = {f"{name}.weight" for name, one in model.named_modules() if has_copy(one)}
    return {
        "class": type(model).__name__,
        "code": _code(model),
        "config": own,
        "weights": {
            name: [str(tensor.dtype), list(tensor.shape), digest_bytes(tensor_bytes(tensor))]
            for name, tensor in [*model.named_parameters(), *model.named_buffers()]
            if name not in copies
        },
        "defaults": defaults,
    }


def model_digest(identity: Mapping[str, Any]) -> str:
    """The digest of what a model computes, whatever folder it came from."""
    return digest({key: identity[key] for key in ("class", "code", "config", "weights")})


def model_differences(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> list[str]:
    """In what two models differ: ``config.rope_theta: 10000, was 500000``."""
    lines = []
    if ours["class"] != theirs["class"]:
        lines.append(f"class: {ours['class']}, was {theirs['class']}")
    lines += [
        f"code: {name}.py differs"
        for name in sorted(ours["code"].keys() | theirs["code"].keys())
        if ours["code"].get(name) != theirs["code"].get(name)
    ]
    for key in sorted(ours["config"].keys() | theirs["config"].keys()):
        one, other = (
            side["config"].get(key, side["defaults"].get(key, "absent")) for side in (ours, theirs)
        )
        if one != other:
            are_lists = isinstance(one, list) and isinstance(other, list)
            change = changed(one, other) if are_lists else f"{one}, was {other}"
            lines.append(f"config.{key}: {change}")
    names = [*ours["weights"], *(n for n in theirs["weights"] if n not in ours["weights"])]
    other = [n for n in names if ours["weights"].get(n) != theirs["weights"].get(n)]
    if other:
        lines.append(f"weights: {len(other)} of {len(names)} differ, first {other[0]}")
    return lines


def _code(model: nn.Module) -> dict[str, str]:
    """Digests of the modules that the folder of a model brought, if it brought its class."""
    if (task := row_task(model)) is not None:
        return {task.builder.name: task.builder.digest}
    package = type(model).__module__.rpartition(".")[0]
    return {
        name.rpartition(".")[2]: digest_bytes(source.encode())
        for name, source in sorted(FolderCode.imported().sources.items())
        if source and package and name.startswith(f"{package}.")
    }


def _configuration(model: nn.Module) -> tuple[Leaves, Leaves]:
    """A model's configuration by dotted key: what is its own, and what are defaults."""
    if not is_pretrained(model):
        return {}, {}
    own: Leaves = {}
    defaults: Leaves = {}
    read = names_read(model)
    # Positions that are counted from the padding's id on: there it computes.
    counts_padding = any(
        "position" in f"{name} {type(module).__name__}".lower()
        and getattr(module, "padding_idx", None) is not None
        for name, module in model.named_modules()
    )

    def computes(key: str) -> bool:
        if key == "pad_token_id" and counts_padding:
            return True
        if _COMPUTES_NOTHING.fullmatch(key):
            return False
        # What no code reads is a note, whether the class declares it or not; some is read only when
        # a model is made, and is in its weights and buffers and in other keys.
        return read is None or key in read.running

    def take(config: Any, prefix: str) -> None:
        values, plain = config.to_dict(), _defaults(config)
        for key in sorted(values.keys() | plain.keys()):
            inner = _part(config, key)
            if inner is not None:
                take(inner, f"{prefix}{key}.")
            elif computes(key):
                ours = dict(_leaves(values.get(key), prefix + key))
                theirs = dict(_leaves(plain.get(key), prefix + key))
                for path in ours.keys() | theirs.keys():
                    side = defaults if ours.get(path) == theirs.get(path) else own
                    side[path] = ours.get(path)

    take(model.config, "")
    for name, module in model.named_modules():
        # What an adapter's update of a layer is multiplied with, which is no weight.
        if isinstance(scaling := getattr(module, "scaling", None), dict):
            own |= dict(_leaves(scaling, f"adapter.{name}.scaling"))
    return own, defaults


def _part(config: Any, key: str) -> Any:
    """The configuration of a part, or None where a key holds something else."""
    try:
        inner = getattr(config, key, None)
    except Exception:  # a value that differs by layer has none of its own
        return None
    return inner if hasattr(inner, "to_diff_dict") else None


def _defaults(config: Any) -> dict[str, Any]:
    """The configuration class's own values; none where it cannot be made without arguments."""
    try:
        return dict(type(config)().to_dict())
    except Exception:  # remote code, and classes that want their parts
        return dict.fromkeys(config.to_dict())


def _leaves(value: Any, path: str) -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping) and value:
        for key, inner in value.items():
            yield from _leaves(inner, f"{path}.{key}")
    else:
        yield path, _plain(value)


def _plain(value: Any) -> Any:
    """A value as JSON holds it, and 10000.0 as 10000: files write either."""
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    return value if isinstance(value, str | int | None) else str(value)
