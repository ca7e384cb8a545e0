"""How many rows of a file, and files of a corpus, may be left out before that ends the stage."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from rayinfluence.corpus.columns import what_to_do
from rayinfluence.corpus.forms import Columns
from rayinfluence.corpus.fragments import FileReport

#: Reasons that a message names.
_NAMED = 3


@dataclass(frozen=True)
class Limits:
    """Of what may be left out: below 1 a share, from 1 on a count.

    Attributes:
        bad_rows: of the rows of a file that are no documents; those without text, and what is no
            page of an archive, are none of them.
        bad_files: of the files that cannot be read to their end, or have too many bad rows.
    """

    bad_rows: float = 0.01
    bad_files: float = 0

    def too_many_files(self, n_bad: int, n_files: int) -> bool:
        """Whether so many of so many files are too many."""
        return n_bad > _most(self.bad_files, n_files)

    def why_bad(self, report: FileReport, columns: Columns) -> str | None:
        """Why a file has too many rows that are left out, as sentences; None where it has not."""
        n_bad, total = report.n_bad, report.n_rows
        if n_bad <= _most(self.bad_rows, total):
            return None
        first = report.bad[0]
        kept = (
            f" The first are in {report.quarantine[0]} of the corpus." if report.quarantine else ""
        )
        helps = what_to_do(first.reason, columns.of_file(report.url))
        return (
            f"{n_bad:,} of {total:,} rows of {report.url} are not documents, more than "
            f"{in_words(self.bad_rows)} (corpus.bad_rows): {by_reason(report.reasons)}; the first "
            f"is {first.place}: {first.reason}. {helps} Where such rows are to be left out, set "
            f"corpus.bad_rows to {_enough(n_bad, total)}.{kept}"
        )


#: One row of a hundred, and no file.
DEFAULT = Limits()
#: Nothing may be left out.
STRICT = Limits(0, 0)


def in_words(limit: float) -> str:
    """A limit as a message has it."""
    if 0 < limit < 1:
        return f"{100 * limit:.4g} %"
    return f"{limit:,.0f}" if limit else "none"


def _most(limit: float, total: int) -> float:
    return limit * total if limit < 1 else limit


def _enough(n_bad: int, total: int) -> str:
    """A share that so many are within; all of them are no share."""
    share = -(-1000 * n_bad // total) / 1000
    return f"{share:.3g}" if share < 1 else str(n_bad)


def named(names: Sequence[str]) -> str:
    """The first of some names, in words."""
    return ", ".join(names[:_NAMED]) + (", ..." if len(names) > _NAMED else "")


def by_reason(reasons: Mapping[str, int]) -> str:
    """How many rows are left out for each reason, the most frequent ones, in words."""
    most = sorted(reasons.items(), key=lambda one: -one[1])
    more = len(most) - _NAMED
    return ", ".join(f"{count:,} {reason}" for reason, count in most[:_NAMED]) + (
        f" and {more:,} other reasons" if more > 0 else ""
    )
