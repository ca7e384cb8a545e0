"""What was measured as tables of text and sentences, which terminal and page show alike."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from rayinfluence.report.compare.grids import Grid
from rayinfluence.report.text import count, percent, signed
from rayinfluence.storage.results.evaluated import Evaluated, Interval

#: The row that is no method.
CEILING = "noise ceiling"


def heading(found: Evaluated) -> str:
    """What was measured, in a few words."""
    n = len(found.methods)
    return f"{count(n)} method{'s' * (n != 1)}, measured by training again"


def about(found: Evaluated) -> list[str]:
    """Of what, and by how many trainings."""
    seeds = len(found.seeds)
    return [
        f"{count(len(found.queries))} queries, {count(found.n_sequences)} sequences, "
        f"{count(found.n_trainings)} training{'s' * (found.n_trainings != 1)} with "
        f"{count(seeds)} seed{'s' * (seeds != 1)}; "
        f"recipe {found.recipe[:12]}, corpus {found.corpus[:12]}.",
        *found.notes,
    ]


@dataclass(frozen=True)
class _Column:
    """A column of the table of methods: what it shows of each, and of the ceiling."""

    head: str
    cells: list[str]
    ceiling: str = ""


def methods(found: Evaluated) -> Grid:
    """The table: a row a method, and the ceiling below; of what was asked."""
    columns = [column for column in _columns(found) if any(column.cells)]
    cells = zip(*(column.cells for column in columns), strict=True)
    rows = [(one.name, *ours) for one, ours in zip(found.methods, cells, strict=True)]
    if any(column.ceiling for column in columns):
        rows.append((CEILING, *(column.ceiling for column in columns)))
    heads = ("method", *(column.head for column in columns))
    return Grid("Methods beside each other", heads, tuple(rows))


def _columns(found: Evaluated) -> Iterator[_Column]:
    of = found.methods
    for protocol in found.protocols:
        cells = [ranged(one.lds.get(protocol.name)) for one in of]
        yield _Column(f"LDS {protocol.name}", cells, ranged(protocol.ceiling))
    if found.removed is not None:
        head = f"QLD without {count(found.removed[0])}, nats"
        yield _Column(head, [nats(one.removal) for one in of])
    for other in dict.fromkeys(name for one in of for name in one.removal_over):
        yield _Column(f"QLD over {other}", [nats(one.removal_over.get(other)) for one in of])
    yield _Column(f"recall@{found.recall_at}", [ranged(one.recall) for one in of])
    yield _Column("MRR", [ranged(one.reciprocal_rank) for one in of])
    if found.groups is not None:
        yield _Column(f"without a {found.groups.key}", [ranged(one.groups) for one in of])
    yield _Column("tail patch, nats", [nats(one.tail_patch) for one in of])
    slopes = [one.calibration.slope if one.calibration else None for one in of]
    yield _Column("slope of delta_nats", [ranged(slope) for slope in slopes])
    if of:
        yield _Column(f"ranks as {of[0].name}", [ranged(one.stability) for one in of])
    yield _Column("seconds", [_seconds(one.seconds) for one in of])
    yield _Column("peak memory", [_mebibytes(one.peak_bytes) for one in of])
    yield _Column("needs", [", ".join(one.needs) or "nothing" for one in of])


def protocols(found: Evaluated) -> Grid:
    """What linear datamodeling scores are over."""
    rows = tuple(
        (
            one.name,
            count(one.n_subsets),
            count(one.n_seeds),
            ranged(one.ceiling) or "one seed: none",
        )
        for one in found.protocols
    )
    return Grid("Subsets of the LDS", ("protocol", "subsets", "seeds", CEILING), rows)


def sizes(found: Evaluated) -> Grid:
    """How predicted changes agree with measured ones in size, by method and size."""
    rows = [
        (
            one.name,
            f"{place.low:.2g} to {place.high:.2g}",
            count(place.n),
            ranged(place.slope),
            "yes" if place.holds else "no",
        )
        for one in found.methods
        if one.calibration is not None
        for place in one.calibration.bins
    ]
    heads = ("method", "|delta_nats| predicted", "pairs", "slope", "shows the slope of all")
    return Grid("A copy added: measured over predicted", heads, tuple(rows))


def calibrated(found: Evaluated) -> list[str]:
    """The calibration of each method that predicts changes, in a sentence."""
    said = []
    for one in found.methods:
        told = one.calibration
        if told is None:
            continue
        text = (
            f"{one.name}: of {count(told.n_pairs)} pairs, in {count(told.slope.n)} trainings with "
            f"a copy more, measured changes are {ranged(told.slope)} times the predicted ones "
            f"(R^2 {_number(told.r_squared)}, rank correlation {_number(told.rank)}); "
        )
        if told.holds is None:
            text += "no range of predictions shows that slope."
        else:
            low, high = told.holds
            text += f"predictions of {low:.2g} to {high:.2g} nats show that slope."
        said.append(text)
    return said


def how_to_read(found: Evaluated) -> Iterator[str]:
    """What each figure is, as far as it is shown."""
    yield (
        "In brackets: 95 % of means over queries drawn with replacement. They are about other "
        "queries like these; other seeds, corpora and models are not in them."
    )
    if found.protocols:
        yield (
            "LDS: rank correlation, over subsets of the corpus that models were trained on, of "
            "what the scores of what was dropped add up to with what became of the query. The "
            "noise ceiling is what a prediction could have that knows what each subset does, and "
            "not what a seed does."
        )
    for protocol in found.protocols:
        errors = [one.lds_errors.get(protocol.name) for one in found.methods]
        if known := [error for error in errors if error is not None]:
            yield (
                f"Other subsets would move LDS {protocol.name} of all queries together: by "
                f"{min(known):.3f} to {max(known):.3f} (standard errors by the jackknife over "
                "subsets, of the methods), which is not in the brackets."
            )
    if found.removed is not None:
        n, queries = found.removed
        yield (
            f"QLD: how many nats less likely the completion is after training without the "
            f"{count(n)} first sequences of the method, for {count(queries)} queries. Larger is "
            "better."
        )
    if any(one.recall for one in found.methods):
        yield (
            f"recall@{found.recall_at} and MRR (mean reciprocal rank): whether the documents that "
            "are known to belong to a query come first. Methods of texts are good at that."
        )
    if found.groups is not None:
        resolved = found.groups.resolved
        seen = (
            "one seed says nothing of errors"
            if resolved is None
            else f"{percent(resolved)} of what was measured is more than two standard errors from 0"
        )
        n_groups = count(len(found.groups.names))
        yield (
            f"Without a {found.groups.key}: rank correlation, over {n_groups} groups that were "
            f"left out one by one, of sums of scores with what became of the query; {seen}."
        )
    if any(one.tail_patch for one in found.methods):
        yield (
            "Tail patch: how many nats more likely the completion is after one small step on the "
            "first sequences, from the trained model."
        )
    if any(one.stability for one in found.methods):
        yield (
            f"Ranks as {found.methods[0].name}: rank correlation of a method's scores of all "
            "sequences with those of that one."
        )
    if any(one.seconds is not None for one in found.methods):
        yield (
            "Seconds: of a method's queries and its pass over the corpus, on this machine; fitting "
            "factors, which methods share, is not in them."
        )


def ranged(interval: Interval | None) -> str:
    """A figure with its interval."""
    if interval is None:
        return ""
    if interval.low is None or interval.high is None:
        return f"{interval.mean:.3f}"
    return f"{interval.mean:.3f} [{interval.low:.3f}, {interval.high:.3f}]"


def nats(interval: Interval | None) -> str:
    """A change with its interval."""
    if interval is None:
        return ""
    if interval.low is None or interval.high is None:
        return signed(interval.mean)
    return f"{signed(interval.mean)} [{signed(interval.low)}, {signed(interval.high)}]"


def _number(value: float) -> str:
    return f"{value:.2f}" if math.isfinite(value) else "none"


def _seconds(value: float | None) -> str:
    return "" if value is None else f"{value:.1f}"


def _mebibytes(n: int | None) -> str:
    return "" if n is None else f"{n / 2**20:,.0f} MiB"
