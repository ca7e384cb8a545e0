"""The fit's stopping rule: how far the factors of a sample may be from those of an endless one.

Scores s(n) of a held-out set, which is in no sample, by factors of n sequences are off by noise of
variance V(n) = V / n and by a bias B(n) = B / n: eigenbases are bent towards what a sample happens
to hold, and Lambda is measured on the same sample. A round of n sequences is the sample before it,
of m, and what is new, of k = n - m. Both have factors of their own, from the eigenbases on, and
share no sequence, so that with s_m and s_k

* ||s_m - s_k||^2 = V/m + V/k on average, and V(n) = ||s_m - s_k||^2 m k / n^2;
* m/n s_m + k/n s_k has the bias 2B/n, as m/n B/m = B/n, and B(n) is how far it is from s_n.

V(n) is the mean of what this round and the one before say of it: older samples are too small to
tell. Nor is it less than what leaving out lanes says (the jackknife over Lambda alone, with the
eigenbases as they are, which is a part of it). Two comparisons are few, so the upper limit of the
error is

    t sqrt(V(n) + B(n)^2)

where t is Student's quantile that noise exceeds once in twenty times. A comparison counts as one
degree of freedom, as if all scores of the held-out set went up and down together; they do so in
part, and the limit is on the safe side: of the clustered, heavy-tailed samples that it was tried
on, see ``tests/benchmarks/error_bars.py``, all 60 were within it. It cannot know what no sample has
met.
Errors are relative, in L2: ||s_n - s|| / ||s_n||. The fit ends after two rounds in a row whose
limits are below the bound that was asked for: one alone may be luck.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from rayinfluence.curvature.jackknife import relative

#: Raised whenever the same scores would end a fit elsewhere; part of the factors' fingerprint.
RULE = 2
#: What the report of a round says besides counts; None is what is not known.
FIGURES = ("moments", "jackknife", "parts", "bias", "error")
#: Rounds that must be sure, one after another, before the fit ends.
_IN_A_ROW = 2
#: Student's t that is exceeded, in size, once in twenty times, with 1 and 2 degrees of freedom.
_T = (12.706, 4.303)


@dataclass(frozen=True)
class HeldOutScores:
    """Scores [Q, Z] of the held-out set with factors of some sequences, and how far they err."""

    scores: Tensor
    report: dict[str, Any]

    @property
    def n_sequences(self) -> int:
        """Sequences that the factors were fitted on."""
        return int(self.report["n_sequences"])

    @property
    def error(self) -> float | None:
        """The upper limit of the scores' error; None where nothing is known of it."""
        error = self.report["error"]
        return None if error is None else float(error)


def untested(counts: Mapping[str, int]) -> HeldOutScores:
    """A fit of a single size without a held-out set: nothing is known of its error."""
    return HeldOutScores(torch.zeros(0, 0), {**counts, **dict.fromkeys(FIGURES)})


def figures(
    scores: Tensor, before: HeldOutScores, new: HeldOutScores, jackknife: float
) -> dict[str, float]:
    """What a round's scores say of their error.

    Args:
        scores: [Q, Z] by the factors of all of the round's sample.
        before: the round before.
        new: what is new in this round, alone.
        jackknife: the scores' standard error when lanes are left out of Lambda.

    Returns:
        ``parts``: the root of V(n) as this round has it; ``bias``: B(n); ``error``: the upper
        limit of the error. All are relative, and infinite where all scores are zero.
    """
    m, k = before.n_sequences, new.n_sequences
    n = m + k
    difference = float((before.scores - new.scores).norm())
    parts = relative(difference * math.sqrt(m * k) / n, scores)
    mean = (m * before.scores + k * new.scores) / n
    bias = relative(float((mean - scores).norm()), scores)
    found = [parts**2]
    if before.report["parts"] is not None:
        found.append(before.report["parts"] ** 2 * m / n)
    variance = max(sum(found) / len(found), jackknife**2)
    error = _T[len(found) - 1] * math.sqrt(variance + bias**2)
    return {"parts": parts, "bias": bias, "error": error}


def is_sure(errors: Sequence[float | None], bound: float | None) -> bool:
    """Whether the last rounds, as many as it takes, all have an error below the bound."""
    last = errors[-_IN_A_ROW:]
    below = [bound is not None and error is not None and error <= bound for error in last]
    return len(last) == _IN_A_ROW and all(below)
