"""What the scores of a method mean: it says so itself, and whoever shows them goes by that."""

from __future__ import annotations

from dataclasses import dataclass

#: The row of the table of queries that stands for each sequence itself.
ITSELF_ID = "self_influence"
#: Of what has no scale.
ANY_UNIT = "none: only the order means something"


@dataclass(frozen=True)
class Meaning:
    """What the scores of a method mean.

    Attributes:
        description: what they are, in a sentence or more.
        unit: of a score, and of its parts by layer and by token.
        predicts: whether score / N is a predicted change of what a query asks for, in nats where
            that is a log-probability.
        directed: whether training on a sequence with a positive score raises what a query asks
            for, and on one with a negative score lowers it; of others a score is a likeness.
        has_layers: whether there are scores by module.
        of_predictions: whether entry t of scores by token is about the prediction of token t + 1,
            as of gradients, and not about token t itself.
        of_itself: whether each sequence is scored for itself, and for none of the run's queries:
            then no score is negative, and predictions are of its own log-probability.
        measured: whether models were trained without what is scored, so that nothing is estimated.
        of_groups: whether groups of sequences were scored, and no single one: there are no hits,
            and the table of groups has effects.
    """

    description: str = "an estimate; nothing was retrained."
    unit: str = "nats times the number of training sequences"
    predicts: bool = True
    directed: bool = True
    has_layers: bool = True
    of_predictions: bool = True
    of_itself: bool = False
    measured: bool = False
    of_groups: bool = False

    @property
    def ahead(self) -> int:
        """How far from the place of a score by token the token is that it is about."""
        return int(self.of_predictions)
