"""At which depth of the model the scores of the shown hits come about."""

from __future__ import annotations

from collections.abc import Sequence

from rayinfluence.influence.blocks import by_block
from rayinfluence.report.pictures.figure import Figure, Mark, Series, Tone, categories, linear
from rayinfluence.report.pictures.seen import Seen, some
from rayinfluence.report.text import percent, signed
from rayinfluence.storage.results import Survivor

#: Of a block, the sum of the sizes of its modules' scores, and their sum.
_Sums = tuple[float, float]


def layers(seen: Seen) -> Figure | None:
    """Scores by block, proponents' upwards; None by a method that has none by layer."""
    sides = [_by_block(hits) for hits in (seen.proponents, seen.opponents)]
    names = list(dict.fromkeys(name for side in sides for name in side))
    if not names:
        return None
    names.sort(key=_depth)
    tones: tuple[tuple[Tone, int], ...] = (("raises", 1), ("lowers", -1))
    bars, dots, rows = [], [], []
    for side, hits, (tone, sign) in zip(
        sides, (seen.proponents, seen.opponents), tones, strict=True
    ):
        found = [(place, name, side[name]) for place, name in enumerate(names) if name in side]
        if not found:
            continue
        who = some(hits)
        bars.append(
            Series(
                f"sizes, {who}",
                "bars",
                tone,
                tuple(
                    Mark((place + 0.1, place + 0.9), (0.0, sign * size), _says(who, name, sums))
                    for place, name, sums in found
                    for size in sums[:1]
                ),
            )
        )
        dots += [
            Mark.at(place + 0.5, sums[1], _says(who, name, sums)) for place, name, sums in found
        ]
        rows += [(hits[0].direction, name, *sums) for _, name, sums in found]
    heights = [y for series in bars for mark in series.marks for y in mark.y]
    return Figure(
        "layers",
        _title(seen, sides),
        categories("block of the model", [name.removeprefix("block ") for name in names]),
        linear(
            f"sum over the shown hits, {seen.results.meaning.unit}",
            [*heights, *(dot.y[0] for dot in dots)],
        ),
        (*bars, Series("sum with signs", "points", "plain", tuple(dots))),
        (
            "A bar is the sum of the sizes of the scores of a block's modules, upwards of "
            "proponents and downwards of opponents; a dot is their sum with signs. Where it is "
            "short of its bar, scores in the block cancel.",
        ),
        ("direction", "block", "sum of sizes", "sum"),
        tuple(rows),
    )


def _by_block(hits: Sequence[Survivor]) -> dict[str, _Sums]:
    sums: dict[str, _Sums] = {}
    for hit in hits:
        for block, modules in by_block(hit.layer_scores).items():
            size, total = sums.get(block, (0.0, 0.0))
            sums[block] = (
                size + sum(map(abs, modules.values())),
                total + sum(modules.values()),
            )
    return sums


def _depth(name: str) -> tuple[int, int]:
    number = name.removeprefix("block ")
    return (0, int(number)) if number.isdecimal() else (1, 0)


def _says(who: str, block: str, sums: _Sums) -> str:
    return f"{block}, {who}: sizes {signed(sums[0])}, with signs {signed(sums[1])}"


def _title(seen: Seen, sides: Sequence[dict[str, _Sums]]) -> str:
    side, hits = (sides[0], seen.proponents) if sides[0] else (sides[1], seen.opponents)
    whole = sum(size for size, _ in side.values())
    strongest = max(side, key=lambda name: side[name][0])
    share = percent(side[strongest][0] / whole) if whole else "none"
    return (
        f"Of {len(side)} blocks, {strongest} carries most of the {some(hits)} shown: {share} of "
        "the sizes of their scores"
        if len(side) > 1
        else f"All scores by layer of the {some(hits)} shown are of {strongest}"
    )
