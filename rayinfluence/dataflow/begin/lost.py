"""What of the data is not looked at though it was given, in sentences that warn of it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any


def lost_rows(files: Sequence[Mapping[str, Any]]) -> list[str]:
    """Rows of documents' files that are no documents, and where the first of them is.

    Args:
        files: what a corpus's manifest says of each file.
    """
    found = [file for file in files if file["n_bad"]]
    if not found:
        return []
    n_rows, first = sum(file["n_bad"] for file in found), found[0]["bad"][0]
    rows = "1 row is no document" if n_rows == 1 else f"{n_rows:,} rows are no documents"
    return [
        f"corpus: {rows}, and left out, of {_counted(len(found), 'file')}; the first is "
        f"{first['place']}: {first['reason'].rstrip('.')}."
    ]


def lost_sequences(where: str, reasons: Iterable[tuple[int, str]]) -> list[str]:
    """Sequences that are left out somewhere, such as of the scan, and why the first of them is.

    Args:
        where: of what.
        reasons: by sequence id; a sequence may be left out for several.
    """
    found = dict(sorted(reasons, reverse=True))  # of several the first stays
    if not found:
        return []
    first = min(found)
    left = "is left out" if len(found) == 1 else "are left out"
    return [
        f"{_counted(len(found), 'sequence')} {left} of {where}, the first of them {first}: "
        f"{found[first].rstrip('.')}."
    ]


def _counted(n: int, what: str) -> str:
    return f"{n:,} {what}{'s' * (n != 1)}"
