"""All findings of a run in one table: what it says of each, or why it cannot be asked."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from rayinfluence.analysis.asked import Verdict
from rayinfluence.analysis.copies import Copies
from rayinfluence.analysis.findings import FINDINGS
from rayinfluence.analysis.layer_values import Layers
from rayinfluence.analysis.order_values import Order
from rayinfluence.analysis.scale_values import Scale
from rayinfluence.analysis.tail_values import Tails
from rayinfluence.errors import InputError

One = Tails | Layers | Copies | Order | Scale

_KINDS: Mapping[type[One], str] = {
    Tails: "tails",
    Layers: "layers",
    Copies: "copies",
    Order: "order",
    Scale: "scale",
}


def kind_of(found: One) -> str:
    """What was asked for, as ``--what`` has it."""
    return _KINDS[type(found)]


@dataclass(frozen=True)
class Every:
    """What a run says of all findings.

    Attributes:
        method: whose scores they are.
        fingerprint: of the run's results.
        found: analyses that the run could be asked for.
        verdicts: of all findings, in one order; those of other analyses are "not asked".
    """

    method: str
    fingerprint: str
    found: tuple[One, ...]
    verdicts: tuple[Verdict, ...]

    def to_json(self) -> dict[str, Any]:
        """As plain values; what could not be asked is null."""
        by_kind = {kind_of(one): one.to_json() for one in self.found}
        return {
            "what": "all",
            "method": self.method,
            "fingerprint": self.fingerprint,
            "verdicts": [
                {"finding": one.finding, "word": one.word, "why": one.why} for one in self.verdicts
            ],
            **{kind: by_kind.get(kind) for kind in _KINDS.values()},
        }


def ask_all(
    method: str,
    fingerprint: str,
    analyses: Mapping[str, Callable[[], One] | str],
) -> Every:
    """Ask a run for all analyses.

    Args:
        method: whose scores are looked at.
        fingerprint: of the run's results.
        analyses: by kind of :data:`~rayinfluence.analysis.findings.FINDINGS`, what makes it, or
            why it is not asked for. What it refuses is the reason, too.
    """
    found: list[One] = []
    verdicts: list[Verdict] = []
    for kind, findings in FINDINGS.items():
        make = analyses[kind]
        why = make if isinstance(make, str) else ""
        if not isinstance(make, str):
            try:
                one = make()
            except InputError as error:
                why = str(error)
            else:
                found.append(one)
                verdicts += one.verdicts
        if why:
            verdicts += [Verdict(finding, "not asked", why) for finding in findings]
    return Every(method, fingerprint, tuple(found), tuple(verdicts))
