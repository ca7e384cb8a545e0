"""Token influences: what a small step along a query's direction does for each token of a sequence.

The weights of tracked modules move by alpha P, P = (G + lambda I)^-1 grad f_q, and derivatives in
alpha are taken at 0 (Grosse et al. 2023, appendix B):

    output_t = d/dalpha  log p(y_t | y_<t)                             equations 34 to 36
    input_t  = d/dalpha  d/deps_t  log p(z), e_t times (1 + eps_t)     equations 37 and 38

with e_t the embedding of token t. The paper takes differences of a finite alpha. These are exact:
where v_n weighs target n, y is what a tracked module gives and a what it gets,

    s(v, e) = sum over modules and rows of  <dL/dy, P a>,     L = sum_n v_n log p(y_n)

is the derivative of L along P. By one backward pass through the backward pass

    output = ds/dv        input_t = <e_t, ds/de_t>        embedding_t = |ds/de_t|

at v = 1. The third is how far a step of length one of an embedding can bring the score, whichever
way it goes: ds/de is what Koh & Liang 2017 (section 2.2) call the influence of perturbing an input,
grad f_q^T (G + lambda I)^-1 (d/de) grad log p(z), of which an embedding is the nearest thing that a
token has. No weight moves, so none has to be put back, and there is no alpha to lose digits by,
which matters in bfloat16.

B sequence in batch, T token, N target, D width of embeddings, I input width, O output width, J = I
+ 1 where there is a bias.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from rayinfluence.errors import ModelError
from rayinfluence.model.batches import Batch
from rayinfluence.model.capture import input_of
from rayinfluence.model.head import forward_logits, target_logits
from rayinfluence.model.layers import layer_of
from rayinfluence.model.losses import log_probabilities
from rayinfluence.model.targets import Targets
from rayinfluence.model.tied import lookups


@dataclass(frozen=True)
class TokenInfluences:
    """Of the tokens of a batch, in the order of their places; zero at padding.

    Attributes:
        output_BT: entry t is of the prediction of token t + 1, as of scores by token; over t they
            add up to the score.
        input_BT: entry t is of token t itself, as the model reads it.
        embedding_BT: entry t is of token t's embedding, in whichever direction it is most; never
            negative.
    """

    output_BT: Tensor
    input_BT: Tensor
    embedding_BT: Tensor


def embedding_of(model: nn.Module) -> nn.Module:
    """The module that turns token ids into what the first block reads.

    Raises:
        ModelError: the model does not say which that is.
    """
    try:
        found = model.get_input_embeddings()  # type: ignore[operator]
    except (AttributeError, NotImplementedError):
        found = None
    if not isinstance(found, nn.Module):
        raise ModelError(
            f"scan.token_influences: {type(model).__name__} does not say which module embeds its "
            "tokens (`get_input_embeddings` of transformers), and input-token influences scale "
            "what that gives. Let its class say so, or leave the key out."
        )
    return found


def token_influences(
    model: nn.Module,
    modules: Mapping[str, nn.Module],
    batch: Batch,
    targets: Targets,
    directions: Mapping[str, Tensor],
) -> TokenInfluences:
    """The influence of one query on the tokens of a batch.

    Args:
        model: the model; none of its parameters requires a gradient.
        modules: the tracked ones.
        batch: sequences.
        targets: of the batch, with the weights that the objective of training has.
        directions: P [O, J] of each module, in the dtype that is summed in.

    Returns:
        In the dtype of the directions; in the unit of the scores that these are the queries of.

    Raises:
        ModelError: the embedding does not give a vector per token, or cannot be found.
    """
    dtype, device = next(iter(directions.values())).dtype, batch.tokens_BT.device
    v_N = torch.ones(len(targets.places_N), dtype=dtype, device=device).requires_grad_()
    embedded = Embedded(batch.shape, dtype, device)
    along = change_along(model, modules, batch, targets, directions, v_N, embedded)
    output_N, input_BT = torch.zeros_like(v_N), torch.zeros_like(embedded.eps_BT)
    added_BTD = torch.zeros_like(embedded.added_BTD)
    if along.requires_grad:  # unless none but experts are tracked, and no token chose one
        of = (v_N, embedded.eps_BT, embedded.added_BTD)
        output_N, input_BT, added_BTD = torch.autograd.grad(along, of, materialize_grads=True)
    output_BT = torch.zeros_like(input_BT)
    output_BT.view(-1)[targets.places_N] = output_N
    lengths_BT = added_BTD.to(device, dtype).norm(dim=-1)
    return TokenInfluences(output_BT, input_BT, lengths_BT)


class Embedded:
    """The embeddings of a batch's tokens, as they are given on: what derivatives are taken in.

    Args:
        shape: of the batch, sequences and tokens.
        dtype: that is summed in.
        device: of the tokens.
        longer: by which share of their lengths they are given on.

    Attributes:
        eps_BT: that share. Where the embedding is tracked, what moves with its weights is as much
            longer.
    """

    def __init__(
        self,
        shape: tuple[int, int],
        dtype: torch.dtype,
        device: torch.device,
        longer: float = 0.0,
    ) -> None:
        self.eps_BT = torch.full(shape, longer, dtype=dtype, device=device).requires_grad_()
        self._shape = shape
        self._added: Tensor | None = None

    @property
    def added_BTD(self) -> Tensor:
        """What is added to them, zero; after a forward pass."""
        assert self._added is not None
        return self._added

    def __call__(self, module: nn.Module, _args: tuple[Any, ...], output: Any) -> Tensor:
        """Give on what the embedding gives.

        Raises:
            ModelError: it is no vector per token.
        """
        if not isinstance(output, Tensor) or output.shape[:-1] != self._shape:
            raise ModelError(
                f"scan.token_influences: the embedding of tokens ({type(module).__name__}) does "
                "not give one vector per token, and token influences are of these. Leave the key "
                "out."
            )
        self._added = torch.zeros_like(output, requires_grad=True)
        # It may be on another device than the tokens.
        scaled = output * (1 + self.eps_BT.to(output.device))[..., None]
        return scaled.to(output.dtype) + self._added


def change_along(
    model: nn.Module,
    modules: Mapping[str, nn.Module],
    batch: Batch,
    targets: Targets,
    directions: Mapping[str, Tensor],
    v_N: Tensor,
    embedded: Embedded,
) -> Tensor:
    """The derivative s(v, e) of the log-probabilities along a direction, to be differentiated.

    Args:
        model: the model; none of its parameters requires a gradient.
        modules: the tracked ones.
        batch: sequences.
        targets: of the batch.
        directions: P [O, J] of each module.
        v_N: weights of the targets, beside those that they have.
        embedded: gives the embeddings on.

    Raises:
        ModelError: as above.
    """
    taps = _Taps(modules, directions, batch.shape[1])
    embedding = embedding_of(model)
    handles = taps.hook()
    # After those of tracked modules, of which it may be one.
    handles.append(embedding.register_forward_hook(embedded))
    try:
        # Fused attention has no second derivative.
        with torch.enable_grad(), sdpa_kernel(SDPBackend.MATH):
            logits = target_logits(forward_logits(model, targets.given(batch)), targets)
            values_N = log_probabilities(logits, targets.labels_N)
            return taps.along(targets.by_sequence(values_N * v_N).sum())
    finally:
        for handle in handles:
            handle.remove()


class _Taps:
    """What tracked modules give, and what they would give more with their weights moved: P a."""

    def __init__(
        self, modules: Mapping[str, nn.Module], directions: Mapping[str, Tensor], n_tokens: int
    ) -> None:
        self._n_tokens = n_tokens
        #: Of each call: the module, y, and the rows P a.
        self._calls: list[tuple[nn.Module, Tensor, Tensor]] = []
        # A tied embedding's weight is the output embedding's, transposed.
        self._taps = [(module, directions[name]) for name, module in modules.items()]
        self._taps += [(one, directions[name].T) for name, one in lookups(modules).items()]

    def hook(self) -> list[Any]:
        """Look at all modules until the handles are removed."""
        return [
            module.register_forward_hook(partial(self._see, direction_OJ), with_kwargs=True)
            for module, direction_OJ in self._taps
        ]

    def along(self, value: Tensor) -> Tensor:
        """The derivative of a value along all directions."""
        products = [product for _, product, _ in self._calls]
        dtype = self._taps[0][1].dtype
        total = torch.zeros((), dtype=dtype, device=value.device)
        if not value.requires_grad or not products:
            return total
        gradients = torch.autograd.grad(value, products, create_graph=True, allow_unused=True)
        for (module, _, moved), gradient in zip(self._calls, gradients, strict=True):
            if gradient is not None:
                grads = layer_of(module).grads(module, gradient, self._n_tokens)
                # A module may be on another device than the tokens.
                total = total + (grads.to(moved.dtype) * moved).sum().to(total.device)
        return total

    def _see(
        self,
        direction_OJ: Tensor,
        module: nn.Module,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        output: Any,
    ) -> Tensor | None:
        layer = layer_of(module)
        given, product = input_of(args, kwargs), layer.product(output)
        # The preflight has refused modules of which this cannot be told.
        assert given is not None
        assert product is not None
        rows = layer.inputs(module, given, self._n_tokens).to(direction_OJ.dtype)
        moved = rows @ direction_OJ[:, : rows.shape[-1]].T
        if direction_OJ.shape[1] > rows.shape[-1]:
            moved = moved + direction_OJ[:, -1]
        if not product.requires_grad:  # before the embedding, or that itself
            assert not layer.shares
            product = product.detach().requires_grad_()
        self._calls.append((module, product, moved))
        # The clone keeps an in-place operation that follows legal.
        return None if layer.shares else product.clone()
