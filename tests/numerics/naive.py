"""References: autograd with weight gradients, one sequence at a time, and explicit loops.

Nothing here comes from the engine, but for the rows and the matrices of kinds of layers that are
not written down here; the suite of layers compares these with autograd. A gradient of a module is
[O, J], the bias in the last column; vec() is row-major, so vec(B V C^T) = kron(B, C) vec(V).
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from rayinfluence.model.layers import layer_of
from rayinfluence.model.routed import RoutedLinear

Labels = Sequence[Sequence[int]]


def trainable(model: nn.Module) -> nn.Module:
    """A copy with weight gradients enabled."""
    twin = copy.deepcopy(model)
    for parameter in twin.parameters():
        parameter.requires_grad_(True)
    return twin


def logits(model: nn.Module, tokens: Sequence[int]) -> Tensor:
    """[T, V] of one sequence, without padding."""
    device = next(model.parameters()).device
    output = model(torch.as_tensor(np.asarray(tokens), device=device)[None])
    return (output.logits if hasattr(output, "logits") else output)[0]


def log_probability(
    model: nn.Module, tokens: Sequence[int], labels: Sequence[int] | None = None, first: int = 1
) -> Tensor:
    """Sum of log p(label of target t) over targets t >= first; the labels are its own tokens."""
    labels = tokens[1:] if labels is None else labels
    log_p = torch.log_softmax(logits(model, tokens), dim=-1)
    return torch.stack([log_p[t - 1, labels[t - 1]] for t in range(first, len(tokens))]).sum()


def joined(module: nn.Module, weight: Tensor, bias: Tensor | None) -> Tensor:
    """[..., O, J] from something shaped as the module's weight and as its bias."""
    if type(module) is nn.Conv1d:
        matrix = weight.flatten(-2)
    elif type(module) is nn.Linear:
        matrix = weight
    elif type(module) in (Conv1D, nn.Embedding):
        matrix = weight.transpose(-1, -2)
    elif weight.ndim == module.weight.ndim:
        matrix = layer_of(module).matrix(weight)
    else:
        matrix = torch.stack([layer_of(module).matrix(one) for one in weight])
    return matrix if bias is None else torch.cat([matrix, bias[..., None]], dim=-1)


def bias(module: nn.Module) -> Tensor | None:
    """That of a module; many routers have none at all."""
    return getattr(module, "bias", None)


def product(output: Tensor | tuple[Tensor, ...]) -> Tensor:
    """W a + b in what a module gives: of a router its first output, the logits of experts."""
    return output[0] if isinstance(output, tuple) else output


def gradients(
    model: nn.Module, names: Sequence[str], scalar: Tensor, seeds: Tensor | None = None
) -> dict[str, Tensor]:
    """d scalar / d weight of every module [O, J]; of a vector, with seeds [K, N]: [K, O, J]."""
    modules = {name: model.get_submodule(name) for name in names}
    parts = [part for m in modules.values() for part in (m.weight, bias(m)) if part is not None]
    batched = seeds is not None
    grads = torch.autograd.grad(scalar, parts, seeds, is_grads_batched=batched, allow_unused=True)
    # Of an expert that was not chosen there is none.
    nothing = [part.new_zeros(len(seeds), *part.shape) if batched else part for part in parts]
    found = iter(
        torch.zeros_like(none) if grad is None else grad
        for grad, none in zip(grads, nothing, strict=True)
    )
    return {
        name: joined(module, next(found), next(found) if bias(module) is not None else None)
        for name, module in modules.items()
    }


def sequence_gradients(
    model: nn.Module, names: Sequence[str], sequences: Sequence, labels: Labels | None = None
) -> list[dict[str, Tensor]]:
    """D of each sequence by module."""
    twin = trainable(model)
    return [
        gradients(twin, names, log_probability(twin, tokens, labels and labels[index]))
        for index, tokens in enumerate(sequences)
    ]


def sampled_labels(model: nn.Module, sequences: Sequence, ids: Sequence[int], seed: int) -> Labels:
    """A label for each target by walking along the cumulative distribution."""
    labels = []
    for sequence_id, tokens in zip(ids, sequences, strict=True):
        probabilities = torch.softmax(logits(model, tokens).detach(), dim=-1)
        stream = np.random.Generator(np.random.Philox(key=[seed, sequence_id]))
        row = []
        for position in range(len(tokens) - 1):
            draw, label, cumulative = stream.random(), 0, float(probabilities[position, 0])
            while draw >= cumulative:
                label += 1
                cumulative += float(probabilities[position, label])
            row.append(label)
        labels.append(row)
    return labels


def rows(module: nn.Module, inputs: Tensor, grads: Tensor, n_tokens: int) -> tuple[Tensor, Tensor]:
    """What the weight [O, I] multiplies at each token of one sequence, and output gradients."""
    if type(module) in (nn.Linear, Conv1D):
        return inputs.flatten(0, -2), grads.flatten(0, -2)
    if type(module) is nn.Embedding:
        one_hot = torch.eye(module.num_embeddings, dtype=grads.dtype)[inputs.flatten()]
        return one_hot, grads.flatten(0, -2)
    if type(module) is not nn.Conv1d:
        kind = layer_of(module)
        inputs, grads = kind.inputs(module, inputs, n_tokens), kind.grads(module, grads, n_tokens)
        return inputs.flatten(0, -2), grads.flatten(0, -2)
    (kernel,), (dilation,), (padding,) = module.kernel_size, module.dilation, module.padding
    padded = nn.functional.pad(inputs[0], (padding, padding))
    patches = []
    for t in range(padded.shape[1] - padding - dilation * (kernel - 1)):
        places = [t + dilation * k for k in range(kernel)]
        patches.append(padded[:, places].flatten())
    return torch.stack(patches), grads[0, :, : len(patches)].T


def covariances(
    model: nn.Module, names: Sequence[str], sequences: Sequence, labels: Labels
) -> dict[str, tuple[Tensor, Tensor]]:
    """A and S of each module: a loop over sequences, calls and tokens, divided by the tokens.

    By those that chose it, of an expert.
    """
    twin = trainable(model)
    calls: list[tuple[str, Tensor, Tensor]] = []

    def note(name: str, inputs: Tensor, output: Tensor | tuple[Tensor, ...]) -> None:
        product(output).retain_grad()
        calls.append((name, inputs.detach(), product(output)))

    for name in names:
        twin.get_submodule(name).register_forward_hook(
            lambda _module, args, output, name=name: note(name, args[0], output)
        )
    sums: dict[str, tuple[Tensor, Tensor]] = {}
    for tokens, row in zip(sequences, labels, strict=True):
        calls.clear()
        log_probability(twin, tokens, row).backward()
        for name, inputs, output in calls:
            module = twin.get_submodule(name)
            grads = torch.zeros_like(output) if output.grad is None else output.grad
            for a, g in zip(*rows(module, inputs, grads, len(tokens)), strict=True):
                if bias(module) is not None:
                    a = torch.cat([a, a.new_ones(1)])
                A, S = sums.get(name, (0.0, 0.0))
                sums[name] = (A + torch.outer(a, a), S + torch.outer(g, g))
    n_rows = rows_seen(model, names, sequences)
    of_logits = getattr(model, "get_output_embeddings", lambda: None)()
    return {
        name: (
            A / n_rows[name],
            # As wide as the vocabulary, it is taken for diagonal.
            (S.diagonal().diag() if model.get_submodule(name) is of_logits else S) / n_rows[name],
        )
        for name, (A, S) in sums.items()
    }


def rows_seen(model: nn.Module, names: Sequence[str], sequences: Sequence) -> dict[str, int]:
    """The tokens that A and S of each module are means over: of an expert, those that chose it."""
    counts = dict.fromkeys(names, sum(map(len, sequences)))
    handles = []
    for name in names:
        module = model.get_submodule(name)
        if isinstance(module, RoutedLinear):
            counts[name] = 0

            def count(_module: nn.Module, args: tuple, name: str = name) -> None:
                counts[name] += len(args[0])

            handles.append(module.register_forward_pre_hook(count))
    for tokens in sequences:
        logits(model, tokens)
    for handle in handles:
        handle.remove()
    return counts


def moments(
    per_sequence: Sequence[Mapping[str, Tensor]], bases: Mapping[str, tuple[Tensor, Tensor]]
) -> dict[str, Tensor]:
    """Lambda of each module: the mean over sequences of (Q_S^T D Q_A)^2; bases are (Q_A, Q_S)."""
    return {
        name: sum((Q_S.T @ D[name] @ Q_A) ** 2 for D in per_sequence) / len(per_sequence)
        for name, (Q_A, Q_S) in bases.items()
    }


def fisher(model: nn.Module, names: Sequence[str], sequences: Sequence) -> dict[str, Tensor]:
    """The Fisher [OJ, OJ] of each module: all labels of all targets, by their probability.

    Labels of different targets are independent given the tokens and their scores have mean zero,
    so the Fisher of a sequence is the sum over its targets.
    """
    twin = trainable(model)
    total: dict[str, Tensor] = {}
    for tokens in sequences:
        log_p = torch.log_softmax(logits(twin, tokens)[:-1], dim=-1).flatten()
        jacobian = gradients(twin, names, log_p, torch.eye(len(log_p)).to(log_p))
        for name, rows in jacobian.items():
            rows = rows.flatten(1)
            part = rows.T @ (log_p.detach().exp()[:, None] * rows) / len(sequences)
            total[name] = total.get(name, 0.0) + part
    return total


def dense_operator(Q_A: Tensor, Q_S: Tensor, moments_OJ: Tensor, damping: float) -> Tensor:
    """(Q_S kron Q_A) diag(Lambda + lambda) (Q_S kron Q_A)^T [OJ, OJ]."""
    Q = torch.kron(Q_S, Q_A)
    return Q @ torch.diag(moments_OJ.flatten() + damping) @ Q.T


def solve(matrix: Tensor, gradient_OJ: Tensor) -> Tensor:
    """matrix^-1 vec(V), back in the shape of V."""
    return torch.linalg.solve(matrix, gradient_OJ.flatten()).reshape(gradient_OJ.shape)
