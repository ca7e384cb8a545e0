"""What every kind of layer has to do, as tests: inherit from the suite and say which module."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from rayinfluence.model.capture import backward
from rayinfluence.model.layers import Layer, layer_of
from rayinfluence.model.load import freeze
from rayinfluence.model.rows import Rows, by_sequence


class LayerConformance:
    """The tests of :mod:`rayinfluence.model.layers`; pytest finds them in what inherits.

    Attributes:
        kind: the class of the layer.
        n_sequences: of what the module is called with.
        lengths: the tokens of each sequence; it is called with all sequences at each length.
        tolerance: of relative differences, in float64.
    """

    kind: type[Layer]
    n_sequences = 3
    lengths = (5, 1, 8)
    tolerance = 1e-12

    def module(self) -> nn.Module:
        """A module of this kind, with weights of any values, that is called as in a model."""
        raise NotImplementedError

    def given(self, tokens_BTD: Tensor) -> Tensor:
        """What the module is called with, from hidden states of tokens."""
        return tokens_BTD

    def others(self) -> Sequence[nn.Module]:
        """Modules that are like this kind's, and that it does not take."""
        return ()

    @property
    def width(self) -> int:
        """D, of hidden states that are given."""
        return self._layer.widths(self._module)[0]

    def setup_method(self) -> None:
        """Make a module and what it is called with."""
        self._module = freeze(self.module().double())
        self._layer = layer_of(self._module)
        self._batches = [_random(0, self.n_sequences, n, self.width) for n in self.lengths]

    def test_it_is_found(self) -> None:
        """As the kind of its modules, by who looks for it."""
        assert type(self._layer) is self.kind

    def test_it_takes_no_other_modules(self) -> None:
        """Neither those of other kinds, nor those that multiply nothing."""
        known = (nn.Linear(4, 3), Conv1D(3, 4), nn.Conv1d(4, 3, 3, padding=2), nn.Embedding(4, 4))
        of_other_kinds = [one for one in known if not isinstance(self._module, type(one))]
        for other in (nn.LayerNorm(4), *of_other_kinds, *self.others()):
            assert not self._layer.fits(other), other

    def test_rows_are_of_tokens(self) -> None:
        """One for each token, and what comes after a token is not in its row."""
        d_in, d_out = self._layer.widths(self._module)
        for tokens_BTD in self._batches:
            shape = tokens_BTD.shape[:2]
            rows = self._inputs(tokens_BTD)
            assert rows.shape == (*shape, d_in)
            assert self._captured(tokens_BTD).grads_BRO.shape == (*shape, d_out)
            for token in range(shape[1]):
                changed = tokens_BTD.clone()
                changed[:, token + 1 :] += 1
                assert torch.equal(self._inputs(changed)[:, : token + 1], rows[:, : token + 1])
                changed = tokens_BTD.clone()
                changed[:, token] += 1
                assert bool((self._inputs(changed)[:, token] != rows[:, token]).any(dim=1).all())

    def test_rows_are_of_their_sequences(self) -> None:
        """A neighbour in the batch is in none of them."""
        for tokens_BTD in self._batches:
            rows = self._inputs(tokens_BTD)
            for sequence in range(self.n_sequences):
                changed = tokens_BTD.clone()
                changed[sequence] += 1
                differ_B = (self._inputs(changed) != rows).flatten(1).any(dim=1)
                assert differ_B.nonzero().flatten().tolist() == [sequence]

    def test_the_weight_multiplies_the_rows(self) -> None:
        """W a + b is what the module gives."""
        weight: Any = self._module.weight
        bias: Any = getattr(self._module, "bias", None)
        for tokens_BTD in self._batches:
            expected = self._inputs(tokens_BTD) @ self._layer.matrix(weight).T
            expected = expected if bias is None else expected + bias
            self._same(self._outputs(tokens_BTD), expected)

    def test_gradients_are_those_of_autograd(self) -> None:
        """The sum over a sequence's rows of g a^T, and of g for the bias."""
        for tokens_BTD in self._batches:
            rows = self._captured(tokens_BTD)
            for sequence in range(self.n_sequences):
                expected_OI, expected_O = self._autograd(tokens_BTD, sequence)
                inputs, grads = rows.inputs_BRI[sequence], rows.grads_BRO[sequence]
                self._same(grads.T @ inputs, expected_OI)
                if expected_O is not None:
                    self._same(grads.sum(dim=0), expected_O)

    def _inputs(self, tokens_BTD: Tensor) -> Tensor:
        n_sequences, n_tokens, _ = tokens_BTD.shape
        rows = self._layer.inputs(self._module, self.given(tokens_BTD), n_tokens)
        placed = by_sequence(rows, (n_sequences, n_tokens))
        assert placed is not None
        return placed

    def _outputs(self, tokens_BTD: Tensor) -> Tensor:
        n_sequences, n_tokens, _ = tokens_BTD.shape
        output = self._module(self.given(tokens_BTD))
        placed = by_sequence(
            self._layer.grads(self._module, output, n_tokens), (n_sequences, n_tokens)
        )
        assert placed is not None
        return placed

    def _objective(self, tokens_BTD: Tensor, sequences: slice = slice(None)) -> Tensor:
        outputs_BTO = self._outputs(tokens_BTD)[sequences]
        return (torch.tanh(outputs_BTO) * _random(1, *outputs_BTO.shape[1:])).sum()

    def _captured(self, tokens_BTD: Tensor) -> Rows:
        captured: list[Rows] = []
        n_sequences, n_tokens, _ = tokens_BTD.shape
        backward(
            {"layer": self._module},
            (n_sequences, n_tokens),
            lambda: self._objective(tokens_BTD),
            lambda _name, rows: captured.append(rows),
        )
        (rows,) = captured
        return rows

    def _autograd(self, tokens_BTD: Tensor, sequence: int) -> tuple[Tensor, Tensor | None]:
        """The gradients of weight and bias; other parameters of the module have none."""
        module: Any = self._module
        parts = module.weight, getattr(module, "bias", None)
        weights = [part for part in parts if part is not None]
        for weight in weights:
            weight.requires_grad_(True)
        value = self._objective(tokens_BTD, slice(sequence, sequence + 1))
        found = torch.autograd.grad(value, weights)
        freeze(self._module)
        return self._layer.matrix(found[0]), found[1] if len(found) > 1 else None

    def _same(self, found: Tensor, expected: Tensor) -> None:
        scale = float(expected.abs().max())
        assert float((found - expected).abs().max()) <= self.tolerance * scale


def _random(seed: int, *shape: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)
