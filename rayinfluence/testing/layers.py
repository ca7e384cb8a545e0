"""What every kind of layer has to do, as tests: inherit from the suite and say which module."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from rayinfluence.model.capture import backward
from rayinfluence.model.layers import Layer, layer_of
from rayinfluence.model.load import freeze
from rayinfluence.model.rows import Rows, by_sequence


class LayerConformance:
    """The tests of :mod:`rayinfluence.model.layers`; pytest finds them in what inherits.

    Attributes:
        kind: the class of the layer.
        n_sequences, n_tokens: of what the module is called with.
        tolerance: of relative differences, in float64.
    """

    kind: type[Layer]
    n_sequences = 3
    n_tokens = 5
    tolerance = 1e-12

    def module(self) -> nn.Module:
        """A module of this kind, with weights of any values, that is called as in a model."""
        raise NotImplementedError

    def given(self, tokens_BTD: Tensor) -> Tensor:
        """What the module is called with, from hidden states of tokens."""
        return tokens_BTD

    @property
    def width(self) -> int:
        """D, of hidden states that are given."""
        return self._layer.widths(self._module)[0]

    def setup_method(self) -> None:
        """Make a module and call it."""
        self._module = freeze(self.module().double())
        self._layer = layer_of(self._module)
        self._shape = self.n_sequences, self.n_tokens
        self._tokens = _random(0, *self._shape, self.width)

    def test_it_is_found(self) -> None:
        """As the kind of its modules, by who looks for it."""
        assert type(self._layer) is self.kind

    def test_rows_are_of_tokens(self) -> None:
        """One for each token, and what comes after a token is not in its row."""
        rows = self._inputs(self._tokens)
        d_in, d_out = self._layer.widths(self._module)
        assert rows.shape == (*self._shape, d_in)
        assert self._captured().grads_BRO.shape == (*self._shape, d_out)
        for token in range(self.n_tokens - 1):
            changed = self._tokens.clone()
            changed[:, token + 1 :] += 1
            assert torch.equal(self._inputs(changed)[:, : token + 1], rows[:, : token + 1])
            changed = self._tokens.clone()
            changed[:, token] += 1
            assert bool((self._inputs(changed)[:, token] != rows[:, token]).any(dim=1).all())

    def test_the_weight_multiplies_the_rows(self) -> None:
        """W a + b is what the module gives."""
        weight: Any = self._module.weight
        bias: Any = self._module.bias
        expected = self._inputs(self._tokens) @ self._layer.matrix(weight).T
        expected = expected if bias is None else expected + bias
        self._same(self._outputs(self._module(self.given(self._tokens))), expected)

    def test_gradients_are_those_of_autograd(self) -> None:
        """The sum over a sequence's rows of g a^T, and of g for the bias."""
        rows = self._captured()
        for sequence in range(self.n_sequences):
            expected_OI, expected_O = self._autograd(sequence)
            inputs, grads = rows.inputs_BRI[sequence], rows.grads_BRO[sequence]
            self._same(grads.T @ inputs, expected_OI)
            if expected_O is not None:
                self._same(grads.sum(dim=0), expected_O)

    def _inputs(self, tokens_BTD: Tensor) -> Tensor:
        rows = self._layer.inputs(self._module, self.given(tokens_BTD), self.n_tokens)
        placed = by_sequence(rows, self._shape)
        assert placed is not None
        return placed

    def _outputs(self, output: Tensor) -> Tensor:
        placed = by_sequence(self._layer.grads(self._module, output, self.n_tokens), self._shape)
        assert placed is not None
        return placed

    def _objective(self, sequences: slice = slice(None)) -> Tensor:
        outputs_BTO = self._outputs(self._module(self.given(self._tokens)))[sequences]
        return (torch.tanh(outputs_BTO) * _random(1, *outputs_BTO.shape[1:])).sum()

    def _captured(self) -> Rows:
        captured: list[Rows] = []
        backward(
            {"layer": self._module},
            self._shape,
            self._objective,
            lambda _name, rows: captured.append(rows),
        )
        (rows,) = captured
        return rows

    def _autograd(self, sequence: int) -> tuple[Tensor, Tensor | None]:
        weights = list(self._module.parameters())
        for weight in weights:
            weight.requires_grad_(True)
        found = torch.autograd.grad(self._objective(slice(sequence, sequence + 1)), weights)
        freeze(self._module)
        return self._layer.matrix(found[0]), found[1] if len(found) > 1 else None

    def _same(self, found: Tensor, expected: Tensor) -> None:
        scale = float(expected.abs().max())
        assert float((found - expected).abs().max()) <= self.tolerance * scale


def _random(seed: int, *shape: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)
