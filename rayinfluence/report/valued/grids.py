"""What groups are worth as tables of text and sentences, which terminal and page show alike."""

from __future__ import annotations

from collections.abc import Iterator

from rayinfluence.report.compare.grids import Grid
from rayinfluence.report.evaluated.grids import ranged
from rayinfluence.report.text import count, shorten, signed
from rayinfluence.storage.results.valued import GroupValue, GroupValues, Utility, Valued

#: Rows of a table, the largest values by the first method.
MOST_ROWS = 40
_NAME = 60
#: How values were found, in words.
_HOW = {
    "enumeration": "all coalitions",
    "orders": "{n} random orders",
    "coins": "{n} coalitions by coins",
    "neighbours": "nearest hidden states, nothing trained",
}


def heading(found: Valued) -> str:
    """What was found, in a few words."""
    n = len(found.groups)
    by = "each a sequence" if found.key is None else f"by {found.key}"
    return f"What {count(n)} groups are worth, {by}"


def about(found: Valued) -> list[str]:
    """Of what, and by how many trainings."""
    seeds = len(found.seeds)
    return [
        f"{count(found.n_sequences)} sequences, {count(found.n_coalitions)} coalitions, "
        f"{count(found.n_trainings)} trainings with {count(seeds)} seed{'s' * (seeds != 1)}; "
        f"recipe {found.recipe[:12]}, corpus {found.corpus[:12]}.",
        *(f"{one.name}: {how(one)}{_gap(one, found)}." for one in found.methods),
        *found.notes,
    ]


def how(one: GroupValues) -> str:
    """How values were found."""
    return _HOW[one.how].format(n=count(one.n_draws))


def _gap(one: GroupValues, found: Valued) -> str:
    """How far values are from adding up, at most, where they should."""
    if one.gap is None:
        return ""
    shares = [
        abs(gap / span)
        for gap, utility in zip(one.gap, found.utilities, strict=True)
        if (span := utility.everything - utility.nothing)
    ]
    return f"; they add up to v(all) - v(none) within {max(shares):.1g} of it" if shares else ""


def utility_grid(found: Valued, place: int) -> Grid:
    """The values of all groups for a utility, the largest by the first method first."""
    methods = [one for one in found.methods if one.values[0][place] is not None]
    beside = [one for one in found.beside if any(row[place] is not None for row in one.sums)]
    order = sorted(range(len(found.groups)), key=lambda g: -_mean(methods[0].values[g][place]))
    rows = [
        (
            shorten(found.groups[g].name, _NAME) or "(empty)",
            count(found.groups[g].n_sequences),
            *(valued(one.values[g][place]) for one in methods),
            *(_sum(one.sums[g][place]) for one in beside),
        )
        for g in order
    ]
    heads = (
        found.key or "sequence",
        "sequences",
        *(one.name for one in methods),
        *(f"sum of {one.method}{', nats' * (one.unit == 'nats')}" for one in beside),
    )
    rest = len(rows) - MOST_ROWS
    more = f"; {count(rest)} more in JSON" if rest > 0 else ""
    return Grid(title(found.utilities[place]) + more, heads, tuple(rows[:MOST_ROWS]))


def title(utility: Utility) -> str:
    """What a utility is, with what all groups and none of them have."""
    return (
        f"{shorten(utility.name, _NAME)}, {utility.unit}: {signed(utility.nothing)} with none of "
        f"the groups, {signed(utility.everything)} with all"
    )


def agreement_grid(found: Valued) -> Grid:
    """How sums of scores agree with values."""
    names = [
        of.name for of in found.methods if any(one.agreement.get(of.name) for one in found.beside)
    ]
    rows = tuple(
        (one.method, *(ranged(one.agreement.get(name)) for name in names))
        for one in found.beside
        if any(one.agreement.values())
    )
    heads = ("sums of", *(f"with {name}" for name in names))
    return Grid("Rank correlation over groups", heads, rows)


def valued(one: GroupValue | None) -> str:
    """A value with its interval."""
    if one is None:
        return ""
    if one.low is None or one.high is None:
        return signed(one.mean)
    return f"{signed(one.mean)} [{signed(one.low)}, {signed(one.high)}]"


def _mean(one: GroupValue | None) -> float:
    return 0.0 if one is None else one.mean


def _sum(one: float | None) -> str:
    return "" if one is None else signed(one)


def how_to_read(found: Valued) -> Iterator[str]:
    """What each value is, as far as it is shown."""
    names = [one.name for one in found.methods]
    yield (
        "A value is what training on a group adds to what the model says, the mean over coalitions "
        "of other groups. Positive: with the group in training the answer is more likely. In "
        "brackets: 95 %, of what draws and seeds of training would move it."
    )
    if "shapley" in names:
        yield "shapley: coalitions of all sizes weigh alike; values add up to all less none."
    if "banzhaf" in names:
        yield "banzhaf: all coalitions weigh alike; least moved by noise, and need not add up."
    for name in names:
        if name.startswith("beta"):
            yield (
                f"{name}: the first number puts weight on small coalitions, the second on large "
                "ones; (1, 1) is Shapley's."
            )
        if name.startswith("knn"):
            yield (
                f"{name}: of a vote of nearest hidden states on the next token. It knows the model "
                "and nothing of training, and its unit is a share of votes."
            )
    if found.beside:
        yield (
            "Sums are of the run's own scores over each group, divided by the number of sequences "
            "in training where scores predict changes: what taking the group out of all of it "
            "would change, to first order. That is one coalition of those that a value is a mean "
            "over."
        )
