"""What is asked: the findings by the analysis that has something to say of each.

Most are of Grosse et al. 2023 (https://arxiv.org/abs/2308.03296); docs/findings.md has the rules.
"""

from __future__ import annotations

from collections.abc import Mapping

POWER_LAW = "the largest influences follow a power law"
CONCENTRATION = "few sequences hold much of the influence"
NO_SINGLE_SOURCE = "no single sequence explains a completion"
SPREAD = "influence is spread over layers on average"
LOCALISED = "classes of queries are at depths of their own"
MIDDLE = "first hits by middle blocks are the least literal"
COPIES_LEAD = "copies of a passage lead its proponents"
NO_PURE_MEMORY = "influence on a passage is no pure memorisation"
ORDER = "a reversed sentence has little influence beyond the string that it shares"
MEANING = "changes of meaning lower influence"
WITHOUT = "without the completion a sentence has next to no influence"
ABROAD = "influence carries over to another language"
LESS_LITERAL = "larger models' hits share fewer words with the query"
IN_OTHER_WORDS = "larger models find more that is said in other words"
UNSEEN_WORDS = "larger models' influence carries over to unseen words"
RIGHT_SUBJECT = "larger models tell the right subject from another"
FARTHER_ABROAD = "larger models' influence carries over to another language"
LESS_LIKE_TEXTS = "larger models' scores are less like those of texts"
RELEVANT = "people find the first hits relevant"

#: By what is asked for with ``analyse --what``, and by ``review``.
FINDINGS: Mapping[str, tuple[str, ...]] = {
    "tails": (POWER_LAW, CONCENTRATION, NO_SINGLE_SOURCE),
    "layers": (SPREAD, LOCALISED, MIDDLE),
    "copies": (COPIES_LEAD, NO_PURE_MEMORY),
    "order": (ORDER, MEANING, WITHOUT, ABROAD),
    "scale": (
        *(LESS_LITERAL, IN_OTHER_WORDS, UNSEEN_WORDS),
        *(RIGHT_SUBJECT, FARTHER_ABROAD, LESS_LIKE_TEXTS),
    ),
    "review": (RELEVANT,),
}
