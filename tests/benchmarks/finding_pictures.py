"""Pictures of the tables that docs/findings.md has, as docs/images/findings-*.png.

    python tests/benchmarks/finding_pictures.py [--out docs/images]

Each is drawn from the numbers in the page, so page and pictures cannot differ; pictures of an
analysis of your own are written by `rayinfluence analyse ... --out FOLDER --png`. Needs matplotlib
(`pip install 'rayinfluence[plot]'`).
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from rayinfluence.report.pictures.figure import (
    Axis,
    Figure,
    Mark,
    Series,
    Tone,
    categories,
    linear,
)
from rayinfluence.report.pictures.paper import draw_files

PAGE = Path(__file__).parents[2] / "docs" / "findings.md"
#: Of an inch: the page has small ones.
DOTS = 110
_NUMBER = r"-?\d+\.\d+"
#: A number, with an interval where it has one; what stands in round brackets is by seed.
_VALUE = re.compile(rf"({_NUMBER})(?: \[({_NUMBER}), ({_NUMBER})\])?")
_NAMED = re.compile(rf"([a-z]+) ({_NUMBER}) \[({_NUMBER}), ({_NUMBER})\]")
_TONES: tuple[Tone, ...] = ("quiet", "chance", "raises", "lowers")

#: A value and the ends of its interval, which may be the value itself.
Value = tuple[float, float, float]


def table_with(page: str, head: str) -> tuple[list[str], list[list[str]]]:
    """The heads and rows of the table that has a head; cells without bold.

    Raises:
        SystemExit: there is none.
    """
    blocks = re.findall(r"(?:^\|.*\|\n)+", page, re.MULTILINE)
    for block in blocks:
        rows = [
            [cell.strip().replace("*", "") for cell in line.strip("|\n ").split("|")]
            for line in block.splitlines()
        ]
        if head in rows[0]:
            return rows[0], rows[2:]
    raise SystemExit(f"{PAGE} has no table with {head!r}.")


def values_of(cell: str) -> list[Value]:
    """The numbers of a cell with their intervals, without what is in round brackets."""
    found = _VALUE.findall(re.sub(r"\(.*?\)", "", cell))
    return [(float(one), float(low or one), float(high or one)) for one, low, high in found]


def dots(
    name: str, title: str, axis: str, rows: Sequence[str], series: dict[str, list[list[Value]]]
) -> Figure:
    """Dots in a row for each name, one line of dots below the other for each series.

    Args:
        name: of the picture.
        title: what is seen.
        axis: what is measured.
        rows: names, from above to below.
        series: by name, for each row its values.
    """
    step = 0.8 / len(series)
    made: list[Series] = []
    numbers = [end for some in series.values() for row in some for one in row for end in one]
    for place, (label, some) in enumerate(series.items()):
        told = [
            (len(rows) - at - 0.1 - step * (place + 0.5), one, rows[at])
            for at, row in enumerate(some)
            for one in row
        ]
        tone = _TONES[(place + (len(series) < 3)) % len(_TONES)]
        bars = tuple(
            Mark((low, high), (y - step / 6, y + step / 6), f"{row}: {low} to {high}")
            for y, (_, low, high), row in told
            if low < high
        )
        points = tuple(Mark.at(one, y, f"{row}: {one}") for y, (one, *_), row in told)
        made += [Series("", "bars", "quiet", bars), Series(label, "points", tone, points)]
    return Figure(
        f"findings-{name}",
        title,
        linear(axis, numbers),
        _rows(rows),
        tuple(made),
        (),
        ("row", *series),
        (),
    )


def _rows(names: Sequence[str]) -> Axis:
    return categories("", names[::-1])


def figures(page: str) -> Iterator[Figure]:
    """All pictures, in the order of their tables."""
    heads, rows = table_with(page, "seed 0 (72 of 90 queries known)")
    beside = next(row for row in rows if row[0].startswith("the same beside shuffled pairs"))
    by_seed = [
        {name: (float(a), float(b), float(c)) for name, a, b, c in _NAMED.findall(cell)}
        for cell in beside[1:3]
    ]
    classes = [name for name in by_seed[0] if name in by_seed[1]]
    yield dots(
        "depth",
        "How much deeper hits are than shuffled pairs, by class of question",
        "centre of mass, 0 first block to 1 last (bars: 95 % over queries)",
        classes,
        {
            f"training seed {seed}": [[of[name]] for name in classes]
            for seed, of in enumerate(by_seed)
        },
    )
    heads, rows = table_with(page, "part")
    yield dots(
        "order",
        "What parts of a sentence have of its influence; a dot is a run",
        "share of the forward sentence's influence",
        [row[0] for row in rows],
        {
            size: [[(one, one, one) for one, *_ in values_of(row[place])] for row in rows]
            for place, size in enumerate(heads[1:], start=1)
        },
    )
    heads, rows = table_with(page, "copies that are read")
    yield dots(
        "reversed",
        "What training on copies does to the fact, more than without copies",
        "nats per token more (bars: 95 % over facts)",
        [row[0] for row in rows if row[2]],
        {
            "asked the usual way round": [values_of(row[2]) for row in rows if row[2]],
            "asked reversed": [values_of(row[4]) for row in rows if row[2]],
        },
    )
    said = "a plain question's own fact in the cipher is above others' in"
    heads, rows = table_with(page, said)
    yield dots(
        "languages",
        "How often a plain question has its own fact in the cipher above others'; a dot is a run",
        "share of pairs of documents (0.5 by chance)",
        [row[0] for row in rows],
        {
            size: [[(one, one, one) for one, *_ in values_of(row[place])] for row in rows]
            for place, size in enumerate(heads[1:], start=1)
        },
    )


def main() -> None:
    """Draw them."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=PAGE.parent / "images")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    for figure in figures(PAGE.read_text("utf-8")):
        path = options.out / f"{figure.name}.png"
        path.write_bytes(draw_files(figure, DOTS).files["png"])
        print(f"{path}: {path.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
