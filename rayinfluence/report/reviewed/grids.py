"""What people said, as tables that terminal and page show alike."""

from __future__ import annotations

from rayinfluence.analysis.reviewed import Reviewed
from rayinfluence.display import Part
from rayinfluence.report.analysed.grids import verdicts
from rayinfluence.report.compare.grids import Grid
from rayinfluence.report.compare.page import grid_table
from rayinfluence.report.evaluated.grids import ranged
from rayinfluence.report.frame import framed
from rayinfluence.report.lines import grid_parts, line
from rayinfluence.report.markup import tag
from rayinfluence.report.text import count


def reviewed_parts(found: Reviewed) -> list[Part]:
    """Verdict, relevance by method, agreement, raters, and how to read them."""
    parts: list[Part] = [line(_heading(found), "bold")]
    for grid in _grids(found):
        parts += grid_parts(grid)
    return [*parts, "", *(line(text, "dim") for text in found.notes)]


def reviewed_page(found: Reviewed) -> str:
    """The same as a page; equal values give equal text, and all is escaped."""
    head = tag(
        "header",
        tag("h1", _heading(found)),
        *(tag("p", tag("bdi", text), class_="quiet") for text in found.notes),
    )
    main = tag("main", tag("section", *map(grid_table, _grids(found))), id="main")
    return framed(_heading(found), head, main, fingerprint=found.fingerprint)


def _heading(found: Reviewed) -> str:
    return (
        f"Review by {count(len(found.raters))}: {count(found.n_items)} texts, "
        f"{count(found.n_queries)} questions"
    )


def _grids(found: Reviewed) -> list[Grid]:
    methods = Grid(
        "First hits, by method",
        ("method", "hits", "no answer", "not irrelevant", "states the answer", "over random"),
        tuple(
            (
                one.method,
                count(one.n_hits),
                count(one.n_unanswered),
                ranged(one.relevant),
                ranged(one.states),
                ranged(one.over_random),
            )
            for one in found.methods
        ),
    )
    agreement = Grid(
        "Agreement (Krippendorff's alpha: 1 is agreement, 0 is chance)",
        ("question", "scale", "alpha", "items of two people"),
        tuple(
            (one.question, one.scale, one.why or ranged(one.alpha), count(one.n_items))
            for one in found.agreement
        ),
        3,
    )
    raters = Grid(
        "Who answered",
        ("rater", "what is it about", "how does it relate", "items that lack an answer"),
        tuple(
            (one.rater, count(one.about), count(one.relates), count(one.missing))
            for one in found.raters
        ),
    )
    return [verdicts(found.verdicts), methods, agreement, raters]
