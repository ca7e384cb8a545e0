"""What transformers makes of a model's folder, and nothing said of it: what is wrong is refused."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch
    from torch import nn

#: Who logs, in a table with colours, which weights were not one for one a model's.
_LOGGER, _REPORT = "transformers.modeling_utils", "log_state_dict_report"
#: Where a config.json says how attention is computed; whatever it says is taken before what we ask.
_ATTENTION = "_attn_implementation"


def from_pretrained(
    path: str, dtype: torch.dtype, attention: str, trust_remote_code: bool, loader: str
) -> tuple[nn.Module, dict[str, Any]]:
    """A model as transformers loads it, and what it says of the loading.

    With ``attention``, or with eager where that fails: not every model has sdpa, and parts of one
    may lack it, which only loading tells. :func:`why_other_attention` says why it is another.

    Args:
        path: its folder.
        dtype: of weights and activations.
        attention: how it is computed.
        trust_remote_code: let the folder's own Python code run.
        loader: transformers' class that loads it.
    """
    import transformers

    def load(attention: str) -> tuple[nn.Module, dict[str, Any]]:
        model, info = getattr(transformers, loader).from_pretrained(
            path,
            dtype=dtype,
            attn_implementation=attention,
            use_safetensors=True,
            trust_remote_code=trust_remote_code,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # they are refused with their names
        )
        return model, info

    with silent():
        try:
            return load(attention)
        except Exception:
            if attention != "sdpa":
                raise
        return load("eager")


def why_other_attention(config: Mapping[str, Any]) -> str:
    """Why a model computes attention otherwise than it was asked to, as a clause.

    Args:
        config: its config.json.
    """
    if _ATTENTION in config:
        return f"the model's config.json has {said_of_attention(config)}"
    if config.get("output_attentions"):
        return (
            "the model's config.json has output_attentions: true, and no other gives those; take "
            "it out there for sdpa"
        )
    return "this model has no sdpa"


def said_of_attention(config: Mapping[str, Any]) -> str | None:
    """What a config.json says of attention in our place, and what to do about it."""
    if _ATTENTION not in config:
        return None
    return (
        f"{_ATTENTION}: {json.dumps(config[_ATTENTION])}, which is taken before `attention`; take "
        "it out there for what you ask"
    )


@contextmanager
def silent() -> Iterator[None]:
    """No progress bars, and no report of a loading; other words of transformers stay."""
    from transformers.utils import logging as theirs

    def passes(record: logging.LogRecord) -> bool:
        return record.funcName != _REPORT

    logger, shows_bars = logging.getLogger(_LOGGER), theirs.is_progress_bar_enabled()
    theirs.disable_progress_bar()
    logger.addFilter(passes)
    try:
        yield
    finally:
        logger.removeFilter(passes)
        if shows_bars:  # the process may be a caller's
            theirs.enable_progress_bar()
