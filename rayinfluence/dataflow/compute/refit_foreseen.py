"""What representer points take, by counted operations and bytes: a plan says it.

The fit of the last layer on one replica, and what a scan holds; pure arithmetic.
"""

from __future__ import annotations

from dataclasses import dataclass

from rayinfluence.influence.representers import ROUND, remembered

#: Bytes of features that a worker holds, at most, by its device. What is beyond them is read again
#: in each pass, which is slower and changes no bit.
HELD_BYTES = {"cpu": 1 << 33, "cuda": 1 << 34}
#: Operations of a value and its gradient per target, class and feature: logits, and the gradient.
_VALUE = 4
#: Values of a step, about: its own, and now and then more along its line.
_VALUES_OF_A_STEP = 1.25
#: Values besides: where a fit begins, and two at its end.
_VALUES_BESIDE = 3
#: Numbers of float64 as many as weights: of a step's curvature two, and what else a fit holds.
_VECTORS, _NUMBER = 24, 8
#: Of a target its label.
_LABEL = 8


def refit_operations(n_targets: int, n_classes: int, width: int) -> int:
    """Of one value of what is fitted, with its gradient."""
    return _VALUE * n_targets * n_classes * width


@dataclass(frozen=True)
class ForeseenRefit:
    """A last layer that will be fitted again, with all steps that it may take.

    Attributes:
        n_targets: of the corpus, about.
        n_classes, width: of the layer.
        steps: that the fit may take.
        target_bytes: of what the layer sees of one.
        n_asked: targets of all queries.
        device: of the replica.
    """

    n_targets: int
    n_classes: int
    width: int
    steps: int
    target_bytes: int
    n_asked: int
    device: str

    @property
    def values(self) -> float:
        """How often what is fitted is looked at: about, and with all steps."""
        rounds = -(-self.steps // ROUND)
        return _VALUES_BESIDE + rounds * (1 + _VALUES_OF_A_STEP * ROUND)

    @property
    def operations(self) -> float:
        """Of the fit."""
        return self.values * refit_operations(self.n_targets, self.n_classes, self.width)

    @property
    def features_bytes(self) -> int:
        """Of what the layer sees of all targets, as it is stored."""
        return self.n_targets * (self.target_bytes + _LABEL)

    @property
    def layer_bytes(self) -> int:
        """Of the layer and what is left of its gradient, as they are stored."""
        return 2 * _NUMBER * self.n_classes * self.width

    @property
    def queries_bytes(self) -> int:
        """Of what banks have of queries."""
        return self.n_asked * (self.target_bytes + 2 * _LABEL)

    @property
    def fit_bytes(self) -> int:
        """That the fit holds: features as far as there is room, and matrices of weights."""
        matrices = 2 * remembered(self.n_classes, self.width) + _VECTORS
        held = min(self.features_bytes, HELD_BYTES[self.device])
        return held + matrices * _NUMBER * self.n_classes * self.width

    @property
    def scan_bytes(self) -> int:
        """That a scan holds: the layer and its queries, in float64."""
        return _NUMBER * self.width * (self.n_classes + self.n_asked)
