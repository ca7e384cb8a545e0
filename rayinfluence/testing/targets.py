"""What every objective has to do, as tests: inherit from the suite and say which objective."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from rayinfluence.model.batches import make_batch
from rayinfluence.model.targets import Objective, Targets


class ObjectiveConformance:
    """The tests of :mod:`rayinfluence.model.targets`; pytest finds them in what inherits.

    Attributes:
        lengths: of the sequences of a batch; the short ones may have no targets.
        vocabulary: ids are below it.
    """

    lengths: tuple[int, ...] = (6, 1, 4, 9, 2)
    vocabulary = 50

    def objective(self) -> Objective:
        """The objective."""
        raise NotImplementedError

    def label(self, sequence: Sequence[int], place: int) -> int:
        """What is to be predicted at a place of a sequence: the token after it.

        A model of another kind may predict another token there, as masked ones do the place's own.
        """
        return sequence[place + 1]

    def setup_method(self) -> None:
        """Make sequences."""
        generator = np.random.default_rng(0)
        self._sequences = [generator.integers(0, self.vocabulary, n) for n in self.lengths]

    def test_targets_are_of_their_sequences(self) -> None:
        """At real tokens of them, as many as are counted, with labels of the vocabulary."""
        found, width = self._targets(self._sequences), max(self.lengths)
        sequences = found.sequences_N.tolist()
        assert sequences == (found.places_N // width).tolist() == sorted(sequences)
        assert (
            np.bincount(sequences, minlength=len(self.lengths)).tolist() == found.counts_B.tolist()
        )
        tokens = (found.places_N % width).tolist()
        assert all(t < self.lengths[s] for s, t in zip(sequences, tokens, strict=True))
        assert all(0 <= label < self.vocabulary for label in found.labels_N.tolist())
        assert len(found.labels_N) == len(found.places_N)

    def test_labels_are_the_tokens_that_are_predicted_there(self) -> None:
        """None is looked at in another place, and a logit predicts one token, once."""
        found, width = self._targets(self._sequences), max(self.lengths)
        assert len(found.places_N) > 0
        assert len(set(found.places_N.tolist())) == len(found.places_N)
        for place, label in zip(found.places_N.tolist(), found.labels_N.tolist(), strict=True):
            sequence, token = divmod(place, width)
            assert label == self.label(self._sequences[sequence].tolist(), token)

    def test_a_neighbour_and_padding_change_nothing(self) -> None:
        """The targets of a sequence are those that it has alone."""
        found, width = self._targets(self._sequences), max(self.lengths)
        for place, sequence in enumerate(self._sequences):
            alone = self._targets([sequence], place)
            ours = found.sequences_N == place
            assert (found.places_N[ours] - place * width).tolist() == alone.places_N.tolist()
            assert found.labels_N[ours].tolist() == alone.labels_N.tolist()
            assert (found.weights_N is None) == (alone.weights_N is None)
            if found.weights_N is not None and alone.weights_N is not None:
                assert found.weights_N[ours].tolist() == alone.weights_N.tolist()

    def test_its_weights_are_of_what_is_learnt(self) -> None:
        """None is below zero, and of a sequence that has targets something counts.

        Training makes labels likelier: at weights below zero all scores would change their sign.
        """
        found = self._targets(self._sequences)
        if found.weights_N is None:
            return
        assert len(found.weights_N) == len(found.places_N)
        assert bool(torch.isfinite(found.weights_N).all())
        assert float(found.weights_N.min()) >= 0
        ones_N = torch.ones(len(found.places_N), dtype=torch.float64)
        assert ((found.by_sequence(ones_N).cpu().numpy() > 0) == (found.counts_B > 0)).all()

    def test_it_is_a_weighted_sum_by_sequence(self) -> None:
        """Of any values at its targets."""
        found = self._targets(self._sequences)
        values = torch.randn(len(found.places_N), dtype=torch.float64)
        weights = [1.0] * len(values) if found.weights_N is None else found.weights_N.tolist()
        expected = [0.0] * len(self.lengths)
        for s, weight, value in zip(
            found.sequences_N.tolist(), weights, values.tolist(), strict=True
        ):
            expected[s] += weight * value
        ours = found.by_sequence(values).tolist()
        assert np.allclose(ours, expected, rtol=1e-12, atol=1e-14)

    def _targets(self, sequences: list[np.ndarray], first_id: int = 0) -> Targets:
        ids = range(first_id, first_id + len(sequences))
        batch = make_batch(sequences, ids, torch.device("cpu"))
        return self.objective().targets(batch)
