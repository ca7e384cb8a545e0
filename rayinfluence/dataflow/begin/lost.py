"""What of the data is not looked at though it was given, in sentences that warn of it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rayinfluence.corpus.limits import by_reason


def lost_rows(files: Sequence[Mapping[str, Any]], reasons: Mapping[str, int]) -> list[str]:
    """Rows of documents' files that gave nothing, by reason, and where the first of them is.

    Args:
        files: what a corpus's manifest says of each file.
        reasons: how many rows of all files were left out for each.
    """
    found = [file for file in files if file["n_bad"] + file["empty_documents"]]
    if not found:
        return []
    n_bad, n_empty = (sum(file[name] for file in found) for name in ("n_bad", "empty_documents"))
    bad = "1 row is no document" if n_bad == 1 else f"{n_bad:,} rows are no documents"
    empty = f"{_counted(n_empty, 'document')} {'has' if n_empty == 1 else 'have'} no text"
    rows = " and ".join([bad] * (n_bad > 0) + [empty] * (n_empty > 0))
    why = f" ({by_reason(reasons)})" if len(reasons) > 1 else ""
    # Reports of before do not name what has no text.
    first = next((file["bad"][0] for file in found if file["bad"]), None)
    where = f"; the first is {first['place']}: {first['reason'].rstrip('.')}" if first else ""
    return [f"corpus: {rows}{why}, and left out, of {_counted(len(found), 'file')}{where}."]


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
