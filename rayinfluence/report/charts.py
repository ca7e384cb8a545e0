"""Small bars without inline styles: SVG where a length matters, classes where coarse steps do."""

from __future__ import annotations

import math
from collections.abc import Mapping

from rayinfluence.influence.blocks import by_block
from rayinfluence.report.markup import Html, tag
from rayinfluence.report.text import signed

_MAX_BARS = 24
_STEPS = 8
#: Modules that a tooltip names: a block of a mixture has hundreds.
_MAX_MODULES = 16
#: Blocks that are named in words.
_MAX_NAMED = 8


def sign_class(value: float) -> str:
    """The class that colours a value: raises or lowers."""
    return "raises" if value >= 0 else "lowers"


def score_bar(score: float, largest: float) -> Html:
    """A horizontal bar for a score's share of the largest one."""
    return tag("svg", _rect(score, 100 * _share(abs(score), largest)), class_="bar")


def layer_bars(layer_scores: Mapping[str, float]) -> Html:
    """One upright bar per block of the model, in coarse steps.

    A bar's tooltip has its value and, unless it is among the lowest, those of its modules. Deep
    models show bands of neighbouring blocks, at most 24, with one value per band.
    """
    blocks = by_block(layer_scores)
    if not blocks:
        return Html()
    names = list(blocks)
    size = math.ceil(len(names) / _MAX_BARS)
    bands = [names[start : start + size] for start in range(0, len(names), size)]
    sums = [sum(sum(blocks[name].values()) for name in members) for members in bands]
    largest = max(abs(value) for value in sums)
    bars = []
    for members, value in zip(bands, sums, strict=True):
        label = members[0] if size == 1 else f"{members[0]} to {members[-1]}"
        tooltip = [f"{label}: {signed(value)}"]
        step = math.ceil(_STEPS * _share(abs(value), largest))
        if size == 1 and step > 1:
            modules = blocks[label]
            named = sorted(modules, key=lambda name: -abs(modules[name]))[:_MAX_MODULES]
            tooltip += [f"{name} {signed(modules[name])}" for name in modules if name in named]
        bar = f"{'u' if value >= 0 else 'd'}{step}"
        bars.append(tag("i", class_=bar, title="\n".join(tooltip)))
    strongest = max(range(len(sums)), key=lambda index: abs(sums[index]))
    summary = f"Score per block, strongest {bands[strongest][0]}: {signed(sums[strongest])}"
    caption = f"{names[0]} to {names[-1].removeprefix('block ')}" if len(names) > 1 else names[0]
    return tag(
        "div",
        tag("div", *bars, class_="layers", role="img", aria_label=summary),
        tag("span", caption),
        class_="by-layer",
    )


def strongest_blocks(layer_scores: Mapping[str, float]) -> str:
    """The blocks with the largest scores of either sign, in words, strongest first."""
    sums = {name: sum(modules.values()) for name, modules in by_block(layer_scores).items()}
    first = sorted(sums, key=lambda name: -abs(sums[name]))[:_MAX_NAMED]
    rest = len(sums) - len(first)
    more = f" and {rest} more in the results table" if rest else ""
    return ", ".join(f"{name} {signed(sums[name])}" for name in first) + more


def _share(value: float, largest: float) -> float:
    return min(value / largest, 1.0) if largest > 0 and math.isfinite(value) else 0.0


def _rect(sign: float, width: float) -> Html:
    return tag("rect", class_=sign_class(sign), width=f"{width:.3g}%", height="100%")
