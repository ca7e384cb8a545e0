"""What was measured of methods by training again: values that a terminal, a page and JSON show.

The arithmetic, and what each figure means, is in `rayinfluence/evaluation`; docs/quality.md says
what each asks and what it does not.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(frozen=True)
class Interval:
    """A mean, and the ends of its interval, 95 % of draws with replacement.

    Attributes:
        mean: of what was measured.
        low, high: the ends; None of a single one, which says nothing of others.
        n: of how many.
    """

    mean: float
    low: float | None
    high: float | None
    n: int

    @property
    def excludes_zero(self) -> bool:
        """Whether zero is outside; never of a single one."""
        return self.low is not None and self.high is not None and (self.low > 0 or self.high < 0)

    def overlaps(self, other: Interval) -> bool:
        """Whether they have a value in common; never with one that has no ends."""
        ends = (self.low, self.high, other.low, other.high)
        if any(end is None for end in ends):
            return False
        low, high, low_of_other, high_of_other = (end or 0.0 for end in ends)
        return low <= high_of_other and low_of_other <= high


@dataclass(frozen=True)
class Protocol:
    """Subsets that linear datamodeling scores are over.

    Attributes:
        name: such as ``half`` or ``drop 1%``.
        n_subsets: different ones.
        n_seeds: of training, that each was trained with.
        ceiling: of the mean score; None of one seed.
    """

    name: str
    n_subsets: int
    n_seeds: int
    ceiling: Interval | None


@dataclass(frozen=True)
class Bin:
    """Pairs of similar predicted size.

    Attributes:
        low, high: the least and the largest |predicted|, in nats.
        n: pairs.
        slope: of them.
        holds: whether they show the slope of all pairs.
    """

    low: float
    high: float
    n: int
    slope: Interval
    holds: bool


@dataclass(frozen=True)
class Calibration:
    """How predicted and measured changes agree in size, where sequences were seen once more.

    Attributes:
        slope: of all pairs, measured over predicted; its `n` is of trainings.
        r_squared: of the line through zero.
        rank: Spearman's correlation of all pairs; NaN where there is none.
        n_pairs: sequences that were added, times queries.
        bins: by |predicted|, from small to large.
        pairs: predicted and measured, in nats, to be drawn: all, or some at random.
    """

    slope: Interval
    r_squared: float
    rank: float
    n_pairs: int
    bins: tuple[Bin, ...]
    pairs: tuple[tuple[float, float], ...] = ()

    @property
    def holds(self) -> tuple[float, float] | None:
        """From where to where in |predicted| the slope holds, in nats; None where it does nowhere.

        The longest run of bins that show it; of equally long ones, that of larger predictions.
        """
        best: tuple[Bin, ...] = ()
        run: tuple[Bin, ...] = ()
        for one in self.bins:
            run = (*run, one) if one.holds else ()
            best = run if len(run) >= len(best) else best
        return (best[0].low, best[-1].high) if best else None


@dataclass(frozen=True)
class Groups:
    """Groups of sequences that were left out.

    Attributes:
        key: of the metadata that they have in common.
        names: of them.
        n_seeds: of training.
        resolved: the share of effects, over groups and queries, that are more than two standard
            errors from zero; None of one seed.
        effects: by group and query, in nats: f after training on all, less f without the group,
            the mean over seeds.
        errors: their standard errors over seeds; NaN of one.
    """

    key: str
    names: tuple[str, ...]
    n_seeds: int
    resolved: float | None
    effects: Sequence[Sequence[float]] = ()
    errors: Sequence[Sequence[float]] = ()


@dataclass(frozen=True)
class MethodFigures:
    """What was measured of one method.

    Attributes:
        name: as it is shown: its method, with what of its settings differs from the run's.
        method: of the registry, or a baseline of the evaluation's own.
        needs: what it takes: factors, gradients, texts, hidden states; empty for nothing.
        seconds: that its queries and its scan took; None where it was scanned before.
        peak_bytes: of memory meanwhile; None where that is not known.
        lds: by the name of the protocol.
        removal: rise of the queries' loss, in nats, without the first sequences.
        removal_over: how much more than by others, by their names.
        recall: of documents that are known, among the first.
        reciprocal_rank: of the first of them.
        groups: agreement with leaving groups out, by ranks.
        tail_patch: change of f by a step on the first sequences, in nats.
        calibration: of a method that predicts changes.
        stability: rank correlation of its scores of all sequences with those of the first method.
        by_query: the same figures of each query, by the figure's name, in the order of queries.
        lds_errors: how far other subsets would move `lds`, by protocol: standard errors; None of
            too few.
    """

    name: str
    method: str
    needs: tuple[str, ...]
    seconds: float | None = None
    peak_bytes: int | None = None
    lds: Mapping[str, Interval | None] = field(default_factory=dict)
    removal: Interval | None = None
    removal_over: Mapping[str, Interval | None] = field(default_factory=dict)
    recall: Interval | None = None
    reciprocal_rank: Interval | None = None
    groups: Interval | None = None
    tail_patch: Interval | None = None
    calibration: Calibration | None = None
    stability: Interval | None = None
    by_query: Mapping[str, Sequence[float]] = field(default_factory=dict)
    lds_errors: Mapping[str, float | None] = field(default_factory=dict)


@dataclass(frozen=True)
class Evaluated:
    """Methods beside each other, on one model, corpus and set of queries.

    Attributes:
        recipe: digest of how models were trained.
        corpus: fingerprint of the corpus.
        n_sequences: that were trained on.
        queries: their ids, in the order of `MethodFigures.by_query`.
        seeds: of training.
        n_trainings: that the figures are of.
        notes: sentences on what was not asked, and on what to beware of.
        protocols: of linear datamodeling scores, in the order of the columns.
        groups: that were left out; None where none were.
        removed: of how many first sequences, and for how many queries, the loss was measured.
        recall_at: how many first documents recall is of.
        methods: in the order of the rows.
    """

    recipe: str
    corpus: str
    n_sequences: int
    queries: tuple[str, ...]
    seeds: tuple[int, ...]
    n_trainings: int
    notes: tuple[str, ...]
    protocols: tuple[Protocol, ...]
    groups: Groups | None
    removed: tuple[int, int] | None
    recall_at: int
    methods: tuple[MethodFigures, ...]

    def to_json(self) -> dict[str, Any]:
        """As plain values; the reference has the keys."""
        return {"format": 1, **asdict(self)}
