"""What tails say of findings, in words."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from rayinfluence.analysis.asked import Verdict, Word
from rayinfluence.analysis.findings import CONCENTRATION, NO_SINGLE_SOURCE, POWER_LAW
from rayinfluence.analysis.tail_values import QueryTail
from rayinfluence.storage.results.evaluated import Interval


def verdicts(
    found: Sequence[QueryTail], summary: Mapping[str, Interval | None], noise: float
) -> tuple[Verdict, ...]:
    """What some queries say of each finding; docs/findings.md has the rules.

    Args:
        found: of the queries.
        summary: means over them.
        noise: what the largest 1 % of normal noise hold.
    """
    return (
        _power_law(summary),
        _concentration(summary, noise),
        _no_single_source(found, summary),
    )


def _power_law(summary: Mapping[str, Interval | None]) -> Verdict:
    finding = POWER_LAW
    holds, beats = summary["power law holds"], summary.get("power law beats exponential")
    if holds is None or beats is None or holds.low is None:
        return Verdict(finding, "not asked", "Of two queries at least a law has to be fitted.")
    why = (
        f"It holds (not rejected, beats the exponential law, beaten by none) of "
        f"{holds.mean:.0%} of {holds.n} queries, and beats the exponential law of {beats.mean:.0%}."
    )
    if holds.low > 0.5:
        return Verdict(finding, "reproduces", why)
    return Verdict(finding, "partly" if beats.mean >= 0.5 else "does not at this size", why)


def _concentration(summary: Mapping[str, Interval | None], noise: float) -> Verdict:
    finding = CONCENTRATION
    share, signs = summary["top 1 % share"], summary["above random signs"]
    if share is None or share.low is None:
        return Verdict(finding, "not asked", "It takes two queries at least.")
    above = math.nan if signs is None else signs.mean
    why = (
        f"The top 1 % hold {share.mean:.1%} of all positive influence on average (normal noise: "
        f"{noise:.1%}); of {above:.0%} of queries that is more than with random signs."
    )
    if share.low > noise and above > 0.5:
        return Verdict(finding, "reproduces", why)
    return Verdict(finding, "partly" if share.low > noise else "does not at this size", why)


def _no_single_source(
    found: Sequence[QueryTail], summary: Mapping[str, Interval | None]
) -> Verdict:
    finding = NO_SINGLE_SOURCE
    parts = [p for one in found if (p := one.largest_of_information) is not None]
    nats = [one.largest_nats for one in found if one.largest_nats is not None]
    mean = summary["largest sequence over information"]
    if not parts or mean is None:
        return Verdict(finding, "not asked", "No known query has a predicted change in nats.")
    why = (
        f"The strongest sequence is predicted to give {mean.mean:.1%} of the completion's "
        f"information on average and {max(parts):.1%} at most, and {max(nats):.2g} nats at most."
    )
    if max(parts) < 0.5 and max(nats) < 1:
        return Verdict(finding, "reproduces", why)
    word: Word = (
        "partly" if sum(p < 0.5 for p in parts) > len(parts) / 2 else "does not at this size"
    )
    return Verdict(finding, word, why)
