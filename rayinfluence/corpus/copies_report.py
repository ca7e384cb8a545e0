"""What is said of the copies in a corpus."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

from rayinfluence.corpus.corpus import Corpus
from rayinfluence.corpus.near_copies import Copies
from rayinfluence.corpus.stored import sequences_at
from rayinfluence.text import visible_line

#: Members of a group that are named; all are counted.
_NAMED = 5


@dataclass(frozen=True)
class Group:
    """Sequences that are alike: how many, and the first of them with their documents."""

    size: int
    sequence_ids: list[int]
    document_ids: list[str]


@dataclass(frozen=True)
class CopiesReport:
    """How many copies there are, and the largest groups.

    Attributes:
        threshold: the least estimated Jaccard index of two that are alike.
        counts: as :attr:`Copies.counts` has them.
        groups: the largest.
    """

    threshold: float
    counts: dict[str, int]
    groups: list[Group]

    @classmethod
    def of(cls, corpus: Corpus, copies: Copies, threshold: float, count: int) -> CopiesReport:
        """The report of what was found, with some groups.

        Raises:
            CorpusError: a shard is damaged.
        """
        groups = []
        for ids in copies.largest(count):
            first = ids[:_NAMED].tolist()
            names = [row["document_id"] for row in sequences_at(corpus, first)]
            groups.append(Group(len(ids), first, names))
        return cls(threshold, copies.counts, groups)

    def to_json(self) -> dict[str, Any]:
        """It as JSON has it."""
        return asdict(self)

    def lines(self) -> Iterator[str]:
        """It for a terminal."""
        counts = self.counts
        yield f"sequences   {counts['sequences']:,}"
        yield f"exact       {counts['exact_copies']:,} copies of a sequence before them"
        yield (
            f"alike       {counts['in_groups']:,} in {counts['groups']:,} groups, exact copies "
            f"among them (Jaccard index from {self.threshold:g}, estimated); the largest has "
            f"{counts['largest_group']:,}"
        )
        for group in self.groups:
            pairs = zip(group.sequence_ids, group.document_ids, strict=True)
            named = ", ".join(f"{number} ({visible_line(name)})" for number, name in pairs)
            more = ", ..." if group.size > len(group.sequence_ids) else ""
            yield f"group of {group.size:,}: {named}{more}"
