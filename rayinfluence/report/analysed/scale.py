"""Figures over sizes of models, as tables of text and as pictures."""

from __future__ import annotations

from rayinfluence.analysis import Scale
from rayinfluence.analysis.scale_values import Figure as Measured
from rayinfluence.report.compare.grids import Grid
from rayinfluence.report.evaluated.grids import ranged
from rayinfluence.report.pictures.figure import Figure, Mark, Series, categories, linear
from rayinfluence.report.text import count

_TEXTS = "BM25"


def scale_grids(found: Scale) -> list[Grid]:
    """Sizes beside each other, and each run."""
    sizes = Grid(
        "Over sizes (means of the runs of each)",
        ("figure", *map(count, found.sizes), "largest less smallest", "apart", _TEXTS),
        tuple(
            (
                one.name,
                *map(ranged, one.sizes),
                ranged(one.change),
                "yes" if one.apart else "no",
                ranged(one.beside),
            )
            for one in found.figures
        ),
    )
    runs = Grid(
        "Each run",
        ("run", "weights", "queries it knows", *(one.name for one in found.figures)),
        tuple(
            (
                model.place,
                count(model.parameters),
                count(model.n_known),
                *(ranged(one.runs[place]) for one in found.figures),
            )
            for place, model in enumerate(found.models)
        ),
    )
    return [sizes, runs]


def scale_figures(found: Scale) -> list[Figure]:
    """A picture of each figure: a dot a run, and a line through the means of sizes."""
    return [_drawn(found, one, place) for place, one in enumerate(found.figures)]


def _drawn(found: Scale, figure: Measured, number: int) -> Figure:
    at = {size: place + 0.5 for place, size in enumerate(found.sizes)}
    told = [
        (model, one)
        for model, one in zip(found.models, figure.runs, strict=True)
        if one is not None
    ]
    dots = tuple(
        Mark.at(at[model.parameters], one.mean, f"{model.place}: {ranged(one)}")
        for model, one in told
    )
    line = tuple(
        Mark.at(at[size], one.mean, f"{count(size)} weights: {ranged(one)}")
        for size, one in zip(found.sizes, figure.sizes, strict=True)
        if one is not None
    )
    series = [Series("mean", "line", "plain", line), Series("a run", "points", "raises", dots)]
    values = [one.mean for _, one in told]
    if figure.beside is not None:
        values.append(figure.beside.mean)
        says = f"{_TEXTS}: {ranged(figure.beside)}"
        ends = tuple(Mark.at(x, figure.beside.mean, says) for x in (0.0, float(len(at))))
        series.insert(0, Series(_TEXTS, "line", "quiet", ends))
    return Figure(
        f"scale-{'abcdefghij'[number]}",
        f"{figure.name[:1].upper()}{figure.name[1:]}, by size of the model",
        categories("weights", [count(size) for size in found.sizes]),
        linear(figure.name, values),
        tuple(series),
        ("The same queries to the same corpus; a dot is a run, with a seed of its own.",),
        ("run", "weights", "value", "2.5 %", "97.5 %"),
        tuple((m.place, m.parameters, one.mean, one.low, one.high) for m, one in told),
        "`--json` has all of them.",
    )
