"""Layers: how the gradient of a trainable weight factors into what goes in and what comes back.

A layer gives W a + b for each row a of what it is called with, and nothing else is one: its
gradient is then the sum over rows of g a^T, and that of the bias the sum of g (a one LAST in a).
What its rows are, and how its weight is kept, is all that differs from kind to kind.

B sequence in batch, T token, I input width, O output width.
"""

from __future__ import annotations

import re
from typing import Any, Protocol

from torch import Tensor, nn

from rayinfluence.model.routed import RoutedLinear, TransposedRoutedLinear


class Layer(Protocol):
    """A kind of layer.

    Its bias is a vector [O] called ``bias``, if there is one, and its weight is called ``weight``.
    Other parameters that a module has are not tracked.
    """

    @property
    def routed(self) -> bool:
        """Whether a module is called with the rows [n, I] of some tokens, and their places.

        These are its second argument: of each row in [B T], its sequence and its token there.
        """

    @property
    def shares(self) -> bool:
        """Whether a module goes on with W a + b by itself, and gives it beside what it makes of it.

        Such a module is tracked only where a pattern of the configuration names it.
        """

    def fits(self, module: nn.Module) -> bool:
        """Whether a module is of this kind."""

    def widths(self, module: nn.Module) -> tuple[int, int]:
        """I and O."""

    def inputs(self, module: nn.Module, given: Tensor, n_tokens: int) -> Tensor:
        """The rows a [..., I] of what a module is called with; ``given`` itself where it is them.

        Args:
            module: of this kind.
            given: its first argument.
            n_tokens: of each sequence, T.
        """

    def product(self, given: Any) -> Tensor | None:
        """W a + b in what a module gives; None where it is not there."""

    def grads(self, module: nn.Module, gradient: Tensor, n_tokens: int) -> Tensor:
        """The rows g [..., O] of the gradient in that product; of the same places."""

    def matrix(self, weight: Tensor) -> Tensor:
        """A module's weight, or a gradient in it, as W [O, I]."""


class Linear:
    """torch's ``nn.Linear``."""

    routed = False
    shares = False

    def fits(self, module: nn.Module) -> bool:
        """Whether it is one, or inherits from it."""
        return isinstance(module, nn.Linear)

    def widths(self, module: nn.Module) -> tuple[int, int]:
        """I and O."""
        linear: Any = module
        return linear.in_features, linear.out_features

    def inputs(self, module: nn.Module, given: Tensor, n_tokens: int) -> Tensor:
        """What it is called with."""
        return given

    def product(self, given: Any) -> Tensor | None:
        """All of it."""
        return given if isinstance(given, Tensor) else None

    def grads(self, module: nn.Module, gradient: Tensor, n_tokens: int) -> Tensor:
        """As they are."""
        return gradient

    def matrix(self, weight: Tensor) -> Tensor:
        """As it is."""
        return weight


class TransposedLinear(Linear):
    """GPT-2's ``Conv1D`` of transformers: a linear layer whose weight is kept as [I, O]."""

    def fits(self, module: nn.Module) -> bool:
        """Whether it is one."""
        # Here, since it takes seconds to import, and workers that decompose or merge track nothing.
        from transformers.pytorch_utils import Conv1D

        return isinstance(module, Conv1D)

    def widths(self, module: nn.Module) -> tuple[int, int]:
        """I and O."""
        conv: Any = module
        return conv.nx, conv.nf

    def matrix(self, weight: Tensor) -> Tensor:
        """Transposed."""
        return weight.T


class TokenConvolution:
    """torch's ``nn.Conv1d`` over tokens: [B, channel, T] to [B, O, T], causal by what is padded.

    A row is the patch of inputs that one output is made of (Grosse & Martens 2016, A Kronecker-
    factored approximate Fisher matrix for convolution layers, section 3), so I = channels * kernel.
    What it gives beyond the last token, where it pads both ends, is cut off by causal models.
    """

    routed = False
    shares = False

    def fits(self, module: nn.Module) -> bool:
        """Whether it gives one output per token, each of all channels."""
        return (
            isinstance(module, nn.Conv1d)
            and module.groups == 1
            and module.stride == (1,)
            and module.padding_mode == "zeros"
            and not isinstance(module.padding, str)
        )

    def widths(self, module: nn.Module) -> tuple[int, int]:
        """I and O."""
        conv: Any = module
        return conv.in_channels * conv.kernel_size[0], conv.out_channels

    def inputs(self, module: nn.Module, given: Tensor, n_tokens: int) -> Tensor:
        """Patches [B, T, I]."""
        conv: Any = module
        (kernel,), (dilation,), (padding,) = conv.kernel_size, conv.dilation, conv.padding
        padded = nn.functional.pad(given, (padding, padding))
        span = dilation * (kernel - 1) + 1
        patches_BCTK = padded.unfold(-1, span, 1)[..., :n_tokens, ::dilation]
        return patches_BCTK.transpose(-3, -2).flatten(-2)

    def product(self, given: Any) -> Tensor | None:
        """All of it."""
        return given if isinstance(given, Tensor) else None

    def grads(self, module: nn.Module, gradient: Tensor, n_tokens: int) -> Tensor:
        """Of the outputs at tokens [B, T, O]."""
        return gradient[..., :n_tokens].transpose(-2, -1)

    def matrix(self, weight: Tensor) -> Tensor:
        """Of [O, channel, kernel]."""
        return weight.flatten(1)


class Embedding(Linear):
    """torch's ``nn.Embedding`` of token ids [B, T]: its rows are one-hot, I is the vocabulary.

    Those of Gemma and others multiply what they look up by a number of their own, which is W times
    rows that have it in place of the one.
    """

    def fits(self, module: nn.Module) -> bool:
        """Whether it looks its rows up and does no more than multiply them."""
        return (
            isinstance(module, nn.Embedding)
            and module.max_norm is None
            and not module.scale_grad_by_freq
        )

    def widths(self, module: nn.Module) -> tuple[int, int]:
        """I and O."""
        embedding: Any = module
        return embedding.num_embeddings, embedding.embedding_dim

    def inputs(self, module: nn.Module, given: Tensor, n_tokens: int) -> Tensor:
        """A one at each token's id; all zero for the padding id, whose row is never trained."""
        embedding: Any = module
        ones = nn.functional.one_hot(given, embedding.num_embeddings).to(embedding.weight.dtype)
        if (scale := getattr(embedding, "embed_scale", None)) is not None:
            ones *= scale
        if embedding.padding_idx is not None:
            ones[..., embedding.padding_idx] = 0
        return ones

    def matrix(self, weight: Tensor) -> Tensor:
        """Transposed."""
        return weight.T


class Routed(Linear):
    """A layer of an expert, which gets the tokens that a router has chosen for it."""

    routed = True

    def fits(self, module: nn.Module) -> bool:
        """Whether it is one."""
        return type(module) is RoutedLinear

    def widths(self, module: nn.Module) -> tuple[int, int]:
        """I and O."""
        weight: Any = module.weight
        d_out, d_in = self.matrix(weight).shape
        return d_in, d_out


class TransposedRouted(Routed):
    """The same with a weight that is kept as [I, O], as gpt-oss and Llama 4 do."""

    def fits(self, module: nn.Module) -> bool:
        """Whether it is one."""
        return type(module) is TransposedRoutedLinear

    def matrix(self, weight: Tensor) -> Tensor:
        """Transposed."""
        return weight.T


class Router(Linear):
    """A router of transformers, which gives the logits of all experts and which it chose.

    How they are multiplied is its own code, and often in float32; what it gives as its first output
    is their product all the same.
    """

    shares = True

    def fits(self, module: nn.Module) -> bool:
        """Whether it is one, by its class's name and its weight."""
        weight = module._parameters.get("weight")
        return _ROUTER.search(type(module).__name__) is not None and (
            weight is not None and weight.ndim == 2
        )

    def widths(self, module: nn.Module) -> tuple[int, int]:
        """I and O, which are experts."""
        weight: Any = module.weight
        n_experts, d_in = weight.shape
        return d_in, n_experts

    def product(self, given: Any) -> Tensor | None:
        """The first of its outputs."""
        first = given[0] if isinstance(given, tuple) and given else None
        return first if isinstance(first, Tensor) else None

    def grads(self, module: nn.Module, gradient: Tensor, n_tokens: int) -> Tensor:
        """As numbers of the weight's kind."""
        weight: Any = module.weight
        return gradient.to(weight.dtype)


#: How transformers calls them.
_ROUTER = re.compile(r"Top[Kk]Router$")

LAYERS: tuple[Layer, ...] = (
    Linear(),
    TransposedLinear(),
    TokenConvolution(),
    Embedding(),
    Routed(),
    TransposedRouted(),
    Router(),
)


def is_layer(module: nn.Module) -> bool:
    """Whether a module is of a kind that can be tracked."""
    return any(layer.fits(module) for layer in LAYERS)


def is_linear(module: nn.Module) -> bool:
    """Whether a module is of a kind that can be tracked, and no embedding."""
    return is_layer(module) and not is_embedding(module)


def is_embedding(module: nn.Module) -> bool:
    """Whether a module is a layer that looks rows up."""
    return is_layer(module) and isinstance(layer_of(module), Embedding)


def layer_of(module: nn.Module) -> Layer:
    """The kind of a module that can be tracked."""
    return next(layer for layer in LAYERS if layer.fits(module))
