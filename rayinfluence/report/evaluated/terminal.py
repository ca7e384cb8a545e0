"""What was measured as lines and tables of the terminal."""

from __future__ import annotations

from rayinfluence.display import Part
from rayinfluence.report.evaluated import grids
from rayinfluence.report.lines import grid_parts, line
from rayinfluence.storage.results.evaluated import Evaluated


def evaluation_parts(found: Evaluated) -> list[Part]:
    """Of what it is, one table of methods, calibration in sentences, and how to read them."""
    parts: list[Part] = [line(grids.heading(found), "bold")]
    parts += [line(text) for text in grids.about(found)]
    parts += grid_parts(grids.methods(found))
    parts += ["", *(line(text) for text in grids.calibrated(found))]
    return [*parts, "", *(line(text, "dim") for text in grids.how_to_read(found))]
