"""What sizes of models say of findings, in words."""

from __future__ import annotations

from collections.abc import Sequence

from rayinfluence.analysis.asked import Verdict, Word
from rayinfluence.analysis.findings import (
    FARTHER_ABROAD,
    IN_OTHER_WORDS,
    LESS_LIKE_TEXTS,
    LESS_LITERAL,
    RIGHT_SUBJECT,
    UNSEEN_WORDS,
)
from rayinfluence.analysis.likeness import (
    BINDING,
    BY_TEXTS,
    CROSSING,
    OVERLAP,
    PARAPHRASE,
    REWORDED,
)
from rayinfluence.analysis.scale_values import Figure

#: Each finding with its figure, and whether larger models have more of it (1) or less (-1).
_FINDINGS = (
    (LESS_LITERAL, OVERLAP, -1),
    (IN_OTHER_WORDS, REWORDED, 1),
    (UNSEEN_WORDS, PARAPHRASE, 1),
    (RIGHT_SUBJECT, BINDING, -1),
    (FARTHER_ABROAD, CROSSING, 1),
    (LESS_LIKE_TEXTS, BY_TEXTS, -1),
)


def verdicts(figures: Sequence[Figure], runs_of_sizes: Sequence[int]) -> tuple[Verdict, ...]:
    """What runs say of each finding; docs/findings.md has the rules.

    Args:
        figures: over runs.
        runs_of_sizes: how many runs there are of each size, smallest first.
    """
    by_name = {one.name: one for one in figures}
    return tuple(
        _verdict(finding, by_name.get(name), sign, runs_of_sizes)
        for finding, name, sign in _FINDINGS
    )


def _verdict(
    finding: str, figure: Figure | None, sign: int, runs_of_sizes: Sequence[int]
) -> Verdict:
    if len(runs_of_sizes) < 2:
        return Verdict(finding, "not asked", "All models are of one size.")
    if figure is None:
        return Verdict(finding, "not asked", "It was not measured of these runs.")
    change, means = figure.change, [one for one in figure.sizes if one is not None]
    if change is None or change.low is None or change.high is None:
        return Verdict(finding, "not asked", "It takes two queries that all runs have it of.")
    several = min(runs_of_sizes[0], runs_of_sizes[-1]) > 1
    apart = "lie" if figure.apart else "do not lie"
    why = (
        f"From {means[0].mean:.3f} to {means[-1].mean:.3f}, {change.mean:+.3f} "
        f"[{change.low:+.3f}, {change.high:+.3f}]; "
        + (
            f"runs of the largest size {apart} apart from all of the smallest."
            if several
            else "of one run of a size nothing says how seeds differ."
        )
    )
    clear = change.low > 0 if sign > 0 else change.high < 0
    if figure.name == CROSSING:
        # More than of the smallest may still be nothing.
        low = means[-1].low
        clear = clear and low is not None and low > 0
    word: Word = "partly" if clear else "does not at this size"
    return Verdict(finding, "reproduces" if clear and figure.apart and several else word, why)
