"""What every method has to do, as tests: inherit from a suite and say which method.

N sequence, Q query, M module, T token, V term; V is also a gradient [O, J] of one module.
"""

from __future__ import annotations

import copy

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from torch import Tensor

from rayinfluence.corpus.queries import EncodedAnswer, EncodedQuery
from rayinfluence.corpus.query_forms import Query
from rayinfluence.corpus.shards import SCHEMA
from rayinfluence.curvature.blocks import Basis
from rayinfluence.curvature.ekfac import ModuleFactors
from rayinfluence.curvature.solver import Identity, Solver
from rayinfluence.dataflow.compute.replica import Numerics, Replica
from rayinfluence.dataflow.compute.rescoring import Asked, Rescored, rescore, whole_banks
from rayinfluence.dataflow.compute.scoring import score_split
from rayinfluence.dataflow.compute.text_rescoring import rescore_texts
from rayinfluence.dataflow.compute.texts import TermCounts, TextBank, stack_texts
from rayinfluence.influence.bank import Itself, QueryBank
from rayinfluence.methods.method import (
    ITSELF,
    Curvature,
    Fitted,
    GradientMethod,
    Method,
    SelfMethod,
    TextMethod,
)
from rayinfluence.model.load import freeze
from rayinfluence.model.modules import track
from rayinfluence.testing.models import VOCABULARY, linear_for_conv1d, tiny_gpt2

#: Of the sequences; the last is scored as a query, too.
_LENGTHS = (9, 2, 5, 7)


class _Conformance:
    """What holds of methods of either kind.

    Attributes:
        tolerance: of relative differences, in float64.
    """

    tolerance = 1e-9

    def what_it_is(self) -> Method:
        """The method."""
        raise NotImplementedError

    def test_it_says_what_its_scores_mean(self) -> None:
        """In sentences, and what predicts a change says which way it goes."""
        meaning = self.what_it_is().meaning
        assert meaning.description.endswith(".")
        assert meaning.unit
        assert meaning.directed or not meaning.predicts

    def _same(self, found: NDArray[np.float64], expected: NDArray[np.float64]) -> None:
        assert found.shape == expected.shape
        scale = max(float(np.abs(expected).max()), 1e-30)
        assert float(np.abs(found - expected).max()) <= self.tolerance * scale


class GradientMethodConformance(_Conformance):
    """The tests of methods by gradients; pytest finds them in what inherits."""

    def method(self) -> GradientMethod:
        """The method."""
        raise NotImplementedError

    def what_it_is(self) -> Method:
        """The method."""
        return self.method()

    def test_it_predicts_changes_by_a_curvature_alone(self) -> None:
        """And at the lengths that gradients have; its scores by token are about predictions."""
        method = self.method()
        assert method.meaning.of_predictions
        assert not method.meaning.of_itself
        if not method.factors or method.normalised:
            assert not method.meaning.predicts

    def test_scores_are_those_of_autograd_and_its_solver(self) -> None:
        """<G^-1 grad f_q, grad log p(z)> by module; over both norms, where it is normalised."""
        by_module, norms_NQ = self._expected()
        found = _rescored(_replica(), self._bank(), by_token=False)
        expected_NQM = np.stack(by_module, axis=2)
        if self.method().normalised:
            expected_NQM /= norms_NQ[:, :, None]
        self._same(found.layer_scores_PM, expected_NQM.reshape(-1, len(by_module)))
        self._same(self._scanned(), expected_NQM.sum(axis=2))

    def test_layers_and_tokens_add_up_to_the_score(self) -> None:
        """And there are scores by layer."""
        assert self.method().meaning.has_layers
        found = _rescored(_replica(), self._bank(), by_token=True)
        tokens = [found.token_scores[place].sum() for place in range(len(found.rows_P))]
        self._same(np.array(tokens), found.layer_scores_PM.sum(axis=1))
        self._same(found.scanned_P, found.layer_scores_PM.sum(axis=1))

    def test_a_sequence_is_its_own_proponent(self) -> None:
        """The last query is the last sequence."""
        assert self._scanned()[-1, -1] > 0

    def test_other_banks_change_no_bit(self) -> None:
        """A bank that is scored beside others has the scores that it has alone."""
        replica, bank = _replica(), self._bank()
        plain = [lambda name: Identity(replica.shapes[name].bias)]
        (other,) = whole_banks(replica, plain, _queries(), [False])
        ours, _ = score_split(replica, [bank, other], _table())
        assert np.array_equal(ours.scores_NQ, score_split(replica, [bank], _table())[0].scores_NQ)

    def _bank(self) -> QueryBank:
        solvers = [self._solver]
        (bank,) = whole_banks(_replica(), solvers, _queries(), [self.method().normalised])
        return bank

    def _solver(self, name: str) -> Solver:
        return self.method().solver(_fitted(name, self.method().factors is not None))

    def _scanned(self) -> NDArray[np.float64]:
        """Scores [N, Q] of the scan, in the order of the sequences."""
        (scored,) = score_split(_replica(), [self._bank()], _table())
        scores_NQ: NDArray[np.float64] = scored.scores_NQ[np.argsort(scored.ids_N)]
        return scores_NQ

    def _expected(self) -> tuple[list[NDArray[np.float64]], NDArray[np.float64]]:
        """By module the inner products [N, Q], and the products of both gradients' norms."""
        replica = _replica()
        answers = [query.answers[0] for query in _queries()]
        of_queries = [_gradients(replica, list(one.tokens), one.first_target) for one in answers]
        of_sequences = [_gradients(replica, tokens.tolist(), 1) for tokens in _sequences()]
        by_module = []
        for name in replica.modules:
            inverse = self._solver(name).inverse()
            solved = [inverse @ of[name] for of in of_queries]
            by_module.append(
                np.array([[float((P * of[name]).sum()) for P in solved] for of in of_sequences])
            )
        lengths_N, lengths_Q = (
            np.array([sum(float(V.square().sum()) for V in of.values()) ** 0.5 for of in some])
            for some in (of_sequences, of_queries)
        )
        return by_module, np.outer(lengths_N, lengths_Q)


class SelfMethodConformance(_Conformance):
    """The tests of methods of sequences by themselves; pytest finds them in what inherits."""

    def method(self) -> SelfMethod:
        """The method."""
        raise NotImplementedError

    def what_it_is(self) -> Method:
        """The method."""
        return self.method()

    def test_it_says_that_it_is_of_each_sequence_itself(self) -> None:
        """By layers, and by token of predictions; without a curvature it predicts no change."""
        meaning = self.method().meaning
        assert meaning.of_itself
        assert meaning.has_layers
        assert meaning.of_predictions
        assert self.method().factors or not meaning.predicts

    def test_scores_are_those_of_autograd_and_its_solver(self) -> None:
        """<G^-1 D_z, D_z> by module, in both passes; tokens add up to it, and none is negative."""
        replica, bank = _replica(), self._bank()
        of_sequences = [_gradients(replica, tokens.tolist(), 1) for tokens in _sequences()]
        by_module = [
            [
                float(((self._solver(name).inverse() @ D[name]) * D[name]).sum())
                for D in of_sequences
            ]
            for name in replica.modules
        ]
        expected_NM = np.array(by_module).T
        found = _rescored(replica, bank, by_token=True)
        self._same(found.layer_scores_PM, expected_NM)
        tokens = [found.token_scores[place].sum() for place in range(len(found.rows_P))]
        self._same(np.array(tokens), expected_NM.sum(axis=1))
        (scored,) = score_split(replica, [bank], _table())
        scores_N = scored.scores_NQ[np.argsort(scored.ids_N), 0]
        self._same(scores_N, expected_NM.sum(axis=1))
        assert (scores_N >= 0).all()

    def _bank(self) -> QueryBank:
        shapes = _replica().shapes.items()
        modules = {n: Itself(self._solver(n).inverse(), shape.d_in) for n, shape in shapes}
        return QueryBank([ITSELF.digest], modules)

    def _solver(self, name: str) -> Solver:
        return self.method().solver(_fitted(name, self.method().factors is not None))


class TextMethodConformance(_Conformance):
    """The tests of methods by texts; pytest finds them in what inherits."""

    def method(self) -> TextMethod:
        """The method."""
        raise NotImplementedError

    def what_it_is(self) -> Method:
        """The method."""
        return self.method()

    def test_it_predicts_nothing(self) -> None:
        """A text says nothing of the model; its scores by token are about the tokens."""
        meaning = self.method().meaning
        assert not meaning.predicts
        assert not meaning.of_predictions

    def test_scores_are_sums_over_shared_terms(self) -> None:
        """Weight times strength of each distinct token that both have, also in the scan."""
        lengths = [len(tokens) for tokens in _sequences()]
        expected_NQ = np.zeros((len(lengths), len(_queries())))
        for row, tokens in enumerate(_sequences()):
            for place, query in enumerate(_queries()):
                for term in set(query.terms) & set(tokens.tolist()):
                    holding = sum(term in other for other in _sequences())
                    asked = np.array([query.terms.count(term)])
                    (weight,) = self.method().weight(np.array([holding]), len(lengths), asked)
                    (strength,) = self.method().strength(
                        np.array([float((tokens == term).sum())]),
                        np.array([float(len(tokens))]),
                        float(np.mean(lengths)),
                    )
                    expected_NQ[row, place] += weight * strength
        assert (expected_NQ != 0).any()
        self._same(self._bank().scores(_sequences()), expected_NQ)
        (scored,) = score_split(_replica(), [self._bank()], _table())
        assert scored.ids_N.tolist() == list(range(len(lengths)))
        self._same(scored.scores_NQ, expected_NQ)

    def test_what_does_not_occur_counts_nothing(self) -> None:
        """And what occurs counts, whatever the length."""
        lengths = np.array([1.0, 10.0, 1000.0])
        none = self.method().strength(np.zeros(3), lengths, 10.0)
        some = self.method().strength(np.ones(3), lengths, 10.0)
        assert none.tolist() == [0, 0, 0]
        assert np.isfinite(some).all()
        assert (some > 0).all()

    def test_no_shared_term_counts_against_a_sequence(self) -> None:
        """None that no sequence has, that all have, or half of them; and weights are finite."""
        holding = np.array([0, 1, 50, 51, 99, 100])
        weights = self.method().weight(holding, 100, np.ones_like(holding))
        assert np.isfinite(weights).all()
        assert (weights >= 0).all()

    def test_tokens_add_up_to_the_score(self) -> None:
        """In the second pass, which finds what the scan found; a term's tokens share evenly."""
        assert not self.method().meaning.has_layers
        bank = self._bank()
        n, n_queries = len(_sequences()), len(bank)
        rows_P, queries_P = np.divmod(np.arange(n * n_queries), n_queries)
        found = rescore_texts(bank, _table(), rows_P, queries_P, np.ones(len(rows_P), np.bool_))
        self._same(found.layer_scores_PM, bank.scores(_sequences()).reshape(-1, 1))
        self._same(found.scanned_P, found.layer_scores_PM[:, 0])
        for place, (row, query) in enumerate(zip(rows_P, queries_P, strict=True)):
            tokens, scores_T = _sequences()[row], found.token_scores[place]
            assert scores_T.shape == tokens.shape
            assert abs(scores_T.sum() - found.scanned_P[place]) <= self.tolerance
            for term in set(tokens.tolist()):
                assert len(set(scores_T[tokens == term].tolist())) == 1
                assert term in _queries()[query].terms or not scores_T[tokens == term].any()

    def _bank(self) -> TextBank:
        queries = _queries()
        terms_V = np.unique([term for query in queries for term in query.terms])
        sequences = _sequences()
        # Counted apart and merged, as splits are.
        counts = TermCounts.of(terms_V, sequences[:1]).merge(TermCounts.of(terms_V, sequences[1:]))
        tensors = stack_texts([counts.query(self.method(), query.terms) for query in queries])
        return TextBank(self.method(), [query.digest for query in queries], tensors)


def _sequences() -> list[NDArray[np.int32]]:
    generator = np.random.default_rng(0)
    return [generator.integers(0, VOCABULARY // 4, n, dtype=np.int32) for n in _LENGTHS]


def _queries() -> list[EncodedQuery]:
    """Two of their own, with a prompt, and the last sequence."""
    generator = np.random.default_rng(1)
    others = [generator.integers(0, VOCABULARY // 4, n, dtype=np.int32) for n in (6, 4)]
    asked = zip([*others, _sequences()[-1]], (3, 3, 1), strict=True)
    return [
        EncodedQuery(Query.of(f"q{place}", "", ""), (EncodedAnswer(tuple(tokens.tolist()), first),))
        for place, (tokens, first) in enumerate(asked)
    ]


def _table() -> pa.Table:
    """The sequences as rows of a split."""
    rows = [
        {"tokens": one.tolist(), "n_tokens": len(one), "metadata": "{}"} for one in _sequences()
    ]
    ids = pa.array(range(len(rows)), pa.int64())
    return pa.Table.from_pylist(rows, schema=SCHEMA).append_column("sequence_id", ids)


def _replica() -> Replica:
    """A model in float64 whose layers are nn.Linear, with biases and without."""
    model = freeze(linear_for_conv1d(tiny_gpt2()))
    for name, module in model.named_modules():
        if name.endswith("c_fc"):
            module.bias = None
    numerics = Numerics("float64", "cpu", 12, 2**17, "eager", 0)
    return Replica(model, track(model, ["*.mlp.*", "*.attn.*"]), numerics)


def _rescored(replica: Replica, bank: QueryBank, by_token: bool) -> Rescored:
    """All sequences for all queries."""
    wanted_NQ = np.ones((len(_LENGTHS), len(bank)), dtype=np.bool_)
    (found,) = rescore(replica, [Asked(bank, None, wanted_NQ, wanted_NQ & by_token)], _table())
    return found


def _gradients(replica: Replica, tokens: list[int], first: int) -> dict[str, Tensor]:
    """Autograd's gradients [O, J] of log p(tokens from ``first`` on), the bias last."""
    model = copy.deepcopy(replica.model).requires_grad_(True)
    log_p = torch.log_softmax(model(torch.tensor([tokens])).logits[0], dim=-1)
    total = torch.stack([log_p[t - 1, tokens[t]] for t in range(first, len(tokens))]).sum()
    found = {}
    for name in replica.modules:
        module = model.get_submodule(name)
        parts = torch.autograd.grad(total, list(module.parameters()), retain_graph=True)
        found[name] = torch.cat([part.reshape(len(parts[0]), -1) for part in parts], dim=1)
    return found


def _fitted(name: str, curved: bool) -> Fitted:
    """What the solver of a module of the model is made of."""
    shapes = _replica().shapes
    factors = _made_up(shapes[name].columns, shapes[name].d_out, list(shapes).index(name))
    curvature = Curvature(factors, 30, 10, 0.1, None)
    return Fitted(name, shapes[name].bias, curvature if curved else None)


def _made_up(columns: int, d_out: int, seed: int) -> ModuleFactors:
    """Factors of a module: random orthogonal bases, random positive numbers."""
    generator = torch.Generator().manual_seed(seed)

    def random(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    def basis(width: int) -> Basis:
        return Basis((torch.linalg.qr(random(width, width)).Q,))

    moments = random(d_out, columns).square()
    values = random(columns).square(), random(d_out).square()
    return ModuleFactors(basis(columns), basis(d_out), *values, moments)
