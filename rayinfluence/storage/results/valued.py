"""What groups of sequences are worth to a model: values that a terminal, a page and JSON show.

The arithmetic is in `rayinfluence/evaluation/shapley`; docs/methods.md says what each value is.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from rayinfluence.errors import DamagedError
from rayinfluence.storage.results.evaluated import Interval
from rayinfluence.storage.store import Store, read_json

#: Where they are in the run directory.
VALUED = "shapley.json"
#: Of the keys of what is written.
_FORMAT = 1


@dataclass(frozen=True)
class GroupValue:
    """What a group is worth for a utility, in its unit.

    Attributes:
        mean: over seeds, and over draws where there are any.
        low, high: ends of its 95 % interval; None where nothing is known of errors.
        of_draws: standard error that draws give it; 0 where all coalitions are enumerated, None
            where there is no error to speak of.
        of_seeds: standard error over seeds of training; None of one seed.
    """

    mean: float
    low: float | None
    high: float | None
    of_draws: float | None
    of_seeds: float | None


@dataclass(frozen=True)
class Player:
    """A group: its name, and how many sequences it has."""

    name: str
    n_sequences: int


@dataclass(frozen=True)
class Utility:
    """What coalitions are worth.

    Attributes:
        name: the query's id, or what else it is.
        kind: queries, mean or validation.
        unit: of it.
        everything: of all groups together, the mean over seeds.
        nothing: of none of them.
        digest: of the query, where it is one.
    """

    name: str
    kind: str
    unit: str
    everything: float
    nothing: float
    digest: str | None = None


@dataclass(frozen=True)
class GroupValues:
    """Values of all groups by one method.

    Attributes:
        name: as it is shown, such as ``beta(4, 1)``.
        how: enumeration, orders, coins or neighbours.
        n_draws: orders or coalitions that were drawn; 0 where all were enumerated.
        n_cut: orders that were cut short.
        values: by group and utility; None where the method says nothing of the utility.
        gap: by utility, how far the values are from adding up to v(all) - v(none); None of values
            that need not.
    """

    name: str
    how: str
    n_draws: int
    n_cut: int
    values: Sequence[Sequence[GroupValue | None]]
    gap: Sequence[float] | None = None


@dataclass(frozen=True)
class Sums:
    """Sums of another method's scores over each group, of the run's results.

    Attributes:
        method: whose.
        unit: of the sums as they are here: nats where scores predict changes, and are divided by
            the number of sequences in training.
        sums: by group and utility; None where there is none.
        agreement: by the name of values, Spearman's correlation over groups, the mean over
            utilities; None where there is none.
    """

    method: str
    unit: str
    sums: Sequence[Sequence[float | None]]
    agreement: Mapping[str, Interval | None] = field(default_factory=dict)


@dataclass(frozen=True)
class Valued:
    """Values of the groups of a corpus.

    Attributes:
        recipe: digest of how models were trained.
        corpus: fingerprint of the corpus.
        key: of the metadata that the sequences of a group have in common; None where each
            sequence is one.
        n_sequences: that models are trained on.
        groups: the players, in the order of their values.
        seeds: of training.
        n_coalitions, n_trainings: that values are of.
        notes: sentences on what to beware of.
        utilities: in the order of the columns.
        methods: in the order in which they are shown.
        beside: sums of the run's own scores.
    """

    recipe: str
    corpus: str
    key: str | None
    n_sequences: int
    groups: tuple[Player, ...]
    seeds: tuple[int, ...]
    n_coalitions: int
    n_trainings: int
    notes: tuple[str, ...]
    utilities: tuple[Utility, ...]
    methods: tuple[GroupValues, ...]
    beside: tuple[Sums, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """As plain values; the reference has the keys."""
        return {"format": _FORMAT, **asdict(self)}


def read_valued(store: Store) -> Valued | None:
    """The values that a run directory has; None where it has none, or of another release.

    Raises:
        DamagedError: they are not what was written.
        StorageError: they cannot be read.
    """
    if not store.exists(VALUED):
        return None
    told = read_json(store, VALUED)
    if told.get("format") != _FORMAT:
        return None
    try:
        return _valued(told)
    except (KeyError, TypeError, AttributeError) as error:
        raise DamagedError(
            f"{store.url}/{VALUED} is damaged: delete it, and `rayinfluence shapley` makes it "
            "again of what was trained."
        ) from error


def _valued(told: Mapping[str, Any]) -> Valued:
    methods = [
        {
            **one,
            "values": [[cell and GroupValue(**cell) for cell in row] for row in one["values"]],
        }
        for one in told["methods"]
    ]
    beside = [
        {**one, "agreement": {k: v and Interval(**v) for k, v in one["agreement"].items()}}
        for one in told["beside"]
    ]
    plain = {key: told[key] for key in ("recipe", "corpus", "key", "n_sequences")}
    return Valued(
        **plain,
        groups=tuple(Player(**one) for one in told["groups"]),
        seeds=tuple(told["seeds"]),
        n_coalitions=told["n_coalitions"],
        n_trainings=told["n_trainings"],
        notes=tuple(told["notes"]),
        utilities=tuple(Utility(**one) for one in told["utilities"]),
        methods=tuple(GroupValues(**one) for one in methods),
        beside=tuple(Sums(**one) for one in beside),
    )
