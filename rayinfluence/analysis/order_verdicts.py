"""What parts of sentences say of findings, in words."""

from __future__ import annotations

from collections.abc import Mapping

from rayinfluence.analysis.asked import Verdict, Word
from rayinfluence.analysis.findings import ABROAD, MEANING, ORDER, WITHOUT
from rayinfluence.analysis.order_values import Signs
from rayinfluence.influence.order import (
    BEGINNING,
    BEYOND,
    BEYOND_CONTROL,
    CONTROL,
    LANGUAGE,
    OTHER_OBJECT,
    OTHER_SUBJECT,
    REMOVED,
    REVERSED,
)
from rayinfluence.storage.results.evaluated import Interval

#: What is next to nothing: a quarter of the influence of the forward sentence.
LITTLE = 0.25
_RARE = 0.05


def verdicts(
    shares: Mapping[str, Interval | None], signs: Mapping[str, Signs]
) -> tuple[Verdict, ...]:
    """What some queries say of each finding; docs/findings.md has the rules.

    Args:
        shares: of the forward sentences' influence, by part.
        signs: forward against each part.
    """
    return (
        _order(shares, signs),
        _meaning(shares),
        _removed(shares.get(REMOVED)),
        _language(shares),
    )


def _order(shares: Mapping[str, Interval | None], signs: Mapping[str, Signs]) -> Verdict:
    finding = ORDER
    whole, test = shares.get(REVERSED), signs.get(REVERSED)
    string, beyond = shares.get(BEGINNING), shares.get(BEYOND)
    if REVERSED not in shares:
        return Verdict(finding, "not asked", "No reversed sentences were given.")
    if not (whole and beyond and string and test) or beyond.high is None:
        return Verdict(finding, "not asked", "Forward sentences of two queries need influence.")
    why = (
        f"Beyond its beginning a reversed sentence has {_ranged(beyond)} of the forward one's "
        f"influence ({whole.mean:.1%} with it, the beginning alone {string.mean:.1%}); forward is "
        f"larger for {test.larger} of {test.n} queries (p = {test.p:.2g})."
    )
    forward_wins = test.p <= _RARE and test.larger > test.n / 2
    if forward_wins and beyond.high < LITTLE:
        return Verdict(finding, "reproduces", why)
    return Verdict(finding, "partly" if forward_wins else "does not at this size", why)


def _meaning(shares: Mapping[str, Interval | None]) -> Verdict:
    finding = MEANING
    told = {name: one for name in (OTHER_OBJECT, OTHER_SUBJECT) if (one := shares.get(name))}
    if not told or any(one.high is None for one in told.values()):
        return Verdict(finding, "not asked", "Texts of two queries with another object or subject.")
    why = "; ".join(f"with {name} {_ranged(one)} is left" for name, one in told.items()) + "."
    lower = [one.high is not None and one.high < 1 for one in told.values()]
    word: Word = "partly" if any(lower) else "does not at this size"
    return Verdict(finding, "reproduces" if all(lower) else word, why)


def _removed(one: Interval | None) -> Verdict:
    finding = WITHOUT
    if one is None or one.low is None or one.high is None:
        return Verdict(finding, "not asked", "Texts of two queries without their completions.")
    why = f"{_ranged(one)} of the influence is left."
    if one.low > -LITTLE and one.high < LITTLE:
        return Verdict(finding, "reproduces", why)
    return Verdict(finding, "partly" if one.high < 1 else "does not at this size", why)


def _language(shares: Mapping[str, Interval | None]) -> Verdict:
    finding = ABROAD
    if LANGUAGE not in shares:
        return Verdict(finding, "not asked", "No sentences in another language were given.")
    whole, control, beyond = (shares.get(one) for one in (LANGUAGE, CONTROL, BEYOND_CONTROL))
    if not (whole and control and beyond) or beyond.low is None:
        return Verdict(finding, "not asked", "Forward sentences of two queries need influence.")
    why = (
        f"Beyond its control a sentence in another language has {_ranged(beyond)} of the forward "
        f"one's influence ({whole.mean:.1%} with it, the control alone {control.mean:.1%})."
    )
    if beyond.low > LITTLE:
        return Verdict(finding, "reproduces", why)
    return Verdict(finding, "partly" if beyond.low > 0 else "does not at this size", why)


def _ranged(one: Interval) -> str:
    ends = "" if one.low is None or one.high is None else f" [{one.low:.1%}, {one.high:.1%}]"
    return f"{one.mean:.1%}{ends}"
