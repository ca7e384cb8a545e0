"""Where heads and skip connections are in models of transformers, by their families.

A block mixes tokens in its attention alone. What it reads goes two ways: through the heads, each of
which gives a token some of the columns that the output projection of attention takes, and past them
by the skip connection, to which that projection's output is added. All else of a block (its MLP,
with a skip connection of its own) is of one token, and behind both.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rayinfluence.errors import ModelError
from rayinfluence.objective_kinds import CAUSAL, KINDS, MASKED

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True)
class Shape:
    """Names of modules in a block.

    Attributes:
        attention: whose first argument is what attention reads.
        skip: whose argument, of that number, goes past the heads; empty for the block itself.
        heads: the output projection of attention, which takes the heads side by side.
    """

    attention: str
    skip: tuple[str, int]
    heads: str


#: The norm stands behind the sum of both ways.
_BERT = Shape("attention.self", ("attention.output", 1), "attention.output.dense")
#: It stands before attention, and the skip connection is what the block is given.
_GPT2 = Shape("ln_1", ("", 0), "attn.c_proj")
_LLAMA = Shape("input_layernorm", ("", 0), "self_attn.o_proj")
#: By the model_type of a configuration: the kind of model, its blocks, and what is in them.
FAMILIES: Mapping[str, tuple[str, str, Shape]] = {
    "bert": (MASKED, "bert.encoder.layer", _BERT),
    "roberta": (MASKED, "roberta.encoder.layer", _BERT),
    "gpt2": (CAUSAL, "transformer.h", _GPT2),
    "llama": (CAUSAL, "model.layers", _LLAMA),
    "mistral": (CAUSAL, "model.layers", _LLAMA),
    "qwen2": (CAUSAL, "model.layers", _LLAMA),
}


@dataclass(frozen=True)
class Block:
    """The modules of a block that its two ways begin and end at.

    Attributes:
        whole: the block.
        attention: whose first argument is what attention reads.
        skip: whose argument number ``skip_argument`` goes past the heads.
        skip_argument: as above.
        heads: that takes the heads side by side.
    """

    whole: nn.Module
    attention: nn.Module
    skip: nn.Module
    skip_argument: int
    heads: nn.Module


@dataclass(frozen=True)
class Anatomy:
    """A model's blocks, in the order in which they are called, and how many heads each has.

    Attributes:
        blocks: as above.
        n_heads: of each block.
    """

    blocks: Sequence[Block]
    n_heads: int


def refuse_other_family(model_type: object, kind: str) -> None:
    """Refuse a model of which it is not known here where its heads are.

    Args:
        model_type: that its config.json names.
        kind: of its objective.

    Raises:
        ModelError: with the type, and with those that are known.
    """
    family = FAMILIES.get(str(model_type))
    if family is None:
        raise ModelError(
            f"patterns: where heads and skip connections are is known of {_known()}, and the "
            f"model is of the type {model_type!r}. Name one of those."
        )
    if family[0] != kind:
        raise ModelError(
            f"patterns: the model is a {KINDS[kind].model} of the type {model_type!r}, and "
            f"patterns are of a {KINDS[family[0]].model} of that type. Name such a model."
        )


def anatomy_of(model: nn.Module) -> Anatomy:
    """The blocks of a model whose family :func:`refuse_other_family` lets pass.

    Raises:
        ModelError: its modules are not called as those of its family are.
    """
    config = model.config
    _, path, shape = FAMILIES[config.model_type]  # type: ignore[union-attr,index]
    try:
        blocks = [block_of(whole, shape) for whole in model.get_submodule(path).children()]
    except AttributeError as error:
        raise ModelError(
            f"patterns: {type(model).__name__} of the installed transformers has other modules "
            f"than models of its type have ({error}). Another version of transformers may do."
        ) from error
    return Anatomy(blocks, int(config.num_attention_heads))  # type: ignore[union-attr,arg-type]


def block_of(whole: nn.Module, shape: Shape) -> Block:
    """The parts of a block by their names."""
    skip, argument = shape.skip
    return Block(
        whole,
        whole.get_submodule(shape.attention),
        whole.get_submodule(skip),
        argument,
        whole.get_submodule(shape.heads),
    )


def _known() -> str:
    *others, last = FAMILIES
    return f"{', '.join(others)} and {last}"
